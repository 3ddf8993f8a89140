// SPDX-License-Identifier: Apache-2.0

package packages_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/packages"
)

const unitFile, socketFile = "usr/lib/systemd/system/myapp.service", "usr/lib/systemd/system/myapp.socket"

// What an upgrade by apt does in every state in which an administrator may have put the service: the documentation
// of packages says the same.
func TestAptStates(t *testing.T) {
	one := []vmtests.Version{vmtests.Systemd257}
	both := []vmtests.Version{vmtests.Systemd247, vmtests.Systemd257} // where the systemd may matter
	for _, state := range []struct {
		name  string
		story func(*service)
		on    []vmtests.Version
	}{
		{"active", aptInstalls, one},
		{"reinstalled", aptReinstalls, one},
		{"stopped", aptStopped, both},
		{"masked", aptMasked, both},
		{"disabled", aptDisabled, one},
		{"policy-rc.d", aptPolicy, one},
		{"description changed", aptHarmlessChange, one},
		{"environment changed", aptUnitChanged, both},
		{"ListenStream= changed", aptListenChanged, both},
		{"UPGRADE=manual", aptManual, one},
		{"UPGRADE=restart", aptRestart, one},
		{"ON_FAILURE=fail", aptOnFailure, one},
		{"with holdfast", aptBoth, one},
		{"killed", aptKilled, both},
		{"removed", aptRemoves, both},
	} {
		for _, v := range state.on {
			t.Run(state.name+"/"+v.String(), func(t *testing.T) {
				t.Parallel()
				state.story(install(t, v))
			})
		}
	}
}

// aptInstalls shows what the first installation leaves: enabled and running, the socket from its unit.
func aptInstalls(s *service) {
	s.mustBe("active", "active")
	for _, unit := range []string{myappUnit, myappSocket} {
		if state := s.systemctl("is-enabled", unit); state != "enabled" {
			s.t.Errorf("%s is %s, want enabled", unit, state)
		}
	}
	if st := s.status(); len(st.Listeners) != 1 || st.Listeners[0].Origin != "socket unit" {
		s.t.Errorf("listeners: %+v, want that of the socket unit", st.Listeners)
	}
	s.run("getent", "passwd", "myapp")
	s.mustBeInstalled("1.0.0")
}

func aptReinstalls(s *service) {
	l := s.load()
	s.apt("install", "--reinstall", "myapp")
	s.mustBeInstalled("1.0.0")
	s.mustServe("1.0.0")
	s.nothingLost(l)
}

// aptStopped shows that an upgrade starts nothing.
func aptStopped(s *service) {
	s.systemctl("stop", myappSocket, myappUnit)
	said := s.upgrade(v2)
	mustSay(s.t, said, "does not run")
	s.mustBe("inactive", "inactive")
	s.systemctl("start", myappUnit)
	s.mustServe("2.0.0")

	// The socket alone: the next connection starts what is installed then.
	s.systemctl("stop", myappUnit)
	s.mustBe("inactive", "active")
	s.upgrade(v4)
	s.mustBe("inactive", "active")
	s.mustAnswer("4.0.0")
}

func aptMasked(s *service) {
	s.systemctl("mask", "--now", myappUnit)
	said := s.upgrade(v2)
	mustSay(s.t, said, "masked")
	if state := s.prop(myappUnit, "LoadState"); state != "masked" {
		s.t.Errorf("the unit is %s", state)
	}
	s.systemctl("unmask", myappUnit)
	s.systemctl("start", myappUnit)
	s.mustServe("2.0.0")
}

// aptDisabled shows that an upgrade enables nothing, and that who runs is upgraded all the same.
func aptDisabled(s *service) {
	s.systemctl("disable", myappUnit, myappSocket)
	mustBeDisabled := func() {
		s.t.Helper()
		for _, unit := range []string{myappUnit, myappSocket} {
			if state, _ := s.Output(s.ctx, "systemctl", "is-enabled", unit); state != "disabled" {
				s.t.Errorf("%s is %s after an upgrade", unit, state)
			}
		}
	}
	l := s.load()
	s.upgrade(v2)
	s.mustServe("2.0.0")
	s.nothingLost(l)
	mustBeDisabled()

	s.systemctl("stop", myappSocket, myappUnit)
	s.upgrade(v4)
	s.mustBe("inactive", "inactive")
	mustBeDisabled()
}

// aptPolicy shows that policy-rc.d is asked.
func aptPolicy(s *service) {
	s.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n")
	s.run("chmod", "+x", "/usr/sbin/policy-rc.d")
	before := s.mainPID()
	l := s.load()
	said := s.upgrade(v2)
	mustSay(s.t, said, "policy-rc.d")
	s.mustServe("1.0.0")
	if now := s.mainPID(); now != before {
		s.t.Errorf("MainPID went from %d to %d", before, now)
	}
	s.nothingLost(l)

	s.run("mv", "/usr/sbin/policy-rc.d", "/run")
	s.apt("purge", "myapp")
	s.run("mv", "/run/policy-rc.d", "/usr/sbin")
	s.apt("install", "myapp")
	s.mustBe("inactive", "inactive")
	s.run("rm", "/usr/sbin/policy-rc.d")
	s.systemctl("start", myappUnit)
	s.mustServe("2.0.0")
}

func aptHarmlessChange(s *service) {
	l := s.load()
	s.upgrade(packages.Release{Version: "2.0.0", Edits: []packages.Edit{{File: unitFile, Old: "\nDescription=", New: "\nDescription=Still the "}}})
	s.mustServe("2.0.0")
	s.nothingLost(l)
	if st := s.status(); st.Generation != 2 {
		s.t.Errorf("generation %d: it was restarted", st.Generation)
	}
	if text := s.prop(myappUnit, "Description"); !strings.HasPrefix(text, "Still the ") {
		s.t.Errorf("Description=%q: the unit was not loaded again", text)
	}
}

// aptUnitChanged shows that a setting which takes effect at a start is followed by one restart, in which nobody who
// connects is refused and what the service stored stays.
func aptUnitChanged(s *service) {
	socket := s.listener(8080)
	l := s.newcomers()
	said := s.upgrade(packages.Release{Version: "2.0.0", Edits: []packages.Edit{{File: unitFile, Old: "\n[Service]\n", New: "\n[Service]\nEnvironment=GREETING=2\n"}}})
	mustSay(s.t, said, "restart")
	s.mustServe("2.0.0")
	s.nothingLost(l)
	if st := s.status(); st.Generation != 1 {
		s.t.Errorf("generation %d: it was not restarted", st.Generation)
	}
	if environment := s.prop(myappUnit, "Environment"); !strings.Contains(environment, "GREETING=2") {
		s.t.Errorf("Environment=%s", environment)
	}
	if now := s.listener(8080); now != socket {
		s.t.Errorf("the socket was opened anew: inode %s, then %s", socket, now)
	}
	// And the next one is hot again.
	all := s.load()
	s.upgrade(packages.Release{Version: "4.0.0", Edits: []packages.Edit{{File: unitFile, Old: "\n[Service]\n", New: "\n[Service]\nEnvironment=GREETING=2\n"}}})
	s.mustServe("4.0.0")
	s.nothingLost(all)
}

// aptListenChanged shows that a new address is listened on after the upgrade, and the old one no more.
func aptListenChanged(s *service) {
	said := s.upgrade(packages.Release{Version: "2.0.0", Edits: []packages.Edit{{File: socketFile, Old: "ListenStream=127.0.0.1:8080", New: "ListenStream=127.0.0.1:8081"}}})
	mustSay(s.t, said, myappSocket, "ListenStream")
	s.mustServe("2.0.0")
	s.mustBe("active", "active")
	if s.listener(8080) != "" || s.listener(8081) == "" {
		s.t.Errorf("listening: %s", s.run("ss", "-Hltn"))
	}
	if st := s.status(); len(st.Listeners) != 1 || st.Listeners[0].Origin != "socket unit" {
		s.t.Errorf("listeners: %+v, want that of the socket unit", st.Listeners)
	}
}

func aptManual(s *service) {
	s.write("/etc/holdfast/package.d/myapp.conf", "UPGRADE=manual\n")
	l := s.load()
	said := s.upgrade(v2)
	mustSay(s.t, said, "holdfast upgrade")
	s.mustServe("1.0.0")
	s.run("holdfast", "upgrade", "--soak=1s", "myapp")
	s.mustServe("2.0.0")
	s.nothingLost(l)
}

func aptRestart(s *service) {
	s.write("/etc/holdfast/package.d/myapp.conf", "UPGRADE=restart\n")
	l := s.newcomers()
	s.upgrade(v2)
	s.mustServe("2.0.0")
	if st := s.status(); st.Generation != 1 {
		s.t.Errorf("generation %d: it was not restarted", st.Generation)
	}
	s.nothingLost(l)
}

// aptOnFailure shows that the administrator may have apt fail with the upgrade: the package is unpacked then and
// configured by the next attempt.
func aptOnFailure(s *service) {
	s.write("/etc/holdfast/package.conf", "SOAK=1s\nON_FAILURE=fail\n")
	l := s.load()
	s.publish(deb(s.t, packages.Release{Version: "3.0.0", Damage: "crash-at-start"}))
	said := s.aptFails("upgrade")
	mustSay(s.t, said, "crash at start", "1.0.0")
	s.mustServe("1.0.0")
	if status := s.run("dpkg-query", "--show", "--showformat=${Version} ${Status}", "myapp"); status != "3.0.0 install ok half-configured" {
		s.t.Errorf("dpkg says %q", status)
	}
	s.upgrade(v4)
	s.mustServe("4.0.0")
	s.nothingLost(l)
}

// aptBoth upgrades holdfast in the same run.
func aptBoth(s *service) {
	l := s.load()
	s.publish(holdfastDeb(s.t, "2.0.0"))
	s.upgrade(v2)
	s.mustServe("2.0.0")
	if version := s.run("dpkg-query", "--show", "--showformat=${Version}", "holdfast"); version != "2.0.0" {
		s.t.Errorf("holdfast %s is installed", version)
	}
	s.nothingLost(l)
}

// aptKilled kills apt and all that it has started while the new version is on trial: dpkg goes on where it was.
func aptKilled(s *service) {
	s.write("/etc/holdfast/package.conf", "SOAK=30s\n")
	l := s.load()
	s.publish(deb(s.t, v2))
	apt, err := s.Start(s.ctx, vmtests.Command{Args: []string{"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", "-o", "Dpkg::Options::=--force-confold", "upgrade"}})
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := l.WaitVersion(s.ctx, "2.0.0", 1); err != nil {
		s.t.Error(err)
	}
	if err := apt.Kill(); err != nil {
		s.t.Error(err)
	}
	if err := apt.Wait(); err == nil {
		s.t.Error("apt-get has ended before it was killed")
	}
	if said := s.run("dpkg", "--audit"); !strings.Contains(said, "myapp") {
		s.t.Errorf("dpkg has nothing to complain about: %s", said)
	}
	s.write("/etc/holdfast/package.conf", "SOAK=1s\n")
	s.run("dpkg", "--configure", "--pending")
	s.mustBeInstalled("2.0.0")
	s.mustServe("2.0.0")
	s.nothingLost(l)
}

// files lists what a system has, without what apt, dpkg and the journal write about themselves.
func (s *service) files() []string {
	s.t.Helper()
	list := s.sh(`find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/tmp -o -path /srv -o -path /var/cache -o -path /var/log -o -path /var/lib/apt -o -path /var/lib/dpkg -o -path /usr/share/man \) -prune -o -print
find /run/holdfast /run/myapp /run/systemd/system /run/systemd/generator /usr/share/man 2>/dev/null || true`)
	files := strings.Split(list, "\n")
	slices.Sort(files)
	return files
}

// aptRemoves shows that removal stops and leaves what the administrator has written, and that purge leaves
// nothing but the user.
func aptRemoves(s *service) {
	s.apt("purge", "myapp", "holdfast")
	s.run("rm", "-rf", "/etc/holdfast", "/etc/myapp") // the story's own configuration
	before := s.files()
	s.apt("install", "myapp")
	s.upgrade(packages.Release{Version: "3.0.0", Damage: "crash-at-start"})
	s.upgrade(v4)
	s.mustServe("4.0.0")

	s.apt("remove", "myapp")
	if left := s.sh(`systemctl list-units --plain --no-legend 'myapp*'; ss -Hltn 'sport = :8080'; pgrep -x myapp || true`); left != "" {
		s.t.Errorf("after remove there are:\n%s", left)
	}
	if status := s.run("dpkg-query", "--show", "--showformat=${Status}", "myapp"); status != "deinstall ok config-files" {
		s.t.Errorf("dpkg says %q", status)
	}
	s.run("test", "-e", "/etc/myapp/myapp.conf")
	s.apt("install", "myapp")
	s.mustServe("4.0.0")

	s.apt("purge", "myapp", "holdfast")
	if left := s.sh(`systemctl list-units --all --plain --no-legend 'myapp*' 'holdfast*'; systemctl list-unit-files --plain --no-legend 'myapp*' 'holdfast*' || true`); left != "" {
		s.t.Errorf("after purge systemd knows of:\n%s", left)
	}
	after := s.files()
	for _, file := range after {
		if _, found := slices.BinarySearch(before, file); !found {
			s.t.Errorf("purge has left %s", file)
		}
	}
	for _, file := range before {
		if _, found := slices.BinarySearch(after, file); !found {
			s.t.Errorf("%s is gone", file)
		}
	}
	if said := s.run("dpkg", "--audit"); said != "" {
		s.t.Errorf("dpkg --audit:\n%s", said)
	}
}
