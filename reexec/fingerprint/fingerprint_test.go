// SPDX-License-Identifier: Apache-2.0

package fingerprint

import (
	"encoding/json"
	"os"
	"reflect"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

var committed = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func TestOf(t *testing.T) {
	setting := func(kv ...string) (list []debug.BuildSetting) {
		for i := 0; i < len(kv); i += 2 {
			list = append(list, debug.BuildSetting{Key: kv[i], Value: kv[i+1]})
		}
		return list
	}
	for _, c := range []struct {
		name string
		info debug.BuildInfo
		want Fingerprint
		text string
	}{
		{
			"release",
			debug.BuildInfo{
				GoVersion: "go1.26.0", Path: "example.com/app/cmd/app", Main: debug.Module{Path: "example.com/app", Version: "v1.4.0"},
				Settings: setting("-tags", "netgo,osusergo", "vcs.revision", "3f2a9c1e5b7d3f2a9c1e5b7d3f2a9c1e5b7d3f2a", "vcs.time", "2026-11-30T12:00:00Z", "vcs.modified", "true"),
			},
			Fingerprint{
				Program: "example.com/app/cmd/app", Module: "example.com/app", Version: "v1.4.0",
				Revision: "3f2a9c1e5b7d3f2a9c1e5b7d3f2a9c1e5b7d3f2a", Modified: true, Built: committed,
				Tags: []string{"netgo", "osusergo"}, Go: "go1.26.0",
			},
			"v1.4.0 (3f2a9c1, modified)",
		},
		{
			"working tree without version control",
			debug.BuildInfo{GoVersion: "go1.26.0", Path: "example.com/app", Main: debug.Module{Path: "example.com/app", Version: "(devel)"}},
			Fingerprint{Program: "example.com/app", Module: "example.com/app", Go: "go1.26.0"},
			"unknown",
		},
		{
			"revision alone",
			debug.BuildInfo{Path: "example.com/app", Settings: setting("vcs.revision", "3f2a9c1e5b7d3f2a", "vcs.modified", "false")},
			Fingerprint{Program: "example.com/app", Revision: "3f2a9c1e5b7d3f2a"},
			"3f2a9c1e5b7d",
		},
		{
			"pseudo-version, which says it all",
			debug.BuildInfo{
				Path: "example.com/app", Main: debug.Module{Version: "v0.0.0-20261130120000-3f2a9c1e5b7d+dirty"},
				Settings: setting("vcs.revision", "3f2a9c1e5b7d3f2a", "vcs.modified", "true"),
			},
			Fingerprint{Program: "example.com/app", Version: "v0.0.0-20261130120000-3f2a9c1e5b7d+dirty", Revision: "3f2a9c1e5b7d3f2a", Modified: true},
			"v0.0.0-20261130120000-3f2a9c1e5b7d+dirty",
		},
		{
			"hostile",
			debug.BuildInfo{Path: "example.com/app", Main: debug.Module{Version: "v1\x1b[2J\n" + strings.Repeat("9", 1000)}},
			Fingerprint{Program: "example.com/app", Version: "v1\ufffd[2J\ufffd" + strings.Repeat("9", maxText-11)},
			"v1\ufffd[2J\ufffd" + strings.Repeat("9", maxText-11),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Of(&c.info)
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
			if got.String() != c.text {
				t.Errorf("it is written %q, want %q", got, c.text)
			}
		})
	}
}

// What the running program says of itself, and what is read from its file, is the
// same.
func TestSelfAndFile(t *testing.T) {
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	got, err := OfFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, self) || self.Go != runtime.Version() || !strings.HasSuffix(self.Program, "fingerprint.test") {
		t.Errorf("the file is %+v, the process %+v", got, self)
	}
	if !self.SameProgram(got) {
		t.Error("it is not the same program as itself")
	}
	if _, err := OfFile(strings.NewReader("#!/bin/sh\n")); err == nil {
		t.Error("a script has a fingerprint")
	}
}

func TestSameProgram(t *testing.T) {
	a, b := Fingerprint{Program: "example.com/a", Version: "v1"}, Fingerprint{Program: "example.com/b", Version: "v1"}
	if !a.SameProgram(Fingerprint{Program: "example.com/a", Version: "v2"}) || a.SameProgram(b) {
		t.Error("the path of the main package does not decide")
	}
	if (Fingerprint{}).SameProgram(Fingerprint{}) {
		t.Error("two programs without a name are the same")
	}
}

// Whatever another program says of itself is bounded and can be printed, and what
// was bounded stays as it is.
func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"program":"example.com/app","version":"v1.4.0","built":"2026-11-30T12:00:00Z","tags":["a"]}`))
	f.Add([]byte(`{"program":"\u0000\u001b[2J\n","tags":["` + strings.Repeat(`x","`, 100) + `"]}`))
	f.Add([]byte(`{"built":"no time"}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var a, b Fingerprint
		if json.Unmarshal(data, &a) != nil {
			return
		}
		if len(a.Tags) > maxTags {
			t.Errorf("%d tags", len(a.Tags))
		}
		for _, text := range append(a.Tags, a.Program, a.Module, a.Version, a.Revision, a.Go, a.String()) {
			if len(text) > 2*maxText || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("text %q", text)
			}
		}
		again, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(again, &b); err != nil {
			t.Fatal(err)
		}
		if again2, err := json.Marshal(b); err != nil || string(again2) != string(again) {
			t.Errorf("%s becomes %s, %v", again, again2, err)
		}
	})
}
