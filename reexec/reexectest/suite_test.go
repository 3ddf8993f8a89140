// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"fmt"
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
		{"sudden", "does not answer what is in flight at SIGTERM", true, []string{"stop"}},
		{"leaves", "leaves a process behind at a stop", true, []string{"stop"}},
		{"ignores", "has a process that ignores SIGTERM", true, []string{"stop"}},
		{"early", "says READY=1 before it serves", true, []string{"start"}},
		{"early", "says READY=1 before it listens itself", false, []string{"start"}},
		{"hasty", "moves MAINPID= before the next version can serve", true, []string{"killed_at_start"}},
		{"speaks", "has the next version speak while it is not main", true, []string{"notify"}},
		{"forks", "starts the next version as a grandchild of systemd", true, []string{"stop"}},
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
				sc := caseNamed(t, name)
				r := record(t, func(tb testing.TB) {
					c, err := look(s)
					if err != nil {
						tb.Fatal(err)
					}
					sc.try(tb, c)
				})
				text := r.text.String()
				if !r.Failed() || !strings.HasPrefix(text, "broken rule: "+sc.rule+"\n") {
					t.Errorf("case %q does not find a service that %s (failed: %t):\n%s", name, b.what, r.Failed(), text)
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
