// SPDX-License-Identifier: Apache-2.0

// Intruder tries, inside a machine of package vmtests, to speak to systemd in the place of
// a service. It joins a cgroup, becomes another user, and sends each of its arguments to the
// notify socket, where %d is its own PID; with -fd each has a memfd beside it. It returns
// once systemd has read all of that.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds the wait for systemd.
const patience = 30 * time.Second

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "intruder:", err)
		os.Exit(1)
	}
}

func run() error {
	cgroup := flag.String("cgroup", "", "join this directory of the cgroup file system")
	uid := flag.Int("uid", 0, "become this user and group")
	withFD := flag.Bool("fd", false, "send a memfd with each message")
	flag.Parse()

	if *cgroup != "" {
		if err := os.WriteFile(filepath.Join(*cgroup, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
			return err
		}
	}
	if *uid != 0 {
		// All threads, unlike those of package unix.
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setresgid(*uid, *uid, *uid), syscall.Setresuid(*uid, *uid, *uid)); err != nil {
			return fmt.Errorf("become uid %d: %w", *uid, err)
		}
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(socket)
	to := &unix.SockaddrUnix{Name: "/run/systemd/notify"}
	for _, text := range flag.Args() {
		var rights []byte
		if *withFD {
			fd, err := unix.MemfdCreate("planted", unix.MFD_CLOEXEC)
			if err != nil {
				return fmt.Errorf("memfd: %w", err)
			}
			defer unix.Close(fd)
			rights = unix.UnixRights(fd)
		}
		text = strings.ReplaceAll(text, "%d", strconv.Itoa(os.Getpid()))
		if err := unix.Sendmsg(socket, []byte(text), rights, to, unix.MSG_NOSIGNAL); err != nil {
			return fmt.Errorf("send %q: %w", text, err)
		}
	}
	return barrier(socket, to)
}

// barrier returns when systemd has read what was sent before: it closes the pipe then,
// whoever has sent it.
func barrier(socket int, to unix.Sockaddr) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	err = unix.Sendmsg(socket, []byte("BARRIER=1"), unix.UnixRights(int(w.Fd())), to, unix.MSG_NOSIGNAL)
	if err = errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("send the barrier: %w", err)
	}
	poll := []unix.PollFd{{Fd: int32(r.Fd())}}
	n, err := unix.Poll(poll, int(patience/time.Millisecond))
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll(poll, int(patience/time.Millisecond))
	}
	if err == nil && n == 0 {
		err = os.ErrDeadlineExceeded
	}
	if err != nil {
		return fmt.Errorf("wait for the barrier: %w", err)
	}
	return nil
}
