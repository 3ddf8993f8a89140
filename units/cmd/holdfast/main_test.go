// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control/command"
	"github.com/holdfast-go/holdfast/reexec/control/command/commandtest"
)

// envMain makes the test binary the command itself.
const envMain = "HOLDFAST_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(envMain) != "" {
		main()
	}
	// What the tests are run with must not decide what they see.
	for _, name := range []string{"RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "MAINPID"} {
		os.Unsetenv(name)
	}
	// Times look the same everywhere. Here, before anything that reads it has begun.
	time.Local = time.UTC
	os.Exit(m.Run())
}

// runCommand runs the command with the given arguments.
func runCommand(ctx context.Context, args ...string) commandtest.Output {
	return commandtest.Run(func(stdout, stderr io.Writer) int {
		return run(ctx, args, strings.NewReader(""), stdout, stderr)
	})
}

func TestHelpAndVersion(t *testing.T) {
	all := [][]string{{"-h"}, {"--help"}, {"help"}}
	for _, c := range commands() {
		all = append(all, []string{c.name, "-h"}, []string{c.name, "--help"}, []string{"help", c.name})
	}
	for _, args := range all {
		o := runCommand(t.Context(), args...)
		codes := command.ExitCodesHelp
		launch := args[len(args)-1] == "launch" || args[0] == "launch"
		if launch {
			codes = "Exit codes: those of PROGRAM;"
		}
		o.Want(t, command.ExitOK, codes, "")
		if !strings.Contains(o.Stdout, "Usage: holdfast") || !launch && !strings.HasSuffix(o.Stdout, codes) {
			t.Errorf("%v: help %q", args, o.Stdout)
		}
		for i, line := range strings.Split(o.Stdout, "\n") {
			if len(line) > 86 {
				t.Errorf("%v: line %d of the help has %d characters: %s", args, i+1, len(line), line)
			}
		}
	}
	runCommand(t.Context(), "--version").Want(t, command.ExitOK, "control protocol 1", "")
	runCommand(t.Context()).Want(t, command.ExitUsage, "", "Usage: holdfast COMMAND")
	runCommand(t.Context(), "update").Want(t, command.ExitUsage, "", `unknown command "update": use `+commandNames()+`; "holdfast --help" says more`)
}

// Every flag is in the help of its command, and the help has no others.
func TestHelpHasEveryFlag(t *testing.T) {
	all := map[string]string{
		"upgrade": "version dry-run request-id soak interval health-url metrics-url requests errors max-error-rate max-failures " +
			"canary wave pause max-failed ratio user direct via-service timeout quiet json",
		"rollback": "socket reason dry-run request-id user direct via-service timeout quiet json",
		"status":   "socket user direct via-service timeout json",
		"history":  "lines user direct via-service timeout json",
		"wait":     "version socket user timeout quiet json",
		"freeze":   "reason user direct via-service quiet",
		"thaw":     "reason user direct via-service quiet",
		"reload":   "socket user timeout quiet json config",
		"render": "name exec description documentation socket datagram seqpacket state-directory systemd mode flavour instance user soft-reboot " +
			"launcher check-timeout start-timeout probation drain-timeout watchdog fd-store-max exec-directory holdfast " +
			"unit-line service-line socket-line output-dir force",
		"versions":   "unit socket user timeout name keep quiet json",
		"launch":     "state",
		"retry":      "state",
		"completion": "",
		"serve":      "idle address",
		"check":      "files root systemd mode drain-timeout user json",
	}
	for _, c := range commands() {
		if _, ok := all[c.name]; !ok {
			t.Errorf("%s: this test does not know its flags", c.name)
		}
	}
	for name, flags := range all {
		help := runCommand(t.Context(), name, "--help").Stdout
		documented := make(map[string]bool)
		for _, line := range strings.Split(help, "\n") {
			// "  -q, --quiet   text" and "      --json=MODE   text"
			if field := strings.TrimSpace(line); strings.HasPrefix(field, "-") {
				for _, word := range strings.Fields(field) {
					if long, ok := strings.CutPrefix(strings.TrimSuffix(word, ","), "--"); ok {
						long, _, _ = strings.Cut(long, "=")
						documented[long] = true
						break
					}
				}
			}
		}
		for _, flag := range strings.Fields(flags) {
			if !documented[flag] {
				t.Errorf("%s: --%s is not in the help", name, flag)
			}
			delete(documented, flag)
			// The flag exists: whatever else is wrong, it is not that. The other one
			// has the command end.
			if o := runCommand(t.Context(), name, "--"+flag+"=\x00", "--nonsense"); strings.Contains(o.Stderr, "not defined: --"+flag) {
				t.Errorf("%s: --%s is not defined", name, flag)
			}
		}
		delete(documented, "help")
		for flag := range documented {
			t.Errorf("%s: the help has --%s, which this test does not know", name, flag)
		}
	}
}

func TestUsageErrors(t *testing.T) {
	for _, tt := range []struct {
		args string
		want string
	}{
		{"render", `--name "": is required`},
		{"render --name=a", `--exec "": is required`},
		{"render --name=a --exec=/usr/bin/a --systemd=200", "needs systemd 239 or later"},
		{"render --name=a --exec=/usr/bin/a --systemd=new", `invalid value "new" for flag --systemd`},
		{"render --name=a --exec=/usr/bin/a --flavour=notify-reload", "Type=notify-reload needs systemd 253 or later, and the units are for 252: use the flavour exec-reload; only RHEL 9.4"},
		{"render --name=a --exec=/usr/bin/a --flavour=x", `--flavour "x": must be exec-reload or notify-reload`},
		{"render --name=a --exec=/usr/bin/a --socket=http", "must be NAME=ADDRESS"},
		{"render --name=a --exec=/usr/bin/a --socket=http=localhost:80", `--socket "localhost:80": must be IP:PORT`},
		{"render --name=a --exec=/usr/bin/a --probation=0", "must be a positive time"},
		{"render --name=a --exec=/usr/bin/a --fd-store-max=0", "must be a positive number"},
		{"render --name=a --exec=/usr/bin/a --service-line=KillMode=none", "--service-line \"KillMode=none\": KillMode= must stay"},
		{"render --name=a --exec=/usr/bin/a -- %H", `ARG "%H": only the specifiers`},
	} {
		t.Run(tt.args, func(t *testing.T) {
			o := runCommand(t.Context(), strings.Fields(tt.args)...)
			o.Want(t, command.ExitUsage, "", tt.want)
			name, _, _ := strings.Cut(tt.args, " ")
			if want := `Try "holdfast ` + name + ` --help".`; o.LastLine() != want {
				t.Errorf("last line %q, want %q", o.LastLine(), want)
			}
		})
	}
}

// The real process ends its waiting at a real signal, and says so.
func TestSignalEndsWaiting(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "control.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, args := range [][]string{{"reload"}, {"status", "--timeout=0"}} {
		var stderr bytes.Buffer
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", append(args, "--socket="+socket)...)
		cmd.Env = append(os.Environ(), envMain+"=1")
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		conn, err := ln.Accept() // it waits for an answer from now on
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		err = cmd.Wait()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != command.ExitUnknown {
			t.Errorf("%s: %v, want exit status %d", args[0], err, command.ExitUnknown)
		}
		if want := "stopped waiting by signal: terminated\n"; !strings.Contains(stderr.String(), want) {
			t.Errorf("%s: stderr %q, want %q", args[0], stderr.String(), want)
		}
	}
}
