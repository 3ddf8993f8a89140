// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestTrailer(t *testing.T) {
	t.Parallel()
	want := trailer{Version: "2.0 \"ä\"", Crash: true, Slow: time.Second, StopFile: "/tmp/x"}
	for _, before := range []string{"", "\x7fELF and so on"} {
		got, err := decodeTrailer(bytes.NewReader(append([]byte(before), want.encode()...)))
		if err != nil || *got != want {
			t.Errorf("behind %q: %+v, %v; want %+v", before, got, err, want)
		}
	}
	whole := want.encode()
	for _, text := range []string{"", "short", strings.Repeat("x", 1000), string(whole[1:]), string(whole[:len(whole)-1])} {
		if got, err := decodeTrailer(strings.NewReader(text)); err == nil && *got == want {
			t.Errorf("%q has a trailer: %+v", text, got)
		}
	}
	if readTrailer("/proc/self/exe") != nil || InstalledVersion() != "" {
		t.Error("the test itself has a trailer")
	}
}

func TestInstall(t *testing.T) {
	t.Parallel()
	target := filepath.Join(t.TempDir(), "usr/bin/program")
	// Each follows every other, so that files replace directories and so on.
	kinds := []struct {
		program Program
		mode    os.FileMode // 0 for none
	}{
		{Version("1"), 0o755},
		{Directory(), os.ModeDir | 0o755},
		{File("/bin/true"), 0o755},
		{Missing(), 0},
		{Text("hello").WithMode(0o644), 0o644},
		{Directory(), os.ModeDir | 0o755},
		{Missing(), 0},
		{Missing(), 0},
		{Directory(), os.ModeDir | 0o755},
		{Text("hello"), 0o755},
		{Version("2").WithMode(0o700), 0o700},
	}
	for _, k := range kinds {
		if err := k.program.install(t.Context(), target); err != nil {
			t.Fatalf("%v: %v", k.program, err)
		}
		info, err := os.Lstat(target)
		if k.mode == 0 {
			if !os.IsNotExist(err) {
				t.Errorf("%v: %v, %v", k.program, info, err)
			}
			continue
		}
		if err != nil || info.Mode() != k.mode {
			t.Errorf("%v: %v, %v; want mode %v", k.program, info.Mode(), err, k.mode)
		}
	}
	if got := readTrailer(target); got == nil || got.Version != "2" {
		t.Errorf("trailer %+v, want version 2", got)
	}
	left, err := os.ReadDir(filepath.Dir(target))
	if err != nil || len(left) != 1 {
		t.Errorf("beside the program: %v, %v", left, err)
	}
}

// A file that was just installed can be executed, whatever else forks.
func TestInstallAndExecute(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var others, all sync.WaitGroup
	done := make(chan struct{})
	others.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = exec.Command("/bin/true").Run()
			}
		}
	})
	for _, name := range []string{"a", "b"} {
		all.Go(func() {
			target := filepath.Join(dir, name)
			for range 30 {
				if err := File("/bin/true").install(t.Context(), target); err != nil {
					t.Error(err)
				}
				if err := exec.Command(target).Run(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	close(done)
	others.Wait()
}

func TestBuild(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte("package main\n\nvar version string\n\nfunc main() { print(version) }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for _, version := range []string{"1", "2"} {
		for _, name := range []string{"a", "b"} {
			all.Go(func() {
				target := filepath.Join(dir, name+version)
				if err := Build(source, "-ldflags=-X main.version="+version).install(t.Context(), target); err != nil {
					t.Error(err)
					return
				}
				if out, err := exec.Command(target).CombinedOutput(); err != nil || string(out) != version {
					t.Errorf("%s: %q, %v", target, out, err)
				}
			})
		}
	}
	all.Wait()
	if err := Build(filepath.Join(dir, "none.go")).install(t.Context(), filepath.Join(dir, "c")); err == nil || !strings.Contains(err.Error(), "none.go") {
		t.Errorf("building what is not there: %v", err)
	}
}

func TestProgramErrors(t *testing.T) {
	t.Parallel()
	if err := File("/bin/true").Crashing().install(t.Context(), filepath.Join(t.TempDir(), "x")); err == nil {
		t.Error("a file of the host was made to crash")
	}
	if err := File("/does/not/exist").install(t.Context(), filepath.Join(t.TempDir(), "x")); !os.IsNotExist(err) {
		t.Errorf("a file that does not exist: %v", err)
	}
}
