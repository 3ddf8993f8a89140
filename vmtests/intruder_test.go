// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"errors"
	"maps"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
)

const intruder = "/usr/bin/intruder"

// lies are messages with which one could take a service over, stop it, or fill its store.
var lies = []string{
	"MAINPID=%d", "MAINPID=%d\nREADY=1", "READY=1", "RELOADING=1\nMONOTONIC_USEC=1", "STATUS=taken over", "STOPPING=1", "ERRNO=5",
	"WATCHDOG=trigger", "WATCHDOG_USEC=1", "EXTEND_TIMEOUT_USEC=1000000", "NOTIFYACCESS=all", "RESTART_RESET=1", "FDSTOREREMOVE=1\nFDNAME=stored",
}

// truth is what systemd believes of myapp.
func (m *myapp) truth() map[string]string {
	m.t.Helper()
	props, err := m.Props(m.ctx, myappUnit, "MainPID", "ActiveState", "SubState", "StatusText", "StatusErrno", "NFileDescriptorStore", "NotifyAccess", "NRestarts", "Result", "WatchdogUSec")
	if err != nil {
		m.t.Fatal(err)
	}
	return props
}

// With NotifyAccess=main nobody but the main process is heard: no other process of the
// service's cgroup, be it of the service's own user, and none outside of it.
func TestIntruderIsNotHeard(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startMyapp(t, v, brisk)
		m.copy(program(t, "github.com/holdfast-go/holdfast/vmtests/cmd/intruder", build{}), intruder, 0o755)
		uid := m.run("stat", "-c", "%u", "/proc/"+strconv.Itoa(m.mainPID()))
		cgroup := "-cgroup=/sys/fs/cgroup" + m.prop("ControlGroup")
		l := m.load()
		before := m.truth()
		for _, who := range [][]string{
			{cgroup, "-uid=" + uid},
			{cgroup, "-uid=1000"},
			{"-uid=" + uid},
			{"-uid=1000"},
		} {
			m.run(append(append([]string{intruder}, who...), lies...)...)
			m.run(append(append([]string{intruder, "-fd"}, who...), "FDSTORE=1\nFDNAME=planted", "FDSTORE=1", "FDSTORE=1\nFDPOLL=0\nFDNAME=planted", "MAINPIDFD=1")...)
			if now := m.truth(); !maps.Equal(now, before) {
				t.Errorf("after %q systemd believes %v, want %v", who, now, before)
			}
		}
		m.put(v2)
		m.mustReload()
		m.waitAnswers(l, "2.0.0", 20)
		m.nothingLost(l)
		// With another NotifyAccess= the same lie is believed: it has reached systemd.
		m.run("mkdir", "-p", "/etc/systemd/system/"+myappUnit+".d")
		if err := m.WriteFile(m.ctx, "/etc/systemd/system/"+myappUnit+".d/access.conf", []byte("[Service]\nNotifyAccess=all\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		m.systemctl("daemon-reload")
		m.run(intruder, cgroup, "-uid="+uid, "STATUS=taken over")
		if got := m.prop("StatusText"); got != "taken over" {
			t.Errorf("StatusText=%s with NotifyAccess=all", got)
		}
	})
}

// A user of the machine reaches the control socket of a hardened service neither with the
// bits that it has, nor with all of them: under PrivateUsers= every stranger shows as the
// overflow uid.
func TestControlSocketIsClosedToStrangers(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		for _, private := range []string{"yes", "no"} {
			m := installMyapp(t, vmtests.BootTest(t, v), brisk, nil)
			m.run("mkdir", "-p", "/etc/systemd/system/"+myappUnit+".d")
			if err := m.WriteFile(m.ctx, "/etc/systemd/system/"+myappUnit+".d/users.conf", []byte("[Service]\nPrivateUsers="+private+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			m.systemctl("daemon-reload")
			m.systemctl("start", myappSocket, myappUnit)
			const socket = "/run/myapp/control.sock"
			ask := func(user string) error {
				return m.Run(m.ctx, "setpriv", "--reuid="+user, "--regid="+user, "--clear-groups", "/usr/bin/holdfast", "reload", "--socket="+socket)
			}
			mustRefuse := func(user, why string) {
				t.Helper()
				var exit *vmtests.ExitError
				if err := ask(user); !errors.As(err, &exit) || exit.Code != 4 || !strings.Contains(exit.Stderr, why) {
					t.Errorf("PrivateUsers=%s: uid %s: %v; want exit status 4 and %q", private, user, err, why)
				}
			}
			mustRefuse("1000", "permission denied")
			mustRefuse("65534", "permission denied")
			m.run("chmod", "0777", socket)
			if private == "yes" {
				mustRefuse("1000", "it is the overflow uid")
			} else {
				mustRefuse("1000", "uid 1000 is not served")
			}
			mustRefuse("65534", "it is the overflow uid")
			if err := m.Run(m.ctx, "setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "kill", "-USR2", strconv.Itoa(m.mainPID())); err == nil {
				t.Error("a stranger may signal the service")
			}
			if st := m.status(); st.Last != nil || st.Generation != 1 {
				t.Errorf("a stranger has started an upgrade: %+v", st)
			}
			// Root and the service's own user may, as ExecReload= does.
			m.put(v2)
			uid := m.run("stat", "-c", "%u", "/proc/"+strconv.Itoa(m.mainPID()))
			if err := ask(uid); err != nil {
				t.Errorf("PrivateUsers=%s: the service's user: %v", private, err)
			}
			if st := m.status(); st.Generation != 2 {
				t.Errorf("generation %d after the service's user asked", st.Generation)
			}
			if t.Failed() {
				return
			}
		}
	})
}
