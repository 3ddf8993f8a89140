// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/internal/lastgood"
	"github.com/holdfast-go/holdfast/reexec/internal/machine"
)

// launched is what the service finds that the launcher has started.
func launched(t *testing.T, good bool) *lastGood {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	t.Setenv(lastgood.Variable, lastgood.Launched{Directory: dir, Good: good}.String())
	g := openLastGood("1.0.0", os.Args[0], slog.New(slog.DiscardHandler))
	if g == nil {
		t.Fatal("nobody keeps a record")
	}
	if value, ok := os.LookupEnv(lastgood.Variable); ok {
		t.Errorf("children of the service would find %q", value)
	}
	return g
}

// file is an open file with that content.
func openText(t *testing.T, text string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func (g *lastGood) onDisk(t *testing.T) lastgood.Record {
	t.Helper()
	r, err := g.dir.Read()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLastGoodRecord(t *testing.T) {
	g := launched(t, false)
	if st := g.status(); st != nil {
		t.Errorf("a service of which nothing is known shows %+v", st)
	}
	for n := range 2 {
		if err := g.attempting(openText(t, "v2")); err != nil {
			t.Fatal(err)
		}
		if r := g.onDisk(t); r.Attempt == nil || r.Attempt.Count != n+1 {
			t.Errorf("attempts: %+v, want %d", r.Attempt, n+1)
		}
	}
	if _, failed := g.failedBefore(openText(t, "v2")); failed {
		t.Error("an attempt is a failure")
	}
	g.failed(openText(t, "v2"), "2.0.0", "refused: hangs")
	if before, failed := g.failedBefore(openText(t, "v2")); !failed || !strings.HasPrefix(before, "version 2.0.0 failed at ") || !strings.HasSuffix(before, ": refused: hangs") {
		t.Errorf("failed before: %q, %v", before, failed)
	}
	if _, failed := g.failedBefore(openText(t, "v3")); failed {
		t.Error("another file of the same size has failed")
	}
	// In restart mode a check that it passes is all that an operator can ask for.
	g.tryAgain(openText(t, "v3"))
	if r := g.onDisk(t); len(r.Failed) != 1 {
		t.Errorf("after a try of another file: %+v", r.Failed)
	}
	g.tryAgain(openText(t, "v2"))
	if r := g.onDisk(t); len(r.Failed) != 0 {
		t.Errorf("after another try: %+v", r.Failed)
	}
	g.failed(openText(t, "v2"), "2.0.0", "refused: hangs")
	g.proven()
	st := g.status()
	if st == nil || st.Version != "1.0.0" || st.Fallback != "" || len(st.Failed) != 1 || st.Failed[0].Version != "2.0.0" {
		t.Fatalf("status %+v", st)
	}
	same, err := os.ReadFile(st.Path)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(same, ours) {
		t.Errorf("the copy has %d bytes, this program %d, or others", len(same), len(ours))
	}
	// Again: there is nothing to copy, and the time stays.
	before := g.onDisk(t)
	g.proven()
	if after := g.onDisk(t); *after.Good != *before.Good {
		t.Errorf("good is %+v, and was %+v", after.Good, before.Good)
	}
	// What an operator has cleared is seen without a restart.
	if _, err := g.dir.Update(func(err error) { t.Error(err) }, func(r *lastgood.Record) error { r.Retry(); return nil }); err != nil {
		t.Fatal(err)
	}
	if g.reread(); len(g.status().Failed) != 0 {
		t.Errorf("after a retry: %+v", g.status())
	}
}

// A mark that is written is no reason for a warning.
func TestMarkIsSilent(t *testing.T) {
	g := launched(t, false)
	var log bytes.Buffer
	g.log = slog.New(slog.NewTextHandler(&log, nil))
	f := openText(t, "v2")
	g.failed(f, "2.0.0", "it died")
	if r := g.onDisk(t); len(r.Failed) != 1 || log.Len() > 0 {
		t.Errorf("marks: %+v, and the log has: %s", r.Failed, log.String())
	}
	if _, err := f.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the file is open: %v", err)
	}
}

// A version that has proven itself where no copy can be made, such as on a full
// disk, is not taken for one that never comes up after three crashes.
func TestProvenWithoutCopy(t *testing.T) {
	g := launched(t, false)
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	id, err := g.identify(program)
	if err != nil {
		t.Fatal(err)
	}
	older := lastgood.Good{Identity: lastgood.Identity{Size: 1, SHA256: strings.Repeat("0", 64)}, Version: "0.9.0"}
	if err := g.update(func(r *lastgood.Record) error { r.Proven(older, false); return nil }); err != nil {
		t.Fatal(err)
	}
	// In the way of the copy.
	if err := os.Mkdir(g.dir.CopyOf(id), 0o755); err != nil {
		t.Fatal(err)
	}
	for range lastgood.MaxAttempts + 1 {
		var choice lastgood.Choice
		if err := g.update(func(r *lastgood.Record) error {
			choice = r.Choose(lastgood.Candidate{Path: "/usr/bin/myapp", Identity: id}, now())
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if choice.Good {
			t.Fatalf("the version before starts: %s", choice.Why)
		}
		g.proven()
	}
	if r := g.onDisk(t); r.Good == nil || r.Good.Version != older.Version {
		t.Errorf("the good version: %+v, want %s, which has a copy", r.Good, older.Version)
	}
}

func TestStoppedEarlyTakesTheAttemptBack(t *testing.T) {
	g := launched(t, false)
	if err := g.attempting(openText(t, "v2")); err != nil {
		t.Fatal(err)
	}
	g.stoppedEarly()
	if r := g.onDisk(t); r.Attempt != nil {
		t.Errorf("attempts: %+v", r.Attempt)
	}
	g.proven()
	if err := g.attempting(openText(t, "v2")); err != nil {
		t.Fatal(err)
	}
	g.stoppedEarly()
	if r := g.onDisk(t); r.Attempt == nil {
		t.Error("a good version took the attempt of another one back")
	}
}

// The copy that comes up in place of the file leaves the mark, and says why it runs.
func TestLastGoodInPlaceOfTheFile(t *testing.T) {
	g := launched(t, true)
	if why := g.why(); why == "" {
		t.Error("nobody says that it is the copy")
	}
	if _, err := g.dir.Update(func(err error) { t.Error(err) }, func(r *lastgood.Record) error {
		r.Fallback = &lastgood.Fallback{Reason: "it hangs", Count: 2}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	g.failed(openText(t, "v2"), "2.0.0", "refused: hangs")
	g.proven()
	if r := g.onDisk(t); len(r.Failed) != 1 || r.Fallback == nil || r.Fallback.Count != 0 {
		t.Errorf("%+v", r)
	}
	if st := g.status(); st.Fallback != "it hangs" {
		t.Errorf("status %+v", st)
	}
	name, err := os.ReadFile("/proc/self/comm")
	if want := processName(os.Args[0]) + "\n"; string(name) != want || err != nil {
		t.Errorf("the process is called %q, %v; want %q", name, err, want)
	}
}

// Without the launcher nothing is written, and nothing is shown.
func TestNoLauncher(t *testing.T) {
	var said strings.Builder
	log := slog.New(slog.NewTextHandler(&said, nil))
	if g := openLastGood("1", os.Args[0], log); g != nil || said.Len() > 0 {
		t.Errorf("%+v, log %q", g, said.String())
	}
	for value, want := range map[string]string{"x": "must be ", "file,/none/a": "no such file or directory"} {
		t.Setenv(lastgood.Variable, value)
		said.Reset()
		if g := openLastGood("1", os.Args[0], log); g != nil || !strings.Contains(said.String(), want) {
			t.Errorf("%s: %+v, log %q", value, g, said.String())
		}
	}
	var g *lastGood
	g.proven()
	g.reread()
	g.tryAgain(nil)
	if err := g.attempting(nil); err != nil || g.status() != nil || g.why() != "" {
		t.Errorf("%v, %+v, %q", err, g.status(), g.why())
	}
	if _, failed := g.failedBefore(nil); failed {
		t.Error("a file has failed before")
	}
}

// Only what is the file's fault is held against it.
func TestWhatIsBlamed(t *testing.T) {
	for _, tt := range []struct {
		outcome control.Outcome
		event   event
		want    bool
	}{
		{control.Refused, event{kind: machine.Unfit}, true},
		{control.Refused, event{kind: machine.Unfit, innocent: true}, false}, // a missing file
		{control.Refused, event{kind: machine.Died}, true},
		{control.Refused, event{kind: machine.Died, innocent: true}, false}, // no room for a process
		{control.Refused, event{kind: machine.Deadline}, true},
		{control.Refused, event{kind: machine.Ill}, true},
		{control.RolledBack, event{kind: machine.Ill}, true},
		{control.RolledBack, event{kind: machine.Hung}, true},
		{control.RolledBack, event{kind: machine.Died}, true},
		{control.RolledBack, event{kind: machine.Unmoved}, false}, // systemd did not hear
		{control.Stopped, event{kind: machine.Died}, false},
		{control.Upgraded, event{kind: machine.Moved}, false},
	} {
		s := &Service{lastGood: launched(t, false)}
		s.run.tried, s.run.reason, s.run.toBlame = openText(t, "v2"), "why", tt.event.blamesFile()
		f := s.run.tried
		s.blame(control.Verdict{Outcome: tt.outcome, To: &control.Process{Version: "2"}, Started: time.Now()})
		r := s.lastGood.onDisk(t)
		if got := len(r.Failed) == 1; got != tt.want {
			t.Errorf("%s on %v (innocent: %v): marked %v, want %v", tt.outcome, tt.event.kind, tt.event.innocent, got, tt.want)
		}
		if tt.want && (r.Failed[0].Reason != string(tt.outcome)+": why" || r.Failed[0].Version != "2") {
			t.Errorf("%+v", r.Failed[0])
		}
		if _, err := f.Stat(); err == nil || s.run.tried != nil {
			t.Errorf("%s on %v: the file stays open", tt.outcome, tt.event.kind)
		}
	}
}

// A copy of this program, as a rollback starts it, is told that it runs in place of the
// service's file, and its own successor is not.
func TestLaunchedAs(t *testing.T) {
	for _, tt := range []struct {
		environ, want string
		fallback      bool
	}{
		{"file,/s", "good,/s", true},
		{"file,/s", "file,/s", false},
		{"good,/s", "good,/s", true},
		{"good,/s", "file,/s", false},
		{"nonsense", "nonsense", true},
	} {
		got := launchedAs(tt.fallback, []string{"A=b", lastgood.Variable + "=" + tt.environ, lastgood.Variable + "X=file,/s"})
		if want := []string{"A=b", lastgood.Variable + "=" + tt.want, lastgood.Variable + "X=file,/s"}; !slices.Equal(got, want) {
			t.Errorf("fallback %v: %q, want %q", tt.fallback, got, want)
		}
	}
	if got := launchedAs(true, []string{"A=b"}); !slices.Equal(got, []string{"A=b"}) {
		t.Errorf("without a launcher: %q", got)
	}
}

// Only a path by way of a link "current" that has a "previous" beside it is in a
// layout of versions.
func TestInLayout(t *testing.T) {
	dir := t.TempDir()
	link := func(name, target string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if got, ok := inLayout(dir + "/current/myapp"); ok {
		t.Errorf("without links: %+v", got)
	}
	link("current", "versions/2.0")
	if got, ok := inLayout(dir + "/current/myapp"); ok {
		t.Errorf("without a version before: %+v", got)
	}
	link("previous", "versions/1.0")
	for path, want := range map[string]control.Program{
		dir + "/current/myapp":     {Version: "1.0", Path: dir + "/previous/myapp"},
		dir + "/current/bin/myapp": {Version: "1.0", Path: dir + "/previous/bin/myapp"},
		dir + "/current":           {},
		dir + "/versions/myapp":    {},
		"/usr/bin/myapp":           {},
		"myapp":                    {},
	} {
		got, ok := inLayout(path)
		if got != want || ok != (want.Path != "") {
			t.Errorf("%s: %+v, %v; want %+v", path, got, ok, want)
		}
	}
}
