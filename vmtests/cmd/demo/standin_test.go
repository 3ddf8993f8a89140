// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
)

// plainUser returns the demo as a command of somebody who is not root and has no service manager. It may leave
// nothing behind.
func plainUser(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	base, err := os.MkdirTemp("", "demo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(base); err != nil {
			t.Error(err)
		}
	})
	programs, tmp := filepath.Join(base, "programs"), filepath.Join(base, "tmp")
	if err := errors.Join(os.Chmod(base, 0o755), os.Mkdir(tmp, 0o700), buildPrograms(t.Context(), programs)); err != nil {
		t.Fatal(err)
	}
	// The stand-in starts the demo once more, so that it must be where that user may read.
	demo, err := vmtests.Build(t.Context(), programs, "github.com/holdfast-go/holdfast/vmtests/cmd/demo")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), demo, append([]string{"-programs=" + programs}, args...)...)
	cmd.Env = []string{"PATH=/nonexistent", "TMPDIR=" + tmp}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // so that it cleans up
	if os.Geteuid() == 0 {
		const uid = 1000
		if err := os.Chown(tmp, uid, uid); err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	t.Cleanup(func() {
		left, _ := filepath.Glob(tmp + "/*") // the pattern is well-formed
		links, _ := filepath.Glob("/proc/[0-9]*/exe")
		for _, link := range links {
			if exe, err := os.Readlink(link); err == nil && strings.HasPrefix(exe, base) { // also a file that is gone
				left = append(left, "process "+filepath.Dir(link))
			}
		}
		if len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	})
	return cmd
}

// The demo for everybody: it asks for nothing.
func TestDemoOnStandIn(t *testing.T) {
	t.Parallel()
	cmd := plainUser(t)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	status := exitStatus(t, cmd.Run())
	checkDemo(t, status, stdout.String(), stderr.String(),
		"on the stand-in for systemd 257 (package reexectest): not root; no service manager of this login: $XDG_RUNTIME_DIR is not set\nunder the stand-in for systemd 257\n")
}

// An interrupt leaves neither processes nor files of the stand-in.
func TestInterruptOnStandIn(t *testing.T) {
	t.Parallel()
	said := interrupt(t, plainUser(t, "-on=stand-in", "-systemd=247"), "ok ") // myapp runs, and is upgraded next
	if start := "on the stand-in for systemd 247 (package reexectest): asked for\n"; !strings.HasPrefix(said, start) {
		t.Errorf("got %q, want it to begin with %q", said, start)
	}
}
