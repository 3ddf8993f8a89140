// SPDX-License-Identifier: Apache-2.0

package command

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/control/command/commandtest"
)

func TestReloadUpgrades(t *testing.T) {
	socket := socketIn(t, t.TempDir(), "myapp")
	start(t, socket, running(), ends(upgraded))
	runCommand(t.Context(), "reload", "--socket="+socket).Want(t, ExitOK,
		"s (pre-check 0.1s, probation 5.0s); it is served by PID 812, version 1.3 (generation 4).\n", "")
	runCommand(t.Context(), "reload", "--socket="+socket).Want(t, ExitOK, "Upgraded myapp from 1.2 to 1.3 in 0.", "")
	for _, quiet := range []string{"-q", "--quiet"} {
		runCommand(t.Context(), "reload", quiet, "--socket="+socket).Want(t, ExitOK, "", "")
	}
	t.Setenv("RUNTIME_DIRECTORY", filepath.Dir(socket))
	o := runCommand(t.Context(), "reload", "--json=short")
	o.Want(t, ExitOK, `{"exit":0,"verdict":{"outcome":"upgraded"`, "")
	if strings.Count(o.Stdout, "\n") != 1 {
		t.Errorf("--json=short wrote more than one line: %q", o.Stdout)
	}
	runCommand(t.Context(), "reload", "--json=pretty").Want(t, ExitOK, "{\n\t\"exit\": 0,\n\t\"verdict\": {\n", "")
}

func TestReloadFails(t *testing.T) {
	for _, tt := range []struct {
		name     string
		verdict  control.Verdict
		state    string // of the service afterwards
		code     int
		text     string
		lastLine string
	}{
		{
			"refused",
			control.Verdict{Outcome: control.Refused, Reason: "wrong architecture"},
			"running", ExitFailed,
			"The upgrade of myapp@1 was refused: wrong architecture\n", "myapp@1 is served by PID 640, version 1.2 (generation 3).",
		},
		{
			"rolled back",
			control.Verdict{Outcome: control.RolledBack, Reason: "panic: oops\n\ngoroutine 1 \x1b[1m[running]"},
			"running", ExitFailed,
			"The upgrade of myapp@1 was rolled back: panic: oops\n    \n    goroutine 1 \\x1b[1m[running]\n", "myapp@1 is served by PID 640, version 1.2 (generation 3).",
		},
		{
			"busy",
			control.Verdict{Outcome: control.Busy, Reason: "an upgrade is under way"},
			"starting", ExitFailed,
			"No upgrade of myapp@1 was started: an upgrade is under way\n", "myapp@1 is served by PID 640, version 1.2 (generation 3).",
		},
		{
			"stopped",
			control.Verdict{Outcome: control.Stopped, Reason: "told to stop"},
			"stopping", ExitDown,
			"The upgrade of myapp@1 was ended by a stop: told to stop\n", "myapp@1 is stopping.",
		},
		{
			"without a reason",
			control.Verdict{Outcome: control.Refused},
			"running", ExitFailed,
			"was refused: the service gave no reason\n", "myapp@1 is served by PID 640, version 1.2 (generation 3).",
		},
		{
			"unheard of",
			control.Verdict{Outcome: "postponed", Reason: "full moon"},
			"running", ExitFailed,
			"The upgrade of myapp@1 ended as \"postponed\": full moon\n", "myapp@1 is served by PID 640, version 1.2 (generation 3).",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			socket := socketIn(t, t.TempDir(), "myapp@1")
			end := ends(tt.verdict)
			start(t, socket, running(), func(ctx context.Context, s *service, progress func(control.Status)) control.Verdict {
				s.set(func(st *control.Status) { st.State = tt.state })
				return end(ctx, s, progress)
			})
			for _, args := range [][]string{{"reload", "--socket=" + socket}, {"reload", "-q", "--socket=" + socket}} {
				o := runCommand(t.Context(), args...)
				o.Want(t, tt.code, "", tt.text)
				if o.LastLine() != tt.lastLine {
					t.Errorf("last line %q, want %q", o.LastLine(), tt.lastLine)
				}
				if want := `See "journalctl -e -u myapp@1" for what both versions wrote.`; !strings.Contains(o.Stderr, want) {
					t.Errorf("stderr %q lacks %q", o.Stderr, want)
				}
			}
			o := runCommand(t.Context(), "reload", "--json=short", "--socket="+socket)
			var got reloadResult
			if err := json.Unmarshal([]byte(o.Stdout), &got); err != nil {
				t.Fatalf("JSON %q: %v", o.Stdout, err)
			}
			if got.Exit != tt.code || o.Code != tt.code || got.Verdict.Outcome != tt.verdict.Outcome || got.Now == nil || got.Now.PID != 640 {
				t.Errorf("exit code %d, JSON %s", o.Code, o.Stdout)
			}
		})
	}
}

// dies is a service that dies in its upgrade; then says what happens after.
func dies(then func()) func(context.Context, *service, func(control.Status)) control.Verdict {
	return func(ctx context.Context, s *service, _ func(control.Status)) control.Verdict {
		go func() {
			s.die()
			then()
		}()
		<-ctx.Done()
		return control.Verdict{Outcome: control.Refused, Reason: "nobody hears this"}
	}
}

func TestReloadServiceDies(t *testing.T) {
	t.Run("down", func(t *testing.T) {
		t.Setenv("MAINPID", "640") // in ExecReload=: a dead service is soon given up
		socket := socketIn(t, t.TempDir(), "myapp")
		start(t, socket, running(), dies(func() {}))
		o := runCommand(t.Context(), "reload", "--socket="+socket)
		o.Want(t, ExitDown, "", "The upgrade of myapp failed: the service (PID 640) died during the upgrade and nothing serves its control socket\n")
		if o.LastLine() != "myapp is down." {
			t.Errorf("last line %q", o.LastLine())
		}
	})

	// becomes starts another service in the place of the first.
	becomes := func(t *testing.T, change func(*control.Status)) commandtest.Output {
		dir := t.TempDir()
		socket := socketIn(t, dir, "myapp")
		next := running()
		next.PID = 700
		change(&next)
		// It is bound beside and renamed: there is no moment without one.
		beside := filepath.Join(dir, "next.sock")
		start(t, beside, next, nil)
		start(t, socket, running(), dies(func() {
			if err := os.Rename(beside, socket); err != nil {
				t.Error(err)
			}
		}))
		return runCommand(t.Context(), "reload", "--socket="+socket)
	}
	t.Run("successor takes over", func(t *testing.T) {
		becomes(t, func(st *control.Status) { st.Generation, st.Version = 4, "1.3" }).Want(t, ExitOK,
			"Upgraded myapp from 1.2 to 1.3 in ", "Note: the predecessor (PID 640) died before it gave a verdict, and its successor took over.\n")
	})
	t.Run("restarted", func(t *testing.T) {
		o := becomes(t, func(st *control.Status) { st.Generation, st.Instance = 1, "i2" })
		o.Want(t, ExitFailed, "", "The upgrade of myapp failed: the service (PID 640) died during the upgrade and was started anew\n")
		if want := "myapp is served by PID 700, version 1.2 (generation 1)."; o.LastLine() != want {
			t.Errorf("last line %q, want %q", o.LastLine(), want)
		}
	})
	t.Run("undecided", func(t *testing.T) {
		becomes(t, func(*control.Status) {}).Want(t, ExitFailed, "", "The upgrade of myapp was not completed: the service ended the connection without a verdict; generation 3 still serves\n")
	})
}

// answers is something that is not a service: it says text to everybody.
func answers(t *testing.T, text string) string {
	t.Helper()
	socket := socketIn(t, t.TempDir(), "myapp")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = bufio.NewReader(conn).ReadString('\n')
			_, _ = io.WriteString(conn, text)
			// The rest of the request is read away: closing with it unread
			// would reset the connection.
			_ = conn.(*net.UnixConn).CloseWrite()
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	return socket
}

// reply is an answer of HTTP.
func reply(code int, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", code, len(body), body)
}

func TestNoAnswerThatCounts(t *testing.T) {
	for _, tt := range []struct {
		name   string
		socket string
		code   int
		text   string
	}{
		{"absent", filepath.Join(t.TempDir(), "control.sock"), ExitNotRunning, "nobody serves it: start the service: no such file or directory"},
		{"silent", answers(t, ""), ExitNotRunning, "ended the connection before its answer was complete"},
		{"forbidden", answers(t, reply(403, `{"error":"uid 7 is not served: \u001b[2J"}`)), ExitNoPermission, `only root and the service's own user may: uid 7 is not served: \x1b[2J`},
		{"another version", answers(t, reply(404, `{"error":"x","versions":[2]}`)), ExitNotSuitable, "the service speaks protocol version 2, this client version 1"},
		{"garbage", answers(t, "hello\r\n"), ExitNotSuitable, "not an answer of the control protocol"},
		{"no status", answers(t, reply(200, `{}`)), ExitNotSuitable, "has no protocol version"},
		{"long path", "/" + strings.Repeat("x", 200), ExitFailed, "must have 1 to 107"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runCommand(t.Context(), "status", "--socket="+tt.socket).Want(t, tt.code, "", tt.text)
			o := runCommand(t.Context(), "reload", "--socket="+tt.socket)
			o.Want(t, tt.code, "", tt.text)
			if o.LastLine() != "No upgrade was started." {
				t.Errorf("last line %q", o.LastLine())
			}
			o = runCommand(t.Context(), "reload", "--json=short", "--socket="+tt.socket)
			var got reloadResult
			if err := json.Unmarshal([]byte(o.Stdout), &got); err != nil || got.Exit != tt.code || got.Error == "" {
				t.Errorf("JSON %q: %v", o.Stdout, err)
			}
		})
	}
}

// A service that is there but does not answer: the time is bounded, and an
// upgrade was not asked for.
func TestHangingService(t *testing.T) {
	socket := socketIn(t, t.TempDir(), "myapp")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	runCommand(t.Context(), "status", "--timeout=20ms", "--socket="+socket).Want(t, ExitUnknown, "", "stopped waiting after --timeout=20ms")
	o := runCommand(t.Context(), "reload", "--timeout=20ms", "--socket="+socket)
	o.Want(t, ExitUnknown, "", "stopped waiting after --timeout=20ms")
	if o.LastLine() != "No upgrade was started." {
		t.Errorf("last line %q", o.LastLine())
	}
}

// endless is an upgrade without an end; it tells when it began and that it went
// on when the client left.
func endless(began, wentOn chan<- struct{}) func(context.Context, *service, func(control.Status)) control.Verdict {
	return func(ctx context.Context, s *service, progress func(control.Status)) control.Verdict {
		st := s.Status()
		st.State = "probation"
		progress(st)
		close(began)
		<-ctx.Done()
		close(wentOn)
		return control.Verdict{Outcome: control.Upgraded}
	}
}

func TestReloadTimeout(t *testing.T) {
	socket := socketIn(t, t.TempDir(), "myapp")
	began, wentOn := make(chan struct{}), make(chan struct{})
	start(t, socket, running(), endless(began, wentOn))
	o := runCommand(t.Context(), "reload", "--timeout=1s", "--socket="+socket)
	<-wentOn
	o.Want(t, ExitUnknown, "", "The outcome of the upgrade of myapp is unknown: stopped waiting after --timeout=1s\nIt goes on without this command; its last known state is \"probation\".\n")
}

func TestReloadNoTimeout(t *testing.T) {
	socket := socketIn(t, t.TempDir(), "myapp")
	start(t, socket, running(), ends(upgraded))
	runCommand(t.Context(), "reload", "--timeout=0", "--socket="+socket).Want(t, ExitOK, "Upgraded", "")
}

// The real process gets a real signal.
func TestReloadSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			socket := socketIn(t, t.TempDir(), "myapp")
			began, wentOn := make(chan struct{}), make(chan struct{})
			start(t, socket, running(), endless(began, wentOn))
			var stderr bytes.Buffer
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "reload", "--socket="+socket)
			cmd.Env = append(os.Environ(), envMain+"=1")
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			<-began
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			err := cmd.Wait()
			<-wentOn
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != ExitUnknown {
				t.Errorf("%v, want exit status %d", err, ExitUnknown)
			}
			if want := fmt.Sprintf("is unknown: stopped waiting by signal: %v\n", sig); !strings.Contains(stderr.String(), want) {
				t.Errorf("stderr %q, want %q", stderr.String(), want)
			}
		})
	}
}

// On a terminal the states are shown as they come.
func TestReloadProgressOnTerminal(t *testing.T) {
	socket := socketIn(t, t.TempDir(), "myapp")
	start(t, socket, running(), ends(upgraded))
	for _, tt := range []struct {
		arg  string
		show bool
	}{{"--json=off", true}, {"-q", false}, {"--json=short", false}} {
		master, terminal := openTerminal(t)
		var stdout bytes.Buffer
		if code := Reload(t.Context(), []string{tt.arg, "--socket=" + socket}, &stdout, terminal); code != ExitOK {
			t.Errorf("exit code %d", code)
		}
		fmt.Fprint(terminal, "end\n")
		var lines []string
		for r := bufio.NewScanner(master); r.Scan() && r.Text() != "end"; {
			lines = append(lines, r.Text())
		}
		got := strings.Join(lines, "\n")
		if !tt.show {
			if got != "" {
				t.Errorf("%s: shown: %q", tt.arg, got)
			}
			continue
		}
		if len(lines) != 2 || lines[0] != "myapp is served by PID 640, version 1.2 (generation 3)" || !strings.HasSuffix(lines[1], "s  starting: PID 812 (generation 4)") {
			t.Errorf("%s: shown: %q", tt.arg, got)
		}
	}
}

// openTerminal opens a pseudoterminal (pts(4)).
func openTerminal(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return master, terminal
}
