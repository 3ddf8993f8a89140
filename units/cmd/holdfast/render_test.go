// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/control/command"
)

// renderMyapp are arguments that render a service and a socket.
func renderMyapp(more ...string) []string {
	return append([]string{"render", "--name=myapp", "--exec=/usr/bin/myapp", "--socket=http=127.0.0.1:8080"}, more...)
}

func TestRenderToStdout(t *testing.T) {
	o := runCommand(t.Context(), renderMyapp()...)
	o.Want(t, command.ExitOK, "==> myapp.service <==\n# myapp.service, for systemd 252 and later.", "")
	o.Want(t, command.ExitOK, "\n\n==> myapp.socket <==\n# myapp.socket, ", "")
	o.Want(t, command.ExitOK, "\nListenStream=127.0.0.1:8080\nFileDescriptorName=http\n", "")
}

func TestRenderOptions(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"--systemd=257 --flavour=notify-reload", "\nType=notify-reload\nReloadSignal=SIGUSR2\n"},
		{"--description=App --documentation=man:myapp(8) --documentation=https://example.org/", "\nDescription=App\nDocumentation=man:myapp(8) https://example.org/\n"},
		{"--datagram=dns=127.0.0.1:53", "\nListenDatagram=127.0.0.1:53\nFileDescriptorName=dns\n"},
		{"--seqpacket=http=/run/x", "\nListenStream=127.0.0.1:8080\nListenSequentialPacket=/run/x\n"},
		{"--systemd=257 --soft-reboot", "\nFileDescriptorStorePreserve=yes\n"},
		{"--user", "\nWantedBy=default.target\n"},
		{"--check-timeout=1s --start-timeout=2s --probation=3s --drain-timeout=4s", "\nTimeoutStartSec=51s\n"},
		{"--drain-timeout=4s", "\nTimeoutStopSec=34s\n"},
		{"--mode=in-place", " --timeout=85s\n"},
		{"--mode=restart", "\nTimeoutStartSec=75s\n"},
		{"--watchdog=7s", "\nWatchdogSec=7s\n"},
		{"--state-directory=myapp", "\nStateDirectory=myapp myapp.holdfast\n"},
		{"--fd-store-max=7", "\nFileDescriptorStoreMax=7\n"},
		{"--exec-directory=/opt/a --exec-directory=/opt/b --holdfast=/opt/holdfast/holdfast", "\nExecPaths=%S/myapp.holdfast /opt/a /opt/b /opt/holdfast /usr/bin\n"},
		{"--unit-line=Wants=a.target --service-line=Nice=1 --socket-line=SocketMode=0600", "\nWants=a.target\n"},
		{"--service-line=Nice=1", "\nNice=1\n"},
		{"--socket-line=SocketMode=0600", "\nSocketMode=0600\n"},
		{"--launcher=off -- -x", "\nExecStart=/usr/bin/myapp -x\n"},
		{"--launcher=on --flavour=notify-reload --systemd=257", "\nExecStart=/usr/bin/holdfast launch --state=%S/myapp.holdfast -- /usr/bin/myapp\n"},
		{"--flavour=notify-reload --systemd=257", "\nExecStart=/usr/bin/myapp\n"},
		{"-- -listen 127.0.0.1:1 --flag", " -- /usr/bin/myapp -listen 127.0.0.1:1 --flag\n"},
	} {
		runCommand(t.Context(), renderMyapp(strings.Fields(tt.args)...)...).Want(t, command.ExitOK, tt.want, "")
	}
	if o := runCommand(t.Context(), renderMyapp("--watchdog=0")...); strings.Contains(o.Stdout, "WatchdogSec") || o.Code != command.ExitOK {
		t.Errorf("--watchdog=0: exit code %d:\n%s", o.Code, o.Stdout)
	}
	runCommand(t.Context(), "render", "--name=a", "--exec=/usr/bin/a", "--instance", "--socket=x=/run/%i.sock").Want(t, command.ExitOK,
		"==> a@.socket <==\n", "")
}

func TestRenderToDirectory(t *testing.T) {
	dir := t.TempDir()
	service, socket := filepath.Join(dir, "myapp.service"), filepath.Join(dir, "myapp.socket")
	read := func(path string) string {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	runCommand(t.Context(), renderMyapp("--output-dir="+dir)...).Want(t, command.ExitOK, service+"\n"+socket+"\n", "")
	first := read(service)
	if !strings.HasPrefix(first, "# myapp.service") || !strings.HasPrefix(read(socket), "# myapp.socket") {
		t.Error("the files are not the units")
	}
	if info, err := os.Stat(service); err != nil || info.Mode() != 0o644 {
		t.Errorf("mode %v, error %v, want 0644", info.Mode(), err)
	}

	// The same again is fine; something else needs --force, and then nothing
	// is written.
	runCommand(t.Context(), renderMyapp("--output-dir="+dir)...).Want(t, command.ExitOK, service, "")
	other := "--socket-line=SocketMode=0600"
	runCommand(t.Context(), renderMyapp("--output-dir="+dir, "--description=Other", other)...).Want(t, command.ExitFailed, "",
		"write "+service+": it is there and differs: use --force to overwrite it")
	if read(service) != first || strings.Contains(read(socket), "SocketMode") {
		t.Error("a refused overwrite wrote something")
	}
	runCommand(t.Context(), renderMyapp("--output-dir="+dir, "--force", "--description=Other", other)...).Want(t, command.ExitOK, service, "")
	if !strings.Contains(read(service), "Description=Other") || !strings.Contains(read(socket), "SocketMode") {
		t.Error("--force did not overwrite")
	}

	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left in the directory: %v, %v", entries, err)
	}
}

func TestRenderWriteErrors(t *testing.T) {
	runCommand(t.Context(), renderMyapp("--output-dir="+filepath.Join(t.TempDir(), "absent"))...).Want(t, command.ExitFailed, "", "no such file or directory")

	// A directory in the place of the second unit: the first one stays as it
	// was, and no temporary file is left.
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "myapp.socket"), 0o755); err != nil {
		t.Fatal(err)
	}
	runCommand(t.Context(), renderMyapp("--output-dir="+dir)...).Want(t, command.ExitFailed, "", "is a directory")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left in the directory: %v, %v", entries, err)
	}

	if code := run(t.Context(), renderMyapp(), strings.NewReader(""), brokenWriter{}, brokenWriter{}); code != command.ExitFailed {
		t.Errorf("exit code %d with a broken stdout, want %d", code, command.ExitFailed)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken") }

// The ExecReload= line of a rendered unit is one that this command understands.
func TestExecReloadLine(t *testing.T) {
	o := runCommand(t.Context(), "render", "--name=myapp", "--exec=/usr/bin/myapp")
	_, line, _ := strings.Cut(o.Stdout, "\nExecReload=/usr/bin/holdfast ")
	line, _, _ = strings.Cut(line, "\n")
	if want := "reload --socket=%t/myapp/control.sock --timeout=60s"; line != want {
		t.Fatalf("ExecReload= runs %q, want %q", line, want)
	}
	socket := t.TempDir() + "/myapp/control.sock"
	runCommand(t.Context(), strings.Fields(strings.ReplaceAll(line, "%t/myapp/control.sock", socket))...).Want(t, command.ExitNotRunning,
		"", socket+`": nobody serves it`)
}
