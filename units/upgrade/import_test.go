// SPDX-License-Identifier: Apache-2.0

package upgrade_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The helper speaks to systemd through package bus and to a service through its
// control socket. It must not link what makes an upgrade, and nothing else may speak D-Bus.
func TestImports(t *testing.T) {
	const module = "github.com/holdfast-go/holdfast/"
	for pkg, want := range map[string][]string{
		"units/bus":     {"github.com/godbus/dbus/v5"},
		"units/upgrade": {module + "reexec/control", module + "units/bus", "github.com/prometheus/common/expfmt", "github.com/prometheus/common/model", "golang.org/x/sys/unix"},
	} {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-f", `{{join .Imports "\n"}}`, module+pkg).Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		got := slices.DeleteFunc(strings.Fields(string(out)), func(path string) bool { return !strings.Contains(path, ".") })
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s imports %q, want %q", pkg, got, want)
		}
	}
}
