// SPDX-License-Identifier: Apache-2.0

package units_test

import (
	"os/exec"
	"strings"
	"testing"
)

// The command runs at every reload inside the service's sandbox. It speaks the
// control protocol, so that it need not and must not link what makes an upgrade. What
// else it links is for those that ask systemd, and read metrics; notify is for serve,
// which is a service itself.
func TestCommandImports(t *testing.T) {
	const module = "github.com/holdfast-go/holdfast"
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}} {{.Module.Path}}{{end}}", module+"/units/cmd/holdfast").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	allowed := map[string]string{
		module:                               "itself",
		"github.com/godbus/dbus/v5":          "systemd",
		"golang.org/x/sys":                   "locks of the journal",
		"github.com/prometheus/common":       "the text format of metrics",
		"github.com/prometheus/client_model": "of that",
		"github.com/munnerz/goautoneg":       "of that",
		"google.golang.org/protobuf":         "of that",
	}
	for line := range strings.Lines(string(out)) {
		pkg, from, _ := strings.Cut(strings.TrimSpace(line), " ")
		if allowed[from] == "" {
			t.Errorf("depends on %s of %s", pkg, from)
		}
		for _, service := range []string{"/reexec", "/activation"} {
			if pkg == module+service {
				t.Errorf("depends on %s, which is for the service", pkg)
			}
		}
	}
}
