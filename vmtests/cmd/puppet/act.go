// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests/agreement/hub"
)

// barrierTimeout bounds the wait for a manager that does not answer a barrier.
const barrierTimeout = 3 * time.Second

// notify sends a message as it is, without any of the checks of package notify.
func (p *puppet) notify(c hub.Command) error {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return errors.New("no NOTIFY_SOCKET")
	}
	if p.notifier < 0 {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("socket: %w", err)
		}
		p.notifier = fd
	}
	to := &unix.SockaddrUnix{Name: address}
	var fds []int
	for _, label := range c.Labels {
		kept, ok := p.kept[label]
		if !ok {
			return fmt.Errorf("no descriptor is labelled %s", label)
		}
		fds = append(fds, kept[0])
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(p.notifier, c.Payload, rights, to, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("sendmsg: %w", err)
	}
	if c.Barrier {
		return p.barrier(to)
	}
	return nil
}

// barrier returns when the manager has read what was sent before.
func (p *puppet) barrier(to *unix.SockaddrUnix) error {
	pipe := make([]int, 2)
	if err := unix.Pipe2(pipe, unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	defer unix.Close(pipe[0])
	err := unix.Sendmsg(p.notifier, []byte("BARRIER=1"), unix.UnixRights(pipe[1]), to, unix.MSG_NOSIGNAL)
	unix.Close(pipe[1])
	if err != nil {
		return fmt.Errorf("send the barrier: %w", err)
	}
	poll := []unix.PollFd{{Fd: int32(pipe[0])}}
	deadline := time.Now().Add(barrierTimeout)
	for {
		n, err := unix.Poll(poll, int(max(0, time.Until(deadline)/time.Millisecond)))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("poll: %w", err)
		case n == 0:
			return errors.New("the barrier was not answered")
		default:
			return nil
		}
	}
}

// make makes a descriptor of a kind.
func (p *puppet) make(label, kind string) (hub.Report, error) {
	fds, err := makeDescriptor(label, kind)
	if err != nil {
		return hub.Report{}, fmt.Errorf("make %s: %w", kind, err)
	}
	p.kept[label] = fds
	file, err := describe(fds[0])
	return hub.Report{Made: &file}, err
}

func makeDescriptor(label, kind string) (fds []int, err error) {
	socket := func(family, kind int) int {
		var fd int
		if fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0); err == nil {
			fds = append(fds, fd)
		}
		return fd
	}
	loopback := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	then := func(step func() error) {
		if err == nil {
			err = step()
		}
	}
	switch kind {
	case "memfd":
		var fd int
		if fd, err = unix.MemfdCreate(label, unix.MFD_CLOEXEC); err == nil {
			fds = []int{fd}
			_, err = unix.Write(fd, []byte(label))
		}
	case "tcp-listening", "tcp-bound", "tcp-shutdown":
		fd := socket(unix.AF_INET, unix.SOCK_STREAM)
		then(func() error { return unix.Bind(fd, loopback) })
		if kind != "tcp-bound" {
			then(func() error { return unix.Listen(fd, 16) })
		}
		if kind == "tcp-shutdown" {
			then(func() error { return unix.Shutdown(fd, unix.SHUT_RD) })
		}
	case "unix-listening", "unix-bound":
		fd := socket(unix.AF_UNIX, unix.SOCK_STREAM)
		then(func() error { return unix.Bind(fd, &unix.SockaddrUnix{}) }) // a name of the kernel's choice
		if kind == "unix-listening" {
			then(func() error { return unix.Listen(fd, 16) })
		}
	case "unix-datagram":
		fd := socket(unix.AF_UNIX, unix.SOCK_DGRAM)
		then(func() error { return unix.Bind(fd, &unix.SockaddrUnix{}) })
	case "udp":
		fd := socket(unix.AF_INET, unix.SOCK_DGRAM)
		then(func() error { return unix.Bind(fd, loopback) })
	case "udp-refused": // connected, and an error waits in it
		fd := socket(unix.AF_INET, unix.SOCK_DGRAM)
		then(func() error { return unix.Connect(fd, &unix.SockaddrInet4{Addr: loopback.Addr, Port: 1}) })
		then(func() error { _, err := unix.Write(fd, []byte("x")); return err })
	case "pipe", "pipe-full": // the reading end; the other is kept
		fds = make([]int, 2)
		err = unix.Pipe2(fds, unix.O_CLOEXEC)
		if kind == "pipe-full" {
			then(func() error { _, err := unix.Write(fds[1], []byte("x")); return err })
		}
	case "socketpair":
		var pair [2]int
		pair, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		fds = pair[:]
	case "eventfd":
		var fd int
		fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC)
		fds = []int{fd}
	case "null":
		var fd int
		fd, err = unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
		fds = []int{fd}
	default:
		return nil, errors.New("this kind is not known")
	}
	if err != nil {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		return nil, err
	}
	return fds, nil
}

// close closes what is kept under a label from the element first on.
func (p *puppet) close(label string, first int) error {
	kept, ok := p.kept[label]
	if !ok || first >= len(kept) {
		return fmt.Errorf("no descriptor %d is labelled %s", first, label)
	}
	for _, fd := range kept[first:] {
		_ = unix.Close(fd)
	}
	if p.kept[label] = kept[:first]; first == 0 {
		delete(p.kept, label)
	}
	return nil
}

// Roles that are forked in another way than a child is.
const (
	heir   = "heir"   // its parent is that of this process
	corpse = "corpse" // is not reaped
)

func (p *puppet) fork(role string) (int, error) {
	attr := &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{}}
	if role == heir {
		attr.Sys.Cloneflags = unix.CLONE_PARENT
	}
	pid, err := syscall.ForkExec("/proc/self/exe", []string{os.Args[0], role, p.hub}, attr)
	if err != nil {
		return 0, fmt.Errorf("fork: %w", err)
	}
	if role != heir && role != corpse {
		p.children.Go(func() {
			for {
				if _, err := syscall.Wait4(pid, nil, 0, nil); !errors.Is(err, syscall.EINTR) {
					return
				}
			}
		})
	}
	return pid, nil
}

// serve answers connections. The sockets' blocking mode is not ours to change, so each has a thread that polls.
func (p *puppet) serve() {
	for _, s := range p.sockets {
		go func() {
			for {
				_, _ = unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}, -1)
				fd, _, err := unix.Accept4(s.fd, unix.SOCK_CLOEXEC)
				if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ECONNABORTED) {
					continue
				}
				if err != nil {
					return
				}
				p.say(hub.Report{Served: s.name})
				_, _ = unix.Write(fd, fmt.Appendln(nil, os.Getpid()))
				_ = unix.Close(fd)
			}
		}()
	}
}

// writeFile replaces a file below the runtime directory.
func writeFile(name, text string) error {
	dir, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":")
	if dir == "" {
		return errors.New("no RUNTIME_DIRECTORY")
	}
	name = filepath.Join(dir, name)
	if err := os.WriteFile(name+".new", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// die ends this process by a signal, whatever the runtime does with that signal.
func die(sig syscall.Signal) {
	var action [4]uintptr // SIG_DFL, no flags, an empty mask
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
	_ = unix.Kill(os.Getpid(), sig)
	select {}
}
