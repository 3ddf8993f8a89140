// SPDX-License-Identifier: Apache-2.0

package activation_test

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-go/holdfast/activation/activationtest"
)

// socketActivate finds systemd-socket-activate(1), which does for one program what systemd does for a service. A
// machine that tests for others, or that could install it, has to have it.
func socketActivate(t *testing.T) string {
	t.Helper()
	const tool = "systemd-socket-activate"
	path, err := exec.LookPath(tool)
	if err == nil {
		return path
	}
	if os.Getenv("CI") == "true" || os.Geteuid() == 0 {
		t.Fatalf("%v: install the Debian package systemd (it need not run)", err)
	}
	t.Skipf("%v: it is in the Debian package systemd, which only root can install", err)
	return ""
}

// activated is a systemd-socket-activate that listens, with the test binary to start.
type activated struct {
	cmd    *exec.Cmd
	stdout bytes.Buffer
	stderr *bufio.Reader
	log    bytes.Buffer // what was read of stderr
}

// activate starts it in the role and returns when it listens on all of count addresses.
func activate(t *testing.T, role string, count int, args ...string) *activated {
	t.Helper()
	tool := socketActivate(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"-E", roleVar + "=" + role, "-E", "GORACE=" + os.Getenv("GORACE")}, args...)
	a := &activated{cmd: exec.CommandContext(t.Context(), tool, append(args, exe)...)}
	a.cmd.Stdout = &a.stdout
	stderr, err := a.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	a.stderr = bufio.NewReader(stderr)
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if a.cmd.ProcessState == nil {
			_ = a.cmd.Process.Kill()
			_ = a.cmd.Wait()
		}
	})
	for range count {
		a.await(t, "Listening on ")
	}
	return a
}

// await reads the tool's log up to a line with the text.
func (a *activated) await(t *testing.T, text string) {
	t.Helper()
	for {
		line, err := a.stderr.ReadString('\n')
		a.log.WriteString(line)
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			t.Fatalf("%s says nothing of %q:\n%s", a.cmd.Path, text, a.log.String())
		}
	}
}

// finish waits for the service, which has taken the place of the tool.
func (a *activated) finish(t *testing.T) string {
	t.Helper()
	_, _ = a.log.ReadFrom(a.stderr)
	if err := a.cmd.Wait(); err != nil {
		t.Fatalf("%v:\n%s", err, a.log.String())
	}
	return strings.TrimSpace(a.stdout.String())
}

func TestSocketActivate(t *testing.T) {
	for _, c := range []struct {
		network string
		args    []string
	}{
		{"unix", nil},
		{"unixgram", []string{"--datagram"}},
		{"unixpacket", []string{"--seqpacket"}},
	} {
		t.Run(c.network, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			a := activate(t, "echo", 1, append(c.args, "--fdname=web", "--listen="+path)...)
			if got := converse(t, dial(t, c.network, path)); got != "web hello" {
				t.Errorf("answer %q, want %q", got, "web hello")
			}
			if left := a.finish(t); left != "null" {
				t.Errorf("unclaimed: %s", left)
			}
		})
	}
}

func TestSocketActivateWithSeveralNames(t *testing.T) {
	dir := t.TempDir()
	a := activate(t, "modules", 2, "--fdname=web:admin", "--listen="+dir+"/web", "--listen="+dir+"/admin")
	_ = dial(t, "unix", dir+"/admin").Close()
	got := a.finish(t)
	if !strings.Contains(got, `"Web":"`+dir+`/web","Admin":"`+dir+`/admin"`) || !strings.Contains(got, `"Unclaimed":null`) {
		t.Errorf("two modules claimed %s", got)
	}
}

// Without --fdname there is no LISTEN_FDNAMES.
func TestSocketActivateWithoutNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	a := activate(t, "echo", 1, "--listen="+path)
	if got := converse(t, dial(t, "unix", path)); got != "unknown hello" {
		t.Errorf("answer %q, want it from unknown", got)
	}
	a.finish(t)
}

func TestSocketActivateAccepting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	a := activate(t, "echo", 1, "--accept", "--fdname=connection", "--listen="+path)
	for range 2 { // a process for each connection
		if got := converse(t, dial(t, "unix", path)); got != "connection hello" {
			t.Errorf("answer %q, want %q", got, "connection hello")
		}
		a.await(t, "died with code 0")
	}
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_, _ = a.log.ReadFrom(a.stderr)
	err := a.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Error(err)
	}
	if got := strings.TrimSpace(a.stdout.String()); got != "null\nnull" {
		t.Errorf("unclaimed: %s", got)
	}
}

// The tool takes descriptors by libsystemd's own sd_listen_fds and passes them on: what activationtest.Command
// hands over, libsystemd accepts.
func TestSocketActivatePassesThrough(t *testing.T) {
	tool := socketActivate(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cmd := activationtest.Command(t, activationtest.Options{
		Descriptors: []activationtest.Descriptor{{Name: "ignored", Conn: ln.(*net.TCPListener)}},
	}, tool, "-E", roleVar+"=echo", "-E", "GORACE="+os.Getenv("GORACE"), "--fdname=web", exe)
	answered := make(chan string, 1)
	conn := dial(t, "tcp", ln.Addr().String())
	go func() { answered <- converse(t, conn) }()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	if got := <-answered; got != "web hello" {
		t.Errorf("answer %q, want %q:\n%s", got, "web hello", out)
	}
}
