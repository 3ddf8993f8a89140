// SPDX-License-Identifier: Apache-2.0

// Command keep runs a program and is the reaper of all that it starts, as PID 1 is. When its standard input
// ends, which it does when the benchmark dies too, it kills what is left. It ends when nothing is. Its first
// line of output is the time of the exec.
package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
	"github.com/holdfast-go/holdfast/vmtests/internal/procs"
)

func main() {
	if len(os.Args) < 2 {
		log.Fatal("usage: keep PROGRAM [ARGUMENT...]")
	}
	if err := keep(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func keep(argv []string) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	nothing, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer nothing.Close()
	fmt.Println(procs.Started, load.Now())
	if _, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{nothing.Fd(), 1, 2},
	}); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		for {
			killAll() // until main returns: what is killed may just have forked
		}
	}()
	for {
		_, err := unix.Wait4(-1, nil, 0, nil)
		switch {
		case errors.Is(err, unix.ECHILD):
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		}
	}
}

func killAll() {
	pids, err := procs.Descendants(os.Getpid())
	if err != nil {
		log.Print(err)
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			log.Print(err)
		}
	}
}
