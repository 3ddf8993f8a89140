// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/control/command"
	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/manager"
)

// holdfastArgument makes the test binary the command holdfast.
const holdfastArgument = "--reexectest-holdfast"

// serviceMain is what Main was given.
var serviceMain atomic.Pointer[func()]

// self is the trailer of the file that this process runs, if it has one.
var self *trailer

// init and not TestMain, which packages that only use Options.Programs need not
// have. What the binary is started as otherwise does not get to the
// initialisation of packages that import this one.
func init() {
	manager.Intercept()
	if len(os.Args) > 1 && os.Args[1] == holdfastArgument {
		os.Exit(runHoldfast(os.Args[2:]))
	}
	self = readTrailer("/proc/self/exe")
}

// Main runs the tests of a package and exits, or runs the service: the test
// binary stands in for the service's program. Call it from TestMain, with the
// service's own main:
//
//	func TestMain(m *testing.M) { reexectest.Main(m, main) }
//
// Where main gets its version from the linker, set it here:
//
//	reexectest.Main(m, func() { version = reexectest.InstalledVersion(); main() })
//
// In the service os.Args is what ExecStart= says, and nothing but main runs.
// Main does not return.
func Main(m interface{ Run() int }, main func()) {
	RunService(main)
	os.Exit(m.Run())
}

// RunService is Main for a TestMain that has more to do: it runs the service
// and exits if this process is one, and otherwise returns.
func RunService(main func()) {
	if self == nil {
		serviceMain.Store(&main)
		return
	}
	self.waitForTest()
	// HOLDFAST_CHECK is how package reexec starts a pre-check.
	if _, checking := os.LookupEnv("HOLDFAST_CHECK"); !checking {
		time.Sleep(self.Slow)
		if self.Crash {
			panic(fmt.Sprintf("version %q crashes on purpose", self.Version))
		}
	}
	main()
	os.Exit(0)
}

// waitForTest waits if a test listens at StopFile, until it closes the
// connection, and learns the PID by that. Not with package net: main is to find a
// process in which nothing was used yet.
func (t *trailer) waitForTest() {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if unix.Connect(fd, &unix.SockaddrUnix{Name: t.StopFile}) != nil {
		return // nobody listens
	}
	for err = unix.EINTR; err == unix.EINTR; {
		_, err = unix.Read(fd, make([]byte, 1))
	}
}

// InstalledVersion is the label that this service was installed with, see
// [Version]; empty in a process that is no service of a stand-in.
func InstalledVersion() string {
	if self == nil {
		return ""
	}
	return self.Version
}

// runHoldfast is the command holdfast. Its arguments are those of the script
// that is installed for it: the script's own path comes first.
func runHoldfast(args []string) int {
	ctx, cancel := command.SignalContext(context.Background())
	defer cancel()
	if len(args) > 1 {
		switch args[1] {
		case "reload":
			return command.Reload(ctx, args[2:], os.Stdout, os.Stderr)
		case "rollback":
			return command.Rollback(ctx, args[2:], os.Stdout, os.Stderr)
		case "status":
			return command.Status(ctx, args[2:], os.Stdout, os.Stderr)
		case "launch":
			cancel() // a signal is for the service
			return command.Launch(relocateProgram(args[2:], filepath.Dir(args[0])), os.Stdout, os.Stderr)
		case "retry":
			return command.Retry(args[2:], os.Stdout, os.Stderr)
		}
	}
	fmt.Fprintf(os.Stderr, "holdfast %q: the stand-in has the commands reload, rollback, status, launch and retry: map the path in Options.Programs to have others\n", args[min(1, len(args)):])
	return command.ExitUsage
}

// relocateProgram puts the program of "holdfast launch" below root, where the
// unit's programs are: the first argument that is a path.
func relocateProgram(args []string, root string) []string {
	args = slices.Clone(args)
	for i, arg := range args {
		if !filepath.IsAbs(arg) {
			continue
		}
		// The directory, for the program itself may be missing for the moment.
		if info, err := os.Stat(filepath.Join(root, filepath.Dir(arg))); err == nil && info.IsDir() {
			args[i] = filepath.Join(root, arg)
		}
		break
	}
	return args
}

// holdfastScript is what is installed for the command: a line that has the
// kernel run the test binary, by way of a link whose path is short.
func holdfastScript(link string) Program {
	return Text("#!" + link + " " + holdfastArgument + "\n")
}

// trailer is appended to a copy of the test binary, which makes it a version of
// the service: ELF does not mind.
type trailer struct {
	Version string
	Crash   bool          `json:",omitempty"`
	Slow    time.Duration `json:",omitempty"`
	// StopFile is a socket: while a test listens there, processes connect to
	// it before main is called, and wait.
	StopFile string `json:",omitempty"`
}

// The last bytes of a file with a trailer: its size and a mark.
const (
	trailerMark = "\nreexectest service\n"
	trailerEnd  = 4 + len(trailerMark)
)

func (t trailer) encode() []byte {
	text, err := json.Marshal(t)
	if err != nil {
		panic(err) // strings and numbers always have a JSON form
	}
	return append(binary.BigEndian.AppendUint32(text, uint32(len(text))), trailerMark...)
}

// readTrailer returns nil if the file has none.
func readTrailer(path string) *trailer {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	t, err := decodeTrailer(f)
	if err != nil {
		return nil
	}
	return t
}

var errNoTrailer = errors.New("no trailer")

func decodeTrailer(f io.ReadSeeker) (*trailer, error) {
	var end [trailerEnd]byte
	size, err := f.Seek(-int64(trailerEnd), io.SeekEnd)
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(f, end[:]); err != nil {
		return nil, err
	}
	length := int64(binary.BigEndian.Uint32(end[:4]))
	if !bytes.HasSuffix(end[:], []byte(trailerMark)) || length > size {
		return nil, errNoTrailer
	}
	text := make([]byte, length)
	if _, err := f.Seek(size-length, io.SeekStart); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(f, text); err != nil {
		return nil, err
	}
	t := new(trailer)
	return t, json.Unmarshal(text, t)
}
