// SPDX-License-Identifier: Apache-2.0

package debhelper

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write dh_holdfast.1")

// need skips where programs cannot be installed: packaging/install does that for root.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getuid() == 0 {
				t.Fatalf("%v: run packaging/install", err)
			}
			t.Skipf("%v: sudo packaging/install", err)
		}
	}
}

// run returns what a program of the test says, in dir and with the add-on as if it were installed.
func run(t *testing.T, dir string, argv ...string) (string, error) {
	t.Helper()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	// This directory itself must not be in the path: its install is not install(1).
	usr := t.TempDir()
	for name, to := range map[string]string{
		"dh_holdfast": "bin/dh_holdfast",
		"holdfast.pm": "share/perl5/Debian/Debhelper/Sequence/holdfast.pm",
		"autoscripts": "share/debhelper/autoscripts",
	} {
		to = filepath.Join(usr, to)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(here, name), to); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+usr+"/bin:"+os.Getenv("PATH"), "PERL5LIB="+usr+"/share/perl5",
		"DH_DATAFILES="+usr+"/share/debhelper", "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// write writes files below dir; the names of programs end in "*".
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		mode := os.FileMode(0o644)
		if program, ok := strings.CutSuffix(name, "*"); ok {
			name, mode = program, 0o755
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	launched = "[Service]\nType=notify\nExecStart=/usr/bin/holdfast launch --state=%S/x -- /usr/bin/x\n[Install]\nWantedBy=multi-user.target\n"
	socket   = "[Socket]\nListenStream=127.0.0.1:8080\n[Install]\nWantedBy=sockets.target\n"
	plain    = "[Service]\nExecStart=/usr/bin/plain\n[Install]\nWantedBy=multi-user.target\n"
)

// source writes a source package with one binary package, named web, and returns its directory. Files of the test
// come on top.
func source(t *testing.T, compat string, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "web")
	write(t, dir, map[string]string{
		"debian/control": "Source: web\nSection: net\nPriority: optional\nMaintainer: Holdfast <holdfast@example.org>\n" +
			"Build-Depends: debhelper-compat (= " + compat + "), dh-sequence-holdfast\nStandards-Version: 4.6.2\n\n" +
			"Package: web\nArchitecture: all\nDepends: ${misc:Depends}\nDescription: example\n An example.\n",
		"debian/changelog": "web (1.0) unstable; urgency=medium\n\n  * Example.\n\n -- Holdfast <holdfast@example.org>  Mon, 30 Nov 2026 12:00:00 +0000\n",
		"debian/rules*":    "#!/usr/bin/make -f\n%:\n\tdh $@\n",
	})
	write(t, dir, files)
	return dir
}

// built has the control files of a package, by name.
func built(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	paths, err := filepath.Glob(filepath.Join(dir, "debian/web/DEBIAN/*"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("the package has %q (%v)", paths, err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(path)] = string(text)
	}
	return files
}

var scripts = []string{"preinst", "postinst", "prerm", "postrm"}

// bySystemd are the units that the scripts of a package have systemd's own tools act on: script, verb, unit.
func bySystemd(files map[string]string) []string {
	var found []string
	for _, script := range scripts {
		for line := range strings.Lines(files[script]) {
			for _, m := range regexp.MustCompile(`deb-systemd-(?:invoke|helper) (?:--quiet )?(\S+)((?: '[^']+')+)`).FindAllStringSubmatch(line, -1) {
				for unit := range strings.FieldsSeq(m[2]) {
					found = append(found, script+" "+m[1]+" "+strings.Trim(unit, "'"))
				}
			}
		}
	}
	return found
}

// byHoldfast are the services that the scripts of a package call the library for: script and service.
func byHoldfast(files map[string]string) []string {
	var found []string
	for _, script := range scripts {
		for _, m := range regexp.MustCompile(`(?m)^\s*/usr/libexec/holdfast/package deb (\w+) '([^']+)' "\$@"$`).FindAllStringSubmatch(files[script], -1) {
			found = append(found, script+" "+m[2])
			if m[1] != script {
				found = append(found, script+" calls "+m[1])
			}
		}
	}
	return found
}

// theFour are the calls for a service in all scripts.
func theFour(services ...string) []string {
	var want []string
	for _, script := range scripts {
		for _, service := range services {
			want = append(want, script+" "+service)
		}
	}
	return want
}

// few are the commands of dh that matter here: all of them take seconds.
const few = "dh_prep; dh_install; dh_installsystemd; dh_holdfast; dh_installdeb; dh_gencontrol"

func compats(t *testing.T) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "dh_assistant", "supported-compat-levels").Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), `"HIGHEST_STABLE_COMPAT_LEVEL":13`) {
		return []string{"13"}
	}
	return []string{"13", "14"}
}

// What debhelper would do to the service and its socket is gone, and what it does to others is there.
func TestDhHoldfast(t *testing.T) {
	need(t, "dh", "dpkg-deb", "fakeroot")
	for name, c := range map[string]struct {
		files    map[string]string
		holdfast []string // services
		systemd  []string // units that dh_installsystemd keeps
		depends  bool
		whole    bool // all that dh does
	}{
		"by build dependency alone": {
			files:    map[string]string{"debian/web.service": launched, "debian/web.socket": socket},
			holdfast: []string{"web"}, depends: true, whole: true,
		},
		"beside a service without it": {
			files: map[string]string{
				"debian/web.service": launched, "debian/web.socket": socket,
				"debian/web.install": "plain.service usr/lib/systemd/system\nplain.service lib/systemd/system\n", "plain.service": plain,
			},
			holdfast: []string{"web"}, systemd: []string{"plain.service"}, depends: true,
		},
		"by ExecReload=, in a drop-in, over two lines": {
			files: map[string]string{
				"debian/web.service": plain, "debian/web.timer": "[Timer]\nOnCalendar=daily\n",
				"debian/web.install": "holdfast.conf lib/systemd/system/web.service.d\n",
				"holdfast.conf":      "[Service]\nExecReload=-/usr/bin/holdfast \\\n# why\n  reload --socket=%t/x/control.sock\n",
			},
			holdfast: []string{"web"}, systemd: []string{"web.timer"}, depends: true,
		},
		"a socket by Service= and one by Sockets=": {
			files: map[string]string{
				"debian/web.service": launched + "[Service]\nSockets=two.socket three.socket\n",
				"debian/web.install": "*.socket lib/systemd/system\n",
				"one.socket":         socket + "[Socket]\nService=web.service\n", "two.socket": socket, "other.socket": socket,
			},
			holdfast: []string{"web"}, systemd: []string{"other.socket"}, depends: true,
		},
		"named by hand": {
			files: map[string]string{
				"debian/web.service": plain,
				"debian/rules*":      "#!/usr/bin/make -f\n%:\n\tdh $@\noverride_dh_holdfast:\n\tdh_holdfast --no-depends web\n",
			},
			holdfast: []string{"web"},
		},
		"excluded": {
			files: map[string]string{
				"debian/web.service": launched,
				"debian/rules*":      "#!/usr/bin/make -f\n%:\n\tdh $@\noverride_dh_holdfast:\n\tdh_holdfast -Xweb.service\n",
			},
			systemd: []string{"web.service"},
		},
		"with other options for dh_installsystemd": {
			files: map[string]string{
				"debian/web.service": launched, "debian/web.socket": socket,
				"debian/rules*": "#!/usr/bin/make -f\n%:\n\tdh $@\noverride_dh_installsystemd:\n\tdh_installsystemd --no-start\n",
			},
			holdfast: []string{"web"}, depends: true,
		},
		"two services": {
			files: map[string]string{
				"debian/web.service": launched, "debian/web.socket": socket,
				"debian/web.install": "y.service lib/systemd/system\n", "y.service": launched,
			},
			holdfast: []string{"web", "y"}, depends: true,
		},
		"none": {
			files: map[string]string{
				"debian/web.service": strings.ReplaceAll(plain, "ExecStart=", "# ExecReload=holdfast reload\nExecStart=/usr/bin/notholdfast launch "),
			},
			systemd: []string{"web.service"},
		},
		"a template": {
			files: map[string]string{"debian/web@.service": launched},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, compat := range compats(t) {
				dir := source(t, compat, c.files)
				argv := []string{"fakeroot", "debian/rules", "binary"}
				if _, ok := c.files["debian/rules*"]; !ok && !c.whole {
					argv = []string{"fakeroot", "sh", "-ec", few}
				}
				if out, err := run(t, dir, argv...); err != nil {
					t.Fatalf("compat %s: %v\n%s", compat, err, out)
				}
				files := built(t, dir)
				got := byHoldfast(files)
				slices.Sort(got)
				want := theFour(c.holdfast...)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Errorf("compat %s: the library is called in %q, want %q", compat, got, want)
				}
				units := map[string]bool{}
				for _, action := range bySystemd(files) {
					fields := strings.Fields(action)
					ours := strings.TrimSuffix(strings.TrimSuffix(fields[2], ".service"), ".socket")
					// What is left when the library is gone, at removal and purge.
					if (fields[0] == "prerm" && fields[1] == "stop" || fields[0] == "postrm" && fields[1] == "purge") && slices.Contains(c.holdfast, ours) {
						continue
					}
					units[fields[2]] = true
				}
				for _, unit := range c.systemd {
					if !units[unit] {
						t.Errorf("compat %s: dh_installsystemd does nothing for %s any more", compat, unit)
					}
					delete(units, unit)
				}
				// These were named without their service.
				for _, unit := range []string{"one.socket", "two.socket"} {
					if units[unit] && strings.Contains(files["postinst"], "'"+unit+"'") {
						t.Errorf("compat %s: %s is started or restarted", compat, unit)
					}
					delete(units, unit)
				}
				if len(units) > 0 {
					t.Errorf("compat %s: systemd's tools act on %v:\n%s", compat, units, files["postinst"])
				}
				if depends := strings.Contains(files["control"], "Depends: holdfast"); depends != c.depends {
					t.Errorf("compat %s: the package depends on holdfast: %v, want %v:\n%s", compat, depends, c.depends, files["control"])
				}
				for _, script := range scripts {
					if text := files[script]; text != "" {
						cmd := exec.CommandContext(t.Context(), "sh", "-n")
						cmd.Stdin = strings.NewReader(text)
						if out, err := cmd.CombinedOutput(); err != nil {
							t.Errorf("%s: %v %s\n%s", script, err, out, text)
						}
					}
					if _, left, found := strings.Cut(files[script], "#"); found && regexp.MustCompile(`^(SERVICE|UNITS)#`).MatchString(left) {
						t.Errorf("%s has a placeholder:\n%s", script, files[script])
					}
				}
			}
		})
	}
}

func TestDhHoldfastRefuses(t *testing.T) {
	need(t, "dh", "fakeroot")
	for name, c := range map[string]struct{ call, want string }{
		"a service that is not there": {"dh_holdfast y", "no package installs y.service"},
		"a template":                  {"dh_holdfast web@", "web@.service is a template"},
		"a path":                      {"dh_holdfast lib/systemd/system/web.service", "without a directory"},
		"a snippet that it cannot change": {
			// As a debhelper of another format would write it.
			`sed -i "s/'web.service'/web.service/" debian/.debhelper/generated/web/postinst.service; dh_holdfast`,
			"cannot take web.service out of what dh_installsystemd wrote: run dh_installsystemd with -Xweb.service",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := source(t, "13", map[string]string{
				"debian/web.service": launched,
				"debian/rules*":      "#!/usr/bin/make -f\n%:\n\tdh $@\noverride_dh_holdfast:\n\t" + c.call + "\n",
			})
			out, err := run(t, dir, "fakeroot", "debian/rules", "binary")
			if err == nil || !strings.Contains(out, c.want) {
				t.Errorf("got %v, want %q\n%s", err, c.want, out)
			}
		})
	}
}

// The manual page is what the program says of itself. What pod2man makes of it depends on its version, what one reads
// does not.
func TestManPage(t *testing.T) {
	need(t, "pod2man", "mandoc")
	page := filepath.Join(t.TempDir(), "dh_holdfast.1")
	if out, err := run(t, ".", "pod2man", "--section=1", "--center=Holdfast", "--release=holdfast", "--date=2026-11-30", "dh_holdfast", page); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		// What comes before are definitions, and the version of pod2man.
		_, text, _ := strings.Cut(string(text), "\n.TH ")
		text = ".\\\" Made of dh_holdfast by go test -update: change that.\n.TH " + text
		if err := os.WriteFile("dh_holdfast.1", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read := func(page string) []string {
		out, err := run(t, ".", "mandoc", "-T", "utf8", "-O", "width=78", page)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return strings.Fields(regexp.MustCompile(".\x08").ReplaceAllString(out, ""))
	}
	got, want := read("dh_holdfast.1"), read(page)
	if len(want) < 300 || !slices.Equal(got, want) {
		t.Errorf("dh_holdfast.1 is not what dh_holdfast says: go test ./packaging/debhelper -update\n%s\n%s", got, want)
	}
}
