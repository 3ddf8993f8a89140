// SPDX-License-Identifier: Apache-2.0

package units_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/units"
)

// hostSystemd is the version of systemd-analyze here. Without it the tests
// skip, but not as root, who can install it.
func hostSystemd(t *testing.T) int {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "--version").Output()
	if err != nil {
		if os.Geteuid() == 0 {
			t.Fatalf("systemd-analyze is needed (install the package systemd): %v", err)
		}
		t.Skipf("systemd-analyze is not here and only root can install it: %v", err)
	}
	fields := strings.Fields(string(out))
	if len(fields) < 2 {
		t.Fatalf("systemd-analyze --version: %q", out)
	}
	version, err := strconv.Atoi(strings.FieldsFunc(fields[1], func(r rune) bool { return r < '0' || r > '9' })[0])
	if err != nil {
		t.Fatalf("systemd-analyze --version: %v", err)
	}
	return version
}

// analyze runs systemd-analyze and returns all that it says.
func analyze(ctx context.Context, t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(ctx, "systemd-analyze", args...)
	// The manager of a user looks there, and neither the host's units nor the
	// caller's are asked about.
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir(), "SYSTEMD_LOG_LEVEL=info", "SYSTEMD_COLORS=0")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// writeUnits renders o with programs that exist, which verify looks for.
func writeUnits(t *testing.T, o units.Options) []string {
	t.Helper()
	o.Exec, o.Holdfast, o.ExecDirectories = "/usr/bin/true", "/usr/bin/true", nil
	o.Documentation = []string{"https://example.org/"} // man pages are looked for too
	dir := t.TempDir()
	var paths []string
	for _, f := range render(t, o) {
		// A template is verified as its instance 1: systemd would invent one.
		path := filepath.Join(dir, strings.Replace(f.Name, "@.", "@1.", 1))
		if err := os.WriteFile(path, []byte(f.Content), 0o644); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

// systemd itself reads every unit that is rendered for it or for an older
// version, without a word of complaint.
func TestSystemdVerifies(t *testing.T) {
	host := hostSystemd(t)
	verified := 0
	for name, o := range matrix() {
		if o.Systemd > host {
			continue
		}
		verified++
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := []string{"verify", "--man=no"}
			if host >= 250 {
				args = append(args, "--recursive-errors=no")
			}
			if o.User {
				args = append(args, "--user")
			}
			out, err := analyze(t.Context(), t, append(args, writeUnits(t, o)...)...)
			if err != nil || strings.Contains(out, "myapp") {
				t.Errorf("systemd-analyze verify: %v\n%s", err, out)
			}
		})
	}
	if verified == 0 {
		t.Errorf("no case is for systemd %d or older", host)
	}
}

// The verification would see a fault: it complains about an option that
// systemd does not know.
func TestSystemdVerifyComplains(t *testing.T) {
	hostSystemd(t)
	paths := writeUnits(t, with(small(), func(o *units.Options) { o.ServiceLines = []string{"NoSuchOption=yes"} }))
	if out, err := analyze(t.Context(), t, append([]string{"verify", "--man=no"}, paths...)...); !strings.Contains(out, "NoSuchOption") {
		t.Errorf("systemd-analyze verify said nothing about NoSuchOption=: %v\n%s", err, out)
	}
}

var exposureRE = regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)

func TestExposure(t *testing.T) {
	host := hostSystemd(t)
	if host < 250 {
		t.Skipf("systemd-analyze security --offline= is of 250, this is %d", host)
	}
	for name, o := range matrix() {
		// The manager of a user may harden little.
		if o.Systemd > host || o.User {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := analyze(t.Context(), t, "security", "--offline=true", "--no-pager", "--threshold=20", writeUnits(t, o)[0])
			m := exposureRE.FindStringSubmatch(out)
			if m == nil {
				t.Fatalf("systemd-analyze security: %v\n%s", err, out)
			}
			exposure, parseErr := strconv.ParseFloat(m[1], 64)
			if parseErr != nil {
				t.Fatal(parseErr)
			}
			t.Logf("exposure %.1f", exposure)
			if err != nil || exposure >= 2.0 {
				t.Errorf("exposure %.1f, want less than 2.0: %v\n%s", exposure, err, out)
			}
		})
	}
}
