// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestExecutablePath(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "myapp"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	t.Setenv("PATH", "/nowhere:"+dir)
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, option, argv0 string
		want                string
		wantErr             string
	}{
		{name: "absolute argv[0]", argv0: "/usr/bin/myapp", want: "/usr/bin/myapp"},
		{name: "absolute argv[0] that is not clean", argv0: "/usr/../usr/bin/myapp", want: "/usr/../usr/bin/myapp"},
		{name: "option before argv[0]", option: "/opt/myapp", argv0: "/usr/bin/myapp", want: "/opt/myapp"},
		{name: "relative argv[0]", argv0: "./myapp", want: filepath.Join(dir, "myapp")},
		{name: "relative argv[0] of a file that is not there", argv0: "sub/myapp", want: filepath.Join(dir, "sub/myapp")},
		{name: "relative option", option: "bin/myapp", argv0: "/usr/bin/myapp", want: filepath.Join(dir, "bin/myapp")},
		{name: "bare argv[0]", argv0: "myapp", want: filepath.Join(dir, "myapp")},
		{name: "bare argv[0] that PATH does not have", argv0: "another", wantErr: `executable "another": executable file not found in $PATH: set Options.Executable`},
		{name: "empty argv[0]", wantErr: "argv[0] is empty: set Options.Executable"},
		{name: "empty argv[0] with an option", option: "/opt/myapp", want: "/opt/myapp"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := executable(c.option, c.argv0)
			switch {
			case c.wantErr != "":
				if err == nil || !strings.Contains(err.Error(), c.wantErr) {
					t.Fatalf("got %q, %v; want the error %q", got, err, c.wantErr)
				}
			case err != nil:
				t.Fatal(err)
			case got != c.want:
				t.Errorf("got %q, want %q", got, c.want)
			}
			// The file that runs is the old version by then.
			if got == self {
				t.Errorf("got %q, which is what /proc/self/exe names", got)
			}
		})
	}
}

// A link is kept as it is, so that switching it switches the version.
// The predecessor has resolved a relative argv[0], perhaps in another working
// directory.
func TestExecutablePathOfThePredecessor(t *testing.T) {
	t.Setenv(executableVariable, "/srv/app/myapp")
	for _, c := range []struct{ option, argv0, want string }{
		{"", "./myapp", "/srv/app/myapp"},
		{"", "", "/srv/app/myapp"},
		{"", "/usr/bin/myapp", "/usr/bin/myapp"},
		{"/opt/myapp", "./myapp", "/opt/myapp"},
	} {
		if got, err := executable(c.option, c.argv0); err != nil || got != c.want {
			t.Errorf("option %q, argv[0] %q: got %q, %v; want %q", c.option, c.argv0, got, err, c.want)
		}
	}
}

func TestExecutableLinkIsFollowedAtTheUpgrade(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "myapp")
	for _, version := range []string{"v1", "v2"} {
		copyProgram(t, filepath.Join(dir, version))
	}
	point := func(to string) {
		t.Helper()
		next := link + ".new"
		if err := os.Symlink(to, next); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, link); err != nil {
			t.Fatal(err)
		}
	}
	point("v1")
	path, err := executable("", link)
	if err != nil || path != link {
		t.Fatalf("got %q, %v; want the link itself", path, err)
	}
	for _, version := range []string{"v1", "v2"} {
		point(version)
		b, err := openBinary(path)
		if err != nil {
			t.Fatal(err)
		}
		defer b.close()
		// What was opened stays what it is, whatever becomes of the link.
		point("nowhere")
		got, err := b.file.Stat()
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.Stat(filepath.Join(dir, version))
		if err != nil {
			t.Fatal(err)
		}
		if !os.SameFile(got, want) {
			t.Errorf("the link led to another file than %s", version)
		}
	}
}

func TestOptionDefaults(t *testing.T) {
	t.Setenv("RUNTIME_DIRECTORY", "/run/first:/run/second")
	o, err := Options{Name: "myapp", Executable: "/x"}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if o.RuntimeDirectory != "/run/first" {
		t.Errorf("runtime directory %q, want the first of the list", o.RuntimeDirectory)
	}
	if o.CheckTimeout != 10*time.Second || o.StartTimeout != 30*time.Second || o.Probation != 5*time.Second ||
		o.Beat != 500*time.Millisecond || o.DrainTimeout != 30*time.Second || o.MaxDraining != 3 {
		t.Errorf("defaults differ from the documentation: %+v", o)
	}
	if o.Logger == nil || o.Downgrade != AllowDowngrade {
		t.Errorf("logger %v, downgrade %v: want a logger, and downgrades allowed", o.Logger, o.Downgrade)
	}
}

func TestOptionErrors(t *testing.T) {
	for _, c := range []struct {
		options Options
		want    string
	}{
		{Options{}, `Options.Name=""`},
		{Options{Name: "a/b"}, `Options.Name="a/b"`},
		{Options{Name: "a", Probation: -1}, "Options.Probation=-1ns: must not be negative"},
		{Options{Name: "a", CheckTimeout: -time.Second}, "Options.CheckTimeout=-1s: must not be negative"},
		{Options{Name: "a", Downgrade: 2}, "Options.Downgrade=2: must be AllowDowngrade or RefuseDowngrade"},
		{Options{Name: "a", Fingerprint: []byte("version")}, `Options.Fingerprint: embedded fingerprint: line 1: "version": must be key=value`},
		{Options{Name: "a", MaxDraining: -1}, "Options.MaxDraining=-1: must not be negative"},
		{Options{Name: "a", RuntimeDirectory: "run"}, `runtime directory "run": must be an absolute path`},
	} {
		if _, err := New(c.options); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("New(%+v): %v, want %q", c.options, err, c.want)
		}
	}
}

// Options.Version has the last word, then the embedded file, then the build.
func TestVersionOfTheBuild(t *testing.T) {
	for _, c := range []struct {
		version, embedded string
		want, ofTheBuild  string
	}{
		{"", "", "unknown", ""}, // go test stamps no version
		{"", "revision=3f2a9c1e5b7d3f2a", "3f2a9c1e5b7d", ""},
		{"", "version=1.4.0-2", "1.4.0-2", "1.4.0-2"},
		{"blue", "version=1.4.0-2", "blue", "blue"},
	} {
		o := Options{Version: c.version, Fingerprint: []byte(c.embedded)}
		f, err := o.build()
		if err != nil || o.Version != c.want || f.Version != c.ofTheBuild || f.Program == "" {
			t.Errorf("version %q, embedded %q: version %q, fingerprint %+v, %v; want %q, %q", c.version, c.embedded, o.Version, f, err, c.want, c.ofTheBuild)
		}
	}
}
