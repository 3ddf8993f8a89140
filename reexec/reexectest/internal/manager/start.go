// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// noRaceSleep is for GORACE: a process ends at once.
const noRaceSleep = "atexit_sleep_ms=0"

// maxStderr is how much of what a manager says on its way out is kept.
const maxStderr = 64 << 10

// Start starts a manager process with this program, which must call
// [Intercept], and returns the connection to it; see package wire for what is
// said there. wait waits for the end of the process, which follows that of the connection. Its
// error says that the manager failed, with what it wrote to its standard error. It must
// be called, once, in the end.
func Start() (conn net.Conn, wait func() error, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("start the manager process: %w", os.NewSyscallError("socketpair", err))
	}
	near, far := os.NewFile(uintptr(pair[0]), "manager"), os.NewFile(uintptr(pair[1]), "test")
	defer far.Close()
	conn, err = net.FileConn(near)
	if err := errors.Join(err, near.Close()); err != nil {
		return nil, nil, fmt.Errorf("start the manager process: %w", err)
	}
	const fd = 3 // the first of ExtraFiles
	cmd := exec.Command("/proc/self/exe", managerPrefix+strconv.Itoa(fd))
	cmd.Args[0] = "(reexectest-manager)"
	// With the race detector a process sleeps for a second at its end.
	cmd.Env = append(os.Environ(), "GORACE="+os.Getenv("GORACE")+" "+noRaceSleep)
	cmd.ExtraFiles = []*os.File{far}
	stderr := new(head)
	cmd.Stderr = stderr
	// It outlives this process for a moment, to clean up; and nobody who
	// ends this process from a terminal ends it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// Should a process of the service have its standard error after all.
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("start the manager process: %w", err), conn.Close())
	}
	return conn, func() error {
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("the manager process failed: %w: %s", err, strings.TrimSpace(stderr.String()))
		}
		return nil
	}, nil
}

// A head keeps the first of what is written to it: a panic says what happened at
// its beginning.
type head struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text.Write(p[:min(len(p), max(0, maxStderr-h.text.Len()))])
	return len(p), nil
}

func (h *head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.String()
}
