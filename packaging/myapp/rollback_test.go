// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/reexectest"
	"github.com/holdfast-go/holdfast/units"
)

// rolling is a unit whose versions go forth and back.
type rolling struct {
	*testing.T
	u      *reexectest.Unit
	client *control.Client
}

func startRolling(t *testing.T, o reexectest.Options) *rolling {
	t.Helper()
	u := reexectest.Start(t, o)
	return &rolling{t, u, control.NewClient(u.Path("/run/myapp/control.sock"))}
}

func (r *rolling) install(p reexectest.Program) {
	r.Helper()
	if err := r.u.Install("/usr/bin/myapp", p); err != nil {
		r.Fatal(err)
	}
}

// good waits until that version is the good one.
func (r *rolling) good(version string) {
	r.Helper()
	if _, err := r.u.WaitForJournal(r.Context(), "this version is the last good one version="+version+" "); err != nil {
		r.Fatal(err)
	}
}

// upgrade upgrades to another version, and waits until it is the good one.
func (r *rolling) upgrade(version string) {
	r.Helper()
	r.install(reexectest.Version(version))
	if err := r.u.Reload(r.Context()); err != nil {
		r.Fatal(err)
	}
	r.good(version)
}

// rollBack asks for a rollback and checks its outcome.
func (r *rolling) rollBack(outcome control.Outcome, reason string) control.Verdict {
	r.Helper()
	got, err := r.client.RollbackAndFollow(r.Context(), control.FollowOptions{Reason: "orders are lost"})
	v := got.Verdict
	if err != nil || v.Outcome != outcome || !v.Rollback || !strings.Contains(v.Reason, reason) || reason == "" && v.Reason != "" {
		r.Fatalf("the rollback ended with %+v, %v; want %q because of %q", v, err, outcome, reason)
	}
	return v
}

func (r *rolling) status() control.Status {
	r.Helper()
	st, err := r.client.Status(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	return st
}

// mustRun says which version serves, in which generation, and what a rollback would
// start.
func (r *rolling) mustRun(version string, generation int, previous string) control.Status {
	r.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		st := r.status()
		got := ""
		if st.Previous != nil {
			got = st.Previous.Version
		}
		if st.Version == version && st.Generation == generation && got == previous {
			return st
		}
		// As long as a version drains, it may be what a rollback would start.
		if len(st.Draining) == 0 || time.Now().After(deadline) {
			r.Fatalf("version %s (generation %d) serves, previous %q; want %s (%d), %q", st.Version, st.Generation, got, version, generation, previous)
		}
	}
}

// crash kills main, and waits until systemd has started the service anew.
func (r *rolling) crash() {
	r.Helper()
	main := r.u.MainPID()
	if err := r.u.Kill(reexectest.MainProcess, syscall.SIGKILL); err != nil {
		r.Fatal(err)
	}
	if err := r.u.WaitFor(r.Context(), reexectest.MainPIDIsNot(main)); err != nil {
		r.Fatal(err)
	}
	if err := r.u.WaitFor(r.Context(), reexectest.StatusText("running: ")); err != nil {
		r.Fatal(err)
	}
}

func (r *rolling) copies(want int) {
	r.Helper()
	copies, err := filepath.Glob(r.u.Path("/var/lib/myapp.holdfast/good-*"))
	if err != nil || len(copies) != want {
		r.Errorf("%v, %v: want %d copies", copies, err, want)
	}
}

// In both modes that upgrade by themselves, the version before comes back when it is
// asked for, and stays whatever ends it, until a newer file is there.
func TestRollback(t *testing.T) {
	t.Parallel()
	for _, mode := range []units.Mode{units.Overlap, units.InPlace} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			r := startRolling(t, onStandInBy(t, reexectest.DefaultSystemd, mode))
			r.good("1")
			r.mustRun("1", 1, "")
			r.rollBack(control.Refused, "no version before 1 has proven itself")
			r.upgrade("2")
			r.mustRun("2", 2, "1")
			r.copies(2)
			// The package manager needs not have the old file.
			v := r.rollBack(control.Upgraded, "")
			if v.From.Version != "2" || v.To.Version != "1" || v.To.Generation != 3 {
				t.Errorf("from %+v to %+v", v.From, v.To)
			}
			st := r.mustRun("1", 3, "2")
			if g := st.LastGood; g.Version != "1" || len(g.Failed) != 1 || g.Failed[0].Version != "2" || g.Failed[0].Reason != "rolled back by the operator: orders are lost" ||
				!strings.Contains(g.Fallback, "/usr/bin/myapp: version 2 failed at ") || !st.Last.Rollback {
				t.Errorf("after the rollback: %+v, last %+v", g, st.Last)
			}
			if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", st.PID)); string(comm) != "myapp\n" || err != nil {
				t.Errorf("the process is called %q, %v", comm, err)
			}
			r.crash()
			r.mustRun("1", 1, "2")
			if err := r.u.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.mustRun("1", 1, "2")

			// And forth again, to the file that was rolled back.
			r.rollBack(control.Upgraded, "")
			st = r.mustRun("2", 2, "1")
			if st.LastGood.Fallback != "" || len(st.LastGood.Failed) != 1 || st.LastGood.Failed[0].Version != "1" {
				t.Errorf("after the second rollback: %+v", st.LastGood)
			}
			r.crash()
			r.mustRun("2", 1, "1")
			r.rollBack(control.Upgraded, "")
			r.mustRun("1", 2, "2")

			r.upgrade("3")
			r.mustRun("3", 3, "1")
			r.copies(2)
			r.crash()
			st = r.mustRun("3", 1, "1")
			if st.LastGood.Fallback != "" {
				t.Errorf("after a newer file: %+v", st.LastGood)
			}
		})
	}
}

// In the mode restart a rollback decides what the next restart starts.
func TestRollbackByRestart(t *testing.T) {
	t.Parallel()
	r := startRolling(t, onStandInBy(t, reexectest.DefaultSystemd, units.Restart))
	r.good("1")
	r.install(reexectest.Version("2"))
	if err := r.u.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.good("2")
	r.mustRun("2", 1, "1")
	r.rollBack(control.Refused, "1 starts next, and this service changes its version by a restart only: systemctl restart ")
	r.mustRun("2", 1, "1")
	if err := r.u.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	st := r.mustRun("1", 1, "2")
	if !strings.Contains(st.LastGood.Fallback, "version 2 failed at ") {
		t.Errorf("%+v", st.LastGood)
	}
}

// What is installed meanwhile and was never started is no way out of a rollback:
// it would start next, unseen.
func TestRollbackMarksWhatIsInstalled(t *testing.T) {
	t.Parallel()
	r := startRolling(t, onStandIn(t, reexectest.DefaultSystemd))
	r.good("1")
	r.upgrade("2")
	r.install(reexectest.Version("3"))
	r.rollBack(control.Upgraded, "")
	if st := r.mustRun("1", 3, "2"); len(st.LastGood.Failed) != 2 {
		t.Errorf("%+v", st.LastGood)
	}
	r.crash()
	r.mustRun("1", 1, "2")
	// The file that is rolled back to may be there already.
	r.upgrade("4")
	r.install(reexectest.Version("1"))
	r.rollBack(control.Upgraded, "")
	if st := r.mustRun("1", 3, "4"); st.LastGood.Fallback != "" {
		t.Errorf("version 1 is installed, and yet: %+v", st.LastGood)
	}
	r.crash()
	r.mustRun("1", 1, "4")
	// No file at all: what starts next is known all the same.
	r.upgrade("5")
	r.install(reexectest.Missing())
	r.rollBack(control.Upgraded, "")
	if st := r.mustRun("1", 3, "5"); !strings.Contains(st.LastGood.Fallback, "no such file") {
		t.Errorf("%+v", st.LastGood)
	}
}

// A version before that does no longer do well changes nothing.
func TestRollbackRefused(t *testing.T) {
	t.Parallel()
	for _, mode := range []units.Mode{units.Overlap, units.InPlace} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			r := startRolling(t, onStandInBy(t, reexectest.DefaultSystemd, mode))
			r.good("1")
			r.upgrade("2")
			before := r.mustRun("2", 2, "1")
			damaged := before.Previous.Path
			whole, err := os.ReadFile(damaged)
			if err != nil {
				t.Fatal(err)
			}
			rewrite(t, damaged, whole[:len(whole)/2])
			r.rollBack(control.Refused, "is not what was copied")
			rewrite(t, damaged, whole)
			if err := os.Chmod(damaged, 0o757); err != nil {
				t.Fatal(err)
			}
			r.rollBack(control.Refused, "others than its owner may write it")
			if err := os.Remove(damaged); err != nil {
				t.Fatal(err)
			}
			r.rollBack(control.Refused, "no version before 2 has proven itself")
			after := r.mustRun("2", 2, "")
			if len(after.LastGood.Failed) > 0 || after.LastGood.Version != "2" {
				t.Errorf("after refused rollbacks: %+v", after.LastGood)
			}
			if text := r.u.Show().StatusText; !strings.Contains(text, "; rollback to the new version refused at ") {
				t.Errorf("status %q", text)
			}
			r.crash()
			r.mustRun("2", 1, "")
		})
	}
}

func rewrite(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", content, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// In the probation of an upgrade the version before is main already: a rollback undoes
// what is on trial.
func TestRollbackInProbation(t *testing.T) {
	t.Parallel()
	o := onStandIn(t, reexectest.DefaultSystemd)
	o.Files["myapp.service.d/zz.conf"] = dropIn("-probation=1h -beat=500ms")["myapp.service.d/test.conf"]
	r := startRolling(t, o)
	r.install(reexectest.Version("2"))
	reload := make(chan error, 1)
	go func() { reload <- r.u.Reload(t.Context()) }()
	if err := r.u.WaitFor(t.Context(), reexectest.StatusText("probation: ")); err != nil {
		t.Fatal(err)
	}
	v := r.rollBack(control.Upgraded, "")
	if v.From.Version != "2" || v.To == nil || v.To.Version != "1" || v.To.PID != r.u.MainPID() {
		t.Errorf("from %+v to %+v", v.From, v.To)
	}
	if err := <-reload; err == nil {
		t.Error("the reload succeeded")
	}
	st := r.mustRun("1", 1, "")
	if st.Last == nil || st.Last.Outcome != control.RolledBack || st.Last.Rollback || st.Last.Reason != "rolled back by the operator: orders are lost" {
		t.Errorf("the upgrade ended with %+v", st.Last)
	}
	if g := st.LastGood; g == nil || len(g.Failed) != 1 || g.Failed[0].Version != "2" {
		t.Errorf("%+v", g)
	}
	r.rollBack(control.Refused, "no version before 1 has proven itself")
}

// One attempt at a time, whichever it is: who comes second is told so when the first
// is over.
func TestRollbackDuringAnUpgrade(t *testing.T) {
	t.Parallel()
	r := startRolling(t, onStandIn(t, reexectest.DefaultSystemd))
	r.good("1")
	r.upgrade("2")
	r.install(reexectest.Version("3").Slow(time.Second))
	reload := make(chan error, 1)
	go func() { reload <- r.u.Reload(t.Context()) }()
	if err := r.u.WaitFor(t.Context(), reexectest.StatusText("starting: ")); err != nil {
		t.Fatal(err)
	}
	if v := r.rollBack(control.Busy, "another upgrade was under way; it ended: upgraded"); v.To != nil {
		t.Errorf("%+v", v)
	}
	if err := <-reload; err != nil {
		t.Fatal(err)
	}
	r.mustRun("3", 3, "2")
	r.good("3")
}

// Two rollbacks at once are one, in each of its phases.
func TestTwoRollbacks(t *testing.T) {
	t.Parallel()
	r, first := inProbation(t)
	second := make(chan control.Verdict, 1)
	go func() {
		v, err := r.client.Rollback(t.Context(), "", nil)
		if err != nil {
			t.Error(err)
		}
		second <- v
	}()
	// It is held by then.
	if _, err := r.u.WaitForJournal(t.Context(), "request for an upgrade is held"); err != nil {
		t.Fatal(err)
	}
	st := r.status()
	if err := r.u.Signal(st.Successor.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if a, b := <-first, <-second; a.Outcome != control.RolledBack || !a.Rollback || b.Outcome != control.Busy || !strings.Contains(b.Reason, "it ended: rolled back") {
		t.Errorf("two rollbacks at once ended with %+v and %+v", a, b)
	}
	st = r.mustRun("2", 1, "1")
	if g := st.LastGood; g.Version != "2" || len(g.Failed) != 1 || g.Failed[0].Version != "1" {
		t.Errorf("%+v", g)
	}
}

// A stop in the probation of a rollback undoes it: there was no verdict.
func TestRollbackAndStop(t *testing.T) {
	t.Parallel()
	r, stopped := inProbation(t)
	if err := r.u.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	// systemd's signal may reach the version on trial first, which leaves by it.
	if v := <-stopped; v.Outcome != control.Stopped && (v.Outcome != control.RolledBack || !strings.HasSuffix(v.Reason, ": SIGTERM")) {
		t.Errorf("%+v", v)
	}
	if st := r.mustRun("2", 1, "1"); len(st.LastGood.Failed) > 0 || st.LastGood.Version != "2" {
		t.Errorf("%+v", st.LastGood)
	}
}

// If the version that is left dies in the probation of the one before, that takes
// over, and starts next, too.
func TestRollbackAndCrash(t *testing.T) {
	t.Parallel()
	r, _ := inProbation(t)
	main := r.u.MainPID()
	if err := r.u.Kill(reexectest.MainProcess, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := r.u.WaitFor(t.Context(), reexectest.MainPIDIsNot(main)); err != nil {
		t.Fatal(err)
	}
	r.mustRun("1", 2, "2")
	r.crash()
	if st := r.mustRun("1", 1, "2"); !strings.Contains(st.LastGood.Fallback, "version 2 failed at ") {
		t.Errorf("%+v", st.LastGood)
	}
}

// inProbation returns when version 1 is on trial, to which version 2 is rolled back.
func inProbation(t *testing.T) (*rolling, <-chan control.Verdict) {
	t.Helper()
	o := onStandIn(t, reexectest.DefaultSystemd)
	r := startRolling(t, o)
	r.good("1")
	r.upgrade("2")
	// From the next version on: the arguments are those of the running one.
	if err := r.u.DaemonReload(t.Context(), map[string]string{
		"myapp.service.d/zz.conf": dropIn("-probation=1h -beat=500ms")["myapp.service.d/test.conf"],
	}); err != nil {
		t.Fatal(err)
	}
	if err := r.u.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	verdict := make(chan control.Verdict, 1)
	go func() {
		// An error is a verdict, too: that of a predecessor that has died.
		v, _ := r.client.Rollback(t.Context(), "", nil)
		verdict <- v
	}()
	if err := r.u.WaitFor(t.Context(), reexectest.StatusText("probation: ")); err != nil {
		t.Fatal(err)
	}
	return r, verdict
}

// Without the launcher the version before is at hand while it drains; a restart then
// starts what is installed.
func TestRollbackWithoutLauncher(t *testing.T) {
	t.Parallel()
	o := onStandIn(t, reexectest.DefaultSystemd)
	o.Files["myapp.service.d/zz.conf"] = "[Service]\nExecStart=\nExecStart=/usr/bin/myapp -probation=1us\nRestartSec=50ms\n"
	r := startRolling(t, o)
	r.mustRun("1", 1, "")
	r.rollBack(control.Refused, `start the service by "holdfast launch"`)
	release := r.hold()
	r.reloadTo("2")
	r.mustRun("2", 2, "1")
	again := r.hold()
	r.rollBack(control.Upgraded, "")
	st := r.mustRun("1", 3, "2")
	if st.LastGood != nil || !strings.HasPrefix(st.Previous.Path, "/proc/") {
		t.Errorf("previous %+v, last good %+v", st.Previous, st.LastGood)
	}
	release()
	again()
	r.crash()
	r.mustRun("2", 1, "")
}

// reloadTo upgrades to another version.
func (r *rolling) reloadTo(version string) {
	r.Helper()
	r.install(reexectest.Version(version))
	if err := r.u.Reload(r.Context()); err != nil {
		r.Fatal(err)
	}
}

// hold keeps main busy until release is called: when it drains, that lasts.
func (r *rolling) hold() (release func()) {
	r.Helper()
	ctx, cancel := context.WithCancel(r.Context())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.u.Addr("http")+"/sleep?for=1h", nil)
	if err != nil {
		r.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		r.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
	}()
	release = func() {
		cancel()
		<-ended
	}
	r.Cleanup(release)
	return release
}

// A program that begins anew, since the next one cannot be executed, is in place of
// the service's file if it was before.
func TestFallbackBeginsAnew(t *testing.T) {
	t.Parallel()
	r := startRolling(t, onStandInBy(t, reexectest.DefaultSystemd, units.InPlace))
	r.good("1")
	r.upgrade("2")
	r.rollBack(control.Upgraded, "")
	before := r.mustRun("1", 3, "2")
	r.install(reexectest.Version("3"))
	release := r.hold()
	reload := make(chan error, 1)
	go func() { reload <- r.u.Reload(t.Context()) }()
	if err := r.u.WaitFor(t.Context(), reexectest.StatusText("emptying: ")); err != nil {
		t.Fatal(err)
	}
	// Nobody executes what is open for writing (ETXTBSY).
	busy, err := os.OpenFile(r.u.Path("/usr/bin/myapp"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	release()
	if err := <-reload; err == nil {
		t.Error("the reload succeeded")
	}
	after := r.mustRun("1", 3, "2")
	if after.LastGood.Fallback == "" || after.LastGood.Fallback != before.LastGood.Fallback {
		t.Errorf("it runs in place of the file because of %q, and said %q before", after.LastGood.Fallback, before.LastGood.Fallback)
	}
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", after.PID)); string(comm) != "myapp\n" || err != nil {
		t.Errorf("the process is called %q, %v", comm, err)
	}
}

// The record goes back, too, if a rollback in place cannot execute the version before.
func TestRollbackCannotExecute(t *testing.T) {
	t.Parallel()
	r := startRolling(t, onStandInBy(t, reexectest.DefaultSystemd, units.InPlace))
	r.good("1")
	r.upgrade("2")
	previous := r.mustRun("2", 2, "1").Previous.Path
	release := r.hold()
	verdict := make(chan control.Result, 1)
	go func() {
		got, err := r.client.RollbackAndFollow(t.Context(), control.FollowOptions{})
		if err != nil {
			t.Error(err)
		}
		verdict <- got
	}()
	if err := r.u.WaitFor(t.Context(), reexectest.StatusText("emptying: ")); err != nil {
		t.Fatal(err)
	}
	busy, err := os.OpenFile(previous, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	release()
	if v := (<-verdict).Verdict; v.Outcome != control.Refused || !v.Rollback || !strings.Contains(v.Reason, "text file busy") {
		t.Errorf("%+v", v)
	}
	if st := r.mustRun("2", 2, "1"); len(st.LastGood.Failed) > 0 || st.LastGood.Version != "2" || st.LastGood.Fallback != "" {
		t.Errorf("%+v", st.LastGood)
	}
	r.crash()
	r.mustRun("2", 1, "1")
}

// A record that cannot be written stops no rollback; but where it is all that a
// rollback does, the operator is told.
func TestRollbackWithoutRecord(t *testing.T) {
	t.Parallel()
	for mode, want := range map[units.Mode]control.Verdict{
		units.Overlap: {Outcome: control.Upgraded},
		units.Restart: {Outcome: control.Refused, Reason: "roll back: write the record: "},
	} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			r := startRolling(t, onStandInBy(t, reexectest.DefaultSystemd, mode))
			r.good("1")
			r.install(reexectest.Version("2"))
			if mode == units.Restart {
				if err := r.u.Restart(t.Context()); err != nil {
					t.Fatal(err)
				}
			} else if err := r.u.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.good("2")
			record := r.u.Path("/var/lib/myapp.holdfast/record.json")
			if err := os.Rename(record, record+".old"); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(record, 0o755); err != nil {
				t.Fatal(err)
			}
			r.rollBack(want.Outcome, want.Reason)
			if mode == units.Overlap {
				r.mustRun("1", 3, "")
				if _, err := r.u.WaitForJournal(t.Context(), `WARN record of the rollback error="write the record: `); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Remove(record); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(record+".old", record); err != nil {
				t.Fatal(err)
			}
			r.crash()
			r.mustRun("2", 1, "1")
		})
	}
}
