// SPDX-License-Identifier: Apache-2.0

package units_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The command runs at every reload inside the service's sandbox. It speaks the
// control protocol, so that it need not and must not link what makes an
// upgrade.
func TestCommandImports(t *testing.T) {
	const module = "github.com/holdfast-go/holdfast"
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", module+"/units/cmd/holdfast").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	got := strings.Fields(string(out))
	slices.Sort(got)
	want := []string{module + "/reexec/control", module + "/reexec/control/command", module + "/reexec/control/command/term", module + "/reexec/fingerprint", module + "/reexec/internal/lastgood", module + "/units", module + "/units/cmd/holdfast", module + "/units/versions"}
	if !slices.Equal(got, want) {
		t.Errorf("depends on %q, want %q", got, want)
	}
}
