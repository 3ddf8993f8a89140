// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// plainUnits are the units of the service in plain_role_test.go.
func plainUnits(args string, socket bool) map[string]string {
	units := map[string]string{
		"plain.service": `[Unit]
StartLimitIntervalSec=0
[Service]
Type=notify
NotifyAccess=main
ExecStart=/usr/bin/plain ` + args + `
ExecReload=/bin/kill -HUP $MAINPID
TimeoutStartSec=20s
TimeoutStopSec=3s
Restart=on-failure
RestartSec=50ms
`,
	}
	if socket {
		units["plain.socket"] = "[Socket]\nListenStream=127.0.0.1:80\nFileDescriptorName=http\nBacklog=4096\nTriggerLimitIntervalSec=0\n"
	}
	return units
}

func plainService(args string, socket bool) Service {
	s := Service{
		Clients: HTTP{Socket: "http"},
		Lacks:   map[Capability]string{RollsBack: "the old version is gone once the next one is ready"},
	}
	s.Options.Files = plainUnits(args, socket)
	if !socket {
		s.Each = func(o *Options) {
			address := FreeAddress()
			o.Addresses = map[string]string{"http": address}
			o.Files["plain.service.d/listen.conf"] = "[Service]\nExecStart=\nExecStart=/usr/bin/plain " + args + " -listen=" + address + "\n"
		}
	}
	return s
}

// A service that does not use package reexec passes.
func TestUpgradePlain(t *testing.T) {
	t.Parallel()
	for _, socket := range []bool{true, false} {
		t.Run(fmt.Sprintf("socket=%t", socket), func(t *testing.T) {
			t.Parallel()
			TestUpgrade(t, plainService("", socket))
		})
	}
}

// Each bug is found by the case whose rule it breaks.
func TestUpgradeFinds(t *testing.T) {
	t.Parallel()
	for _, b := range []struct {
		bug    string
		what   string
		socket bool
		found  []string // by all of these
	}{
		{"closes", "closes systemd's listener before the next version is ready", true, []string{"overlap"}},
		{"closes", "closes its own listener before the next version is ready", false, []string{"overlap"}},
		{"shutdown", "drops requests on kept connections by http.Server.Shutdown at once", true, []string{"load"}},
		{"leaks", "leaks a descriptor with each upgrade", true, []string{"growth"}},
		{"keeps", "leaks a descriptor with each upgrade that fails", true, []string{"unfit"}},
		{"sudden", "does not answer what is in flight at SIGTERM", true, []string{"stop"}},
		{"leaves", "leaves a process behind at a stop", true, []string{"stop"}},
		{"ignores", "has a process that ignores SIGTERM", true, []string{"stop"}},
		{"early", "says READY=1 before it serves", true, []string{"start"}},
		{"early", "says READY=1 before it listens itself", false, []string{"start"}},
		{"hasty", "moves MAINPID= before the next version can serve", true, []string{"killed_at_start", "main"}},
		{"speaks", "has the next version speak while it is not main", true, []string{"notify"}},
		{"forks", "starts the next version as a grandchild of systemd", true, []string{"stop", "main"}},
	} {
		t.Run(strings.ReplaceAll(b.what, " ", "_"), func(t *testing.T) {
			t.Parallel()
			args := "-bug=" + b.bug
			if b.bug == "early" {
				args += " -loading=2s"
			}
			s := plainService(args, b.socket)
			s.Prompt = time.Second
			if b.bug == "leaves" {
				s.Options.Files["plain.service.d/kill.conf"] = "[Service]\nKillMode=process\n"
			}
			for _, name := range b.found {
				text, failed := try(t, name, s)
				if !failed || !strings.HasPrefix(text, "broken rule: "+caseNamed(t, name).rule+"\n") {
					t.Errorf("case %q does not find a service that %s (failed: %t):\n%s", name, b.what, failed, text)
				}
				t.Logf("%s", firstLines(text, 3))
			}
		})
	}
}

func caseNamed(t *testing.T, name string) suiteCase {
	t.Helper()
	for _, sc := range suite {
		if sc.name == name {
			return sc
		}
	}
	t.Fatalf("no case %q", name)
	panic("unreachable")
}

func firstLines(text string, n int) string {
	lines := strings.SplitN(text, "\n", n+1)
	return strings.Join(lines[:min(n, len(lines))], "\n")
}

// try runs one case and returns what it says, and whether it failed.
func try(t *testing.T, name string, s Service) (text string, failed bool) {
	t.Helper()
	sc := caseNamed(t, name)
	r := record(t, func(tb testing.TB) {
		c, err := look(s)
		if err != nil {
			tb.Fatal(err)
		}
		sc.try(tb, c)
	})
	return r.text.String(), r.Failed()
}

// A failure says what to do about it.
func TestUpgradeSays(t *testing.T) {
	t.Parallel()
	for _, m := range []struct {
		bug, found string
		without    Capability
		says       []string
	}{
		{"forks", "stop", "", []string{"The likely cause: process ", "and not of systemd", "Cloneflags: syscall.CLONE_PARENT", "notify.MainPID"}},
		{"hasty", "killed_on_trial", RollsBack, []string{"Service.Lacks: {reexectest.RollsBack: "}},
		{"hasty", "hung_on_trial", RollsBack, []string{"Service.Lacks: {reexectest.RollsBack: "}},
	} {
		t.Run(m.bug+"/"+m.found, func(t *testing.T) {
			t.Parallel()
			s := plainService("-bug="+m.bug, true)
			delete(s.Lacks, m.without)
			if m.without == RollsBack {
				s.Has = []Capability{ReportsFailure} // so that nothing waits for more to come
			}
			text, failed := try(t, m.found, s)
			message, _, _ := strings.Cut(text, "\nstory of ")
			for _, part := range m.says {
				if !failed || !strings.Contains(message, part) {
					t.Errorf("the case %s does not say %q (failed: %t):\n%s", m.found, part, failed, text)
				}
			}
			if strings.Contains(message, "<nil>") {
				t.Errorf("the case %s says:\n%s", m.found, message)
			}
		})
	}
}

// Two signals at once may both find that main is gone, and nothing is wrong.
func TestUpgradeTwoFailedSignals(t *testing.T) {
	t.Parallel()
	s := plainService("", true)
	s.Options.Files["plain.service.d/gone.conf"] = "[Service]\nExecReload=/bin/kill -HUP 2147483647\n"
	if text, failed := try(t, "two_reloads", s); failed {
		t.Errorf("the case fails:\n%s", text)
	}
	s.Has = []Capability{ReportsFailure}
	if text, failed := try(t, "two_reloads", s); !failed || !strings.Contains(text, "both failed") {
		t.Errorf("the case does not find that both failed (failed: %t):\n%s", failed, text)
	}
}

// A process that is forked and never runs the program is not the next version.
func TestUpgradeProbe(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"killed_at_start", "overlap"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := plainService("-probe=300ms", true)
			// A file: of the test binary it is known otherwise what is new.
			s.Options.Programs = map[string]Program{"/usr/bin/plain": File("/proc/self/exe")}
			s.Options.Environment = []string{plainFile + "=1"}
			if text, failed := try(t, name, s); failed {
				t.Errorf("the case fails:\n%s", text)
			}
		})
	}
}

// A version waits as long as a test holds it, and no longer than the test looks.
func TestHoldVersions(t *testing.T) {
	t.Parallel()
	u := &Unit{root: t.TempDir()}
	program := &trailer{StopFile: u.stopPath()}
	program.waitForTest() // nobody listens

	tr := &trial{TB: t}
	found := make(chan int)
	release, done := tr.holdVersions(u, found)
	begin := func() <-chan error {
		return tr.later(func() error {
			program.waitForTest()
			return nil
		})
	}
	first := begin()
	pid := <-found
	if pid != os.Getpid() {
		t.Errorf("process %d waits, want %d", pid, os.Getpid())
	}
	select {
	case <-first:
		t.Error("it did not wait")
	default:
	}
	release(pid)
	<-first
	release(pid)
	second, third := begin(), begin() // of which none or one is told of
	done()
	<-second
	<-third
	program.waitForTest()
}

// What nobody can have meant is said before anything runs.
func TestServiceErrors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		change func(*Service)
		want   string
	}{
		{func(s *Service) { s.Clients = nil }, "Service.Clients is nil"},
		{func(s *Service) { s.Has = []Capability{"overlap"} }, `Service.Has has "overlap": must be one of ["overlaps"`},
		{func(s *Service) { s.Lacks = map[Capability]string{"rollback": ""} }, `Service.Lacks has "rollback": must be one of`},
		{func(s *Service) {
			s.Has, s.Lacks = []Capability{RollsBack}, map[Capability]string{RollsBack: ""}
		}, `Service.Has and Lacks have "rolls back": must be in one of them`},
		{func(s *Service) { s.Upgrades = -1 }, "Service.Upgrades=-1: must be positive"},
		{func(s *Service) { s.Prompt = -time.Second }, "Service.Prompt=-1s: must be positive"},
	} {
		s := plainService("", true)
		s.Has, s.Lacks = nil, nil
		test.change(&s)
		if _, err := look(s); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("error is %v, want %s", err, test.want)
		}
	}
}

// A reload that is none of an upgrade is named as the cause.
func TestUpgradeSaysNoUpgrade(t *testing.T) {
	t.Parallel()
	s := plainService("", true)
	s.Options.Patience = 2 * time.Second
	s.Options.Files["plain.service.d/reload.conf"] = "[Service]\nExecReload=\nExecReload=/bin/true\n"
	text, failed := try(t, "growth", s)
	if !failed || !strings.Contains(text, "is still main: if it only reads its configuration again") {
		t.Errorf("failed: %t\n%s", failed, firstLines(text, 5))
	}
}
