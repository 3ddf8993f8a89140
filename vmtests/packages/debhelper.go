// SPDX-License-Identifier: Apache-2.0

package packages

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// Debhelper makes the release as a maintainer does who knows nothing of Holdfast: the same files in the same
// places, and the maintainer scripts that the host's debhelper writes by default.
func (b *Builder) Debhelper(r Release) (string, error) {
	return b.once(fmt.Sprintf("debhelper %+v", r), func(dir string) (string, error) {
		ours, err := b.Deb(r)
		if err != nil {
			return "", err
		}
		tree := filepath.Join(dir, "tree")
		if err := run("", nil, "dpkg-deb", "--extract", ours, tree); err != nil {
			return "", err
		}
		files := map[string]string{}
		for name, from := range map[string]string{
			"myapp.service":  "usr/lib/systemd/system/myapp.service",
			"myapp.socket":   "usr/lib/systemd/system/myapp.socket",
			"myapp.sysusers": "usr/lib/sysusers.d/myapp.conf",
		} {
			text, err := os.ReadFile(filepath.Join(tree, from))
			if err != nil {
				return "", err
			}
			files[name] = string(text)
			if err := os.Remove(filepath.Join(tree, from)); err != nil { // debhelper puts it there again
				return "", err
			}
		}
		return debhelper(dir, r.Version, "holdfast", filepath.Join(tree), files)
	})
}

// DebhelperPlain makes a release of myapp from before it adopted Holdfast, with these units: a program that serves
// on the sockets that it gets, else on port 8080, and that a restart upgrades.
func (b *Builder) DebhelperPlain(version string, units map[string]string) (string, error) {
	return b.once(fmt.Sprintf("debhelper plain %s %q", version, units), func(dir string) (string, error) {
		program, err := b.Program(Plain, "", "-ldflags=-s -w -X main.version="+version)
		if err != nil {
			return "", err
		}
		tree := filepath.Join(dir, "tree")
		if err := os.MkdirAll(filepath.Join(tree, filepath.Dir(programPath)), 0o755); err != nil {
			return "", err
		}
		if err := os.Link(program, filepath.Join(tree, programPath)); err != nil {
			return "", err
		}
		return debhelper(dir, version, "", tree, units)
	})
}

// debhelper makes the package myapp of what is in tree and of the files in debian/ that its tools take.
func debhelper(dir, version, depends, tree string, files map[string]string) (string, error) {
	source := filepath.Join(dir, "source")
	files = maps.Clone(files)
	for name, text := range map[string]string{
		"changelog": fmt.Sprintf("myapp (%s) unstable; urgency=medium\n\n  * Release.\n\n -- Holdfast <holdfast@example.org>  Thu, 01 Jan 2026 00:00:00 +0000\n", version),
		"control": "Source: myapp\nSection: net\nPriority: optional\nMaintainer: Holdfast <holdfast@example.org>\nBuild-Depends: debhelper-compat (= 13)\n\n" +
			"Package: myapp\nArchitecture: any\nDepends: ${misc:Depends}, " + depends + "\nDescription: example service\n It answers.\n",
		// The program is not debhelper's to strip, and has no libraries.
		"rules": "#!/usr/bin/make -f\n%:\n\tdh $@ --with installsysusers\noverride_dh_strip override_dh_shlibdeps override_dh_dwz override_dh_auto_test:\n" +
			"override_dh_install:\n\tcp -a " + tree + "/. debian/myapp/\noverride_dh_builddeb:\n\tdh_builddeb -- -Zgzip -z1\n",
	} {
		files[name] = text
	}
	if err := os.MkdirAll(filepath.Join(source, "debian"), 0o755); err != nil {
		return "", err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		mode := os.FileMode(0o644)
		if name == "rules" {
			mode = 0o755
		}
		if err := os.WriteFile(filepath.Join(source, "debian", name), []byte(files[name]), mode); err != nil {
			return "", err
		}
	}
	if err := run(source, []string{"DEB_BUILD_OPTIONS=nocheck", "DH_VERBOSE="}, "debian/rules", "binary"); err != nil {
		return "", err
	}
	return onlyFile(dir, "*.deb")
}
