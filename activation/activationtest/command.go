// SPDX-License-Identifier: Apache-2.0

package activationtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Descriptor is one descriptor that a process started by [Command] receives.
type Descriptor struct {
	// Name is its name in LISTEN_FDNAMES: FileDescriptorName= of the .socket unit, or FDNAME= of the store.
	Name string
	// Conn is what to pass: an *os.File, *net.TCPListener, *net.UDPConn or anything else with a descriptor.
	// It stays the caller's.
	Conn syscall.Conn
	// Stored says that it comes from the file descriptor store, not from a .socket unit: its blocking mode is
	// left alone. systemd passes the store's descriptors last.
	Stored bool
}

// Options say what a process started by [Command] receives. The zero Options pass nothing and set no variable.
type Options struct {
	Descriptors []Descriptor // in this order, from descriptor 3 on
	NonBlocking bool         // NonBlocking=yes: O_NONBLOCK set instead of cleared
	PIDFDID     bool         // set LISTEN_PIDFDID, as systemd 259 and newer do; needs Linux 6.9
	OmitNames   bool         // leave out LISTEN_FDNAMES, as systemd before 227 did
}

// Command returns a command that is ready to start and gets descriptors as systemd passes them: from 3 on, in
// order, with LISTEN_PID (the number of that process), LISTEN_FDS and LISTEN_FDNAMES set, with O_NONBLOCK cleared
// on those of socket units, and with no other descriptor besides standard input, output and error. Variables of
// the same names in the environment of the test are not passed on.
//
// Dir, Env, Stdin, Stdout and Stderr of the command may be set, and arguments appended, before it is started. A
// name without a slash is looked up in PATH.
//
// Like systemd, the test process keeps a copy of each descriptor until the end of the test: a listener goes on
// listening when the process has closed it or died. The blocking mode is common to all copies, so the test should
// not accept from a listener or read from a socket after it has started a process with it.
//
// A process that still runs at the end of the test is killed and waited for. To stop it earlier, signal it and
// call Wait.
func Command(t testing.TB, options Options, name string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		t.Fatalf("activationtest: %v", err)
	}

	order := trampolineOrder{
		Path:        path,
		NonBlocking: options.NonBlocking,
		PIDFDID:     options.PIDFDID,
		OmitNames:   options.OmitNames,
	}
	var files []*os.File
	for i, d := range options.Descriptors {
		file, err := copyDescriptor(d)
		if err != nil {
			t.Fatalf("activationtest: copy descriptor %d (%q): %v", i, d.Name, err)
		}
		t.Cleanup(func() { _ = file.Close() })
		files = append(files, file)
		order.Names = append(order.Names, d.Name)
		order.Stored = append(order.Stored, d.Stored)
	}

	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	// The program shall find its own name in its first argument.
	cmd.Args = append([]string{name, order.argument()}, args...)
	cmd.ExtraFiles = files
	t.Cleanup(func() {
		if cmd.Process != nil && cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd
}

// copyDescriptor avoids (*os.File).Fd and the File methods of package net: neither may touch the blocking mode.
func copyDescriptor(d Descriptor) (*os.File, error) {
	if d.Conn == nil {
		return nil, fmt.Errorf("no Conn")
	}
	raw, err := d.Conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	dup, dupErr := -1, error(nil)
	if err := raw.Control(func(fd uintptr) { dup, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3) }); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, os.NewSyscallError("fcntl", dupErr)
	}
	return os.NewFile(uintptr(dup), d.Name), nil
}
