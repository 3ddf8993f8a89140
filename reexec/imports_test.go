// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A service takes this package into its process, so it stays small: the
// standard library, golang.org/x/sys for what package syscall lacks, and the two
// packages of this module below it. Never package units, and never D-Bus: the
// service does not talk to systemd that way (see the design of the reload command).
// Only counters and metrics, which a service imports for what it shows to Prometheus, have
// its client library, counters also the types of metrics that it brings, and metrics its
// handler: a service without them gets none of it.
func TestImports(t *testing.T) {
	const module = "github.com/holdfast-go/holdfast"
	allowed := []string{
		"golang.org/x/sys",
		module + "/activation", module + "/notify", module + "/reexec",
	}
	prometheus := []string{
		"github.com/prometheus/client_golang/prometheus", "github.com/prometheus/client_model/go",
		"google.golang.org/protobuf/types/known/timestamppb",
	}
	checked := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			// A module of its own, for an example.
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil {
				return filepath.SkipDir
			}
		}
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		checked++
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			ok := false
			if first, _, _ := strings.Cut(name, "/"); !strings.Contains(first, ".") {
				ok = true
			}
			for _, prefix := range allowed {
				ok = ok || name == prefix || strings.HasPrefix(name, prefix+"/")
			}
			switch filepath.Dir(path) {
			case "config", "fingerprint": // can be used alone
				first, _, _ := strings.Cut(name, "/")
				ok = !strings.Contains(first, ".")
			case "counters":
				ok = ok || slices.Contains(prometheus, name)
			case "metrics":
				ok = ok || name == prometheus[0] || name == prometheus[0]+"/promhttp"
			case "reexectest/examples/counters":
				ok = ok || strings.HasPrefix(name, prometheus[0])
			default:
				ok = ok && name != module+"/reexec/counters" && name != module+"/reexec/metrics"
			}
			// The stand-in for systemd reads unit files with what "holdfast check" reads them
			// with. It imports no more than golang.org/x/sys.
			if name == module+"/units/unitfile" {
				ok = strings.HasPrefix(path, "reexectest/internal/")
			}
			// Test kits are for tests and for each other.
			if strings.HasSuffix(name, "test") && strings.HasPrefix(name, module) {
				ok = strings.HasPrefix(path, "reexectest/")
			}
			if !ok {
				t.Errorf("%s imports %s: allowed are the standard library and %s", path, name, strings.Join(allowed, ", "))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if checked < 10 {
		t.Errorf("%d source files found", checked)
	}
}
