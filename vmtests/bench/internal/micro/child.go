// SPDX-License-Identifier: Apache-2.0

package micro

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"
)

// childVariable has a process of this package do what it says, and nothing else.
const childVariable = "HOLDFAST_MICRO_CHILD"

const drainRole = "drain"

// Child does its work and exits where this process is one of this package's. Otherwise it returns.
func Child() {
	role := os.Getenv(childVariable)
	if role == "" {
		return
	}
	var err error
	if taker, ok := strings.CutPrefix(role, takeRole); ok {
		err = takeChild(taker, os.Stdout)
	} else if role == drainRole {
		err = drainChild()
	} else {
		err = fmt.Errorf("%s=%q: no such role", childVariable, role)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "micro: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child is a command for this same program. Files are its descriptors from 3 on.
func child(role string, files ...*os.File) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childVariable+"="+role)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = files
	// It must not outlive a benchmark that is killed.
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return cmd
}

// Drain has another process read the socket, as systemd does, until Close. A sender that is faster than the
// reader waits for it: that is part of what is measured, the same for all.
func (s *Socket) Drain() error {
	file, err := s.conn.File()
	if err != nil {
		return err
	}
	defer file.Close()
	cmd := child(drainRole, file)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.reader = cmd.Process
	s.close = append(s.close, func() error { return errors.Join(stdin.Close(), cmd.Wait()) })
	// Only the reader has it now: without one a sender gets an error, and does not wait for ever.
	return s.conn.Close()
}

// drainChild reads from descriptor 3 until its standard input ends.
func drainChild() error {
	// Those of a terminal, or of timeout(1), are for the whole group. Who started us ends us.
	signal.Ignore(unix.SIGINT, unix.SIGTERM)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	const socket = 3
	// Straight, so that no sender waits for our scheduler.
	if err := unix.SetNonblock(socket, false); err != nil {
		return err
	}
	buf := make([]byte, 8<<10)
	for {
		if _, err := unix.Read(socket, buf); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("read notify socket: %w", err)
		}
	}
}
