// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/control/command/commandtest"
)

// envMain makes the test binary a command.
const envMain = "HOLDFAST_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(envMain) != "" {
		if os.Args[1] == "launch" {
			os.Exit(Launch(os.Args[2:], os.Stdout, os.Stderr))
		}
		ctx, _ := SignalContext(context.Background())
		os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
	}
	// What the tests are run with must not decide what they see.
	for _, name := range []string{"RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "MAINPID"} {
		os.Unsetenv(name)
	}
	os.Exit(m.Run())
}

// run runs the command that args[0] names.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	switch args[0] {
	case "status":
		return Status(ctx, args[1:], stdout, stderr)
	case "rollback":
		return Rollback(ctx, args[1:], stdout, stderr)
	}
	return Reload(ctx, args[1:], stdout, stderr)
}

func runCommand(ctx context.Context, args ...string) commandtest.Output {
	return commandtest.Run(func(stdout, stderr io.Writer) int { return run(ctx, args, stdout, stderr) })
}

// service is a service that is there only as far as its control socket goes.
type service struct {
	socket string
	server *http.Server

	mu  sync.Mutex
	now control.Status
	// rolledBack is the reason of the last rollback.
	rolledBack string
	upgrade    func(ctx context.Context, s *service, progress func(control.Status)) control.Verdict
	reload     func() control.Reload
	close      sync.Once
	served     chan struct{}
}

func (s *service) Status() control.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *service) set(change func(*control.Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.now)
}

func (s *service) Upgrade(ctx context.Context, progress func(control.Status)) control.Verdict {
	return s.upgrade(ctx, s, progress)
}

func (s *service) Rollback(ctx context.Context, reason string, progress func(control.Status)) control.Verdict {
	v := s.upgrade(ctx, s, progress)
	v.Rollback = true
	s.set(func(st *control.Status) { st.Last = &v; s.rolledBack = reason })
	return v
}

func (s *service) Reload(context.Context) control.Reload { return s.reload() }

// die ends the service in the middle of everything. Its path stays.
func (s *service) die() {
	s.close.Do(func() {
		s.server.Close()
		<-s.served
	})
}

var since = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func running() control.Status {
	return control.Status{
		Name: "myapp", Instance: "i1", State: "running", Since: since,
		Generation: 3, Version: "1.2", PID: 640,
	}
}

// start starts a service at socket, which upgrades as told.
func start(t *testing.T, socket string, now control.Status, upgrade func(context.Context, *service, func(control.Status)) control.Verdict) *service {
	t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	s := &service{socket: socket, now: now, upgrade: upgrade, served: make(chan struct{})}
	s.server = control.NewServer(s, slog.New(slog.DiscardHandler))
	go func() {
		defer close(s.served)
		_ = s.server.Serve(control.NewPeerListener(ln, uint32(os.Getuid()), slog.New(slog.DiscardHandler)))
	}()
	t.Cleanup(s.die)
	return s
}

// socketIn makes the runtime directory of a unit and returns the path of its
// control socket.
func socketIn(t *testing.T, root, unit string) string {
	t.Helper()
	dir := filepath.Join(root, unit)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, control.SocketName)
}

// ends returns an upgrade that ends at once with v.
func ends(v control.Verdict) func(context.Context, *service, func(control.Status)) control.Verdict {
	return func(_ context.Context, s *service, progress func(control.Status)) control.Verdict {
		st := s.Status()
		st.State = "starting"
		st.Successor = &control.Process{PID: 812, Generation: 4}
		progress(st)
		v.From = processOf(s.Status())
		return v
	}
}

var upgraded = control.Verdict{
	Outcome: control.Upgraded, Started: since.Add(time.Hour),
	To:     &control.Process{PID: 812, Generation: 4, Version: "1.3"},
	Phases: []control.Phase{{Name: "pre-check", Seconds: 0.12}, {Name: "probation", Seconds: 5}},
}

func TestUsageErrors(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "")
	for _, tt := range []struct {
		args string
		want string
	}{
		{"reload", "name the UNIT, or its control socket with --socket="},
		{"reload a b", `one UNIT at a time: "b" is too many`},
		{"reload --socket=/x a", `UNIT "a" and --socket="/x": use one of them`},
		{"reload myapp@", `UNIT "myapp@" is a template: name an instance, as in myapp@1`},
		{"reload myapp@.service", `is a template`},
		{"reload myapp.socket", `is a socket: name its service`},
		{"reload /run/myapp", `is a path: use --socket=`},
		{"reload ..", `UNIT ".." is not the name of a service`},
		{"reload .service", `UNIT ".service" is not the name of a service`},
		{"reload --user myapp", `$XDG_RUNTIME_DIR is not set`},
		{"reload --timeout=-1s myapp", "--timeout=-1s: must not be negative"},
		{"reload --timeout=x myapp", `invalid value "x" for flag --timeout`},
		{"reload --json=yes myapp", `invalid value "yes" for flag --json: must be short, pretty or off`},
		{"reload --json", `flag needs an argument: --json`},
		{"reload --wait myapp", "flag provided but not defined: --wait"},
		{"reload myapp --wait", "flag provided but not defined: --wait"},
		{"rollback", "name the UNIT"},
		{"rollback --reason=" + strings.Repeat("x", control.MaxReason+1) + " myapp", "--reason= has 501 bytes: must have 500 at most"},
		{"status", "name the UNIT"},
		{"status -q myapp", "flag provided but not defined: -q"},
		{"status --timeout=-1s myapp", "must not be negative"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			o := runCommand(t.Context(), strings.Fields(tt.args)...)
			o.Want(t, ExitUsage, "", tt.want)
			name, _, _ := strings.Cut(tt.args, " ")
			if want := `Try "holdfast ` + name + ` --help".`; o.LastLine() != want {
				t.Errorf("last line %q, want %q", o.LastLine(), want)
			}
		})
	}
}
