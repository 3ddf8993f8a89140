// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func newJournal(t *testing.T) journal {
	t.Helper()
	j := journal{t.TempDir()}
	if err := j.create(); err != nil {
		t.Fatal(err)
	}
	return j
}

func TestUnitLocks(t *testing.T) {
	j := newJournal(t)
	release, err := j.lockUnits([]string{"b.service", "a.service"}, Request{ID: "one", By: "jane"})
	if err != nil {
		t.Fatal(err)
	}
	var busy *BusyError
	// All or none: c is free again.
	if _, err := j.lockUnits([]string{"c.service", "b.service"}, Request{ID: "two"}); !errors.As(err, &busy) || busy.Unit != "b.service" || busy.Holder.ID != "one" || busy.Holder.PID != os.Getpid() {
		t.Fatalf("error %v", err)
	}
	if h, err := j.busy("c.service"); h != nil || err != nil {
		t.Errorf("c.service: %+v, %v", h, err)
	}
	if h, err := j.busy("nosuch.service"); h != nil || err != nil {
		t.Errorf("nosuch.service: %+v, %v", h, err)
	}
	if h, err := j.busy("a.service"); err != nil || h == nil || h.By != "jane" {
		t.Errorf("a.service: %+v, %v", h, err)
	}
	release()
	if release, err = j.lockUnits([]string{"b.service"}, Request{ID: "two"}); err != nil {
		t.Fatal(err)
	}
	release()
}

// A reader may lock what it reads, so nobody else may read a lock, but all may see who
// holds it.
func TestOthersCannotHoldAUnit(t *testing.T) {
	j := newJournal(t)
	release, err := j.lockUnits([]string{"a.service"}, Request{ID: "one", By: "jane"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{filepath.Dir(j.unitLock("a.service")): 0o700, j.unitLock("a.service"): 0o600, j.unitHolder("a.service"): 0o644} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		// A narrower umask is as good.
		if got := info.Mode().Perm(); got&^want != 0 {
			t.Errorf("%s has mode %#o, want at most %#o", name, got, want)
		}
	}
	release()
	if _, err := os.Stat(j.unitHolder("a.service")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the holder is still named: %v", err)
	}
}

// Who may not look at the lock, sees its holder as long as that is there.
func TestBusyForOthers(t *testing.T) {
	j := newJournal(t)
	if err := j.hold("a.service", Holder{ID: "one", PID: os.Getpid()}); err != nil {
		t.Fatal(err)
	}
	if h := j.aliveHolder("a.service"); h == nil || h.ID != "one" {
		t.Errorf("a.service: %+v", h)
	}
	for _, pid := range []int{0, -1, 1 << 30} { // greater than any PID
		if err := j.hold("a.service", Holder{ID: "two", PID: pid}); err != nil {
			t.Fatal(err)
		}
		if h := j.aliveHolder("a.service"); h != nil {
			t.Errorf("PID %d: %+v", pid, h)
		}
	}
	if h := j.aliveHolder("b.service"); h != nil {
		t.Errorf("b.service: %+v", h)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	j := newJournal(t)
	for i := range maxHistory + 5 {
		report := Report{ID: fmt.Sprint(i), Units: []UnitReport{{Unit: "a.service"}, {Unit: "b.service"}}}
		for range 2 { // twice is as once
			if err := j.remember(report); err != nil {
				t.Fatal(err)
			}
		}
	}
	reports, err := j.reports("a.service")
	if err != nil || len(reports) != maxHistory || reports[0].ID != fmt.Sprint(maxHistory+4) || len(reports[0].Units) != 1 {
		t.Errorf("%d reports, the newest is %+v, %v", len(reports), reports[0], err)
	}
}

func TestFinishedRequestsAreForgotten(t *testing.T) {
	j := newJournal(t)
	put := func(id string, finished bool) {
		l, err := j.lockRequest(id)
		if err != nil {
			t.Fatal(err)
		}
		defer l.release()
		if err := j.save(&record{Format: recordFormat, Request: Request{ID: id}, Finished: finished}); err != nil {
			t.Fatal(err)
		}
	}
	put("unfinished", false)
	for i := range maxFinished + 3 {
		put(fmt.Sprint(i), true)
	}
	if err := j.prune(); err != nil {
		t.Fatal(err)
	}
	ids, err := j.requests()
	if err != nil || len(ids) != maxFinished+1 {
		t.Errorf("%d requests, %v", len(ids), err)
	}
	for _, gone := range []string{"0", "1", "2"} {
		if r, err := j.load(gone); r != nil || err != nil {
			t.Errorf("request %s is there: %v", gone, err)
		}
	}
	if r, err := j.load("unfinished"); r == nil || err != nil {
		t.Errorf("the unfinished request: %v, %v", r, err)
	}
}

// Files that make no sense are errors that name them.
func TestDamagedFiles(t *testing.T) {
	j := newJournal(t)
	if err := os.Mkdir(j.request("r"), 0o700); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"":                              "record.json",
		"{":                             "record.json",
		`{"format":2}`:                  "has format 2, this release knows 1",
		strings.Repeat(" ", maxFile+10): "more than",
	} {
		if err := os.WriteFile(filepath.Join(j.request("r"), recordName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := j.load("r"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, %v; want an error with %q", text, r, err, want)
		}
	}
	if err := os.WriteFile(j.frozen("a.service"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	// What cannot be read is not taken for "not frozen".
	if f, err := j.freeze("a.service"); err == nil {
		t.Errorf("freeze %+v, want an error", f)
	}
}

// A file is the old one or the new one, whatever happens, and nothing is left beside it.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "x.json")
	for i := range 3 {
		if err := writeFile(name, 0o600, i); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeFile(name, 0o600, func() {}); err == nil {
		t.Error("a function was written")
	}
	if err := writeFile(filepath.Join(dir, "nosuch", "x"), 0o600, 1); err == nil {
		t.Error("a file was written into a directory that is not there")
	}
	var got int
	if err := readFile(name, &got); err != nil || got != 2 {
		t.Errorf("%d, %v", got, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// Whoever waits for a request is not left with a lock of a directory that was removed.
func TestForgottenRequest(t *testing.T) {
	j := newJournal(t)
	l, err := j.lockRequest("r")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.lockRequest("r"); !errors.Is(err, errLocked) {
		t.Fatalf("error %v, want that it is locked", err)
	}
	if err := j.forget("r"); err != nil {
		t.Fatal(err)
	}
	again, err := j.lockRequest("r")
	if err != nil {
		t.Fatal(err)
	}
	l.release()
	if err := j.save(&record{Format: recordFormat, Request: Request{ID: "r"}, Written: time.Now()}); err != nil {
		t.Error(err)
	}
	again.release()
}
