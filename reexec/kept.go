// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/notify"
	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// keptFile is what the service keeps under one name.
type keptFile struct {
	file    *os.File
	claimed bool
}

// NotKeptError says that nothing is kept under a name, or not any more.
type NotKeptError struct {
	Name    string
	Kept    []string // the names of what can be had
	Claimed bool     // Kept has returned it before
}

func (e *NotKeptError) Error() string {
	if e.Claimed {
		return fmt.Sprintf("reexec: kept %q: it was taken before in this process", e.Name)
	}
	return fmt.Sprintf("reexec: kept %q: nothing is kept under this name; there is %q", e.Name, e.Kept)
}

// Keep has systemd keep a copy of the descriptor of conn, such as a connection
// or an [os.File] of memfd_create(2), so that the next process of the service
// gets it from [Service.Kept] after a crash or a restart. Of what was kept under
// the name before, nothing is lost until systemd has the new one. The next
// version gets it in an upgrade, too.
//
// systemd drops a connection that breaks; to close one, call [Service.Release],
// since systemd's copy keeps it open. The caller keeps conn. Only main may call
// Keep: until then, and when another generation is main, the error wraps
// [ErrNotMain]. If systemd cannot keep it, the error is a [*StoreError], and only
// an upgrade hands it on.
func (s *Service) Keep(ctx context.Context, name string, conn syscall.Conn) error {
	key, err := keptKey(name)
	if err != nil {
		return err
	}
	if !s.holdsLease() {
		return &StoreError{Op: "store", Name: key, Err: ErrNotMain}
	}
	fd, err := duplicate(conn)
	if err != nil {
		return fmt.Errorf("reexec: keep %q: %w", name, err)
	}
	var options []notify.Field
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err == nil && kind == unix.SOCK_DGRAM {
		options = append(options, notify.NoPoll())
	}
	same := s.inv.keep(name, os.NewFile(uintptr(fd), name))
	if !same || s.store.newest(key) == "" {
		_, err = s.store.put(ctx, key, conn, options...)
	}
	s.handOn(handover.Update{Descriptor: handover.Descriptor{Role: roleKept, Name: name, Stored: s.store.newest(key)}}, conn)
	return err
}

// Kept returns what was kept under the name by an earlier process of the
// service, once; the error is a [*NotKeptError] if there is none. The file is the
// caller's, and its blocking mode as it was; [net.FileConn] makes a connection of
// it. It stays kept until [Service.Release].
//
// In an upgrade the new version gets all this, too, while the old one still
// reads and writes it: for connections, that is what [Service.MoveSession] is
// for. [Service.Generation] is 1 after a crash.
func (s *Service) Kept(name string) (*os.File, error) {
	s.inv.mu.Lock()
	defer s.inv.mu.Unlock()
	k, ok := s.inv.kept[name]
	if !ok || k.claimed {
		return nil, &NotKeptError{Name: name, Kept: s.inv.keptNames(), Claimed: ok}
	}
	fd, err := duplicate(k.file)
	if err != nil {
		return nil, fmt.Errorf("reexec: kept %q: %w", name, err)
	}
	k.claimed = true
	return os.NewFile(uintptr(fd), name), nil
}

// KeptNames are the names for which [Service.Kept] has something, sorted.
func (s *Service) KeptNames() []string {
	s.inv.mu.Lock()
	defer s.inv.mu.Unlock()
	return s.inv.keptNames()
}

// keptNames is for who holds the lock.
func (inv *inventory) keptNames() (names []string) {
	for name, k := range inv.kept {
		if !k.claimed {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Release ends what [Service.Keep] has begun: systemd closes its copy. That
// nothing is kept under the name is no error. Only main may call it.
func (s *Service) Release(ctx context.Context, name string) error {
	key, err := keptKey(name)
	if err != nil {
		return err
	}
	if !s.holdsLease() {
		return &StoreError{Op: "remove", Name: key, Err: ErrNotMain}
	}
	s.inv.letGo(name)
	s.handOn(handover.Update{Descriptor: handover.Descriptor{Role: roleKept, Name: name}, Removed: true}, nil)
	s.store.forgive(key)
	s.store.doom(s.store.under(key)...)
	if s.store == nil {
		return nil
	}
	return s.store.flush(ctx)
}

// holdsLease says whether this generation may write.
func (s *Service) holdsLease() bool { return s.lease.Load() }

// foundKept are those that were in the fd store.
func (inv *inventory) foundKept() {
	for _, e := range inv.store.found(storeKept) {
		name, err := unescapeKept(e.key)
		if err != nil {
			inv.log.Warn("an entry of the fd store has a strange name", "entry", e.name, "error", err)
			_ = e.file.Close()
			inv.store.doom(e.name)
			continue
		}
		inv.kept[name] = &keptFile{file: e.file}
	}
}

// keep holds a copy, for the successor; it takes the file over. same says that
// it is a copy of what was kept before: systemd does not store one twice, and
// would leave it under its old name.
func (inv *inventory) keep(name string, file *os.File) (same bool) {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	if inv.closed {
		_ = file.Close()
		return false
	}
	if old := inv.kept[name]; old != nil {
		same = sameDescription(old.file, file)
		_ = old.file.Close()
	}
	inv.kept[name] = &keptFile{file: file, claimed: true}
	return same
}

func (inv *inventory) letGo(name string) {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	if k := inv.kept[name]; k != nil {
		_ = k.file.Close()
		delete(inv.kept, name)
	}
}

// inherit takes what the predecessor keeps or lets go after the handover has
// begun.
func (inv *inventory) inherit(name string, file *os.File) {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	if inv.closed {
		_ = file.Close()
		return
	}
	if old := inv.kept[name]; old != nil {
		_ = old.file.Close()
	}
	inv.kept[name] = &keptFile{file: file}
}

// sameDescription says whether two files are copies of one open file
// description. systemd decides in the same way (same_fd).
func sameDescription(a, b *os.File) bool {
	x, y := minFD(a), minFD(b)
	if same, err := unix.FcntlInt(uintptr(x), unix.F_DUPFD_QUERY, y); err == nil { // Linux 6.10
		return same == 1
	}
	const kcmpFile = 0
	pid := uintptr(os.Getpid())
	if order, _, errno := unix.Syscall6(unix.SYS_KCMP, pid, pid, kcmpFile, uintptr(x), uintptr(y), 0); errno == 0 {
		return order == 0
	}
	var s, t unix.Stat_t
	return unix.Fstat(x, &s) == nil && unix.Fstat(y, &t) == nil && s.Dev == t.Dev && s.Ino == t.Ino && s.Mode == t.Mode
}

// errNotReadable is for a name that this code would not have written.
var errNotReadable = errors.New("it cannot be read back")

func unescapeKept(key string) (string, error) {
	name, ok := strings.CutPrefix(key, storeKept+"/")
	if plain, err := url.PathUnescape(name); ok && err == nil && !isHash(name) {
		return plain, nil
	}
	return "", errNotReadable
}
