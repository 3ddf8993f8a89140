// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// A forking service is started when its PID file names a process.
func TestForkingService(t *testing.T) {
	r := runUnits(t, wire.Config{}, "a.service", `
[Service]
Type=forking
PIDFile=/run/a/main.pid
RuntimeDirectory=a
ExecStart=/bin/sh -c '(echo started; exec 3<>%t/fifo; read x <&3; sh -c "echo \\$PPID" >%t/a/tmp; mv %t/a/tmp %t/a/main.pid; exec cat <&3) & exit 0'
`)
	if err := syscall.Mkfifo(filepath.Join(r.root, "run/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, wait := r.client.Begin(&wire.Request{Verb: wire.Start})
	r.untilLine("started")
	r.rewind()
	r.until("the end of the first process", func(e *wire.Event) bool { return e.Kind == wire.ProcessDied })
	if p := r.show(); p.SubState != "start" || p.MainPID != 0 {
		t.Errorf("properties are %+v", p)
	}
	fifo, err := os.OpenFile(filepath.Join(r.root, "run/fifo"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer fifo.Close()
	if _, err := fifo.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	if a, err := wait(t.Context()); err != nil || a.Result != wire.Done {
		t.Fatalf("start: %+v, %v", a, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(r.file("run/a/main.pid")))
	if p := r.show(); err != nil || p.SubState != "running" || p.MainPID != pid {
		t.Errorf("main is %+v, the file has %d, %v", p, pid, err)
	}
	r.job(wire.Stop, wire.Done)
	if r.mode("run/a/main.pid") != 0 {
		t.Error("the PID file is left")
	}
}

func TestReadPIDFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	m := &manager{service: &unit.Service{PIDFile: path}}
	if _, err := m.readPIDFile(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	for text, want := range map[string]int{"12\n": 12, " 12 ": 12, "12\nnext\n": 12, "": 0, "x": 0, "-1": 0, "0": 0, "99999999999": 0} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := m.readPIDFile(); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}

func TestKill(t *testing.T) {
	r := runUnits(t, wire.Config{}, "a.service", `
[Service]
Type=notify
Restart=always
RestartSec=1h
ExecStart=/usr/bin/tool fork:wait notify:READY=1 hangup print:hung-up wait
ExecReload=/usr/bin/tool print:reloading wait
`)
	var refused *wire.Error
	for _, whom := range []wire.Whom{wire.MainProcess, wire.ControlProcess} {
		if _, err := r.client.Call(t.Context(), wire.Request{Verb: wire.Kill, Whom: whom, Signal: 1}); !errors.As(err, &refused) || refused.Name != wire.ErrNoSuchProcess {
			t.Errorf("kill %s: %v", whom, err)
		}
	}
	r.call(wire.Request{Verb: wire.Kill, Signal: 1})
	r.job(wire.Start, wire.Done)
	r.call(wire.Request{Verb: wire.Kill, Whom: wire.MainProcess, Signal: syscall.SIGHUP})
	r.untilLine("hung-up")
	_, wait := r.client.Begin(&wire.Request{Verb: wire.Reload})
	r.untilLine("reloading")
	r.call(wire.Request{Verb: wire.Kill, Whom: wire.ControlProcess, Signal: syscall.SIGKILL})
	if a, err := wait(t.Context()); err != nil || a.Result != wire.Failed {
		t.Fatalf("reload: %+v, %v", a, err)
	}
	if p := r.show(); p.SubState != "running" || p.ReloadResult != "signal" {
		t.Errorf("properties are %+v", p)
	}
	r.call(wire.Request{Verb: wire.Kill, Whom: wire.AllProcesses, Signal: syscall.SIGKILL})
	p := r.untilState("auto-restart")
	if p.Result != "signal" || p.ExecMainCode != 2 || p.ExecMainStatus != 9 {
		t.Errorf("properties are %+v", p)
	}
	if got := r.call(wire.Request{Verb: wire.Processes}).Processes; len(got) != 0 {
		t.Errorf("processes are left: %+v", got)
	}
	r.job(wire.Stop, wire.Done)
}
