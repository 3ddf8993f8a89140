// SPDX-License-Identifier: Apache-2.0

package units_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/units"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// full uses most of what there is to set.
func full() units.Options {
	return units.Options{
		Name:          "myapp",
		Exec:          "/usr/bin/myapp",
		Args:          []string{"-log", "a b", `c"d\e`, "50%%", "$HOME", "", ";"},
		Description:   "My 100% app",
		Documentation: []string{"man:myapp(8)", "https://example.org/my%20app"},
		Systemd:       252,
		Sockets: []units.Socket{
			{Name: "http", Address: "127.0.0.1:8080"},
			{Name: "http", Address: "[::1]:8080"},
			{Name: "admin", Address: "%t/myapp-admin.sock"},
			{Name: "admin", Type: units.SequentialPacket, Address: "@myapp"},
			{Name: "dns", Type: units.Datagram, Address: "127.0.0.1:5353"},
		},
		StateDirectory: "myapp",
		DrainTimeout:   90 * time.Second,
		Probation:      2500 * time.Millisecond,
		UnitLines:      []string{"Wants=network-online.target"},
		ServiceLines:   []string{"Environment=LEVEL=debug", "EnvironmentFile=-/etc/default/myapp"},
		SocketLines:    []string{"SocketMode=0660"},
	}
}

// small is what most services need.
func small() units.Options {
	return units.Options{
		Name: "myapp", Exec: "/usr/bin/myapp", Systemd: 252,
		Sockets: []units.Socket{{Name: "http", Address: "127.0.0.1:8080"}},
	}
}

// template has what differs from instance to instance.
func template() units.Options {
	o := full()
	o.Template = true
	o.StateDirectory = "myapp/%i"
	o.Sockets = []units.Socket{
		{Name: "http", Address: "127.0.0.1:808%i"},
		{Name: "admin", Address: "%t/myapp-%i.sock"},
	}
	return o
}

func with(o units.Options, change func(*units.Options)) units.Options {
	change(&o)
	return o
}

// matrix are the cases of the golden files, by name.
func matrix() map[string]units.Options {
	cases := map[string]units.Options{
		"no-sockets-252": with(small(), func(o *units.Options) { o.Sockets = nil }),
		"unix-only-257": with(small(), func(o *units.Options) {
			o.Systemd = 257
			o.Sockets = []units.Socket{{Name: "main", Address: "/run/myapp.sock"}, {Name: "vm", Address: "vsock::99"}}
		}),
		"elsewhere-262": with(small(), func(o *units.Options) {
			o.Systemd = 262
			o.Exec = "/opt/myapp/current/bin/myapp"
			o.Holdfast = "/usr/local/bin/holdfast"
			o.ExecDirectories = []string{"/opt/myapp", "/usr/lib"}
			o.NoWatchdog = true
		}),
	}
	for _, mode := range []units.Mode{units.InPlace, units.Restart} {
		cases[fmt.Sprintf("%s-252", mode)] = with(small(), func(o *units.Options) { o.Mode = mode })
	}
	for _, v := range []int{254, 258} {
		cases[fmt.Sprintf("soft-reboot-%d", v)] = with(small(), func(o *units.Options) { o.Systemd, o.SoftReboot = v, true })
	}
	for _, v := range []int{239, 247, 249, 252, 255, 257, 262} {
		for name, base := range map[string]units.Options{"small": small(), "full": full(), "template": template()} {
			base.Systemd = v
			cases[fmt.Sprintf("%s-exec-reload-%d", name, v)] = base
			if v >= 253 {
				cases[fmt.Sprintf("%s-notify-reload-%d", name, v)] = with(base, func(o *units.Options) { o.Flavour = units.NotifyReload })
			}
		}
		cases[fmt.Sprintf("user-%d", v)] = with(full(), func(o *units.Options) { o.Systemd, o.User = v, true })
		cases[fmt.Sprintf("user-template-%d", v)] = with(template(), func(o *units.Options) { o.Systemd, o.User = v, true })
	}
	return cases
}

func render(t testing.TB, o units.Options) []units.File {
	t.Helper()
	files, err := units.Render(o)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// join writes files into one text.
func join(files []units.File) string {
	var b strings.Builder
	for _, f := range files {
		fmt.Fprintf(&b, "==> %s <==\n%s", f.Name, f.Content)
	}
	return b.String()
}

func TestGolden(t *testing.T) {
	cases := matrix()
	for name, o := range cases {
		t.Run(name, func(t *testing.T) {
			got := join(render(t, o))
			path := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("differs from %s (go test -update rewrites it):\n%s", path, firstDifference(got, string(want)))
			}
		})
	}
	// No golden file outlives its case.
	paths, err := filepath.Glob("testdata/*.golden")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if _, found := cases[strings.TrimSuffix(filepath.Base(path), ".golden")]; !found {
			t.Errorf("%s belongs to no case: delete it", path)
		}
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d: got %q, want %q", i+1, g[i], w[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}
