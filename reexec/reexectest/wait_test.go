// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// shellUnit is a service that is a shell script.
func shellUnit(kind, script, more string) Options {
	return Options{
		Files: map[string]string{
			"sh.service": "[Service]\nType=" + kind + "\nExecStart=/usr/bin/sh.sh\n" + more,
		},
		Programs: map[string]Program{"/usr/bin/sh.sh": Text("#!/bin/sh\n" + script + "\n")},
	}
}

// Who waits for a service that is dead is told so, and not after a while.
func TestWaitInVain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options Options
		kill    bool // it dies while somebody waits
		want    string
	}{
		"failed": {shellUnit("exec", "exit 3", ""), false, "failed (failed), result exit-code (main process "},
		"ended":  {shellUnit("exec", "exit 0", ""), false, "inactive (dead) (main process "},
		"killed": {shellUnit("exec", "exec sleep 1000", ""), true, "was killed by SIGKILL)"},
		"limit":  {shellUnit("exec", "exit 4", "Restart=always\nRestartSec=1ms\n"), false, "exited with status 4)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := Start(t, c.options)
			waits := map[string]func() error{
				"state":   func() error { return u.WaitFor(t.Context(), StatusText("never")) },
				"journal": func() error { _, err := u.WaitForJournal(t.Context(), "never"); return err },
				"message": func() error { _, err := u.WaitForMessage(t.Context(), "NEVER=1"); return err },
			}
			results := make(chan error, len(waits))
			for _, wait := range waits {
				go func() { results <- wait() }()
			}
			if c.kill {
				if err := u.Kill(MainProcess, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			for range waits {
				err := <-results
				if err == nil || !strings.Contains(err.Error(), "it cannot come any more: the service is ") || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want one with %q", err, c.want)
				}
			}
			for _, state := range []Condition{Inactive, Failed} {
				if state.Holds(u.Show()) {
					if err := u.WaitFor(t.Context(), state); err != nil {
						t.Error(err)
					}
				} else if err := u.WaitFor(t.Context(), state); err == nil || !strings.Contains(err.Error(), "cannot come any more") {
					t.Errorf("%s: %v", state.Text, err)
				}
			}
		})
	}
}

// What may still come is waited for.
func TestWaitForWhatComes(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	later := func(u *Unit, wait func(context.Context) error, then func() error) {
		t.Helper()
		result := make(chan error, 1)
		go func() { result <- wait(ctx) }()
		for range 20 {
			u.Show() // as many turns of the manager
		}
		if err := errors.Join(then(), <-result); err != nil {
			t.Error(err)
		}
	}
	running := func(u *Unit) func(context.Context) error {
		return func(ctx context.Context) error { return u.WaitFor(ctx, Running) }
	}
	// It was never started.
	u := Load(t, keeperOptions(""))
	later(u, running(u), func() error { return u.Start(ctx) })
	// A connection starts it, which was stopped.
	u = Start(t, Options{Files: plainUnits("", true)})
	if err := u.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	later(u, running(u), func() error {
		conn, err := u.Dial(ctx, "http")
		if err != nil {
			return err
		}
		return conn.Close()
	})
	// It is restarted.
	u = Start(t, shellUnit("exec", "echo began; exec sleep 1000", "Restart=always\nRestartSec=100ms\n"))
	was := u.MainPID()
	later(u, func(ctx context.Context) error { return u.WaitFor(ctx, MainPIDIsNot(was)) }, func() error {
		return u.Kill(MainProcess, syscall.SIGKILL)
	})
	later(u, func(ctx context.Context) error { return u.WaitFor(ctx, StatusText("")) }, func() error { return u.Restart(ctx) })
	// Somebody is left to write.
	u = Start(t, shellUnit("exec", "read line < fifo; echo line: $line &", "KillMode=none\nRuntimeDirectory=sh\nWorkingDirectory=%t/sh\nExecStartPre=/bin/mkfifo fifo\n"))
	later(u, func(ctx context.Context) error { _, err := u.WaitForJournal(ctx, "line: x"); return err }, func() error {
		return os.WriteFile(u.Path("/run/sh/fifo"), []byte("x\n"), 0)
	})
}

func TestClosed(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	u, err := New(ctx, Options{Files: plainUnits("", true)})
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Start(ctx); err != nil {
		t.Fatal(err)
	}
	pid, waits := u.MainPID(), make(chan error, 1)
	go func() { waits <- u.WaitFor(ctx, StatusText("never")) }()
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	errs := map[string]error{
		"Start": u.Start(ctx), "Stop": u.Stop(ctx), "Restart": u.Restart(ctx), "Reload": u.Reload(ctx),
		"Systemctl": u.Systemctl(ctx, "reset-failed", u.Name()), "DaemonReload": u.DaemonReload(ctx, nil), "Clean": u.Clean(ctx, "all"),
		"Kill": u.Kill(AllProcesses, syscall.SIGTERM), "Signal": u.Signal(pid, syscall.SIGTERM),
		"Install": u.Install("/usr/bin/plain", Version("2")),
		"WaitFor": u.WaitFor(ctx, Running), "a wait under way": <-waits,
	}
	_, errs["ShowSocket"] = u.ShowSocket("plain.socket")
	_, errs["Dial"] = u.Dial(ctx, "http")
	_, errs["Fault"] = u.Fault(FullStore())
	_, errs["WaitForJournal"] = u.WaitForJournal(ctx, "")
	_, errs["WaitForMessage"] = u.WaitForMessage(ctx, "READY=1")
	func() {
		defer func() { errs["Addr"] = fmt.Errorf("%v", recover()) }()
		u.Addr("http")
	}()
	for name, err := range errs {
		if err == nil || !strings.Contains(err.Error(), "the unit is closed") || strings.Contains(err.Error(), "connection") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if u.Show().SubState != "running" || u.MainPID() != pid || len(u.Messages()) == 0 || len(u.Processes()) != 0 || u.Story() == "" {
		t.Errorf("what is known after Close: %v", u.Show())
	}
}

// A manager that was killed is an error that says so, and leaves nothing.
func TestManagerKilled(t *testing.T) {
	t.Parallel()
	u, err := New(t.Context(), Options{Files: plainUnits("-bug=ignores", true)})
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := u.Processes()
	manager := all[0].Parent
	u.mu.Lock()
	u.births = u.births[:1] // of the others it had no time to tell
	u.mu.Unlock()
	waits := make(chan error, 1)
	go func() { waits <- u.WaitFor(t.Context(), StatusText("never")) }()
	if err := syscall.Kill(manager, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"wait": <-waits, "reload": u.Reload(t.Context()), "close": u.Close()} {
		if err == nil || !strings.Contains(err.Error(), "the manager process failed: signal: killed") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, p := range all {
		if state := processState(p.PID); state != "" && state != "Z" {
			t.Errorf("%v lives on: its state is %s", p, state)
		}
	}
	if _, err := os.Stat(u.Root()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", u.Root(), err)
	}
}

// Neither does a manager that was stopped leave anything.
func TestManagerStopped(t *testing.T) {
	t.Parallel()
	u, err := New(t.Context(), keeperOptions(""))
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	pid := u.MainPID()
	if err := syscall.Kill(u.manager, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	u.ending = 10 * time.Millisecond
	if err := u.Close(); err == nil || !strings.Contains(err.Error(), "the manager process of keeper.service does not end") {
		t.Errorf("close: %v", err)
	}
	for _, pid := range []int{pid, u.manager} {
		if state := processState(pid); state != "" && state != "Z" {
			t.Errorf("process %d lives on: its state is %s", pid, state)
		}
	}
	if _, err := os.Stat(u.Root()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", u.Root(), err)
	}
}

// An answer that is looked at late does not hide what happened after it.
func TestShowIsNew(t *testing.T) {
	t.Parallel()
	u := Start(t, shellUnit("exec", "exec sleep 1000", "[Unit]\nStartLimitIntervalSec=0\n"))
	var lookers sync.WaitGroup
	defer lookers.Wait()
	done := make(chan struct{})
	defer close(done)
	for range 8 {
		lookers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					u.Show()
				}
			}
		})
	}
	for range 50 {
		if err := u.Kill(MainProcess, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := u.WaitFor(t.Context(), Failed); err != nil {
			t.Fatal(err)
		}
		if state := u.known(); !state.down() {
			t.Fatalf("it failed, and is said to be %v", state)
		}
		if err := u.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
