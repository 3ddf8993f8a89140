// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/vmtests"
)

// counting is a service that counts, hardened as rendered, in a machine.
type counting struct {
	*myapp
	example string // where its main package is
	unit    string
	port    int
}

func startCounting(t *testing.T, m *vmtests.Machine, softReboot bool, example, name string, port int, args ...string) *counting {
	t.Helper()
	c := &counting{myapp: &myapp{Machine: m, t: t, ctx: t.Context()}, example: example, unit: name, port: port}
	c.put("1")
	files, err := units.Render(units.Options{
		Name: name, Exec: "/usr/bin/" + name, Systemd: int(m.Version), Args: append(args, "-probation=1s"),
		Sockets: []units.Socket{{Name: "http", Address: fmt.Sprint("127.0.0.1:", port)}}, SoftReboot: softReboot,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := c.WriteFile(c.ctx, "/etc/systemd/system/"+f.Name, []byte(f.Content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c.systemctl("daemon-reload")
	c.systemctl("start", name+".socket", name)
	return c
}

func (c *counting) put(version string) {
	c.t.Helper()
	pkg := "github.com/holdfast-go/holdfast/reexec/reexectest/examples/" + c.example
	c.copy(program(c.t, pkg, build{version: version}), "/usr/bin/"+c.unit, 0o755)
}

// ask makes a request on a connection of its own, with what every machine has.
func (c *counting) ask(path string) (code int, body string) {
	c.t.Helper()
	answer := c.run("bash", "-c", fmt.Sprintf(
		`exec 3<>/dev/tcp/127.0.0.1/%d && printf 'GET %s HTTP/1.0\r\n\r\n' >&3 && cat <&3`, c.port, path))
	head, body, _ := strings.Cut(answer, "\r\n\r\n")
	if _, err := fmt.Sscanf(head, "HTTP/1.0 %d", &code); err != nil {
		c.t.Fatalf("GET %s: %q", path, answer)
	}
	return code, body
}

// allowed makes n requests, and returns how many were answered with 200.
func (c *counting) allowed(n int) (ok int) {
	c.t.Helper()
	for range n {
		if code, _ := c.ask("/"); code == 200 {
			ok++
		}
	}
	return ok
}

// requests is what a scraper sees.
func (c *counting) requests() int {
	c.t.Helper()
	_, body := c.ask("/metrics")
	_, rest, ok := strings.Cut(body, "\nrequests_total ")
	line, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(line)
	if !ok || err != nil {
		c.t.Fatalf("no requests_total in %q", body)
	}
	return n
}

func (c *counting) wait(what string, names []string, holds func(p map[string]string) bool) map[string]string {
	c.t.Helper()
	p, err := c.WaitProps(c.ctx, c.unit+".service", names, holds)
	if err != nil {
		c.t.Fatalf("%s: %v", what, err)
	}
	return p
}

// ended returns when a process has said its last words.
func (c *counting) ended(pid string) {
	c.t.Helper()
	c.run("tail", "--pid="+pid, "-f", "/dev/null")
}

func (c *counting) main() string {
	c.t.Helper()
	pid, err := c.MainPID(c.ctx, c.unit+".service")
	if err != nil {
		c.t.Fatal(err)
	}
	return fmt.Sprint(pid)
}

// upgrade goes to another version. onTrial is called while that is on trial; if it is
// not nil, the version is told to end then, and is undone.
func (c *counting) upgrade(version string, onTrial func()) {
	c.t.Helper()
	c.put(version)
	old := c.main()
	verdict := make(chan error, 1)
	go func() { verdict <- c.Run(c.ctx, "systemctl", "reload", c.unit) }()
	p := c.wait("probation", []string{"StatusText"}, func(p map[string]string) bool {
		return strings.HasPrefix(p["StatusText"], "probation") && strings.Contains(p["StatusText"], "is next") || onTrial == nil && c.main() != old
	})
	ends := old
	if onTrial != nil {
		_, text, _ := strings.Cut(p["StatusText"], "(PID ")
		ends, _, _ = strings.Cut(text, ")")
		onTrial()
		c.run("kill", ends)
	}
	if err := <-verdict; (err != nil) != (onTrial != nil) {
		c.t.Fatalf("systemctl reload %s to %s: %v", c.unit, version, err)
	}
	c.ended(ends)
}

// killed kills main and returns when systemd has started the service again.
func (c *counting) killed() {
	c.t.Helper()
	old := c.main()
	c.run("kill", "-KILL", old)
	c.wait("started again", []string{"ActiveState", "MainPID"}, func(p map[string]string) bool {
		return p["ActiveState"] == "active" && p["MainPID"] != "0" && p["MainPID"] != old
	})
}

// Prometheus counters and a limit continue in the hardened unit of every systemd.
func TestCountersContinue(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := vmtests.BootTest(t, v)
		if err := m.Copy(t.Context(), program(t, "github.com/holdfast-go/holdfast/units/cmd/holdfast", build{}), "/usr/bin/holdfast", 0o755); err != nil {
			t.Fatal(err)
		}
		c := startCounting(t, m, false, "counters", "counting", 8080)
		l := startCounting(t, m, false, "limiter", "limiter", 8081, "-burst=20", "-interval=24h")
		exact := func(after string, want int) {
			t.Helper()
			if n := c.requests(); n != want {
				t.Errorf("after %s: %d requests, want %d", after, n, want)
			}
		}
		none := func(after string, n int) {
			t.Helper()
			if n != 0 {
				t.Errorf("after %s: the limiter allows %d more requests", after, n)
			}
		}
		c.allowed(3)
		exact("the start", 3)
		c.upgrade("2", nil)
		exact("an upgrade", 3)
		c.allowed(2)
		c.upgrade("3", func() {
			c.allowed(4)
			exact("the beginning of a trial", 5) // the rest is shown after the verdict
		})
		exact("a rollback", 9)
		c.allowed(1) // nobody has seen it
		c.killed()
		if n := c.requests(); n < 9 || n > 10 {
			t.Errorf("after a crash: %d requests, want 9, or 10 with the one that nobody has seen", n)
		}
		before := c.requests()
		c.allowed(2)
		c.systemctl("restart", "counting")
		exact("a restart", before+2)

		l.allowed(5)
		l.upgrade("2", nil)
		l.upgrade("3", func() { l.allowed(5) })
		l.systemctl("restart", "limiter")
		if n := l.allowed(20); n != 10 {
			t.Errorf("after an upgrade, a rollback and a restart the limiter allows %d more requests, want 10", n)
		}
		l.systemctl("restart", "limiter")
		none("a restart", l.allowed(1))
		l.killed()
		none("a crash", l.allowed(1))
	})
}

// testCountersAcrossSoftReboot shows that what is counted outlives a reboot of user space, with the units for
// that: systemd keeps what the services have committed.
func testCountersAcrossSoftReboot(t *testing.T, on *vmtests.Machine) {
	if err := on.Copy(t.Context(), program(t, "github.com/holdfast-go/holdfast/units/cmd/holdfast", build{}), "/usr/bin/holdfast", 0o755); err != nil {
		t.Fatal(err)
	}
	c := startCounting(t, on, true, "counters", "counting", 8090)
	l := startCounting(t, on, true, "limiter", "limiter", 8091, "-burst=20", "-interval=24h")
	for _, s := range []*counting{c, l} {
		socket, service := s.unit+".socket", s.unit+".service"
		s.systemctl("enable", socket, service)
		defer func() {
			s.systemctl("disable", "--now", socket, service)
			s.systemctl("clean", "--what=fdstore", service)
		}()
	}
	c.allowed(3)
	// What is scraped is committed. Before systemd 258 the units stop with all that is left, when systemd hears
	// nobody any more.
	if n := c.requests(); n != 3 {
		t.Fatalf("%d requests, want 3", n)
	}
	if n := l.allowed(15); n != 15 {
		t.Fatalf("the limiter allows %d requests of 15", n)
	}
	if err := on.SoftReboot(c.ctx); err != nil {
		t.Fatal(err)
	}
	if n := c.requests(); n != 3 {
		t.Errorf("after a soft-reboot: %d requests, want 3", n)
	}
	if n := l.allowed(20); n != 5 {
		t.Errorf("after a soft-reboot the limiter allows %d more requests, want 5", n)
	}
}
