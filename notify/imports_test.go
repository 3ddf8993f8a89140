// SPDX-License-Identifier: Apache-2.0

package notify_test

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A service that wants to say READY=1 takes nothing else with it: the package
// and its test kit import the standard library and golang.org/x/sys, for
// sockets that package net does not know (connected, bounded, vsock).
func TestImports(t *testing.T) {
	allowed := map[string]bool{"golang.org/x/sys/unix": true}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	kit, err := filepath.Glob("notifytest/*.go")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, name := range append(files, kit...) {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		checked++
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range file.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(path, "/")
			if standard := !strings.Contains(first, "."); !standard && !allowed[path] {
				t.Errorf("%s imports %s: only the standard library and golang.org/x/sys/unix are allowed", name, path)
			}
		}
	}
	if checked == 0 {
		t.Error("no source file found")
	}
}
