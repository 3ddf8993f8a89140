// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/reexectest"
	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/units/versions"
)

// With versions side by side the version before is at hand without a launcher: by the
// link to it, and after that by the link to what was left.
func TestRollbackSideBySide(t *testing.T) {
	t.Parallel()
	for _, mode := range []units.Mode{units.Overlap, units.InPlace} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			root, err := os.MkdirTemp("", "side") // paths of sockets are short
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(root) })
			side := filepath.Join(root, "usr/lib/myapp")
			if err := os.MkdirAll(filepath.Join(side, "versions/1"), 0o755); err != nil {
				t.Fatal(err)
			}
			d, err := versions.OpenToChange(side)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			switchTo := func(version string) {
				t.Helper()
				if _, err := d.Switch(version); err != nil {
					t.Fatal(err)
				}
			}
			switchTo("1")
			const program = "/usr/lib/myapp/current/myapp"
			o := onStandInBy(t, reexectest.DefaultSystemd, mode)
			o.Root, o.Programs = root, map[string]reexectest.Program{program: reexectest.Version("1")}
			o.Files["myapp.service.d/zz.conf"] = "[Service]\nExecStart=\nExecStart=" + program + " -probation=1us -mode=" + string(mode) + "\nRestartSec=50ms\n"
			r := startRolling(t, o)
			if dir, ok := versions.Find(r.u.Path(program)); !ok || dir != side {
				t.Errorf("the program is in %q, %v", dir, ok)
			}
			r.mustRun("1", 1, "")
			r.rollBack(control.Refused, `see "holdfast versions"`)
			file := filepath.Join(side, "versions/1/myapp")
			if err := d.Install(file, "2", "myapp"); err != nil {
				t.Fatal(err)
			}
			switchTo("2")
			if err := r.u.Install(program, reexectest.Version("2")); err != nil {
				t.Fatal(err)
			}
			// What is current and does not run is not what a rollback leads to.
			r.mustRun("1", 1, "")
			if err := r.u.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
			if st := r.mustRun("2", 2, "1"); !strings.HasSuffix(st.Previous.Path, "/usr/lib/myapp/previous/myapp") {
				t.Errorf("previous is %+v", st.Previous)
			}
			r.rollBack(control.Upgraded, "")
			st := r.mustRun("1", 3, "2")
			if !strings.HasSuffix(st.Previous.Path, program) {
				t.Fatalf("previous is %+v, want what is installed", st.Previous)
			}
			r.rollBack(control.Upgraded, "")
			r.mustRun("2", 4, "1")
			// The links are the operator's: a restart starts what they say.
			r.rollBack(control.Upgraded, "")
			r.crash()
			r.mustRun("2", 1, "1")
			switchTo(versions.Previous)
			r.crash()
			r.mustRun("1", 1, "2")
		})
	}
}
