// SPDX-License-Identifier: Apache-2.0

package rpm

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// spec is a spec file with lines in it.
func spec(lines string) string {
	return "Name: web\nVersion: 1\nRelease: 1\nSummary: example\nLicense: Apache-2.0\nBuildArch: noarch\n%{?holdfast_requires}\n" +
		"%description\nAn example.\n" + lines + "\n%files\n"
}

// rpm runs a program of rpm with the macros, as if they were installed.
func rpm(t *testing.T, program string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		if os.Getuid() == 0 {
			t.Fatalf("%v: run packaging/install", err)
		}
		t.Skipf("%v: sudo packaging/install", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, slices.Concat([]string{"--load=macros.holdfast"}, args)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

var scriptlets = []string{"pre", "post", "preun", "postun", "posttrans"}

// build returns the file of a package whose spec file has lines.
func build(t *testing.T, lines string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "web.spec")
	if err := os.WriteFile(path, []byte(spec(lines)), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := rpm(t, "rpmbuild", "--quiet", "--define=_topdir "+dir, "-bb", path); err != nil {
		t.Fatalf("rpmbuild: %v\n%s", err, out)
	}
	return filepath.Join(dir, "RPMS/noarch/web-1-1.noarch.rpm")
}

// query asks about a file of a package.
func query(t *testing.T, file string, args ...string) string {
	t.Helper()
	out, err := rpm(t, "rpm", slices.Concat([]string{"-qp"}, args, []string{file})...)
	if err != nil {
		t.Fatalf("rpm -qp %q: %v\n%s", args, err, out)
	}
	return out
}

// One line is all five scriptlets, and each of the five can be written beside others.
func TestMacros(t *testing.T) {
	var five strings.Builder
	for _, s := range scriptlets {
		five.WriteString("%" + s + "\n%holdfast_" + s + " one.service two\necho after\n")
	}
	for name, c := range map[string]struct {
		lines string
		own   bool
	}{
		"one line":   {"%holdfast_scriptlets one.service two", false},
		"five lines": {five.String(), true},
	} {
		t.Run(name, func(t *testing.T) {
			file := build(t, c.lines)
			requires := query(t, file, "--qf=[%{REQUIRES} %{REQUIREFLAGS:deptype}\n]")
			for _, want := range []string{"manual", "pre", "post", "preun", "postun", "posttrans"} {
				if !regexp.MustCompile(`(?m)^holdfast (.*,)?` + want + `(,.*)?$`).MatchString(requires) {
					t.Errorf("the package does not require holdfast (%s):\n%s", want, requires)
				}
			}
			for _, s := range scriptlets {
				tag := map[string]string{"pre": "PREIN", "post": "POSTIN", "preun": "PREUN", "postun": "POSTUN", "posttrans": "POSTTRANS"}[s]
				for _, status := range []string{"0", "3"} {
					// The scriptlet runs with a library that writes down how it was called.
					library := filepath.Join(t.TempDir(), "package")
					if err := os.WriteFile(library, []byte("#!/bin/sh\necho \"$@\"\nexit "+status+"\n"), 0o755); err != nil {
						t.Fatal(err)
					}
					text := strings.ReplaceAll(query(t, file, "--qf=%{"+tag+"}"), "/usr/libexec/holdfast/package", library)
					out, err := exec.CommandContext(t.Context(), "sh", "-c", text, "sh", "2").Output()
					want := "rpm " + s + " one 2\nrpm " + s + " two 2\n"
					if c.own && status == "0" {
						want += "after\n"
					}
					if string(out) != want || (err == nil) != (status == "0") {
						t.Errorf("%s with a library that ends with %s: %v, wrote %q, want %q\n%s", s, status, err, out, want, text)
					}
					if err := os.Remove(library); err != nil {
						t.Fatal(err)
					}
					if out, err := exec.CommandContext(t.Context(), "sh", "-ec", text, "sh", "0").CombinedOutput(); err != nil {
						t.Errorf("%s without the library: %v\n%s", s, err, out)
					}
				}
			}
		})
	}
}

func TestMacrosNeedServices(t *testing.T) {
	for _, macro := range append([]string{"scriptlets"}, scriptlets...) {
		path := filepath.Join(t.TempDir(), "web.spec")
		if err := os.WriteFile(path, []byte(spec("%post\n%holdfast_"+macro)), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := rpm(t, "rpmspec", "-P", path)
		if want := "name the services, as in %holdfast_"; err == nil || !strings.Contains(out, want) {
			t.Errorf("%%holdfast_%s without a service: %v, want %q\n%s", macro, err, want, out)
		}
	}
}
