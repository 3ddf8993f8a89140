// SPDX-License-Identifier: Apache-2.0

package packages_test

import (
	"path"
	"runtime"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/packages"
)

// installPlainRPM makes a package of myapp from before it adopted Holdfast, with Fedora's macros and these units, and
// starts it. It returns the package.
func (s *rpmService) installPlainRPM(version string, units map[string]string) string {
	s.t.Helper()
	program, err := made.Program(packages.Plain, runtime.GOARCH, "-ldflags=-s -w -X main.version="+version)
	if err != nil {
		s.t.Fatal(err)
	}
	const root = "/root/fedora/plain"
	s.run("rm", "-rf", root)
	if err := s.Copy(s.ctx, program, path.Join(root, "usr/bin/myapp"), 0o755); err != nil {
		s.t.Fatal(err)
	}
	names := ""
	for name, text := range units {
		s.write(path.Join(root, "usr/lib/systemd/system", name), text)
		names += " " + name
	}
	file := s.fedoraTree("myapp", version, root, names, "systemd_postun_with_restart"+names)
	s.run("rm", "-r", dropIns) // that of the service that it becomes
	s.offer(file)
	s.dnf("install", "myapp")
	s.systemctl("start", myappUnit)
	s.mustAnswer(version)
	s.hurry()
	return file
}

// Promise: the upgrade from a version that knows nothing of Holdfast is one restart, which keeps the socket where
// systemd has it; so is the way back.
func TestRPMAdoption(t *testing.T) {
	eachRPM(t, func(t *testing.T, v vmtests.Version) {
		for _, before := range beforeHoldfast {
			t.Run(before.name, func(t *testing.T) {
				s := bootRPM(t, v)
				plain := s.installPlainRPM("0.9.0", before.units)
				socket := s.listener(8080)
				l := s.newcomers()

				s.offer(plain, s.rpm(v1), s.holdfastRPM("1.0.0"))
				said := s.dnf("upgrade")
				s.mustHave("1.0.0", "1.0.0")
				mustSay(t, said, "myapp: is restarted: ")
				s.mustBeUnmarked()
				s.offer(plain, s.rpm(v2), s.holdfastRPM("1.0.0"))
				s.dnf("upgrade")
				s.mustHave("2.0.0", "2.0.0")

				s.run("rm", "-r", dropIns)
				s.dnf("downgrade", "myapp-0.9.0")
				s.mustAnswer("0.9.0")
				s.mustBeWhole("myapp", "0.9.0")
				if now := s.listener(8080); now != socket && !before.loses {
					t.Errorf("the socket was opened anew: inode %s, then %s", socket, now)
				}
				sum := s.end(l)
				t.Logf("%v, %s: failed=%d of %d", v, before.name, sum.Failed, sum.OK+sum.Failed)
				if text := sum.FailureText(10); !before.loses && text != "" {
					t.Error(text)
				}
			})
		}
	})
}
