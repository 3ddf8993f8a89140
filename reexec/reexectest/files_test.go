// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// writeFiles makes files below a new directory.
func writeFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestCollect(t *testing.T) {
	t.Parallel()
	dir := writeFiles(t, map[string]string{
		"a.service":                         "[Service]\nSockets=other.socket\n",
		"a.service.d/1.conf":                "one",
		"a.service.d/readme":                "no drop-in",
		"a.socket":                          "[Socket]\n",
		"a.socket.d/1.conf":                 "two",
		"admin.socket":                      "[Socket]\nService = a.service\n",
		"other.socket":                      "[Socket]\n",
		"stranger.socket":                   "[Socket]\nService=b.service\n",
		"b.service":                         "[Service]\n",
		"b.socket":                          "[Socket]\n",
		"c@.service":                        "[Service]\n",
		"c@.socket":                         "[Socket]\n",
		"a.timer":                           "[Timer]\n",
		"multi-user.target.wants/a.service": "",
	})
	for _, c := range []struct {
		name string
		o    Options
		want string
		text map[string]string
	}{
		{
			"sockets",
			Options{Units: dir, Service: "a.service"},
			"a.service a.service.d/1.conf a.socket a.socket.d/1.conf admin.socket other.socket", nil,
		},
		{"other service", Options{Units: dir, Service: "b.service"}, "b.service b.socket stranger.socket", nil},
		{"template", Options{Units: dir, Service: "c@.service"}, "c@.service c@.socket", nil},
		{"one file", Options{Units: filepath.Join(dir, "b.service")}, "b.service", nil},
		{
			"files win",
			Options{Units: dir, Service: "a.service", Files: map[string]string{"a.service.d/1.conf": "mine", "a.service.d/9.conf": "new", "b.service.d/1.conf": ""}},
			"a.service a.service.d/1.conf a.service.d/9.conf a.socket a.socket.d/1.conf admin.socket other.socket",
			map[string]string{"a.service.d/1.conf": "mine"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			files, _, err := collect(c.o)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, f := range files {
				names = append(names, f.Name)
				if want, ok := c.text[f.Name]; ok && f.Text != want {
					t.Errorf("%s is %q, want %q", f.Name, f.Text, want)
				}
			}
			if got := strings.Join(names, " "); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestCollectErrors(t *testing.T) {
	t.Parallel()
	two := writeFiles(t, map[string]string{"a.service": "", "b.service": ""})
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Units: "/does/not/exist"}, "Options.Units: stat /does/not/exist"},
		{Options{Units: "files.go"}, "files.go is neither a directory nor a service or socket unit"},
		{Options{Units: two}, "there are several services: set Options.Service to one of a.service b.service"},
		{Options{Units: two, Service: "c.service"}, `Options.Service="c.service": there is no such unit file, but: a.service b.service`},
		{Options{Files: map[string]string{"a.socket": ""}}, "there is no service among the unit files"},
		{Options{Files: map[string]string{"a.timer": ""}}, `Options.Files has "a.timer"`},
		{Options{Files: map[string]string{"a/b.service": ""}}, `Options.Files has "a/b.service"`},
		{Options{Files: map[string]string{"a.service": "", "b.service.d/x.conf": ""}}, `Options.Files has "b.service.d/x.conf", and there is no unit b.service, but: a.service`},
		{Options{Files: map[string]string{"a.service": "", "b.socket": ""}}, `Options.Files has "b.socket", which starts none of the services there are`},
		{Options{Files: map[string]string{"a.service": "", "a.socket": "[Socket]\nService=b.service\n"}}, `which starts none of the services there are: see its Service=`},
	} {
		if _, _, err := collect(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want one with %q", c.o, err, c.want)
		}
	}
}

// Each fault in a unit file is an error of its own.
func TestUnitErrors(t *testing.T) {
	t.Parallel()
	_, err := New(t.Context(), Options{Files: map[string]string{
		"a.service": "[Service]\nExecStart=/usr/bin/a\nTimeoutStopSec=soon\nFrobnicate=yes\n",
	}})
	var faults []*UnitError
	var walk func(err error)
	walk = func(err error) {
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range joined.Unwrap() {
				walk(e)
			}
			return
		}
		if e, ok := err.(*UnitError); ok {
			faults = append(faults, e)
			return
		}
		if inner := errors.Unwrap(err); inner != nil {
			walk(inner)
		}
	}
	walk(err)
	var got []string
	for _, f := range faults {
		got = append(got, f.File+" "+f.Section+" "+f.Key+"="+f.Value)
		if !strings.HasPrefix(f.Error(), "a.service:") || f.Line == 0 || f.Reason == "" {
			t.Errorf("fault %+v: %v", *f, f)
		}
	}
	want := []string{"a.service Service TimeoutStopSec=soon", "a.service Service Frobnicate=yes"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q\n%v", got, want, err)
	}
}

// Whatever is given for a unit file, the error is short and says what is wrong with it.
func TestBadUnitFiles(t *testing.T) {
	t.Parallel()
	many := func(line string) string {
		return "[Service]\nExecStart=/usr/bin/a\n" + strings.Repeat(line+"\n", 10_000)
	}
	for name, c := range map[string]struct {
		name, text string
		want       []string
	}{
		"unknown options": {"a.service", many("ExecStar=/usr/bin/a"), []string{"a.service:3: [Service] ExecStar=", "did you mean ExecStart=?", "\nand 9980 more"}},
		"bad values":      {"a.service", many("TimeoutStopSec=soon"), []string{"TimeoutStopSec=soon: ", "\nand 9980 more"}},
		"NULs":            {"a.service", strings.Repeat("\x00", 1<<20), []string{"a.service:1: the line has a NUL byte", "\nand 9981 more"}},
		"a long line":     {"a.service", "[Service]\nExecStart=" + strings.Repeat("x", 10<<20), []string{"a.service:2: [Service] the line has 10485770 bytes"}},
		"a large file":    {"a.service", strings.Repeat("x", maxUnitFile+1), []string{"Options.Files: a.service is no unit file"}},
		"nothing":         {"a.service", "", []string{"there is neither ExecStart= nor ExecStop="}},
		"a long name":     {strings.Repeat("x", 1<<20), "", []string{`Options.Files has "xxxx`, "must be the name of a service"}},
		"a long service":  {strings.Repeat("x", 1<<20) + ".service", "", []string{"the name of the unit has 1048584 bytes, and systemd takes 255"}},
		"a line break":    {"a\nb.service", "[Service]\nExecStart=/usr/bin/a\n", []string{`"a\nb.service" is not the name of a unit`}},
		"a slash":         {"a/b.service", "[Service]\nExecStart=/usr/bin/a\n", []string{`Options.Files has "a/b.service": must be the name of`}},
		"a percent":       {"a%b.service", "[Service]\nExecStart=/usr/bin/a\n", []string{`"a%b.service" is not the name of a unit`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := New(t.Context(), Options{Files: map[string]string{c.name: c.text}})
			if err == nil {
				t.Fatal("no error")
			}
			text := err.Error()
			for _, want := range c.want {
				if !strings.Contains(text, want) {
					t.Errorf("the error lacks %q: %.1000s", want, text)
				}
			}
			if len(text) > 5000 || strings.Count(text, "\n") > 20 || strings.Count(text, "reexectest: ") != 1 {
				t.Errorf("%d bytes: %.1000s", len(text), text)
			}
		})
	}
}
