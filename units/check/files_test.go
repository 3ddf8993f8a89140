// SPDX-License-Identifier: Apache-2.0

package check_test

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/units/check"
)

// machine is a file system of files, and of links where the text begins with "-> ".
func machine(files map[string]string) fstest.MapFS {
	root := make(fstest.MapFS)
	for name, text := range files {
		f := &fstest.MapFile{Data: []byte(text), Mode: 0o644}
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			f = &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}
		}
		root[name] = f
	}
	return root
}

const plain = "[Service]\nType=notify\nNotifyAccess=main\nExecStart=/usr/bin/myapp\nRestart=on-failure\nExecReload=/usr/bin/true\n"

// TestWhatCounts: of several files the one counts that counts for systemd. KillMode= shows which.
func TestWhatCounts(t *testing.T) {
	const mixed, process, own = "[Service]\nKillMode=mixed\n", "[Service]\nKillMode=process\n", "[Service]\nKillMode=control-group\n"
	for name, c := range map[string]struct {
		unit    string // myapp.service without
		files   map[string]string
		systemd int
		want    string // file:line of KillMode=; empty if it is control-group
	}{
		"no drop-in":                     {files: map[string]string{"usr/lib/systemd/system/myapp.service": plain + "KillMode=mixed"}, want: "/usr/lib/systemd/system/myapp.service:7"},
		"/etc before /usr":               {files: map[string]string{"usr/lib/systemd/system/myapp.service": plain + "KillMode=mixed", "etc/systemd/system/myapp.service": plain}},
		"/run before /usr":               {files: map[string]string{"usr/lib/systemd/system/myapp.service": plain, "run/systemd/system/myapp.service": plain + mixed}, want: "/run/systemd/system/myapp.service:8"},
		"a drop-in comes after the unit": {files: map[string]string{"etc/systemd/system/myapp.service": plain + "KillMode=mixed", "usr/lib/systemd/system/myapp.service.d/a.conf": own}},
		"by name, not by directory":      {files: map[string]string{"etc/systemd/system/myapp.service": plain, "etc/systemd/system/myapp.service.d/10.conf": mixed, "usr/lib/systemd/system/myapp.service.d/20.conf": own}},
		"one name counts once":           {files: map[string]string{"etc/systemd/system/myapp.service": plain, "usr/lib/systemd/system/myapp.service.d/10.conf": mixed, "etc/systemd/system/myapp.service.d/10.conf": own}},
		"a masked drop-in":               {files: map[string]string{"etc/systemd/system/myapp.service": plain, "usr/lib/systemd/system/myapp.service.d/10.conf": mixed, "etc/systemd/system/myapp.service.d/10.conf": "-> /dev/null"}},
		"no drop-in by its name":         {files: map[string]string{"etc/systemd/system/myapp.service": plain, "etc/systemd/system/myapp.service.d/10.conf~": mixed, "etc/systemd/system/myapp.service.d/.10.conf": mixed}},
		"an empty value keeps":           {files: map[string]string{"etc/systemd/system/myapp.service": plain + "KillMode=mixed", "etc/systemd/system/myapp.service.d/10.conf": "[Service]\nKillMode=\n"}, want: "/etc/systemd/system/myapp.service:7"},
		"of the prefix":                  {unit: "my-app-x.service", files: map[string]string{"etc/systemd/system/my-app-x.service": plain, "etc/systemd/system/my-app-.service.d/10.conf": mixed, "etc/systemd/system/my-.service.d/10.conf": process}, want: "/etc/systemd/system/my-app-.service.d/10.conf:2"},
		"of all services":                {files: map[string]string{"etc/systemd/system/myapp.service": plain, "usr/lib/systemd/system/service.d/10.conf": mixed}, want: "/usr/lib/systemd/system/service.d/10.conf:2"},
		"of all services before 244":     {systemd: 243, files: map[string]string{"etc/systemd/system/myapp.service": plain, "usr/lib/systemd/system/service.d/10.conf": mixed}},
		"of all services comes last":     {files: map[string]string{"etc/systemd/system/myapp.service": plain, "etc/systemd/system/service.d/10.conf": mixed, "usr/lib/systemd/system/myapp.service.d/10.conf": own}},
		"an instance has the template":   {unit: "myapp@7.service", files: map[string]string{"etc/systemd/system/myapp@.service": plain + mixed}, want: "/etc/systemd/system/myapp@.service:8"},
		"an instance of its own":         {unit: "myapp@7.service", files: map[string]string{"etc/systemd/system/myapp@.service": plain + mixed, "usr/lib/systemd/system/myapp@7.service": plain}},
		"drop-ins of both":               {unit: "myapp@7.service", files: map[string]string{"etc/systemd/system/myapp@.service": plain, "etc/systemd/system/myapp@.service.d/10.conf": mixed, "etc/systemd/system/myapp@7.service.d/10.conf": own}},
		"an alias":                       {unit: "other.service", files: map[string]string{"etc/systemd/system/other.service": "-> ../../../usr/lib/systemd/system/myapp.service", "usr/lib/systemd/system/myapp.service": plain, "etc/systemd/system/myapp.service.d/10.conf": mixed}, want: "/etc/systemd/system/myapp.service.d/10.conf:2"},
		"an absolute link stays inside":  {files: map[string]string{"etc/systemd/system/myapp.service": "-> /opt/myapp/myapp.service", "opt/myapp/myapp.service": plain + mixed}, want: "/etc/systemd/system/myapp.service:8"},
		"a link that goes far up":        {files: map[string]string{"etc/systemd/system/myapp.service": "-> ../../../../../../opt/myapp.service", "opt/myapp.service": plain + mixed}, want: "/etc/systemd/system/myapp.service:8"},
		"continued lines":                {files: map[string]string{"etc/systemd/system/myapp.service": "[Service]\nExecStart=/usr/bin/myapp \\\n# a comment\n  -x\nKillMode=\\\n mixed\n"}, want: "/etc/systemd/system/myapp.service:5"},
		"of another section":             {files: map[string]string{"etc/systemd/system/myapp.service": plain + "[X-Ours]\nKillMode=mixed\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			unit := c.unit
			if unit == "" {
				unit = "myapp.service"
			}
			r, err := check.Files(t.Context(), machine(c.files), unit, check.Options{Systemd: c.systemd})
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, f := range r.Findings {
				if f.Option == "KillMode" {
					got = f.File + ":" + strconv.Itoa(f.Line)
				}
			}
			if got != c.want {
				t.Errorf("KillMode= is found at %q, want %q\n%s", got, c.want, text(r))
			}
		})
	}
}

func TestFaults(t *testing.T) {
	for name, c := range map[string]struct {
		unit  string
		files map[string]string
		want  string // in the error
		as    any
	}{
		"no unit":           {unit: "myapp.service", want: "there is no such file", as: new(*check.NotFoundError)},
		"masked":            {unit: "myapp", files: map[string]string{"etc/systemd/system/myapp.service": "-> /dev/null", "usr/lib/systemd/system/myapp.service": plain}, want: "systemctl unmask myapp.service", as: new(*check.NotFoundError)},
		"empty is masked":   {unit: "myapp", files: map[string]string{"etc/systemd/system/myapp.service": ""}, want: "masked", as: new(*check.NotFoundError)},
		"a circle of links": {unit: "myapp", files: map[string]string{"etc/systemd/system/myapp.service": "-> myapp.service"}, want: "too many symbolic links", as: new(*check.FileError)},
		"a directory":       {unit: "myapp", files: map[string]string{"etc/systemd/system/myapp.service/x": plain}, want: "it is no regular file", as: new(*check.FileError)},
		"too large":         {unit: "myapp", files: map[string]string{"etc/systemd/system/myapp.service": strings.Repeat("#\n", 1<<20)}, want: "more than 1048576 bytes", as: new(*check.FileError)},
		"a socket":          {unit: "myapp.socket", want: "name the service"},
		"no name":           {unit: "../myapp", want: "is not the name of a unit"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := check.Files(t.Context(), machine(c.files), c.unit, check.Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want an error with %q", err, c.want)
			}
			if c.as != nil && !errors.As(err, c.as) {
				t.Errorf("got a %T, want a %T", err, c.as)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := check.Files(ctx, machine(map[string]string{"etc/systemd/system/myapp.service": plain}), "myapp", check.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: got %v, want context.Canceled", err)
	}
	for _, o := range []check.Options{{Mode: "sideways"}, {Systemd: 200}, {Phases: -1}, {Drain: -1}} {
		if _, err := check.Files(t.Context(), machine(nil), "myapp", o); err == nil || errors.As(err, new(*check.NotFoundError)) {
			t.Errorf("%+v: got %v, want an error that names the option", o, err)
		}
	}
}

// TestSockets: the sockets of a service are found by their names, by Service= and by Sockets=.
func TestSockets(t *testing.T) {
	root := machine(map[string]string{
		"etc/systemd/system/myapp.service":             plain + "Sockets=a.socket\n",
		"etc/systemd/system/myapp.socket":              "[Socket]\nListenStream=1\n",
		"etc/systemd/system/a.socket":                  "[Socket]\nListenStream=2\nService=myapp.service\n",
		"usr/lib/systemd/system/b.socket":              "[Socket]\nListenStream=3\nService=myapp.service\n",
		"usr/lib/systemd/system/c.socket":              "[Socket]\nListenStream=4\nService=other.service\n",
		"usr/lib/systemd/system/d.socket":              "[Socket]\nListenStream=5\nService=also.service\n",
		"etc/systemd/system/also.service":              "-> myapp.service",
		"etc/systemd/system/b.socket.d/other.conf":     "[Socket]\nService=other.service\n",
		"etc/systemd/system/e.socket":                  "-> /dev/null",
		"usr/lib/systemd/system/e.socket":              "[Socket]\nListenStream=6\nService=myapp.service\n",
		"etc/systemd/system/sockets.target.wants/f.so": "",
	})
	r, err := check.Files(t.Context(), root, "myapp", check.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"/etc/systemd/system/myapp.service", "/etc/systemd/system/a.socket",
		"/usr/lib/systemd/system/d.socket", "/etc/systemd/system/myapp.socket",
	}
	if !slices.Equal(r.Files, want) {
		t.Errorf("got %q, want %q", r.Files, want)
	}
}

// TestEmptyValue: of an option with several values, an empty one takes back what was set before.
func TestEmptyValue(t *testing.T) {
	const reload = "ExecReload=/bin/kill -HUP $MAINPID\n"
	for lines, want := range map[string]string{
		"":                            "its own matter",
		reload:                        "sends SIGHUP",
		reload + "ExecReload=\n":      "has no reload",
		"ExecReload=\n" + reload:      "sends SIGHUP",
		"[Service]\nExecReload =\n\n": "has no reload",
	} {
		r, err := check.Files(t.Context(), machine(map[string]string{"etc/systemd/system/myapp.service": plain + lines}), "myapp", check.Options{})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(r.Findings, func(f check.Finding) bool { return f.Option == "ExecReload" })
		if i < 0 || !strings.Contains(r.Findings[i].Why, want) {
			t.Errorf("with %q no finding that it %s:\n%s", lines, want, text(r))
		}
	}
}

// TestRemarks: of an unknown mode, the unit of a Holdfast service is judged as far as it shows.
func TestRemarks(t *testing.T) {
	root := rendered(t, kinds()["257 in-place"], nil)
	r, err := check.Files(t.Context(), root, "myapp", check.Options{Systemd: 257})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Findings) != 1 || r.Findings[0].Option != "PIDFile" || r.Findings[0].Level != check.Note || r.Mode != units.InPlace {
		t.Errorf("got\n%swant one note that PIDFile= decides the mode", text(r))
	}
}

func FuzzFiles(f *testing.F) {
	for _, o := range []string{"257 overlap", "252 in-place", "262 overlap soft-reboot"} {
		files, err := units.Render(kinds()[o])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(files[0].Content, files[1].Content, 252)
	}
	for _, m := range mutations {
		f.Add("[Service]\nExecStart=/usr/bin/holdfast launch -- /usr/bin/myapp\n"+m.add, "[Socket]\n"+m.add, 257)
	}
	f.Fuzz(func(t *testing.T, service, socket string, systemd int) {
		root := machine(nil)
		root["etc/systemd/system/myapp.service"] = &fstest.MapFile{Data: []byte(service)}
		root["etc/systemd/system/myapp.socket"] = &fstest.MapFile{Data: []byte(socket)}
		r, err := check.Files(t.Context(), root, "myapp", check.Options{Systemd: systemd})
		if err != nil {
			return
		}
		for _, finding := range r.Findings {
			if finding.Why == "" || finding.Level == "" {
				t.Errorf("a finding that says nothing: %+v", finding)
			}
			if finding.Level == check.Error && !r.Holdfast {
				t.Errorf("an error of what is no Holdfast service: %+v", finding)
			}
		}
	})
}
