// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The manager is the parent of a service. It reaps strangers, as systemd does:
// successors that were started with CLONE_PARENT, and orphans, since it is a
// subreaper. It starts the service at once, reports deaths on descriptor 3,
// one line of JSON each, and ends all that is left when its standard input
// ends, however the test ends.

// managed is one report.
type managed struct {
	Event  string // "born" (the service), "died" (anybody), "end" (nobody is left)
	PID    int
	Status string
}

// managerSockets tells how many descriptors from 4 on the service gets.
const managerSockets = "HOLDFAST_TEST_SOCKETS"

func managerMain() int {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "manager: subreaper:", err)
		return 1
	}
	unix.CloseOnExec(3)
	reports := json.NewEncoder(os.NewFile(3, "reports"))
	deaths := make(chan os.Signal, 1)
	signal.Notify(deaths, syscall.SIGCHLD)

	files := []uintptr{0, 1, 2}
	if null, err := os.Open(os.DevNull); err == nil {
		files[0] = null.Fd()
	}
	sockets, _ := strconv.Atoi(os.Getenv(managerSockets))
	for i := range sockets {
		unix.CloseOnExec(4 + i)
		files = append(files, uintptr(4+i))
	}
	var environ []string
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); name != roleVariable && name != managerSockets {
			environ = append(environ, kv)
		}
	}
	environ = append(environ, roleVariable+"=exec")
	pid, err := syscall.ForkExec(os.Args[0], os.Args, &syscall.ProcAttr{Env: environ, Files: files})
	if err != nil {
		fmt.Fprintln(os.Stderr, "manager: start:", err)
		return 1
	}
	_ = reports.Encode(managed{Event: "born", PID: pid})

	end := make(chan struct{})
	go func() {
		defer close(end)
		for in := bufio.NewReader(os.Stdin); ; {
			if _, err := in.ReadByte(); err != nil {
				return
			}
		}
	}()
	for ending := false; ; {
		left := reap(reports)
		if left == 0 {
			_ = reports.Encode(managed{Event: "end"})
			if ending {
				return 0
			}
		}
		if ending {
			// Orphans become ours when their parents die.
			killChildren()
		}
		select {
		case <-deaths:
		case <-end:
			ending, end = true, nil
		}
	}
}

// reap waits for all that have died and returns whether any are left.
func reap(reports *json.Encoder) (left int) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return 0
		case pid == 0:
			return 1
		}
		text := fmt.Sprintf("exit %d", status.ExitStatus())
		if status.Signaled() {
			text = unix.SignalName(status.Signal())
		}
		_ = reports.Encode(managed{Event: "died", PID: pid, Status: text})
	}
}

func killChildren() {
	proc, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, entry := range proc {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		// Of a child of ours that nobody else reaps the PID cannot be another's.
		if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid()) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
