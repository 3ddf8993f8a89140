// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/vmtests"
)

func TestCommandLine(t *testing.T) {
	t.Parallel()
	const url = "-url=http://127.0.0.1:8080/"
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-new=b.deb", url}, "-old is missing"},
		{[]string{"-old=a.deb", url}, "-new is missing"},
		{[]string{"-old=a.deb", "-new=b.deb"}, "-url is missing"},
		{[]string{"-old=a.deb", "-new=b.deb", "-url=http://example.org:80/"}, "must be a loopback address"},
		{[]string{"-old=a.deb", "-new=b.deb", url, "-systemd=252,253"}, `-systemd: systemd version "253"`},
		{[]string{"-old=a.deb", "-new=b.deb", url, "-new-connections=0", "-keep-alive=0"}, "no workers"},
		{[]string{"-old=a.deb", "-new=b.deb", url, "c.deb"}, "no arguments are expected"},
	} {
		var stderr bytes.Buffer
		if code := run(t.Context(), c.args, nil, &stderr); code != exitUsage || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("try %q: exit code %d, %q; want %d and %q", c.args, code, stderr.String(), exitUsage, c.want)
		}
	}
	if code := run(t.Context(), []string{"-help"}, nil, new(bytes.Buffer)); code != 0 {
		t.Errorf("try -help: exit code %d", code)
	}
}

// What loses requests is told from what does not, and a bad version that serves from one that is refused.
func TestTry(t *testing.T) {
	t.Parallel()
	if err := vmtests.RequireContainers(); err == vmtests.ErrNotRoot {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	p := packager{t: t, dir: t.TempDir()}
	holdfast := p.deb("holdfast", "1.0.0", "", p.build("github.com/holdfast-go/holdfast/units/cmd/holdfast"))
	const (
		reload  = "systemctl reload myapp.service || true"
		reopens = "systemctl restart myapp.socket myapp.service"
	)
	old, good := p.myapp("1.0.0", reload), p.myapp("2.0.0", reload)
	bad := p.myapp("3.0.0", reload, "crash-at-start")
	for _, c := range []struct {
		name     string
		new, bad string
		code     int
		want     []string
	}{
		{"hot", good, bad, 0, []string{
			"systemd 257: 1.0.0 to 2.0.0: requests=", " failed=0, ", "; 2.0.0 serves\n",
			"systemd 257: 2.0.0 to 3.0.0: requests=", "; 2.0.0 serves\n",
		}},
		{"reopens its socket", p.myapp("2.0.0", reopens), "", exitLost, []string{"requests failed", "2.0.0 serves", "apt says:", "the journal says:"}},
		{"no bad version", good, p.myapp("3.0.0", reload), exitLost, []string{"3.0.0 serves, which should have been refused"}},
		{"is left as it is", p.myapp("2.0.0", "true"), "", exitLost, []string{"; 1.0.0 serves", "the main process is not of the files that 2.0.0 has installed"}},
		{"is not newer", old, "", exitUntried, []string{"not above 1.0.0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := []string{"-systemd=257", "-old=" + old, "-new=" + c.new, "-with=" + holdfast, "-url=http://127.0.0.1:8080/echo?"}
			if c.bad != "" {
				args = append(args, "-bad="+c.bad)
			}
			var said bytes.Buffer
			if code := run(t.Context(), args, &said, &said); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, want := range c.want {
				if !strings.Contains(said.String(), want) {
					t.Errorf("it does not say %q", want)
				}
			}
			t.Logf("try says:\n%s", said.String())
		})
	}
}

// A packager makes the packages of a service that is upgraded in a way of its own.
type packager struct {
	t   *testing.T
	dir string
}

func (p packager) build(pkg string, flags ...string) (file string) {
	p.t.Helper()
	dir, err := os.MkdirTemp(p.dir, "build")
	if err != nil {
		p.t.Fatal(err)
	}
	file, err = vmtests.Build(p.t.Context(), dir, pkg, flags...)
	if err != nil {
		p.t.Fatal(err)
	}
	return file
}

// myapp makes a package of myapp whose maintainer script upgrades it by a command of the shell, with a kind of
// damage or none.
func (p packager) myapp(version, upgrade string, damage ...string) (deb string) {
	p.t.Helper()
	link, tags := "-X main.version="+version, "-tags="
	for _, kind := range damage {
		link, tags = link+" -X main.damageKind="+kind, "-tags=damage"
	}
	files, err := units.Render(units.Options{
		Name: "myapp", Exec: "/usr/bin/myapp", Args: []string{"-probation=100ms"}, Systemd: 257,
		Sockets: []units.Socket{{Name: "http", Address: "127.0.0.1:8080"}},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	var unitFiles []string
	for _, f := range files {
		name := filepath.Join(p.dir, f.Name)
		if err := os.WriteFile(name, []byte(f.Content), 0o644); err != nil {
			p.t.Fatal(err)
		}
		unitFiles = append(unitFiles, name)
	}
	script := "#!/bin/sh\nset -e\nsystemctl daemon-reload\nif [ -z \"$2\" ]; then systemctl enable --now myapp.socket myapp.service; else " + upgrade + "; fi\n"
	return p.deb("myapp", version, script, p.build("github.com/holdfast-go/holdfast/packaging/myapp", "-ldflags="+link, tags), unitFiles...)
}

// deb makes a package of a program and units.
func (p packager) deb(name, version, postinst, program string, units ...string) (file string) {
	p.t.Helper()
	root, err := os.MkdirTemp(p.dir, "tree")
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.Chmod(root, 0o755); err != nil {
		p.t.Fatal(err)
	}
	write := func(name, text string, mode os.FileMode) {
		p.t.Helper()
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			p.t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), mode); err != nil {
			p.t.Fatal(err)
		}
	}
	copyTo := func(from, to string, mode os.FileMode) {
		p.t.Helper()
		text, err := os.ReadFile(from)
		if err != nil {
			p.t.Fatal(err)
		}
		write(to, string(text), mode)
	}
	control := "Package: " + name + "\nVersion: " + version + "\nArchitecture: all\nMaintainer: Holdfast <holdfast@example.org>\nDescription: for a test\n"
	if postinst != "" {
		control += "Depends: holdfast\n"
		write("DEBIAN/postinst", postinst, 0o755)
	}
	write("DEBIAN/control", control, 0o644)
	copyTo(program, "usr/bin/"+name, 0o755)
	for _, unit := range units {
		copyTo(unit, "usr/lib/systemd/system/"+filepath.Base(unit), 0o644)
	}
	file = root + "-" + name + "_" + version + ".deb"
	if out, err := exec.CommandContext(p.t.Context(), "dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", root, file).CombinedOutput(); err != nil {
		p.t.Fatalf("dpkg-deb: %v\n%s", err, out)
	}
	return file
}
