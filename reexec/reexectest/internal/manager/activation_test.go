// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// untilSocket waits until a socket unit gets to a SubState.
func (r *running) untilSocket(sub string) *wire.SocketProperties {
	r.t.Helper()
	return r.until("socket "+sub, func(e *wire.Event) bool {
		return e.Kind == wire.SocketChanged && e.Socket.SubState == sub
	}).Socket
}

func (r *running) address(i int) wire.Address {
	r.t.Helper()
	return r.call(wire.Request{Verb: wire.Addresses}).Addresses[i]
}

func (r *running) dial(i int) {
	r.t.Helper()
	a := r.address(i)
	conn, err := net.Dial(a.Network, a.Address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
}

const httpSocket = "[Socket]\nListenStream=127.0.0.1:8080\nFileDescriptorName=http\n"

func TestActivation(t *testing.T) {
	r := runUnits(t, wire.Config{}, "a.service", "[Service]\nType=notify\nExecStart=/usr/bin/tool env:%t/env notify:READY=1 wait\n", "a.socket", httpSocket)
	if a := r.address(0); a.Network != "" || a.Name != "http" || a.Listen != "ListenStream=127.0.0.1:8080" {
		t.Errorf("before the start: %+v", a)
	}
	r.socketJob(wire.Start, "a.socket", wire.Done)
	r.socketJob(wire.Start, "a.socket", wire.Done)
	r.dial(0)
	r.untilSocket("running")
	r.untilState("running")
	if env := r.environ("run/env"); env["LISTEN_FDNAMES"] != "http" {
		t.Errorf("environment is %v", env)
	}
	before := r.address(0)
	r.socketJob(wire.Restart, "a.socket", wire.Failed)
	if p := r.call(wire.Request{Verb: wire.Show, Unit: "a.socket"}).Socket; p.ActiveState != "inactive" {
		t.Errorf("socket is %+v: it cannot start while its service runs", p)
	}
	r.job(wire.Stop, wire.Done)
	r.socketJob(wire.Start, "a.socket", wire.Done)
	if got := r.address(0); got != before {
		t.Errorf("address was %+v and is %+v", before, got)
	}
	r.job(wire.Start, wire.Done)
	r.untilSocket("running")
	r.job(wire.Stop, wire.Done)
	r.untilSocket("listening")
}

// A service that fails each time it is triggered takes its socket down.
func TestActivationStartLimit(t *testing.T) {
	r := runUnits(t, wire.Config{}, "a.service", `
[Unit]
StartLimitIntervalSec=1h
StartLimitBurst=3
[Service]
ExecStart=/usr/bin/tool exit:1
`, "a.socket", httpSocket)
	r.socketJob(wire.Start, "a.socket", wire.Done)
	r.dial(0)
	if p := r.untilSocket("failed"); p.Result != "service-start-limit-hit" {
		t.Errorf("socket is %+v", p)
	}
	// As with systemd, the first bad result stays.
	if p := r.show(); p.Result != "exit-code" || p.ActiveState != "failed" {
		t.Errorf("service is %+v", p)
	}
	if a := r.address(0); a.Network != "" {
		t.Errorf("listens still: %+v", a)
	}
	r.call(wire.Request{Verb: wire.ResetFailed})
	r.call(wire.Request{Verb: wire.ResetFailed, Unit: "a.socket"})
	r.socketJob(wire.Start, "a.socket", wire.Done)
}

func TestActivationTriggerLimit(t *testing.T) {
	r := runUnits(t, wire.Config{}, "a.service", `
[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/bin/tool exit:0
`, "a.socket", httpSocket+"TriggerLimitIntervalSec=1h\nTriggerLimitBurst=4\nPollLimitIntervalSec=0\n")
	r.socketJob(wire.Start, "a.socket", wire.Done)
	r.dial(0)
	if p := r.untilSocket("failed"); p.Result != "trigger-limit-hit" {
		t.Errorf("socket is %+v", p)
	}
	starts := 0
	for _, e := range r.all() {
		if e.Kind == wire.ProcessBorn {
			starts++
		}
	}
	if starts != 4 {
		t.Errorf("the service was started %d times, want 4", starts)
	}
}

// What the service requires is started with it, stopped before it, and its
// failure is that of the service.
func TestRequiredSocket(t *testing.T) {
	const service = "[Unit]\nRequires=a.socket\n[Service]\nType=notify\nExecStart=/usr/bin/tool notify:READY=1 wait\n"
	r := runUnits(t, wire.Config{}, "a.service", service, "a.socket", httpSocket)
	r.job(wire.Start, wire.Done)
	if p := r.call(wire.Request{Verb: wire.Show, Unit: "a.socket"}).Socket; p.SubState != "running" {
		t.Errorf("socket is %+v", p)
	}
	r.socketJob(wire.Restart, "a.socket", wire.Done)
	r.untilState("dead")
	r.untilState("running")
	r.socketJob(wire.Stop, "a.socket", wire.Done)
	if p := r.show(); p.SubState != "dead" {
		t.Errorf("service is %+v", p)
	}
	bad := runUnits(t, wire.Config{}, "a.service", service, "a.socket", "[Socket]\nListenSpecial=/nowhere\n")
	bad.job(wire.Start, wire.Dependency)
	if p := bad.show(); p.SubState != "dead" {
		t.Errorf("service is %+v", p)
	}
}

func TestSocketCommands(t *testing.T) {
	r := runUnits(t, wire.Config{}, "a.service", "[Service]\nExecStart=/usr/bin/tool wait\n", "a.socket", httpSocket+`
ExecStartPre=/bin/echo start pre
ExecStartPost=/bin/echo start post
ExecStopPre=/bin/echo stop pre
ExecStopPost=/bin/echo stop post
`)
	r.socketJob(wire.Start, "a.socket", wire.Done)
	r.socketJob(wire.Stop, "a.socket", wire.Done)
	for _, line := range []string{"start pre", "start post", "stop pre", "stop post"} {
		if got := r.untilLine(line); got.Unit != "a.socket" {
			t.Errorf("line is %+v", got)
		}
	}
	if p := r.call(wire.Request{Verb: wire.Show, Unit: "a.socket"}).Socket; p.SubState != "dead" || p.Result != "success" {
		t.Errorf("socket is %+v", p)
	}
	for option, want := range map[string]string{
		"ExecStartPre=/bin/false": "exit-code", "ExecStartPost=/bin/sh -c 'kill -9 $$$$'": "signal",
		"TimeoutSec=50ms\nExecStartPost=/usr/bin/tool wait": "timeout", "ExecStartPre=/nowhere": "exit-code",
	} {
		bad := runUnits(t, wire.Config{}, "a.service", "[Service]\nExecStart=/usr/bin/tool wait\n", "a.socket", httpSocket+option+"\n")
		bad.socketJob(wire.Start, "a.socket", wire.Failed)
		if p := bad.call(wire.Request{Verb: wire.Show, Unit: "a.socket"}).Socket; p.SubState != "failed" || p.Result != want {
			t.Errorf("%s: socket is %+v, want the result %s", option, p, want)
		}
	}
}

// Many sockets, and each kind of them.
func TestSocketKinds(t *testing.T) {
	var b strings.Builder
	b.WriteString("[Socket]\nListenStream=/run/a/stream\nListenDatagram=/run/a/dgram\nListenSequentialPacket=@seq\nListenFIFO=/run/a/fifo\nListenSpecial=/proc/self/mounts\n")
	for i := range 20 {
		fmt.Fprintf(&b, "ListenStream=127.0.0.1:%d\n", 8000+i)
	}
	r := runUnits(t, wire.Config{}, "a.service", "[Service]\nType=notify\nExecStart=/usr/bin/tool env:%t/env links:%t/links notify:READY=1 wait\n", "a.socket", b.String())
	r.socketJob(wire.Start, "a.socket", wire.Done)
	// There is always something to read in that file.
	r.untilState("running")
	if env := r.environ("run/env"); env["LISTEN_FDS"] != "25" || env["LISTEN_FDNAMES"] != strings.TrimSuffix(strings.Repeat("a.socket:", 25), ":") {
		t.Errorf("environment is %v", env)
	}
	links := strings.Split(r.file("run/links"), "\n")
	for i, want := range []string{3: "socket:", 4: "socket:", 5: "socket:", 6: r.root + "/run/a/fifo", 7: "/mounts", 8: "socket:"} {
		if !strings.Contains(links[i], want) || i >= 3 && !strings.Contains(links[i], "nonblock=false") {
			t.Errorf("descriptor %d is %s, want %s", i, links[i], want)
		}
	}
}

// A service may ask for sockets that do not block.
func TestNonBlocking(t *testing.T) {
	r := runUnits(t, wire.Config{}, "a.service", "[Service]\nType=notify\nNonBlocking=yes\nFileDescriptorStoreMax=2\nExecStart=/usr/bin/tool links:%t/links store:m notify:READY=1 wait\n",
		"a.socket", httpSocket)
	r.socketJob(wire.Start, "a.socket", wire.Done)
	r.job(wire.Start, wire.Done)
	r.job(wire.Restart, wire.Done)
	links := strings.Split(r.file("run/links"), "\n")
	if !strings.Contains(links[3], "nonblock=true") || !strings.Contains(links[4], "/memfd:m") || !strings.Contains(links[4], "nonblock=false") {
		t.Errorf("descriptors are\n%s", strings.Join(links, "\n"))
	}
}

func TestRefusedUnits(t *testing.T) {
	for text, want := range map[string]string{
		"[Socket]\nListenStream=@a\nAccept=yes\n": "Accept=yes",
		"[Socket]\nListenNetlink=audit\n":         "ListenNetlink",
		"[Socket]\nFooBar=1\nListenStream=@a\n":   "FooBar",
	} {
		_, err := tryUnits(t, wire.Config{}, "a.service", "[Service]\nExecStart=/bin/true\n", "a.socket", text)
		var refused *wire.Error
		if !errors.As(err, &refused) || refused.Name != wire.ErrBadUnit || !strings.Contains(refused.Message, want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	r := runUnits(t, wire.Config{}, "a.service", "[Service]\nType=notify\nExecStart=/usr/bin/tool notify:READY=1 wait\n")
	r.job(wire.Start, wire.Done)
	_, err := r.client.Call(t.Context(), wire.Request{Verb: wire.DaemonReload, Files: []wire.File{{Name: "a.service", Text: "[Service]\nFooBar=1\n"}}})
	var refused *wire.Error
	if !errors.As(err, &refused) || refused.Name != wire.ErrBadUnit {
		t.Errorf("daemon-reload: %v", err)
	}
	for verb, want := range map[wire.Verb]string{wire.Start: wire.ErrNoSuchUnit, wire.Show: wire.ErrNoSuchUnit} {
		_, err := r.client.Call(t.Context(), wire.Request{Verb: verb, Unit: "other.service"})
		if !errors.As(err, &refused) || refused.Name != want {
			t.Errorf("%s: %v", verb, err)
		}
	}
	for _, request := range []wire.Request{
		{Verb: "dance"},
		{Verb: wire.Kill, Signal: 99},
		{Verb: wire.Kill, Whom: "someone", Signal: 1},
		{Verb: wire.SetFault},
		{Verb: wire.SetFault, Fault: &wire.Fault{Kind: "bad luck"}},
		{Verb: wire.ClearFault, FaultID: 1},
		{Verb: wire.Install, Path: "x"},
	} {
		_, err := r.client.Call(t.Context(), request)
		if !errors.As(err, &refused) || refused.Name != wire.ErrInvalidArgs {
			t.Errorf("%+v: %v", request, err)
		}
	}
	r.job(wire.Stop, wire.Done)
}

// What nobody took from the queue is thrown away when the service ends.
func TestFlushPending(t *testing.T) {
	r := runUnits(t, wire.Config{}, "a.service", "[Service]\nType=notify\nExecStart=/usr/bin/tool notify:READY=1 wait\n",
		"a.socket", "[Socket]\nListenStream=/run/a.sock\nFlushPending=yes\n")
	r.socketJob(wire.Start, "a.socket", wire.Done)
	r.dial(0)
	r.untilState("running")
	r.job(wire.Stop, wire.Done)
	if p := r.call(wire.Request{Verb: wire.Show, Unit: "a.socket"}).Socket; p.SubState != "listening" {
		t.Errorf("socket is %+v", p)
	}
	if p := r.show(); p.SubState != "dead" {
		t.Errorf("service is %+v: what waited started it again", p)
	}
}
