// SPDX-License-Identifier: Apache-2.0

package packages_test

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/packages"
)

// Promise: after a version that was refused or undone, neither needrestart, which restarts what runs a file that is
// gone, nor a crash nor a restart starts the bad version.
func TestNeedrestart(t *testing.T) {
	onVersions(t, func(t *testing.T, v vmtests.Version) {
		s := newService(t, vmtests.BootWithTest(t, v, packages.Needrestart))
		// After each run of apt, too.
		s.write("/etc/needrestart/conf.d/automatic.conf", "$nrconf{restart} = 'a';\n")
		s.publish(deb(t, v1))
		s.apt("install", "myapp")
		for _, bad := range []struct {
			name, reason string
			good         string // serves before
			release      packages.Release
			next         packages.Release // mends it
		}{
			{"a refused version", "crash at start", "1.0.0", packages.Release{Version: "3.0.0", Damage: "crash-at-start"}, v4},
			{"an undone version", "the database is gone", "4.0.0", packages.Release{Version: "5.0.0", Damage: "ill-in-probation", After: "1ms"}, packages.Release{Version: "6.0.0"}},
		} {
			before := s.mainPID()
			l := s.load()
			said := s.upgrade(bad.release)
			mustSay(t, said, bad.reason)
			// It has seen that the file of this process is gone.
			if found := s.run("needrestart", "-b", "-r", "l"); !strings.Contains(found, "NEEDRESTART-SVC: myapp.service") {
				t.Errorf("needrestart finds nothing to restart:\n%s", found)
			}
			said, err := s.says("needrestart", "-r", "a")
			if err != nil {
				t.Errorf("needrestart: %v\n%s", err, said)
			}
			mustSay(t, said, "has failed already")
			s.mustServe(bad.good)
			s.nothingLost(l)
			if now := s.mainPID(); now != before {
				t.Errorf("%s: MainPID went from %d to %d", bad.name, before, now)
			}

			if err := s.Kill(s.ctx, before, "KILL"); err != nil {
				t.Fatal(err)
			}
			s.waitServing(before)
			s.mustFallBack(bad.name+", a crash", bad.good, bad.reason)
			before = s.mainPID()
			if said, err := s.says("needrestart", "-r", "a", "-v"); err != nil {
				t.Errorf("needrestart: %v\n%s", err, said)
			}
			if now := s.mainPID(); now != before { // it runs a file that is there
				t.Errorf("%s, a crash and needrestart: MainPID went from %d to %d", bad.name, before, now)
			}
			s.mustFallBack(bad.name+", a crash and needrestart", bad.good, bad.reason)
			s.systemctl("restart", myappUnit)
			s.mustFallBack(bad.name+", a restart", bad.good, bad.reason)

			s.upgrade(bad.next)
			s.mustServe(bad.next.Version)
			if st := s.status(); st.LastGood == nil || st.LastGood.Fallback != "" {
				t.Errorf("last good: %+v", st.LastGood)
			}
		}
	}, packages.NeedrestartVersions()...)
}

// waitServing waits until another process than the one before is main and runs.
func (s *service) waitServing(before int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeoutCause(s.ctx, 5*time.Minute, errors.New("not within five minutes"))
	defer cancel()
	if _, err := s.WaitProps(ctx, myappUnit, []string{"MainPID", "ActiveState"}, func(p map[string]string) bool {
		return p["ActiveState"] == "active" && p["MainPID"] != strconv.Itoa(before)
	}); err != nil {
		s.t.Fatalf("the service does not come up: %v", err)
	}
}

// mustFallBack says that the last good version runs in place of the file, and why.
func (s *service) mustFallBack(what, version, reason string) {
	s.t.Helper()
	st := s.status()
	if st.Version != version || st.LastGood == nil || !strings.Contains(st.LastGood.Fallback, reason) {
		text, _ := json.Marshal(st.LastGood)
		s.t.Errorf("after %s: version %s runs, last good: %s; want %s because of %q", what, st.Version, text, version, reason)
	}
}
