// SPDX-License-Identifier: Apache-2.0

package packages_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/packages"
)

const (
	myappUnit   = "myapp.service"
	myappSocket = "myapp.socket"
	myappURL    = "http://127.0.0.1:8080/echo"
)

var (
	v1 = packages.Release{Version: "1.0.0"}
	v2 = packages.Release{Version: "2.0.0"}
	v4 = packages.Release{Version: "4.0.0"}
)

// eachVersion runs a story on every systemd, side by side.
func eachVersion(t *testing.T, story func(*testing.T, vmtests.Version)) {
	t.Helper()
	onVersions(t, story, vmtests.Versions()...)
}

func onVersions(t *testing.T, story func(*testing.T, vmtests.Version), versions ...vmtests.Version) {
	t.Helper()
	for _, v := range versions {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			story(t, v)
		})
	}
}

// service is myapp in a machine, which a package manager installs.
type service struct {
	*vmtests.Machine
	t          *testing.T
	ctx        context.Context
	repository *packages.Repository // nil where another package manager than apt installs
}

// deb makes a release.
func deb(t *testing.T, r packages.Release) string {
	t.Helper()
	path, err := made.Deb(r)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func holdfastDeb(t *testing.T, version string) string {
	t.Helper()
	path, err := made.HoldfastDeb(version)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// newService has a repository of apt with the package holdfast in a machine; nothing is installed.
func newService(t *testing.T, m *vmtests.Machine) *service {
	t.Helper()
	s := &service{Machine: m, t: t, ctx: t.Context()}
	var err error
	if s.repository, err = packages.NewRepository(s.ctx, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	s.write("/etc/holdfast/package.conf", "SOAK=1s\n")
	s.write("/etc/myapp/myapp.conf", briskConfiguration)
	if err := s.repository.Add(s.ctx, holdfastDeb(t, "1.0.0")); err != nil {
		t.Fatal(err)
	}
	return s
}

// briskConfiguration is an administrator's: a version is not on trial for long, and not waited for in vain.
const briskConfiguration = "probation = 1s\nstart-timeout = 10s\ncheck-timeout = 10s\n"

// install boots v with 1.0.0 of the service.
func install(t *testing.T, v vmtests.Version) *service {
	t.Helper()
	s := newService(t, vmtests.BootTest(t, v))
	s.publish(deb(t, v1))
	s.apt("install", "myapp")
	s.mustServe("1.0.0")
	return s
}

// publish adds packages to the repository, of which apt knows then.
func (s *service) publish(debs ...string) {
	s.t.Helper()
	if err := s.repository.Add(s.ctx, debs...); err != nil {
		s.t.Fatal(err)
	}
	if err := s.repository.Publish(s.ctx, s.Machine); err != nil {
		s.t.Fatal(err)
	}
}

// apt is apt-get, as a program runs it that upgrades unattended: it returns what was said.
func (s *service) apt(args ...string) string {
	s.t.Helper()
	said, err := s.tryApt(args...)
	if err != nil {
		s.t.Fatalf("%v\n%s", err, said)
	}
	return said
}

// upgrade publishes a release and upgrades to it by "apt-get upgrade".
func (s *service) upgrade(r packages.Release) string {
	s.t.Helper()
	s.publish(deb(s.t, r))
	said := s.apt("upgrade")
	s.mustBeInstalled(r.Version)
	return said
}

func (s *service) tryApt(args ...string) (string, error) {
	return s.says(append([]string{
		"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", "--quiet=2",
		"-o", "Dpkg::Use-Pty=0", "-o", "Dpkg::Options::=--force-confold", "--allow-downgrades",
	}, args...)...)
}

// says runs a command and returns all that it said.
func (s *service) says(argv ...string) (string, error) {
	var said bytes.Buffer
	p, err := s.Start(s.ctx, vmtests.Command{Args: argv, Stdout: &said, Stderr: &said})
	if err == nil {
		err = p.Wait()
	}
	return said.String(), err
}

func (s *service) run(argv ...string) string {
	s.t.Helper()
	out, err := s.Output(s.ctx, argv...)
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func (s *service) sh(script string, args ...string) string {
	s.t.Helper()
	return s.run(append([]string{"sh", "-c", script, "sh"}, args...)...)
}

func (s *service) systemctl(args ...string) string {
	s.t.Helper()
	return s.run(append([]string{"systemctl"}, args...)...)
}

func (s *service) write(name, text string) {
	s.t.Helper()
	if err := s.WriteFile(s.ctx, name, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *service) prop(unit, name string) string {
	s.t.Helper()
	value, err := s.Prop(s.ctx, unit, name)
	if err != nil {
		s.t.Fatal(err)
	}
	return value
}

func (s *service) mainPID() int {
	s.t.Helper()
	pid, err := s.MainPID(s.ctx, myappUnit)
	if err != nil {
		s.t.Fatal(err)
	}
	return pid
}

// status asks the service.
func (s *service) status() control.Status {
	s.t.Helper()
	var st control.Status
	text := s.run("holdfast", "status", "--json=short", "--timeout=1m", myappUnit)
	if err := json.Unmarshal([]byte(text), &st); err != nil {
		s.t.Fatalf("holdfast status: %v\n%s", err, text)
	}
	return st
}

// mustServe says that this version serves, alone.
func (s *service) mustServe(version string) {
	s.t.Helper()
	if st := s.status(); st.Version != version || st.State != "running" {
		s.t.Errorf("version %s serves (%s), want %s", st.Version, st.State, version)
	}
}

// mustAnswer says who answers a request, whether or not it knows of Holdfast.
func (s *service) mustAnswer(version string) {
	s.t.Helper()
	answer := s.run("bash", "-c", `exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /echo HTTP/1.0\r\n\r\n' >&3 && cat <&3`)
	if !strings.Contains(answer, "X-Myapp-Version: "+version+"\r\n") {
		s.t.Errorf("a request was answered by another than %s:\n%s", version, answer)
	}
}

// mustBe says in which states the unit and its socket are, such as "active".
func (s *service) mustBe(service, socket string) {
	s.t.Helper()
	if a, b := s.prop(myappUnit, "ActiveState"), s.prop(myappSocket, "ActiveState"); a != service || b != socket {
		s.t.Errorf("%s is %s and %s is %s, want %s and %s", myappUnit, a, myappSocket, b, service, socket)
	}
}

// mustBeInstalled says that dpkg has this version, whole, and nothing to complain about.
func (s *service) mustBeInstalled(version string) {
	s.t.Helper()
	if got := s.run("dpkg-query", "--show", "--showformat=${Version} ${Status}", "myapp"); got != version+" install ok installed" {
		s.t.Errorf("dpkg says %q of myapp, want %s", got, version)
	}
	if said := s.run("dpkg", "--audit"); said != "" {
		s.t.Errorf("dpkg --audit:\n%s", said)
	}
	if said, err := s.says("dpkg", "--verify", "holdfast"); err != nil || said != "" {
		s.t.Errorf("dpkg --verify: %v\n%s", err, said)
	}
}

// mustSay says that a text has all of these in it.
func mustSay(t *testing.T, said string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(said, part) {
			t.Errorf("nothing says %q:\n%s", part, said)
		}
	}
}

// load starts requests of every kind: kept connections, new ones, and POSTs that nobody sends twice.
func (s *service) load() *vmtests.Load {
	s.t.Helper()
	return s.loadOf(vmtests.LoadOptions{New: 2, KeepAlive: 3, Transport: 2})
}

// newcomers are requests over new connections only: what a restart that keeps the socket does not lose.
func (s *service) newcomers() *vmtests.Load {
	s.t.Helper()
	return s.loadOf(vmtests.LoadOptions{New: 3})
}

func (s *service) loadOf(options vmtests.LoadOptions) *vmtests.Load {
	s.t.Helper()
	options.URL, options.Think, options.Timeout = myappURL, 10*time.Millisecond, 30*time.Second
	l, err := s.StartLoad(s.ctx, options)
	if err != nil {
		s.t.Fatal(err)
	}
	return l
}

// end ends the load.
func (s *service) end(l *vmtests.Load) vmtests.LoadSummary {
	s.t.Helper()
	sum, err := l.Stop(s.ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	return sum
}

// nothingLost ends the load and fails for every request that failed.
func (s *service) nothingLost(l *vmtests.Load) {
	s.t.Helper()
	sum := s.end(l)
	if text := sum.FailureText(10); text != "" {
		s.t.Error(text)
	}
	s.t.Logf("%v: %d requests, failed=%d, longest gap %v", s.Version, sum.OK+sum.Failed, sum.Failed, sum.LongestGap.Duration)
}

// listener is the inode of the socket that listens on a port, which is another one when it was opened anew.
func (s *service) listener(port int) string {
	s.t.Helper()
	for field := range strings.FieldsSeq(s.run("ss", "-Hltne", "sport = :"+strconv.Itoa(port))) {
		if inode, ok := strings.CutPrefix(field, "ino:"); ok {
			return inode
		}
	}
	return ""
}

// aptFails is apt where it must fail.
func (s *service) aptFails(args ...string) string {
	s.t.Helper()
	said, err := s.tryApt(args...)
	var exit *vmtests.ExitError
	if !errors.As(err, &exit) {
		s.t.Fatalf("apt-get %s: %v, want a failure\n%s", fmt.Sprint(args), err, said)
	}
	return said
}
