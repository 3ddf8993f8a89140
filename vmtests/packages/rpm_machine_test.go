// SPDX-License-Identifier: Apache-2.0

package packages_test

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/packages"
)

const (
	rpmRepository = "/srv/rpm"
	rpmTop        = "/root/rpmbuild"
	dropIns       = "/etc/systemd/system/myapp.service.d"
)

// rpmArch is what rpm calls this architecture.
var rpmArch = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]

// rpmService is myapp in a machine with rpm and dnf, which have the file triggers of systemd's own package, no other
// packages, and a repository of ours.
type rpmService struct{ *service }

func bootRPM(t *testing.T, v vmtests.Version) *rpmService {
	t.Helper()
	s := &rpmService{&service{Machine: vmtests.BootRPMTest(t, v), t: t, ctx: t.Context()}}
	spec := s.put(filepath.Join("testdata", "systemd.spec"), path.Join(rpmTop, "SPECS"))
	files := s.rpmbuild(spec, fmt.Sprintf("systemd_version %d", int(v)), "systemd_triggers "+vmtests.SystemdTriggers)
	s.run(append([]string{"rpm", "--install"}, files...)...)
	s.write("/etc/yum.repos.d/stories.repo", "[stories]\nname=Stories\nbaseurl=file://"+rpmRepository+"\ngpgcheck=0\n")
	s.run("mkdir", "-p", rpmRepository)
	s.hurry()
	return s
}

// eachRPM runs a story on every systemd that has a machine with rpm.
func eachRPM(t *testing.T, story func(*testing.T, vmtests.Version)) {
	t.Helper()
	onVersions(t, story, vmtests.RPMVersions()...)
}

// hurry has myapp decide sooner than in its units, and its package look for less long: by files of the administrator,
// since those of the package must stay as they are.
func (s *rpmService) hurry() {
	s.t.Helper()
	unit, err := os.ReadFile(filepath.Join("..", "..", "packaging", "myapp", myappUnit))
	if err != nil {
		s.t.Fatal(err)
	}
	_, command, ok := strings.Cut(string(unit), "\nExecStart=")
	command, _, _ = strings.Cut(command, "\n")
	if !ok {
		s.t.Fatalf("%s has no ExecStart=:\n%s", myappUnit, unit)
	}
	s.write(dropIns+"/hurry.conf", "[Service]\nExecStart=\nExecStart="+command+" -probation=500ms\n")
	s.write("/etc/holdfast/package.d/myapp.conf", "SOAK=500ms\n")
}

// put copies a file of the host into a directory inside, and returns its path there.
func (s *rpmService) put(from, dir string) string {
	s.t.Helper()
	to := path.Join(dir, filepath.Base(from))
	if err := s.Copy(s.ctx, from, to, 0o644); err != nil {
		s.t.Fatal(err)
	}
	return to
}

// rpm puts a release, in our package, where rpm(8) gets it from: not into the repository.
func (s *rpmService) rpm(r packages.Release) string {
	s.t.Helper()
	file, err := made.RPM(r)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.put(file, "/root/packages")
}

func (s *rpmService) holdfastRPM(version string) string {
	s.t.Helper()
	file, err := made.HoldfastRPM(version)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.put(file, "/root/packages")
}

// fedora packages the files of our package in file as a maintainer does who knows nothing of Holdfast: with the macros
// %systemd_post, %systemd_preun, and the one ending, with its arguments, in %postun.
func (s *rpmService) fedora(file, ending string) string {
	s.t.Helper()
	root := "/root/fedora/" + path.Base(file)
	s.sh(`mkdir -p "$2" && cd "$2" && rpm2archive - <"$1" | tar -xz`, file, root)
	version := s.run("rpm", "--query", "--package", "--queryformat", "%{version}", file)
	return s.fedoraTree("myapp", version, root, "myapp.service myapp.socket", ending, "fedora_requires Requires: holdfast")
}

// fedoraTree makes a package like that of the files below root.
func (s *rpmService) fedoraTree(name, version, root, units, ending string, defines ...string) string {
	s.t.Helper()
	spec := s.put(filepath.Join("testdata", "fedora.spec"), path.Join(rpmTop, "SPECS"))
	defines = append(defines, "fedora_name "+name, "fedora_version "+version, "fedora_root "+root, "fedora_units "+units, "fedora_ending %"+ending)
	return s.rpmbuild(spec, defines...)[0]
}

// spec puts a release, built by packaging/myapp/myapp.spec with the macros of Holdfast and of systemd, where rpm
// puts it. The machine has no compiler: go is a script that brings the program of the host.
func (s *rpmService) spec(r packages.Release) string {
	s.t.Helper()
	if _, err := s.says("test", "-e", "/usr/lib/rpm/macros.d/macros.holdfast"); err != nil {
		s.run("rpm", "--install", s.holdfastRPM("1.0.0"))
	}
	program, err := made.ReleaseProgram(r)
	if err != nil {
		s.t.Fatal(err)
	}
	tree := "/root/myapp-" + r.Version
	source := filepath.Join("..", "..", "packaging", "myapp")
	for _, name := range []string{"myapp.8", "myapp.conf", "myapp.service", "myapp.socket", "myapp.sysusers", "myapp.spec", filepath.Join("..", "..", "LICENSE")} {
		s.put(filepath.Join(source, name), tree)
	}
	if err := s.Copy(s.ctx, program, "/root/program", 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := s.WriteFile(s.ctx, "/usr/local/bin/go", []byte("#!/bin/sh\nexec cp /root/program myapp\n"), 0o755); err != nil {
		s.t.Fatal(err)
	}
	s.sh(`sed -i "s/^Version:.*/Version: $1/" "$2/myapp.spec" && mkdir -p "$3/SOURCES" && tar -C /root -czf "$3/SOURCES/myapp-$1.tar.gz" "myapp-$1"`, r.Version, tree, rpmTop)
	return s.rpmbuild(path.Join(tree, "myapp.spec"))[0]
}

// rpmbuild builds the packages of a spec file and returns their paths inside.
func (s *rpmService) rpmbuild(spec string, defines ...string) []string {
	s.t.Helper()
	var options []string
	for _, d := range slices.Concat([]string{"_topdir " + rpmTop}, defines) {
		options = append(options, "--define", d)
	}
	if said, err := s.says(slices.Concat([]string{"rpmbuild", "-bb", "--nodeps"}, options, []string{spec})...); err != nil {
		s.t.Fatalf("%v\n%s", err, said)
	}
	names := s.run(slices.Concat([]string{"rpmspec", "--query", "--builtrpms", "--queryformat", `%{arch}/%{nvra}.rpm\n`}, options, []string{spec})...)
	var files []string
	for name := range strings.FieldsSeq(names) {
		files = append(files, path.Join(rpmTop, "RPMS", name))
	}
	return files
}

// offer has these packages in the repository, which are inside, and no others.
func (s *rpmService) offer(files ...string) {
	s.t.Helper()
	s.sh(`repository=$1; shift; rm -f "$repository"/*.rpm && cp "$@" "$repository" && createrepo_c --quiet "$repository"`, append([]string{rpmRepository}, files...)...)
}

// installRPM offers a release, installs it and what it requires by dnf, and starts it, unless it has been.
func (s *rpmService) installRPM(file string) {
	s.t.Helper()
	s.offer(file, s.holdfastRPM("1.0.0"))
	s.dnf("install", "myapp")
	s.systemctl("start", myappUnit)
	s.mustHave("1.0.0", "1.0.0")
}

// dnf runs dnf, which must succeed, on the repository as it is now, and returns what it said.
func (s *rpmService) dnf(args ...string) string {
	s.t.Helper()
	return s.succeed(append([]string{"dnf", "--assumeyes", "--refresh"}, args...)...)
}

// succeed runs a command, which must succeed, and returns all that it said.
func (s *rpmService) succeed(argv ...string) string {
	s.t.Helper()
	said, err := s.says(argv...)
	if err != nil {
		s.t.Fatalf("%v\n%s", err, said)
	}
	return said
}

// mustHave says that this version serves, and that that one is installed, whole.
func (s *rpmService) mustHave(serves, installed string) {
	s.t.Helper()
	s.mustBe("active", "active")
	s.mustServe(serves)
	s.mustBeWhole("myapp", installed)
}

// mustBeWhole says that rpm has one version of a package, and nothing to complain about.
func (s *rpmService) mustBeWhole(name, version string) {
	s.t.Helper()
	if got := s.run("rpm", "--query", "--queryformat", `%{version}\n`, name); got != version {
		s.t.Errorf("rpm has %q of %s, want %s", got, name, version)
	}
	if said, err := s.says("rpm", "--verify", name); err != nil || said != "" {
		s.t.Errorf("rpm --verify %s: %v\n%s", name, err, said)
	}
	if said, err := s.says("rpm", "--verifydb"); err != nil {
		s.t.Errorf("rpm --verifydb: %v\n%s", err, said)
	}
}

// mustBeUnmarked says that systemd's file triggers will leave the service and its socket alone.
func (s *rpmService) mustBeUnmarked() {
	s.t.Helper()
	for _, unit := range []string{myappUnit, myappSocket} {
		if marks := s.prop(unit, "Markers"); marks != "" {
			s.t.Errorf("%s has Markers=%s", unit, marks)
		}
	}
}

// ours returns what our scriptlets said.
func ours(said string) string {
	var lines []string
	for line := range strings.Lines(said) {
		if strings.HasPrefix(line, "myapp: ") || strings.HasPrefix(line, "The upgrade of ") {
			lines = append(lines, line)
		}
	}
	return strings.TrimSpace(strings.Join(lines, ""))
}
