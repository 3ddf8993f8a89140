// SPDX-License-Identifier: Apache-2.0

package machine_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/internal/machine"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestEveryCellIsDecided(t *testing.T) {
	for s := range machine.States {
		for e := range machine.Events {
			c := machine.Default.Cell(s, e)
			if !c.Decided() {
				t.Errorf("%v on %v: not decided", s, e)
			}
			if c.Next == s && len(c.Do) == 0 && c.Why == "" {
				t.Errorf("%v on %v: changes nothing and does not say why", s, e)
			}
			if c.Next >= machine.States {
				t.Errorf("%v on %v: next state does not exist", s, e)
			}
		}
	}
}

// The printed tables are part of the documentation: a change of behaviour
// shows as a diff of these files.
func TestPrintedTables(t *testing.T) {
	for name, write := range map[string]func(*bytes.Buffer) error{
		"table.txt":   func(b *bytes.Buffer) error { return machine.Default.WriteTable(b) },
		"cells.txt":   func(b *bytes.Buffer) error { return machine.Default.WriteCells(b) },
		"diagram.mmd": func(b *bytes.Buffer) error { return machine.Default.WriteMermaid(b) },
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := write(&got); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s is out of date: go test ./reexec/internal/machine -update\n%s", file, got.String())
			}
		})
	}
}

// walk calls visit for every sequence of events up to depth that starts in
// from and in which no cell marked Never is met.
func walk(depth int, from machine.State, visit func(trace []machine.Event, s machine.State, do []machine.Action)) int {
	n := 0
	var trace []machine.Event
	var rec func(machine.State, int)
	rec = func(s machine.State, left int) {
		if left == 0 {
			return
		}
		for e := range machine.Events {
			if machine.Default.Cell(s, e).Never {
				continue
			}
			n++
			next, do := machine.Default.Step(s, e)
			trace = append(trace, e)
			visit(trace, next, do)
			if next != s {
				rec(next, left-1)
			}
			trace = trace[:len(trace)-1]
		}
	}
	rec(from, depth)
	return n
}

func TestStopAlwaysWins(t *testing.T) {
	for _, from := range []machine.State{machine.Booting, machine.Joining, machine.Renewed} {
		n := walk(9, from, func(trace []machine.Event, s machine.State, do []machine.Action) {
			i := slices.Index(trace, machine.Stop)
			if i < 0 || s == machine.Stopping || s == machine.Gone {
				return
			}
			t.Fatalf("after %v from %v: %v", trace, from, s)
		})
		t.Logf("%d steps from %v", n, from)
	}
}

func TestFactsOfStates(t *testing.T) {
	for s := range machine.States {
		for e := range machine.Events {
			next, do := machine.Default.Step(s, e)
			has := func(a machine.Action) bool { return slices.Contains(do, a) }
			if machine.Default.Cell(s, e).Never {
				continue
			}
			// A change in accepting is always an action of the cell.
			if s.Accepts() && !next.Accepts() && next != machine.Gone &&
				!has(machine.Pause) && !has(machine.Drain) && !has(machine.DrainNow) && !has(machine.Empty) {
				t.Errorf("%v on %v: goes on accepting in %v", s, e, next)
			}
			if !s.Accepts() && next.Accepts() && !has(machine.Accept) {
				t.Errorf("%v on %v: does not accept in %v", s, e, next)
			}
			// A request under way gets exactly one answer.
			replies := 0
			for _, a := range do {
				switch a {
				case machine.ReplyUpgraded, machine.ReplyRefused, machine.ReplyRolledBack, machine.ReplyStopped:
					replies++
				}
			}
			want := 0
			if s.Upgrading() && !next.Upgrading() && e != machine.Failed {
				want = 1
			}
			if replies != want {
				t.Errorf("%v on %v: %d answers, want %d", s, e, replies, want)
			}
			// A drain can only be waited for where one was begun.
			if (next == machine.Draining || next == machine.Resigning || next == machine.Stopping) && next != s &&
				!has(machine.Drain) && !has(machine.DrainNow) {
				t.Errorf("%v on %v: waits in %v for a drain that nobody began", s, e, next)
			}
			if next == machine.Emptying && next != s && !has(machine.Empty) {
				t.Errorf("%v on %v: waits in %v for a drain that nobody began", s, e, next)
			}
			// What is executed may crash at once; the states must be safe then.
			if i, j := slices.Index(do, machine.Execute), slices.Index(do, machine.Commit); i >= 0 && (j < 0 || j > i) {
				t.Errorf("%v on %v: executes before the states are committed", s, e)
			}
			// sd_notify(3): STOPPING=1 from an old process stops the unit.
			if has(machine.AnnounceStop) && s != machine.Serving {
				t.Errorf("%v on %v: announces a stop without being surely main", s, e)
			}
			// Every end of trial names us again before the successor goes.
			if i, j := slices.Index(do, machine.NameSelf), firstOf(do, machine.Kill, machine.TellUndo); i >= 0 && j >= 0 && i > j {
				t.Errorf("%v on %v: the successor goes before the PID file is ours", s, e)
			}
			if i, j := slices.Index(do, machine.TellPromote), slices.Index(do, machine.DropLease); i >= 0 && (j < 0 || j > i) {
				t.Errorf("%v on %v: two writers", s, e)
			}
		}
	}
	if machine.Serving.Timed() || machine.Gone.Timed() {
		t.Error("a timer runs while serving, or when gone")
	}
}

func firstOf(do []machine.Action, any ...machine.Action) int {
	return slices.IndexFunc(do, func(a machine.Action) bool { return slices.Contains(any, a) })
}

func TestNames(t *testing.T) {
	seen := map[string]bool{}
	add := func(s string) {
		if s == "" || seen[s] {
			t.Errorf("name %q is empty or used twice", s)
		}
		seen[s] = true
	}
	for s := range machine.States {
		add("s " + s.String())
	}
	for e := range machine.Events {
		add("e " + e.String())
	}
	for a := range machine.Actions {
		add("a " + a.String())
	}
	if got := machine.State(200).String(); got != "state 200" {
		t.Errorf("State(200) = %q", got)
	}
}
