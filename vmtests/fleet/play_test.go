// SPDX-License-Identifier: Apache-2.0

package fleet_test

import (
	"encoding/json"
	"errors"
	"maps"
	"strings"

	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/packages"
)

// Where the play leaves its report on the controller.
const reportFile = "/root/report.json"

// A report is what the play leaves, as far as the stories look at it.
type report struct {
	Outcome string
	Reason  string
	Version string
	Seconds float64
	Counts  map[string]int
	Hosts   []hostReport
}

type hostReport struct {
	Host          string
	Wave          int
	Canary        bool
	Outcome       string
	Reason        string
	Task          string
	VersionBefore string `json:"version_before"`
	VersionAfter  string `json:"version_after"`
	Seconds       float64
}

// A play is what became of a run of ansible-playbook.
type play struct {
	err    error
	said   string
	report report
}

// upgrade has the play bring a release to all hosts.
func (f *fleet) upgrade(r packages.Release) play {
	f.t.Helper()
	return f.startUpgrade(r, nil)()
}

func (f *fleet) startUpgrade(r packages.Release, more map[string]any) func() play {
	f.t.Helper()
	f.publish(r)
	vars := map[string]any{"holdfast_service_packages": []string{"myapp=" + r.Version}, "holdfast_service_version": r.Version}
	maps.Copy(vars, more)
	return f.startPlay("rolling_upgrade", vars)
}

// startPlay starts a playbook and returns what waits for its end.
func (f *fleet) startPlay(book string, more map[string]any) func() play {
	f.t.Helper()
	vars := map[string]any{
		"holdfast_hosts": "fleet", "holdfast_service_name": "myapp", "holdfast_report": reportFile,
		"holdfast_wave": 2, "holdfast_soak": 1,
		"holdfast_lb_leave_tasks": "/root/leave.yml", "holdfast_lb_join_tasks": "/root/join.yml",
	}
	maps.Copy(vars, more)
	text, err := json.Marshal(vars)
	if err != nil {
		f.t.Fatal(err)
	}
	f.write("/root/vars.json", string(text))
	f.run("rm", "-f", reportFile)
	said := &strings.Builder{}
	p, err := f.controller.Start(f.ctx, vmtests.Command{
		Args:   []string{"ansible-playbook", "holdfast_go.holdfast." + book, "--extra-vars", "@/root/vars.json"},
		Stdout: said, Stderr: said,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return func() play {
		f.t.Helper()
		r := play{err: p.Wait()}
		r.said = said.String()
		f.t.Cleanup(func() {
			if f.t.Failed() {
				f.t.Logf("ansible-playbook %s: %v\n%s", book, r.err, r.said)
			}
		})
		var exit *vmtests.ExitError
		if r.err != nil && !errors.As(r.err, &exit) {
			f.t.Fatal(r.err)
		}
		if err := json.Unmarshal([]byte(f.run("cat", reportFile)), &r.report); err != nil {
			f.t.Fatalf("report of the play: %v", err)
		}
		return r
	}
}

// mustReport says that a host is in the report like this. It also has a duration if it had its turn, and a reason if it
// does not have what was asked for.
func (p play) mustReport(f *fleet, want hostReport) {
	f.t.Helper()
	for _, got := range p.report.Hosts {
		if got.Host != want.Host {
			continue
		}
		f.t.Logf("%s: wave %d, %s, %q to %q in %.1fs %s", got.Host, got.Wave+1, got.Outcome, got.VersionBefore, got.VersionAfter, got.Seconds, got.Reason)
		if (got.Seconds > 0) != (got.Outcome != "skipped") || (got.Reason != "") != (got.Outcome != "done" && got.Outcome != "unchanged") {
			f.t.Errorf("report on %s: %+v", got.Host, got)
		}
		got.Seconds, got.Reason, got.Task = want.Seconds, want.Reason, want.Task
		if got != want {
			f.t.Errorf("report: got %+v, want %+v", got, want)
		}
		return
	}
	f.t.Errorf("report: %s is missing", want.Host)
}
