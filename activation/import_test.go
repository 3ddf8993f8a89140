// SPDX-License-Identifier: Apache-2.0

package activation_test

import (
	"os/exec"
	"strings"
	"testing"
)

// A service that only wants its sockets must not have to take over anything else: this package and the helper for
// tests depend on the standard library and on golang.org/x/sys, for the system calls that package syscall lacks.
// go-systemd/activation is not among them: its Files can be used once in a process, and its Listeners hides errors.
func TestImports(t *testing.T) {
	const module = "github.com/holdfast-go/holdfast/activation"
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", module+"/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	packages := strings.Fields(string(out))
	if len(packages) < 4 {
		t.Fatalf("go list found only %q", packages)
	}
	for _, pkg := range packages {
		if !strings.HasPrefix(pkg, module) && !strings.HasPrefix(pkg, "golang.org/x/sys/") {
			t.Errorf("depends on %s", pkg)
		}
	}

	// Package testing registers flags and belongs to no service.
	out, err = exec.Command("go", "list", "-deps", module).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for _, pkg := range strings.Fields(string(out)) {
		if pkg == "testing" || pkg == module+"/activationtest" {
			t.Errorf("a service would link %s", pkg)
		}
	}
}
