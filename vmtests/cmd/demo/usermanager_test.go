// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
)

// jane has her own service manager in a machine, and the demo.
type jane struct {
	*vmtests.Machine
	t *testing.T
}

const janesPrograms = "/home/jane/programs"

func newJane(t *testing.T, version vmtests.Version) jane {
	t.Helper()
	dir := t.TempDir()
	if err := buildPrograms(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	demo, err := vmtests.Build(t.Context(), dir, "github.com/holdfast-go/holdfast/vmtests/cmd/demo")
	if err != nil {
		t.Fatal(err)
	}
	j := jane{vmtests.BootTest(t, version), t}
	j.root("useradd", "--create-home", "--uid", "1000", "jane")
	for _, p := range allPrograms() {
		file := p.file(dir)
		if err := j.Copy(t.Context(), file, filepath.Join(janesPrograms, filepath.Base(file)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Copy(t.Context(), demo, "/usr/bin/demo", 0o755); err != nil {
		t.Fatal(err)
	}
	j.root("systemctl", "start", "user@1000.service")
	return j
}

// root runs a command as root and returns what it wrote.
func (j jane) root(argv ...string) string {
	j.t.Helper()
	out, err := j.Output(j.t.Context(), argv...)
	if err != nil {
		j.t.Fatal(err)
	}
	return out
}

// argv is the command line that runs argv as jane.
func (j jane) argv(argv ...string) []string {
	return append([]string{
		"setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "env", "HOME=/home/jane", "XDG_RUNTIME_DIR=/run/user/1000",
	}, argv...)
}

// nothingLeft checks that the demo removed all that it made.
func (j jane) nothingLeft() {
	j.t.Helper()
	if files := j.root("find", "/run/user/1000", "/tmp", "-name", "*demo*"); files != "" {
		j.t.Errorf("left behind:\n%s", files)
	}
	out := j.root(j.argv("systemctl", "--user", "--no-legend", "--plain", "--all", "list-units", "holdfast-demo*")...)
	if out != "" {
		j.t.Errorf("units left behind:\n%s", out)
	}
	if out := j.root("sh", "-c", "ps -o pid=,args= -u jane | grep -e demo -e myapp || true"); out != "" {
		j.t.Errorf("processes left behind:\n%s", out)
	}
}

// The demo under the manager of a user, of the oldest and of the newest systemd.
func TestDemoUnderUserManager(t *testing.T) {
	needContainers(t)
	t.Parallel()
	for _, version := range []vmtests.Version{247, 262} {
		t.Run(version.String(), func(t *testing.T) {
			t.Parallel()
			j := newJane(t, version)
			var stdout, stderr bytes.Buffer
			process, err := j.Start(t.Context(), vmtests.Command{
				Args: j.argv("demo", "-programs="+janesPrograms), Stdout: &stdout, Stderr: &stderr,
			})
			if err != nil {
				t.Fatal(err)
			}
			status := 0
			var exit *vmtests.ExitError
			if err := process.Wait(); errors.As(err, &exit) {
				status = exit.Code
			} else if err != nil {
				t.Fatal(err)
			}
			checkDemo(t, status, stdout.String(), stderr.String(), "on the service manager of this login: not root; it answers\nunder "+version.String()+" (")
			j.nothingLeft()
		})
	}
}

// A demo whose terminal is closed leaves nothing with the manager.
func TestHangupUnderUserManager(t *testing.T) {
	needContainers(t)
	t.Parallel()
	j := newJane(t, 257)
	read, write := io.Pipe()
	var stderr bytes.Buffer
	process, err := j.Start(t.Context(), vmtests.Command{
		Args: j.argv("demo", "-programs="+janesPrograms, "-on=user"), Stdout: write, Stderr: &stderr,
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- process.Wait()
		write.Close()
	}()
	output := bufio.NewReader(read)
	for line := ""; !strings.HasPrefix(line, "ok "); { // then myapp runs, and its first upgrade
		if line, err = output.ReadString('\n'); err != nil {
			t.Errorf("before the hangup: %v", err)
			break
		}
	}
	// setpriv and env became the demo.
	if err := process.Signal(t.Context(), "HUP"); err != nil {
		t.Error(err)
	}
	rest, _ := io.ReadAll(output)
	var exit *vmtests.ExitError
	if err := <-ended; !errors.As(err, &exit) || exit.Code != 130 || strings.Contains(string(rest), "demo:") {
		t.Errorf("%v, stdout %q, stderr %q; want exit status 130 and no tally", err, rest, &stderr)
	}
	j.nothingLeft()
}

func TestMajorVersion(t *testing.T) {
	for version, want := range map[string]int{"257.9-1~deb13u1": 257, "252": 252, "v255": 0, "": 0} {
		if got := majorVersion(version); got != want {
			t.Errorf("majorVersion(%q): got %d, want %d", version, got, want)
		}
	}
}
