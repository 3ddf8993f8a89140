// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

func TestStartReloadStop(t *testing.T) {
	r := runUnits(t, wire.Config{}, "a.service", `
[Service]
Type=notify
ExecStart=/usr/bin/tool print:hello notify:READY=1;STATUS=up wait
ExecReload=/usr/bin/tool print:reloading
`)
	if got := r.show(); got.ActiveState != "inactive" || got.SubState != "dead" || got.MainPID != 0 {
		t.Errorf("before the start: %+v", got)
	}
	r.job(wire.Start, wire.Done)
	p := r.show()
	if p.ActiveState != "active" || p.SubState != "running" || p.MainPID == 0 || p.StatusText != "up" || len(p.InvocationID) != 32 {
		t.Errorf("after the start: %+v", p)
	}
	if line := r.untilLine("hello"); line.PID != p.MainPID || line.Identifier != "tool" || line.Unit != "a.service" {
		t.Errorf("line is %+v", line)
	}
	r.job(wire.Reload, wire.Done)
	if line := r.untilLine("reloading"); line.PID == p.MainPID {
		t.Errorf("line is %+v", line)
	}
	r.job(wire.Stop, wire.Done)
	if got := r.show(); got.ActiveState != "inactive" || got.Result != "success" || got.MainPID != 0 || got.ExecMainPID != p.MainPID || got.ExecMainCode != 1 {
		t.Errorf("after the stop: %+v", got)
	}
	if got := r.call(wire.Request{Verb: wire.Processes}).Processes; len(got) != 0 {
		t.Errorf("processes are left: %+v", got)
	}
	r.call(wire.Request{Verb: wire.End})
	if !strings.Contains(r.story(), "READY=1") {
		t.Error("the story has no notify message")
	}
}
