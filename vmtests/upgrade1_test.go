// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	packaged "github.com/holdfast-go/holdfast/packaging/holdfast"
	"github.com/holdfast-go/holdfast/units/upgrade"
	"github.com/holdfast-go/holdfast/vmtests"
)

const (
	upgrade1Unit = "holdfast-upgrade.service"
	// otherUnit is one that nobody but root may upgrade, and that could not be.
	otherUnit = "other.service"

	root   = "0"
	deploy = "1001" // whom the rules of packaging/holdfast are for
	jane   = "1002" // whom no rule is for
)

// packagedPlaces are where a package installs what is in packaging/holdfast.
var packagedPlaces = map[string]string{
	"holdfast-upgrade.service":      "/usr/lib/systemd/system/",
	"org.holdfast.Upgrade1.service": "/usr/share/dbus-1/system-services/",
	"org.holdfast.Upgrade1.conf":    "/usr/share/dbus-1/system.d/",
	"org.holdfast.Upgrade1.xml":     "/usr/share/dbus-1/interfaces/",
	"org.holdfast.upgrade1.policy":  "/usr/share/polkit-1/actions/",
}

// upgrade1 is myapp in a machine with the D-Bus service and two users without privilege.
type upgrade1 struct{ *myapp }

func startUpgrade1(t *testing.T, on *vmtests.Machine) upgrade1 {
	t.Helper()
	m := upgrade1{installMyapp(t, on, brisk, nil)}
	for name, dir := range packagedPlaces {
		m.install(name, dir+name)
	}
	if err := m.WriteFile(m.ctx, "/etc/systemd/system/"+otherUnit, []byte("[Service]\nType=exec\nExecStart=sleep infinity\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m.run("useradd", "--create-home", "--uid", deploy, "deploy")
	m.run("useradd", "--create-home", "--uid", jane, "jane")
	m.systemctl("daemon-reload")
	m.systemctl("reload", "dbus")
	m.systemctl("start", myappSocket, myappUnit, otherUnit)
	return m
}

// install puts a file of packaging/holdfast where it belongs.
func (m upgrade1) install(name, to string) {
	m.t.Helper()
	text, err := packaged.Files.ReadFile(name)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.WriteFile(m.ctx, to, text, 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// as runs a command as a user without any other privilege.
func (m upgrade1) as(uid string, argv ...string) (string, error) {
	return m.Output(m.ctx, append([]string{"setpriv", "--reuid=" + uid, "--regid=" + uid, "--clear-groups"}, argv...)...)
}

// call returns the string that a method has.
func (m upgrade1) call(uid, method string, args ...string) string {
	m.t.Helper()
	text, err := m.try(uid, method, args...)
	if err != nil {
		m.t.Fatal(err)
	}
	return text
}

func (m upgrade1) try(uid, method string, args ...string) (string, error) {
	out, err := m.as(uid, append([]string{
		"busctl", "--json=short", "--timeout=300", "call",
		"org.holdfast.Upgrade1", "/org/holdfast/Upgrade1", "org.holdfast.Upgrade1.Manager", method,
	}, args...)...)
	if err != nil || out == "" {
		return "", err
	}
	var answer struct{ Data []string }
	if err := json.Unmarshal([]byte(out), &answer); err != nil || len(answer.Data) != 1 {
		return "", errors.Join(errors.New(out), err)
	}
	return answer.Data[0], nil
}

// fails says that a call fails, and why.
func (m upgrade1) fails(want, uid, method string, args ...string) {
	m.t.Helper()
	if out, err := m.try(uid, method, args...); err == nil || !strings.Contains(err.Error(), want) {
		m.t.Errorf("%s %q as user %s: got %q (%v), want an error with %q", method, args, uid, out, err, want)
	}
}

// rolloutArgs are those of busctl, with a short soak. options are name, type and value each.
func rolloutArgs(unit, version string, options ...string) []string {
	if !slices.Contains(options, "soak-usec") {
		options = append(options, "soak-usec", "t", "1000000")
	}
	return append([]string{"ssda{sv}", unit, version, "1", strconv.Itoa(len(options) / 3)}, options...)
}

func (m upgrade1) rollout(uid, unit, version string, options ...string) string {
	m.t.Helper()
	return m.call(uid, "Rollout", rolloutArgs(unit, version, options...)...)
}

// wait returns the report.
func (m upgrade1) wait(id string, want upgrade.Outcome) upgrade.Report {
	m.t.Helper()
	var report upgrade.Report
	text, err := m.try(jane, "Wait", "s", id) // to read is free
	for err != nil && (strings.Contains(err.Error(), "without replying") || strings.Contains(err.Error(), "ask again")) {
		text, err = m.try(jane, "Wait", "s", id) // it was asked of one that was just to be killed
	}
	if err != nil {
		m.t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		m.t.Fatalf("%v: %s", err, text)
	}
	if report.Outcome != want || report.ID != id {
		m.t.Errorf("report of %s: got %s (%s), want %s\n%s", id, report.Outcome, report.Reason, want, text)
	}
	return report
}

func (m upgrade1) wantVersion(want string) {
	m.t.Helper()
	if st := m.status(); st.Version != want || st.State != "running" {
		m.t.Errorf("%s serves, in state %s; want %s", st.Version, st.State, want)
	}
}

func (m upgrade1) wantState(want string) {
	m.t.Helper()
	if state, err := m.Prop(m.ctx, upgrade1Unit, "ActiveState"); err != nil || state != want {
		m.t.Errorf("%s is %s (%v), want %s", upgrade1Unit, state, err, want)
	}
}

// TestUpgrade1 is a day of a user who may upgrade one service and nothing else.
func TestUpgrade1(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startUpgrade1(t, vmtests.BootPolkitTest(t, v))
		details := v != vmtests.Systemd247 // polkit 0.105 does not know them
		if details {
			m.install("50-deploy.rules.example", "/etc/polkit-1/rules.d/50-deploy.rules")
		} else {
			m.install("deploy.pkla.example", "/etc/polkit-1/localauthority/50-local.d/deploy.pkla")
		}

		// D-Bus starts it, and everybody may look.
		m.wantState("inactive")
		var status upgrade.UnitStatus
		if err := json.Unmarshal([]byte(m.call(jane, "Status", "s", myappUnit)), &status); err != nil || status.Service == nil || status.Service.Version != "1.0.0" {
			t.Errorf("Status: %+v (%v)", status, err)
		}
		m.wantState("active")
		out, err := m.as(jane, "busctl", "introspect", "org.holdfast.Upgrade1", "/org/holdfast/Upgrade1", "org.holdfast.Upgrade1.Manager")
		if err != nil || !regexp.MustCompile(`\.Rollout +method +ssda\{sv\} +s `).MatchString(out) {
			t.Errorf("busctl introspect: %v\n%s", err, out)
		}

		// Whom no rule is for, does nothing.
		const denied = "polkit says no"
		m.put(v2)
		m.fails(denied, jane, "Rollout", rolloutArgs(myappUnit, "2.0.0")...)
		m.fails(denied, jane, "Rollback", "sa{sv}", myappUnit, "0")
		m.fails(denied, jane, "Freeze", "ss", myappUnit, "because")
		m.fails("only root may say where root looks", deploy, "Rollout", rolloutArgs(myappUnit, "2.0.0", "health-url", "s", "unix:/run/dbus/system_bus_socket:/")...)
		m.fails("there is none", jane, "Rollout", rolloutArgs("none.service", "")...)
		// A password would do, which busctl allows for unless it is told otherwise.
		if out, err := m.as(jane, "busctl", "--allow-interactive-authorization=no", "call", "org.holdfast.Upgrade1", "/org/holdfast/Upgrade1",
			"org.holdfast.Upgrade1.Manager", "Thaw", "s", myappUnit); err == nil || !strings.Contains(err.Error(), "nteractive") && !strings.Contains(err.Error(), "wants a password first") {
			t.Errorf("without a password: %s (%v)", out, err)
		}
		m.wantVersion("1.0.0")

		// Whom one is for, upgrades that service, under load.
		l := m.load()
		id := m.rollout(deploy, "myapp", "2.0.0", "request-id", "s", "release-2")
		if id != "release-2" {
			t.Errorf("id %q", id)
		}
		if r := m.wait(id, upgrade.Done); r.By != "deploy" || len(r.Units) != 1 || r.Units[0].To.Version != "2.0.0" {
			t.Errorf("report %+v", r)
		}
		m.wantVersion("2.0.0")
		m.waitAnswers(l, "2.0.0", 20)

		// The same again starts nothing.
		pid := m.mainPID()
		if again := m.rollout(deploy, "myapp", "2.0.0", "request-id", "s", "release-2"); again != id || m.mainPID() != pid {
			t.Errorf("the same request again: id %q", again)
		}
		m.fails("another user's request", jane, "Rollout", rolloutArgs("myapp", "2.0.0", "request-id", "s", "release-2")...)

		// Any other service is another matter, and of several each one counts.
		other := denied
		if !details {
			other = "it cannot be reloaded" // so polkit has let it pass
		}
		m.fails(other, deploy, "Rollout", rolloutArgs(otherUnit, "")...)
		m.fails(other, deploy, "Rollout", rolloutArgs(myappUnit+" "+otherUnit, "")...)
		m.fails(other, deploy, "Rollout", rolloutArgs("[mo][yt]*.service", "")...)
		m.fails(denied, deploy, "Freeze", "ss", myappUnit, "because")

		// A frozen one is left alone.
		m.call(root, "Freeze", "ss", myappUnit, "release day")
		m.fails("its upgrades are frozen since", deploy, "Rollout", rolloutArgs(myappUnit, "")...)
		m.call(root, "Thaw", "s", myappUnit)

		// A bad version is undone; the one before can be had back.
		m.put(build{version: "3.0.0", damage: "ill-at-start"})
		if r := m.wait(m.rollout(deploy, myappUnit, "3.0.0"), upgrade.Failed); r.Reason == "" {
			t.Error("no reason")
		}
		m.wantVersion("2.0.0")
		if details { // the .pkla is for rollouts alone
			m.wait(m.call(deploy, "Rollback", "sa{sv}", myappUnit, "0"), upgrade.Done)
			m.wantVersion("1.0.0")
		} else {
			m.fails(denied, deploy, "Rollback", "sa{sv}", myappUnit, "0")
		}
		m.nothingLost(l)
		var reports []upgrade.Report
		if err := json.Unmarshal([]byte(m.call(jane, "History", "su", myappUnit, "0")), &reports); err != nil || len(reports) < 2 || reports[len(reports)-1].ID != "release-2" {
			t.Errorf("History: %+v (%v)", reports, err)
		}
		m.checkSudo()
		m.checkUnit()
	})
}

// checkSudo: what is left where polkit cannot tell services apart is one command.
func (m upgrade1) checkSudo() {
	m.t.Helper()
	m.install("deploy.sudoers.example", "/etc/sudoers.d/deploy")
	m.run("chmod", "0440", "/etc/sudoers.d/deploy")
	m.run("visudo", "-c")
	may := func(uid string, argv ...string) bool {
		_, err := m.as(uid, append([]string{"sudo", "-n", "-l"}, argv...)...)
		return err == nil
	}
	if !may(deploy, "/usr/bin/holdfast", "upgrade", "myapp.service") {
		m.t.Error("sudo does not let deploy upgrade myapp.service")
	}
	for _, args := range []string{"upgrade other.service", "upgrade myapp.service other.service", "upgrade", "upgrade --soak=0 myapp.service", "serve"} {
		if may(deploy, append([]string{"/usr/bin/holdfast"}, strings.Fields(args)...)...) {
			m.t.Errorf("sudo lets deploy do holdfast %s", args)
		}
	}
	if may(jane, "/usr/bin/holdfast", "upgrade", "myapp.service") {
		m.t.Error("sudo lets jane do it")
	}
}

var exposureRE = regexp.MustCompile(`Overall exposure level for \S+: (\d+\.\d)`)

// checkUnit: systemd has nothing to complain about in the unit, and it is confined.
func (m upgrade1) checkUnit() {
	m.t.Helper()
	entries, err := m.Entries(m.ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, e := range entries {
		text := e.Message()
		if m.Version == vmtests.Systemd247 && strings.Contains(text, "ExecPaths") {
			continue // it is of 248
		}
		for _, bad := range []string{"Unknown key", "Unknown lvalue", "is not of type dbus", "level=ERROR", "panic"} {
			if strings.Contains(text, bad) && (strings.Contains(text, "holdfast-upgrade") || e.Unit() == upgrade1Unit) {
				m.t.Errorf("journal: %s", text)
			}
		}
	}
	m.call(jane, "Status", "s", myappUnit) // so that it is loaded
	out, err := m.Output(m.ctx, "systemd-analyze", "security", "--no-pager", upgrade1Unit)
	level := exposureRE.FindStringSubmatch(out)
	if err != nil || level == nil {
		m.t.Fatalf("systemd-analyze security: %v\n%s", err, out)
	}
	m.t.Logf("exposure %s", level[1])
	if exposure, err := strconv.ParseFloat(level[1], 64); err != nil || exposure >= 2 {
		m.t.Errorf("exposure %s, want less than 2.0: %v\n%s", level[1], err, out)
	}
}

// TestUpgrade1Interrupted: whatever happens to the service or the bus, a rollout comes to an end.
func TestUpgrade1Interrupted(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startUpgrade1(t, vmtests.BootPolkitTest(t, v))
		begin := func(b build) string {
			t.Helper()
			m.put(b)
			return m.rollout(root, myappUnit, b.version, "soak-usec", "t", "4000000")
		}
		resumed := func(id string, want upgrade.Outcome, version string) {
			t.Helper()
			if r := m.wait(id, want); !r.Resumed {
				t.Errorf("the report of %s does not say that it was resumed", id)
			}
			m.wantVersion(version)
		}
		l := m.load()

		// The bus is restarted in the middle.
		id := begin(v2)
		m.systemctl("restart", "dbus")
		m.wait(id, upgrade.Done)
		m.wantVersion("2.0.0")

		// It is killed in the middle: systemd starts it again.
		id = begin(build{version: "3.0.0"})
		pid, err := m.MainPID(m.ctx, upgrade1Unit)
		if err != nil || pid == 0 {
			t.Fatalf("MainPID of %s: %d (%v)", upgrade1Unit, pid, err)
		}
		if err := m.Kill(m.ctx, pid, "KILL"); err != nil {
			t.Fatal(err)
		}
		resumed(id, upgrade.Done, "3.0.0")

		// It is stopped in the middle: the next call starts it again.
		id = begin(build{version: "4.0.0"})
		m.systemctl("stop", upgrade1Unit)
		resumed(id, upgrade.Done, "4.0.0")
		m.nothingLost(l)

		// What fails while nobody looks is found out.
		id = begin(build{version: "5.0.0", damage: "ill-at-start"})
		m.systemctl("kill", "--signal=KILL", upgrade1Unit)
		resumed(id, upgrade.Failed, "4.0.0")

		// systemd executes itself anew in the middle.
		id = begin(build{version: "6.0.0"})
		m.systemctl("daemon-reexec")
		m.wait(id, upgrade.Done)
		m.wantVersion("6.0.0")
	})
}

// TestUpgrade1EndsWhenIdle: it ends by itself, and whoever calls just then has an answer.
func TestUpgrade1EndsWhenIdle(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startUpgrade1(t, vmtests.BootTest(t, v))
		const dropIn = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=\nExecStart=/usr/bin/holdfast serve --idle=200ms\n"
		if err := m.WriteFile(m.ctx, "/etc/systemd/system/"+upgrade1Unit+".d/idle.conf", []byte(dropIn), 0o644); err != nil {
			t.Fatal(err)
		}
		m.systemctl("daemon-reload")
		for range 3 {
			m.call(jane, "Status", "s", myappUnit)
			p, err := m.WaitProps(m.ctx, upgrade1Unit, []string{"ActiveState", "Result", "NRestarts"}, func(p map[string]string) bool {
				return p["ActiveState"] == "inactive" || p["ActiveState"] == "failed"
			})
			if err != nil || p["ActiveState"] != "inactive" || p["Result"] != "success" || p["NRestarts"] != "0" {
				t.Fatalf("%v (%v)", p, err)
			}
		}
		// Pauses around the limit: some calls come while it ends.
		const calls = `for pause in 0.18 0.19 0.2 0.2 0.2 0.205 0.205 0.21 0.21 0.215 0.22 0.23 0.24 0.25 0.3; do
			sleep $pause
			busctl --timeout=60 call org.holdfast.Upgrade1 /org/holdfast/Upgrade1 org.holdfast.Upgrade1.Manager History su myapp.service 1 || exit 1
		done`
		if out, err := m.Output(m.ctx, "sh", "-c", calls); err != nil || strings.Count(out, `s "[]"`) != 15 {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// TestUpgrade1WithoutPolkit: root upgrades all the same, and nobody else does.
func TestUpgrade1WithoutPolkit(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startUpgrade1(t, vmtests.BootTest(t, v))
		m.put(v2)
		m.fails("polkit is not there to say who may", deploy, "Rollout", rolloutArgs(myappUnit, "2.0.0")...)
		m.wantVersion("1.0.0")
		s := m.listen()
		id := m.rollout(root, myappUnit, "2.0.0")
		m.wait(id, upgrade.Done)
		m.wantVersion("2.0.0")
		s.wait("Progress", "Done")
	})
}

// signals are those of the service.
type signals struct {
	t     *testing.T
	lines *bufio.Scanner
}

// listen returns when it hears them.
func (m upgrade1) listen() *signals {
	m.t.Helper()
	out, in := io.Pipe()
	p, err := m.Start(m.ctx, vmtests.Command{Args: []string{
		"dbus-monitor", "--system", "--profile", "type='signal',interface='org.holdfast.Upgrade1.Manager'",
	}, Stdout: in})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		_ = p.Kill()
		_ = out.Close()
		_ = p.Wait()
	})
	s := &signals{m.t, bufio.NewScanner(out)}
	s.wait("NameLost") // a monitor has no name: the bus tells it so
	return s
}

// wait waits for signals in this order.
func (s *signals) wait(members ...string) {
	s.t.Helper()
	found := make(chan int, 1)
	go func() {
		n := 0
		for n < len(members) && s.lines.Scan() {
			// "sig TIME SERIAL SENDER DESTINATION PATH INTERFACE MEMBER"
			if fields := strings.Fields(s.lines.Text()); len(fields) > 0 && fields[len(fields)-1] == members[n] {
				n++
			}
		}
		found <- n
	}()
	select {
	case n := <-found:
		if n < len(members) {
			s.t.Errorf("the monitor has ended before %q: %v", members[n:], s.lines.Err())
		}
	case <-time.After(2 * time.Minute):
		s.t.Errorf("no signals %q", members)
	}
}
