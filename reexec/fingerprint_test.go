// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/reexec/control"
)

// embedded puts a build in place that an embedded file names.
func (s *service) embedded(lines ...string) {
	s.t.Helper()
	s.release("", func(p *plan) { p.Fingerprint = strings.Join(lines, "\n") })
}

// born is the first line of a process.
func (s *service) born(pid int) (l struct{ Version, Program, After string }) {
	s.t.Helper()
	line := s.waitLog(pid, "starting")
	if err := json.Unmarshal([]byte(line.text), &l); err != nil {
		s.t.Fatal(err)
	}
	for _, first := range s.log.all() {
		if first.PID != pid {
			continue
		}
		if first.Msg != "starting" {
			s.t.Errorf("the first line of PID %d is %s", pid, first.text)
		}
		break
	}
	return l
}

// Both generations know each other's build, and so does who asks; two builds of one
// version can be told apart.
func TestFingerprint(t *testing.T) {
	for _, mode := range []reexec.Mode{reexec.Overlap, reexec.InPlace} {
		t.Run(mode.String(), func(t *testing.T) {
			environments(t, func(t *testing.T, managed bool) {
				p := quick()
				p.Version, p.Mode = "", mode
				p.Fingerprint = "version=1.4.0\nrevision=3f2a9c1e5b7d"
				s := start(t, setup{plan: p, managed: managed})
				st := s.status()
				if f := st.Fingerprint; st.Version != "1.4.0" || f == nil || f.String() != "1.4.0 (3f2a9c1)" || !f.Embedded || !strings.HasSuffix(f.Program, "reexec.test") {
					t.Errorf("status has version %q, fingerprint %+v", st.Version, f)
				}
				if l := s.born(s.first); l.Version != "1.4.0 (3f2a9c1)" || l.Program != st.Fingerprint.Program || l.After != "" {
					t.Errorf("the first line says %+v", l)
				}
				s.embedded("version=1.4.0", "revision=aaaaaaaaaaaa", "modified=true")
				ask := func() control.Verdict {
					ctx := t.Context()
					r, err := s.client.UpgradeAndFollow(ctx, control.FollowOptions{})
					if err != nil {
						t.Fatal(err)
					}
					return r.Verdict
				}
				v := ask()
				if v.Outcome != control.Upgraded || v.From.Build != "3f2a9c1" || v.To == nil || v.To.Version != "1.4.0" || v.To.Build != "aaaaaaa, modified" {
					t.Fatalf("verdict %+v, to %+v", v, v.To)
				}
				st = s.status()
				if st.Fingerprint.String() != "1.4.0 (aaaaaaa, modified)" || st.PID != v.To.PID || st.Last == nil || st.Last.To.Build != v.To.Build {
					t.Errorf("status %+v, last %+v", st, st.Last)
				}
				for _, d := range st.Draining {
					if d.Build != "3f2a9c1" {
						t.Errorf("who drains is %+v", d)
					}
				}
				if mode == reexec.Overlap {
					if l := s.born(st.PID); l.Version != "1.4.0 (aaaaaaa, modified)" || l.After != "1.4.0 (3f2a9c1)" {
						t.Errorf("the first line of the second generation says %+v", l)
					}
				}
				// A file that cannot be read is found before anything else is done.
				s.embedded("version=1.5.0", "revison=bbbbbbbbbbbb")
				if v := ask(); v.Outcome != control.Refused || !strings.Contains(strings.ReplaceAll(v.Reason, `\`, ""), `Options.Fingerprint: embedded fingerprint: line 2: "revison": must be`) {
					t.Errorf("verdict %q: %s", v.Outcome, v.Reason)
				}
			})
		})
	}
}

func TestDowngrade(t *testing.T) {
	t.Parallel()
	p := quick()
	p.Version, p.Downgrade = "", reexec.RefuseDowngrade
	p.Fingerprint = "version=1.4.0-2\nrevision=3f2a9c1e5b7d"
	s := start(t, setup{plan: p})
	s.embedded("version=1.3.9-7")
	s.mustRefuse(s.first, s.path+" is version 1.3.9-7, the running one is 1.4.0-2 (3f2a9c1), and Options.Downgrade refuses an older one: install a newer version, or change over with systemctl restart")
	expect := func(version string) control.Status {
		t.Helper()
		if v, _ := s.upgrade(); v.Outcome != control.Upgraded {
			t.Fatalf("upgrade to %s: %q, %s", version, v.Outcome, v.Reason)
		}
		st := s.status()
		if st.Version != version {
			t.Fatalf("version %q, want %q", st.Version, version)
		}
		return st
	}
	for _, version := range []string{"1.4.0-2", "1.4.0-3", "1.4.1~rc1-1", "nightly", "1.4.0-1"} {
		s.embedded("version=" + version) // the last one after one without an order
		expect(version)
	}
	s.waitLog(0, "it is not known whether this is a downgrade")
	// The running version decides. The next one has another mind.
	s.release("", func(p *plan) { p.Fingerprint, p.Downgrade = "version=1.5.0", reexec.AllowDowngrade })
	expect("1.5.0")
	s.embedded("version=1.4.0-2")
	expect("1.4.0-2")
}
