// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/fingerprint"
	"github.com/holdfast-go/holdfast/reexec/internal/lastgood"
)

// modulePath is this module's, as it stands in the build information of every
// binary that links it.
const modulePath = "github.com/holdfast-go/holdfast"

// binary is an opened file that passed the static checks. It is executed by
// its descriptor, so what was checked is what runs, even if the path names
// another file by then.
type binary struct {
	path string
	file *os.File
	was  unix.Stat_t // before the first check
	// fingerprint is what the file says without being run, once it is checked.
	fingerprint fingerprint.Fingerprint
	// running: it is the program of a process, and its path names nothing that
	// could be exchanged.
	running bool
}

// minExecFD keeps the descriptor clear of those that a child gets as 0, 1, ….
const minExecFD = 64

// faultError is an error for which the content of the file is to blame: it would
// be no better another time.
type faultError struct{ error }

func (e faultError) Unwrap() error { return e.error }

// openBinary opens the file behind path and checks all that can be seen
// without running it. The caller closes the binary.
func openBinary(path string) (*binary, error) {
	b, err := openFile(path)
	if err != nil {
		return nil, err
	}
	if err := b.check(); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

// openFile opens the file behind path. The caller closes it.
func openFile(path string) (*binary, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, minExecFD)
	if errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("descriptor %d is beyond the limit of open files: raise LimitNOFILE=: %w", minExecFD, err)
	}
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &binary{path: path, file: os.NewFile(uintptr(high), path)}, nil
}

// check does what can be done without running it. Another owner or mode makes
// the same content good, so only some errors are a [faultError].
func (b *binary) check() error {
	for _, check := range []func() error{b.checkFile, b.checkDirectories} {
		if err := check(); err != nil {
			return err
		}
	}
	if err := b.checkArchitecture(); err != nil {
		return faultError{err}
	}
	return b.checkProgram()
}

func (b *binary) close() error { return b.file.Close() }

// execPath is the name under which the kernel finds this very file.
func (b *binary) execPath() string {
	return "/proc/self/fd/" + strconv.Itoa(minFD(b.file))
}

// above returns a copy of file with a higher number than the binary's. Between
// fork and exec a child's descriptors are put in order by way of numbers above
// the highest of them, which could hit the binary's; so one of them has to be
// such a copy. Its number is wish or more if the limit of open files allows it.
// The caller closes it.
func (b *binary) above(file *os.File, wish int) (*os.File, error) {
	least := minFD(b.file) + 1
	fd, err := unix.FcntlInt(uintptr(minFD(file)), unix.F_DUPFD_CLOEXEC, max(wish, least))
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.FcntlInt(uintptr(minFD(file)), unix.F_DUPFD_CLOEXEC, least)
	}
	if err != nil {
		return nil, fmt.Errorf("copy descriptor of %s: %w", file.Name(), err)
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}

// minFD is file's descriptor without a change of its blocking mode.
func minFD(file *os.File) int {
	fd := -1
	if raw, err := file.SyscallConn(); err == nil {
		_ = raw.Control(func(n uintptr) { fd = int(n) })
	}
	return fd
}

func (b *binary) checkFile() error {
	if err := unix.Fstat(minFD(b.file), &b.was); err != nil {
		return fmt.Errorf("%s: %w", b.path, err)
	}
	st := b.was
	mode := st.Mode & unix.S_IFMT
	if mode != unix.S_IFREG {
		return fmt.Errorf("%s is not a regular file but %s", b.path, fileType(mode))
	}
	if st.Mode&0o022 != 0 && (st.Mode&0o002 != 0 || st.Gid != 0) {
		return fmt.Errorf("%s has mode %04o: others than its owner may write it: chmod go-w", b.path, st.Mode&0o7777)
	}
	// Under PrivateUsers= a file of anybody else shows as the overflow uid.
	euid, egid := uint32(os.Geteuid()), uint32(os.Getegid())
	if st.Uid != 0 && st.Uid != euid {
		return fmt.Errorf("%s belongs to uid %d, who may change it: chown it to root, or to the service's user (uid %d)", b.path, st.Uid, euid)
	}
	// The control socket, the fd store and the paths of sockets belong to one user.
	if st.Mode&unix.S_ISUID != 0 && st.Uid != euid || st.Mode&(unix.S_ISGID|0o010) == unix.S_ISGID|0o010 && st.Gid != egid {
		return fmt.Errorf("%s has mode %04o: it would run as uid %d, gid %d instead of uid %d, gid %d: chmod ug-s, and use User= and AmbientCapabilities=", b.path, st.Mode&0o7777, st.Uid, st.Gid, euid, egid)
	}
	if err := unix.Faccessat(unix.AT_FDCWD, b.execPath(), unix.X_OK, unix.AT_EACCESS); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: /proc is not mounted, and upgrades need it", b.path)
		}
		return fmt.Errorf("%s is not executable (mode %04o): %w: chmod +x, and allow its directory in ExecPaths=", b.path, st.Mode&0o7777, err)
	}
	return nil
}

// checkDirectories refuses a path on which somebody else can put another file in
// place. It need not be a file of theirs: an old version with known holes, linked
// or renamed, passes all other checks. To change a link while the path is looked
// up, they would need one of these directories, too; so it does no harm that the
// file was opened before. Members of a directory's group are left out: putting
// versions in place is what such a group is for.
func (b *binary) checkDirectories() error {
	if b.running {
		return nil
	}
	trusted := map[uint32]bool{0: true, uint32(os.Geteuid()): true}
	checked := map[string]bool{}
	rest := strings.Split(b.path, "/") // absolute, see executable
	dir := "/"
	// As path_resolution(7) goes, link by link.
	for links := 0; ; {
		if !checked[dir] {
			var st unix.Stat_t
			if err := unix.Lstat(dir, &st); err != nil {
				return fmt.Errorf("%s: directory %s: %w", b.path, dir, err)
			}
			if dir == "/" {
				// Who owns it can replace anything. Without root in this user
				// namespace it shows as the overflow uid.
				trusted[st.Uid] = true
			}
			if !trusted[st.Uid] {
				return fmt.Errorf("%s: directory %s belongs to uid %d, who may put another file in place: chown it to root", b.path, dir, st.Uid)
			}
			if st.Mode&0o002 != 0 && st.Mode&unix.S_ISVTX == 0 {
				return fmt.Errorf("%s: directory %s has mode %04o, so that anybody may put another file in place: chmod o-w", b.path, dir, st.Mode&0o7777)
			}
			checked[dir] = true
		}
		if len(rest) == 0 {
			return nil
		}
		next := filepath.Join(dir, rest[0])
		rest = rest[1:]
		target, err := os.Readlink(next)
		switch {
		case err == nil:
			if links++; links > 40 { // MAXSYMLINKS
				return fmt.Errorf("%s: %w", b.path, unix.ELOOP)
			}
			if err := b.checkLink(next, trusted); err != nil {
				return err
			}
			if filepath.IsAbs(target) {
				dir = "/"
			}
			rest = append(strings.Split(target, "/"), rest...)
		case len(rest) == 0: // the file itself, which is open
			return nil
		default:
			dir = next
		}
	}
}

// checkLink refuses a link of somebody else: in a directory such as /tmp anybody
// may make one.
func (b *binary) checkLink(link string, trusted map[uint32]bool) error {
	var st unix.Stat_t
	if err := unix.Lstat(link, &st); err != nil {
		return fmt.Errorf("%s: link %s: %w", b.path, link, err)
	}
	if !trusted[st.Uid] {
		return fmt.Errorf("%s: link %s belongs to uid %d, who may point it to another file: remove it", b.path, link, st.Uid)
	}
	return nil
}

// unchanged says whether the file still is what was checked. Nobody can write a
// file that runs (ETXTBSY), so after an execution this holds for what runs.
func (b *binary) unchanged() error {
	var now unix.Stat_t
	if err := unix.Fstat(minFD(b.file), &now); err != nil {
		return fmt.Errorf("%s: %w", b.path, err)
	}
	// Not the time of change: anybody who may link to the file can set it.
	if now.Mtim != b.was.Mtim || now.Size != b.was.Size {
		return fmt.Errorf("%s was written after it was checked: put new versions in place by rename", b.path)
	}
	return nil
}

func fileType(mode uint32) string {
	switch mode {
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFREG:
		return "a file"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "a device"
	}
	return fmt.Sprintf("of type %o", mode)
}

func (b *binary) checkArchitecture() error { return lastgood.CheckELF(b.file, b.path) }

// checkProgram compares the build information: the same main package, linked
// with this module.
func (b *binary) checkProgram() error {
	info, err := buildinfo.Read(b.file)
	if err != nil {
		return faultError{fmt.Errorf("%s: %w: it must be a Go binary with build information", b.path, err)}
	}
	b.fingerprint = fingerprint.Of(info)
	ours, err := fingerprint.Self()
	if err != nil {
		return err
	}
	if !ours.SameProgram(b.fingerprint) {
		// It may well be the next version, whose module has another path: then
		// people restart.
		return fmt.Errorf("%s is the program %s, the running one is %s", b.path, b.fingerprint.Program, ours.Program)
	}
	if !linksHoldfast(info) {
		return fmt.Errorf("%s knows nothing of Holdfast: it does not link %s; use systemctl restart to start it", b.path, modulePath)
	}
	return nil
}

func linksHoldfast(info *debug.BuildInfo) bool {
	if info.Main.Path == modulePath || strings.HasPrefix(info.Path, modulePath+"/") {
		return true
	}
	for _, dep := range info.Deps {
		if dep.Path == modulePath {
			return true
		}
	}
	return false
}

// processName is what ps shows: an execution by descriptor would show its
// number.
func processName(argv0 string) string {
	name := filepath.Base(argv0)
	return name[:min(len(name), 15)] // TASK_COMM_LEN
}
