// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// answer is what a check says.
type answer struct {
	Name, Version, Error string
	Versions             struct{ Oldest, Latest int }
}

// runPlan runs one process of the service to its end. It gets a pipe as
// descriptor 3.
func runPlan(t *testing.T, p plan, environ ...string) (code int, output, piped string) {
	t.Helper()
	dir := t.TempDir()
	p.Directory = dir
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "plan"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"=service", planVariable+"="+filepath.Join(dir, "plan"), "GORACE=atexit_sleep_ms=0")
	cmd.Env = append(cmd.Env, environ...)
	cmd.ExtraFiles = []*os.File{w}
	out, err := cmd.CombinedOutput()
	_ = w.Close()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	said, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.sock")); err != nil || len(left) > 0 {
		t.Errorf("it has made %v, %v", left, err)
	}
	return cmd.ProcessState.ExitCode(), string(out), string(said)
}

// A check answers where it is told to, does nothing else, and ends.
func TestCheckMode(t *testing.T) {
	t.Parallel()
	good, bad := quick(), quick()
	bad.Check = "exit: no such colour"
	for _, c := range []struct {
		name  string
		plan  plan
		code  int
		error string
	}{
		{"good", good, 0, ""},
		{"bad", bad, 1, "no such colour"},
	} {
		for _, byHand := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, by hand %t", c.name, byHand), func(t *testing.T) {
				t.Parallel()
				var code int
				var said string
				p := c.plan
				if byHand {
					p.CheckOnly = true
					code, said, _ = runPlan(t, p)
				} else {
					code, _, said = runPlan(t, p, "HOLDFAST_CHECK=3")
				}
				var a answer
				if err := json.Unmarshal([]byte(said), &a); err != nil {
					t.Fatalf("it says %q: %v", said, err)
				}
				if code != c.code || a.Error != c.error || a.Name != "service" || a.Version != "v1" || a.Versions.Latest < 1 {
					t.Errorf("exit status %d, %+v; want %d, %q", code, a, c.code, c.error)
				}
			})
		}
	}
}

// A process that was started to check never serves, even if it does not
// understand how.
func TestUnknownCheckValues(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"", "yes", "2", "-3", "3,4", "99999999999"} {
		code, output, _ := runPlan(t, quick(), "HOLDFAST_CHECK="+value)
		if want := fmt.Sprintf("HOLDFAST_CHECK=%q: must be a descriptor from 3 on", value); code != 1 || !strings.Contains(strings.ReplaceAll(output, `\`, ""), want) {
			t.Errorf("HOLDFAST_CHECK=%q: exit status %d, %s; want 1, %s", value, code, output, want)
		}
	}
	if code, output, _ := runPlan(t, quick(), "HOLDFAST_CHECK=1000"); code != 1 || !strings.Contains(output, "answer the check") {
		t.Errorf("a descriptor that is not open: exit status %d, %s", code, output)
	}
}
