// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests/agreement/hub"
)

// passed is a socket that came through execve.
type passed struct {
	fd       int
	name     string // of LISTEN_FDNAMES
	dev, ino uint64
}

// look finds out what this process was started with. The descriptors above 2 are not for children.
func look(role string) (*hub.Hello, []passed, error) {
	hello := &hub.Hello{
		Role: role, PID: os.Getpid(), Parent: os.Getppid(),
		Args: append(slices.Clone(os.Args[:2]), os.Args[3:]...), Env: os.Environ(),
	}
	slices.Sort(hello.Env)
	var err error
	if hello.Dir, err = os.Getwd(); err != nil {
		hello.Dir = err.Error()
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, nil, err
	}
	for line := range strings.Lines(string(status)) {
		if mask, ok := strings.CutPrefix(line, "Umask:"); ok {
			hello.Umask = strings.TrimSpace(mask)
		}
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, nil, err
	}
	var numbers []int
	for _, entry := range entries {
		n, err := strconv.Atoi(entry.Name())
		if err != nil {
			return nil, nil, err
		}
		// The runtime's own descriptors are closed on exec; what came through exec cannot be.
		flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC == 0 {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	var sockets []passed
	for _, n := range numbers {
		file, err := describe(n)
		if err != nil {
			return nil, nil, err
		}
		hello.Files = append(hello.Files, file)
		if n < 3 {
			continue
		}
		unix.CloseOnExec(n)
		name := ""
		if i := n - 3; i < len(names) {
			name = names[i]
		}
		same := func(s passed) bool { return s.dev == file.Dev && s.ino == file.Ino }
		if strings.HasSuffix(file.Kind, "listening") && !slices.ContainsFunc(sockets, same) {
			sockets = append(sockets, passed{n, name, file.Dev, file.Ino})
		}
	}
	return hello, sockets, nil
}

// describe says what a descriptor is.
func describe(fd int) (hub.File, error) {
	f := hub.File{Number: fd}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return f, fmt.Errorf("fstat of descriptor %d: %w", fd, err)
	}
	f.Dev, f.Ino = stat.Dev, stat.Ino
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return f, fmt.Errorf("flags of descriptor %d: %w", fd, err)
	}
	f.NonBlock = flags&unix.O_NONBLOCK != 0
	link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return f, err
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		f.Kind, err = describeSocket(fd)
	case unix.S_IFIFO:
		f.Kind = "pipe"
		if !strings.HasPrefix(link, "pipe:") {
			f.Kind = "fifo"
		}
	case unix.S_IFREG:
		f.Kind = "file"
		if strings.HasPrefix(link, "/memfd:") {
			f.Kind = "memfd"
			text := make([]byte, 64)
			n, err := unix.Pread(fd, text, 0)
			if err != nil {
				return f, fmt.Errorf("read descriptor %d: %w", fd, err)
			}
			f.Content = string(text[:n])
		}
	case unix.S_IFCHR:
		f.Kind = "device " + link
	default:
		f.Kind = link // such as anon_inode:[eventfd]
	}
	return f, err
}

func describeSocket(fd int) (string, error) {
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return "", fmt.Errorf("SO_DOMAIN of descriptor %d: %w", fd, err)
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return "", fmt.Errorf("SO_TYPE of descriptor %d: %w", fd, err)
	}
	listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return "", fmt.Errorf("SO_ACCEPTCONN of descriptor %d: %w", fd, err)
	}
	families := map[int]string{unix.AF_UNIX: "unix", unix.AF_INET: "inet", unix.AF_INET6: "inet6"}
	kinds := map[int]string{unix.SOCK_STREAM: "stream", unix.SOCK_DGRAM: "datagram", unix.SOCK_SEQPACKET: "seqpacket"}
	text := families[family] + " " + kinds[kind]
	if listening != 0 {
		text += " listening"
	}
	return text, nil
}
