// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"os/exec"
	"strings"
	"testing"
)

// The protocol is for any client, so that speaking it must cost nothing: this
// package depends on the standard library only, and the type of a fingerprint,
// which does so, too. The command, which runs at every reload and at every start,
// depends on them and the record that a start looks at.
func TestImports(t *testing.T) {
	const (
		module = "github.com/holdfast-go/holdfast/reexec/control"
		build  = "github.com/holdfast-go/holdfast/reexec/fingerprint"
		screen = module + "/command/term"
		record = "github.com/holdfast-go/holdfast/reexec/internal/lastgood"
	)
	for pkg, want := range map[string]string{
		module:              build + "\n" + module,
		module + "/command": build + "\n" + module + "\n" + screen + "\n" + record + "\n" + module + "/command",
	} {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", pkg).Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		if got := strings.TrimSpace(string(out)); got != want {
			t.Errorf("%s depends on %q, want only %q and the standard library", pkg, got, want)
		}
	}
}
