// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// mode is the mode of a file below the root; 0 if there is none.
func (r *running) mode(path string) fs.FileMode {
	r.t.Helper()
	info, err := os.Lstat(filepath.Join(r.root, path))
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return info.Mode()
}

func TestDirectories(t *testing.T) {
	r := runUnits(t, wire.Config{}, "a.service", `
[Service]
Type=notify
RuntimeDirectory=r/deep
RuntimeDirectoryMode=0700
StateDirectory=s:link
StateDirectoryMode=0750
CacheDirectory=c
LogsDirectory=l
ConfigurationDirectory=e
UMask=0077
ExecStart=/usr/bin/tool notify:READY=1 wait
`)
	if err := os.Mkdir(filepath.Join(r.root, "var/lib/s"), 0o777); err != nil {
		t.Fatal(err)
	}
	r.job(wire.Start, wire.Done)
	for path, want := range map[string]fs.FileMode{
		"run/r": fs.ModeDir | 0o755, "run/r/deep": fs.ModeDir | 0o700, "var/lib/s": fs.ModeDir | 0o750,
		"var/lib/link": fs.ModeSymlink | 0o777, "var/cache/c": fs.ModeDir | 0o755, "var/log/l": fs.ModeDir | 0o755, "etc/e": fs.ModeDir | 0o755,
	} {
		if got := r.mode(path); got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
	r.job(wire.Restart, wire.Done)
	r.job(wire.Stop, wire.Done)
	if r.mode("run/r/deep") != 0 || r.mode("var/lib/s") == 0 {
		t.Error("the runtime directory is to go with the service, and no other")
	}
	r.call(wire.Request{Verb: wire.Clean, What: []string{"state", "logs"}})
	if r.mode("var/lib/s") != 0 || r.mode("var/lib/link") != 0 || r.mode("var/log/l") != 0 || r.mode("var/cache/c") == 0 {
		t.Error("clean is to remove what it is told, and no more")
	}
	r.call(wire.Request{Verb: wire.Clean, What: []string{"all"}})
	if r.mode("var/cache/c") != 0 || r.mode("etc/e") != 0 {
		t.Error("something is left")
	}
	for _, what := range []string{"dust", ""} {
		var refused *wire.Error
		if _, err := r.client.Call(t.Context(), wire.Request{Verb: wire.Clean, What: []string{what}}); !errors.As(err, &refused) || refused.Name != wire.ErrInvalidArgs {
			t.Errorf("clean %q: %v", what, err)
		}
	}
}

func TestRuntimeDirectoryIsKept(t *testing.T) {
	for preserve, kept := range map[string][2]bool{"no": {false, false}, "restart": {true, false}, "yes": {true, true}} {
		r := runUnits(t, wire.Config{}, "a.service", `
[Service]
Type=notify
RuntimeDirectory=r
RuntimeDirectoryPreserve=`+preserve+`
ExecStart=/usr/bin/tool notify:READY=1 wait
`)
		r.job(wire.Start, wire.Done)
		if err := os.WriteFile(filepath.Join(r.root, "run/r/f"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		r.job(wire.Restart, wire.Done)
		if got := r.mode("run/r/f") != 0; got != kept[0] {
			t.Errorf("%s: kept across a restart: %v", preserve, got)
		}
		r.job(wire.Stop, wire.Done)
		if got := r.mode("run/r") != 0; got != kept[1] {
			t.Errorf("%s: kept across a stop: %v", preserve, got)
		}
	}
}

func TestRelocate(t *testing.T) {
	m := &manager{config: wire.Config{Root: "/tmp/root"}}
	for path, want := range map[string]string{
		"/run/a": "/tmp/root/run/a", "/run": "/tmp/root/run", "/var/run/a": "/tmp/root/run/a", "/var/lib/a": "/tmp/root/var/lib/a",
		"/etc/a": "/tmp/root/etc/a", "/tmp/root/run/a": "/tmp/root/run/a", "/tmp/root": "/tmp/root",
		"/runner/a": "/runner/a", "/srv/a": "/srv/a", "/tmp/rooted/run": "/tmp/rooted/run",
	} {
		if got := m.relocate(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
