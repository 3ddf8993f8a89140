// SPDX-License-Identifier: Apache-2.0

package unit_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
)

// rendered reads one of the files in which package units keeps what it renders.
func rendered(t *testing.T, path string) []unit.File {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var files []unit.File
	header := regexp.MustCompile(`(?m)^==> (\S+) <==\n`)
	text := string(b)
	at := header.FindAllStringSubmatchIndex(text, -1)
	for i, m := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		files = append(files, unit.File{Name: text[m[2]:m[3]], Text: text[m[1]:end]})
	}
	if len(files) == 0 {
		t.Fatalf("%s has no units", path)
	}
	return files
}

// Everything that package units renders is loaded, by the version that it is
// rendered for and by each that is newer.
func TestLoadRendered(t *testing.T) {
	paths, err := filepath.Glob("../../../../units/testdata/*.golden")
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) < 40 {
		t.Fatalf("there are %d rendered units, want those of package units", len(paths))
	}
	version := regexp.MustCompile(`-(\d+)\.golden$`)
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".golden"), func(t *testing.T) {
			t.Parallel()
			m := version.FindStringSubmatch(path)
			if m == nil {
				t.Fatalf("%s does not tell its version", path)
			}
			from, err := strconv.Atoi(m[1])
			if err != nil {
				t.Fatal(err)
			}
			files := rendered(t, path)
			instance, sockets := "", 0
			for _, f := range files {
				if strings.HasSuffix(f.Name, "@.service") {
					instance = "7"
				}
				if strings.HasSuffix(f.Name, ".socket") {
					sockets++
				}
			}
			for systemd := from; systemd <= unit.NewestSystemd; systemd++ {
				set, err := unit.Load(unit.Options{
					Systemd: systemd, Files: files, Instance: instance,
					Specifiers: unit.Specifiers{Runtime: "/srv/r/run"},
				})
				if err != nil {
					t.Fatalf("for systemd %d: %v", systemd, err)
				}
				if len(set.Sockets) != sockets {
					t.Errorf("for systemd %d: %d sockets, want %d", systemd, len(set.Sockets), sockets)
				}
				if len(set.Warnings) > 0 {
					t.Errorf("for systemd %d: %v", systemd, set.Warnings)
				}
				s := set.Service
				want := "/srv/r/run/" + strings.TrimSuffix(s.Name, ".service") + "/main.pid"
				if strings.HasPrefix(filepath.Base(path), "in-place-") || strings.HasPrefix(filepath.Base(path), "restart-") {
					want = "" // there is no second version that it could name
				}
				if s.PIDFile != want {
					t.Errorf("PIDFile=%s, want %s", s.PIDFile, want)
				}
				if s.StartLimitInterval != 0 {
					t.Errorf("StartLimitIntervalSec=%v, want 0", s.StartLimitInterval)
				}
			}
		})
	}
}

func TestLoadRenderedTemplate(t *testing.T) {
	set, err := unit.Load(unit.Options{
		Systemd: 252, Instance: "7", Files: rendered(t, "../../../../units/testdata/template-exec-reload-252.golden"),
		Relocate:   func(path string) string { return "/root" + path },
		Specifiers: unit.Specifiers{Runtime: "/root/run"},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := set.Service
	if want := "My 100% app (7)"; s.Description != want {
		t.Errorf("Description=%q, want %q", s.Description, want)
	}
	want := []string{"/usr/bin/holdfast", "launch", "--state=/var/lib/myapp@7.holdfast", "--", "/usr/bin/myapp", "-log", "a b", `c"d\e`, "50%", "$HOME", "", ";"}
	if got := s.ExecStart[0].Expand([]string{"HOME=/home"}); !slices.Equal(got, want) {
		t.Errorf("ExecStart=%q, want %q", got, want)
	}
	if s.TimeoutStart != 87500*time.Millisecond || s.Watchdog != 30*time.Second || s.FileDescriptorStoreMax != 64 {
		t.Errorf("times %v %v, FileDescriptorStoreMax=%d", s.TimeoutStart, s.Watchdog, s.FileDescriptorStoreMax)
	}
	if len(s.EnvironmentFiles) != 1 || s.EnvironmentFiles[0] != (unit.EnvironmentFile{Path: "/root/etc/default/myapp", Optional: true}) {
		t.Errorf("EnvironmentFile=%v", s.EnvironmentFiles)
	}
	if s.PIDFile != "/root/run/myapp@7/main.pid" {
		t.Errorf("PIDFile=%s", s.PIDFile)
	}
	for _, socket := range set.Sockets {
		if socket.Service != "myapp@7.service" || socket.Instance != "7" {
			t.Errorf("%s: Service=%s, instance %q", socket.Name, socket.Service, socket.Instance)
		}
	}
}
