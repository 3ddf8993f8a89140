// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// untilNotify waits for a message with that field.
func (r *running) untilNotify(field string) *wire.Notify {
	r.t.Helper()
	return r.until(field, func(e *wire.Event) bool {
		return e.Kind == wire.NotifyReceived && strings.Contains(string(e.Notify.Payload), field)
	}).Notify
}

// A message that was sent before the sender died is seen before the death, however
// little time is between.
func TestNotifyBeforeDeath(t *testing.T) {
	r := runUnits(t, wire.Config{}, "a.service", `
[Unit]
StartLimitIntervalSec=0
[Service]
Type=notify
RemainAfterExit=yes
ExecStart=/usr/bin/tool notify:READY=1 notify:STATUS=last;ERRNO=5
`)
	for range 20 {
		r.job(wire.Start, wire.Done)
		r.until("exit", func(e *wire.Event) bool { return e.Kind == wire.ProcessDied })
		if p := r.show(); p.StatusText != "last" || p.StatusErrno != 5 || p.SubState != "exited" {
			t.Fatalf("properties are %+v", p)
		}
		r.job(wire.Stop, wire.Done)
	}
}

func TestNotifyAccessOfProcesses(t *testing.T) {
	for access, want := range map[string]string{"main": "main", "exec": "main post", "all": "child main post"} {
		t.Run(access, func(t *testing.T) {
			r := runUnits(t, wire.Config{}, "a.service", `
[Service]
Type=notify
NotifyAccess=`+access+`
Environment=NOTIFY_SOCKET=%t/systemd/notify
ExecStart=/usr/bin/tool notify:READY=1;FROM=main fork:notify:FROM=child,barrier,print:said,wait wait
ExecStartPost=/usr/bin/tool notify:FROM=post barrier
`)
			r.job(wire.Start, wire.Done)
			r.untilLine("said")
			var got []string
			for _, e := range r.all() {
				if e.Kind != wire.NotifyReceived || !e.Notify.Accepted || len(e.Notify.Fields) == 0 {
					continue
				}
				if _, from, ok := strings.Cut(string(e.Notify.Payload), "FROM="); ok {
					got = append(got, from)
				}
			}
			slices.Sort(got)
			if strings.Join(got, " ") != want {
				t.Errorf("accepted are %q, want %q", got, want)
			}
			r.job(wire.Stop, wire.Done)
		})
	}
}

// A pidfd names a main process as its number does.
func TestMainPIDFDOfAProcess(t *testing.T) {
	for version, moves := range map[int]bool{256: false, 257: true} {
		r := runUnits(t, wire.Config{Systemd: version}, "a.service", `
[Service]
Type=notify
ExecStart=/usr/bin/tool notify:READY=1 fork:wait mainpidfd barrier print:said wait
`)
		r.job(wire.Start, wire.Done)
		first := r.untilLine("said").PID
		if p := r.show(); (p.MainPID != first) != moves || moves && !slices.ContainsFunc(r.call(wire.Request{Verb: wire.Processes}).Processes,
			func(q wire.Process) bool { return q.PID == p.MainPID && q.Parent == first }) {
			t.Errorf("systemd %d: main was %d and is %d, moves: %v", version, first, p.MainPID, moves)
		}
	}
}

// Strangers are not heard, but a barrier is for anyone.
func TestNotifyFromStrangers(t *testing.T) {
	r := runUnits(t, wire.Config{}, "a.service", "[Service]\nType=notify\nNotifyAccess=all\nExecStart=/usr/bin/tool notify:READY=1 wait\n")
	r.job(wire.Start, wire.Done)
	t.Setenv("NOTIFY_SOCKET", r.loaded.Loaded.NotifyAddr)
	if err := sendNotify("STATUS=stranger"); err != nil {
		t.Fatal(err)
	}
	if err := barrier(); err != nil {
		t.Fatal(err)
	}
	if n := r.untilNotify("stranger"); n.Accepted || n.PID != os.Getpid() || n.Reason == "" {
		t.Errorf("message is %+v", n)
	}
	if n := r.untilNotify("BARRIER=1"); !n.Accepted || n.Descriptors != 1 {
		t.Errorf("barrier is %+v", n)
	}
	for payload, reason := range map[string]string{
		"READY=1\x00STATUS=x":              "NUL",
		strings.Repeat("x", 4097):          "longer",
		"STATUS=a\\":                       "backslash",
		"BARRIER=1\nSTATUS=y":              "Extra notification messages",
		"BARRIER=1":                        "incorrect number of fds",
		"STATUS=" + strings.Repeat("y", 9): "not a process of the service",
	} {
		if err := sendNotify(payload); err != nil {
			t.Fatal(err)
		}
		n := r.until(reason, func(e *wire.Event) bool { return e.Kind == wire.NotifyReceived }).Notify
		if !strings.Contains(n.Reason, reason) {
			t.Errorf("%q: the reason is %q, want %q", payload, n.Reason, reason)
		}
	}
	if got := r.show().StatusText; got != "" {
		t.Errorf("status is %q", got)
	}
}

func TestNotifyFaults(t *testing.T) {
	r := runUnits(t, wire.Config{}, "a.service", `
[Service]
Type=notify
FileDescriptorStoreMax=3
TimeoutStartSec=1h
ExecStart=/usr/bin/tool notify:STATUS=one notify:READY=1 notify:STATUS=two store:a barrier print:said wait
`)
	// Lost: only the message that was meant.
	drop := r.call(wire.Request{Verb: wire.SetFault, Fault: &wire.Fault{Kind: wire.DropNotify, Fields: []string{"STATUS=two"}, Count: 1}})
	full := r.call(wire.Request{Verb: wire.SetFault, Fault: &wire.Fault{Kind: wire.FullStore, Count: 1}})
	r.job(wire.Start, wire.Done)
	r.untilLine("said")
	if p := r.show(); p.StatusText != "one" || p.NFileDescriptorStore != 0 {
		t.Errorf("properties are %+v", p)
	}
	var struck []int64
	for _, e := range r.all() {
		if e.Kind == wire.FaultStruck {
			struck = append(struck, e.Fault.ID)
		}
	}
	if !slices.Equal(struck, []int64{drop.ID, full.ID}) {
		t.Errorf("faults struck: %v, want %v", struck, []int64{drop.ID, full.ID})
	}
	r.job(wire.Restart, wire.Done)
	r.untilLine("said")
	if p := r.show(); p.StatusText != "two" || p.NFileDescriptorStore != 1 {
		t.Errorf("faults that are over struck again: %+v", p)
	}

	// Delayed: the queue waits behind it.
	delay := r.call(wire.Request{Verb: wire.SetFault, Fault: &wire.Fault{Kind: wire.DelayNotify, Fields: []string{"READY"}, Delay: patience * 10, Count: 1}})
	r.job(wire.Stop, wire.Done)
	id, wait := r.client.Begin(&wire.Request{Verb: wire.Start})
	_ = id
	r.until("delay", func(e *wire.Event) bool { return e.Kind == wire.FaultStruck })
	if p := r.show(); p.StatusText != "one" || p.SubState != "start" {
		t.Errorf("properties are %+v", p)
	}
	r.call(wire.Request{Verb: wire.ClearFault, FaultID: delay.ID})
	if a, err := wait(t.Context()); err != nil || a.Result != wire.Done {
		t.Fatalf("start: %+v, %v", a, err)
	}
	r.untilLine("said")
	if p := r.show(); p.StatusText != "two" {
		t.Errorf("properties are %+v", p)
	}

	// Closed: nobody is there to send to.
	closed := r.call(wire.Request{Verb: wire.SetFault, Fault: &wire.Fault{Kind: wire.CloseNotify}})
	r.job(wire.Stop, wire.Done)
	r.job(wire.Start, wire.Failed)
	r.untilLine("step \"notify:STATUS=one\"")
	r.call(wire.Request{Verb: wire.ClearFault, FaultID: closed.ID})
	r.job(wire.Start, wire.Done)
}

func TestHoldProcess(t *testing.T) {
	r := runUnits(t, wire.Config{}, "a.service", `
[Service]
Type=notify
NotifyAccess=all
ExecStart=/usr/bin/tool notify:READY=1 hangup daemon:notify:STATUS=child,wait wait
ExecReload=/bin/true
`)
	r.job(wire.Start, wire.Done)
	main := r.show().MainPID
	hold := r.call(wire.Request{Verb: wire.SetFault, Fault: &wire.Fault{Kind: wire.HoldProcess, Delay: patience * 10}})
	// One that the service starts, which is soon a child of the manager.
	r.call(wire.Request{Verb: wire.Kill, Whom: wire.MainProcess, Signal: 1})
	strike := r.until("hold", func(e *wire.Event) bool { return e.Kind == wire.FaultStruck }).Fault
	if strike.PID == main || strike.ID != hold.ID {
		t.Errorf("held is %+v", strike)
	}
	// One that the manager starts.
	_, wait := r.client.Begin(&wire.Request{Verb: wire.Reload})
	control := r.until("control process", func(e *wire.Event) bool {
		return e.Kind == wire.PropertiesChanged && e.Properties.ControlPID != 0
	}).Properties.ControlPID
	for {
		stopped := 0
		for _, p := range r.call(wire.Request{Verb: wire.Processes}).Processes {
			if p.State == "T" && p.PID != main {
				stopped++
			}
			if p.PID == control && p.State == "T" && !strings.Contains(p.Command[0], "trampoline") {
				t.Errorf("its program runs: %+v", p)
			}
		}
		if stopped >= 2 {
			break
		}
	}
	if p := r.show(); p.SubState != "reload" {
		t.Errorf("properties are %+v", p)
	}
	r.call(wire.Request{Verb: wire.ClearFault, FaultID: hold.ID})
	if a, err := wait(t.Context()); err != nil || a.Result != wire.Done {
		t.Fatalf("reload: %+v, %v", a, err)
	}
	r.untilNotify("STATUS=child")
	r.job(wire.Stop, wire.Done)
	if got := r.call(wire.Request{Verb: wire.Processes}).Processes; len(got) != 0 {
		t.Errorf("processes are left: %+v", got)
	}
}
