// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/reexectest"
)

// After a bad version, whatever starts the service next starts the last good
// one, and a newer file starts again.
func TestLastGood(t *testing.T) {
	t.Parallel()
	u := reexectest.Start(t, onStandIn(t, reexectest.DefaultSystemd))
	mustSay := func(part string) {
		t.Helper()
		if err := u.WaitFor(t.Context(), reexectest.StatusText(part)); err != nil {
			t.Fatal(err)
		}
	}
	mustLog := func(part string) {
		t.Helper()
		if _, err := u.WaitForJournal(t.Context(), part); err != nil {
			t.Fatal(err)
		}
	}
	install := func(p reexectest.Program) {
		t.Helper()
		if err := u.Install("/usr/bin/myapp", p); err != nil {
			t.Fatal(err)
		}
	}
	crash := func() {
		t.Helper()
		main := u.MainPID()
		if err := u.Kill(reexectest.MainProcess, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := u.WaitFor(t.Context(), reexectest.MainPIDIsNot(main)); err != nil {
			t.Fatal(err)
		}
	}
	mustLog("this version is the last good one version=1 ")

	// Refused: it was seen to be bad, so a crash starts version 1.
	install(reexectest.Version("2").Crashing())
	if err := u.Reload(t.Context()); err == nil {
		t.Error("the reload succeeded with a version that crashes")
	}
	crash()
	mustSay(`running: 1 (generation 1), the last good version, because ` + u.Path("/usr/bin/myapp") + `: version 2 failed at `)
	if st := goodStatus(t, u); st.Version != "1" || len(st.LastGood.Failed) != 1 || st.LastGood.Failed[0].Version != "2" || st.LastGood.Version != "1" {
		t.Errorf("last good: %+v", st.LastGood)
	}
	// The operator may try again.
	err := u.Reload(t.Context())
	if err == nil || !strings.Contains(u.Show().StatusText, "the same file had failed before: version 2 failed at ") {
		t.Errorf("%v; status %q", err, u.Show().StatusText)
	}
	// A newer file: from the last good version, too, an upgrade takes the service's file.
	install(reexectest.Version("3"))
	if err := u.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	mustSay("running: 3 (generation 2)")
	mustLog("this version is the last good one version=3 ")
	if st := goodStatus(t, u); st.LastGood.Fallback != "" || st.LastGood.Version != "3" {
		t.Errorf("last good: %+v", st.LastGood)
	}

	// Without an upgrade, only its starts tell.
	install(reexectest.Version("4").Crashing())
	crash()
	mustLog("it was started 3 times and has not once run in good health through its probation")
	mustSay("running: 3 (generation 1), the last good version, because ")
	install(reexectest.Version("5"))
	crash()
	mustSay("running: 5 (generation 1)")
	mustLog("this version is the last good one version=5 ")

	// No file at all.
	install(reexectest.Missing())
	crash()
	mustSay("running: 5 (generation 1), the last good version, because open ")
	copies, err := filepath.Glob(u.Path("/var/lib/myapp.holdfast/good-*"))
	if len(copies) != 2 || err != nil {
		t.Errorf("%v, %v: want its copy, and that of version 3 for a rollback", copies, err)
	}
}

// goodStatus is status of a service that knows a last good version.
func goodStatus(t *testing.T, u *reexectest.Unit) control.Status {
	t.Helper()
	st := status(t, u)
	if st.LastGood == nil {
		t.Fatalf("nothing is known of a last good version: %+v", st)
	}
	return st
}

// status asks the control socket.
func status(t *testing.T, u *reexectest.Unit) control.Status {
	t.Helper()
	st, err := control.NewClient(u.Path("/run/myapp/control.sock")).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st
}
