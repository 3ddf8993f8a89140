// SPDX-License-Identifier: Apache-2.0

package model_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/internal/machine"
	"github.com/holdfast-go/holdfast/reexec/internal/model"
)

func TestExplore(t *testing.T) {
	for _, c := range []struct {
		name   string
		limits model.Limits
	}{
		{"overlap, no faults", model.Limits{Requests: 2, Stops: 1}},
		{"overlap, one fault", model.Limits{Faults: 1, Requests: 2, Stops: 1}},
		{"overlap, two faults", model.Limits{Faults: 2, Requests: 2, Stops: 1}},
		{"overlap, commits", model.Limits{Faults: 1, Requests: 1, Stops: 1, Commits: 2}},
		{"in place, two faults", model.Limits{Mode: model.InPlace, Faults: 2, Requests: 2, Stops: 1}},
		{"in place, commits", model.Limits{Mode: model.InPlace, Faults: 2, Requests: 2, Stops: 1, Commits: 3}},
		{"restart, two faults", model.Limits{Mode: model.Restart, Faults: 2, Requests: 2, Stops: 1, Commits: 2}},
		{"mixed, one fault", model.Limits{Mode: model.Mixed, Faults: 1, Requests: 2, Stops: 1}},
		{"mixed, commits", model.Limits{Mode: model.Mixed, Requests: 2, Stops: 1, Commits: 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			begin := time.Now()
			res, err := model.Explore(machine.Default, model.Start(c.limits))
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d states, %d steps, %d ends in %v", res.States, res.Steps, res.Ends, time.Since(begin).Round(time.Millisecond))
		})
	}
}

// The exploration must be able to find something: each of these changes one
// cell of the table, and each has been made by somebody's upgrade tool.
func TestSeededBugs(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(*machine.Table)
	}{
		{"MAINPID= moves before probation is over", func(t *machine.Table) {
			c := &t[machine.Starting][machine.Ready]
			c.Next = machine.Promoting
			c.Do = append(append([]machine.Action(nil), c.Do...), machine.MoveMain)
		}},
		{"the PID file is not rewritten on rollback", func(t *machine.Table) {
			c := &t[machine.Probation][machine.Ill]
			c.Do = []machine.Action{machine.Accept, machine.TellUndo, machine.ReplyRolledBack}
		}},
		{"the lease is dropped after the successor is told", func(t *machine.Table) {
			c := &t[machine.Promoting][machine.Moved]
			c.Do = []machine.Action{machine.Retire, machine.TellPromote, machine.ReplyUpgraded, machine.Drain}
		}},
		{"a successor that leaves does not say so", func(t *machine.Table) {
			c := &t[machine.Trial][machine.Stop]
			c.Do = []machine.Action{machine.DrainNow}
		}},
		{"a stop during the start is forgotten", func(t *machine.Table) {
			t[machine.Starting][machine.Stop].Next = machine.Starting
			t[machine.Starting][machine.Stop].Do = nil
		}},
		{"a stop during an execution is forgotten", func(t *machine.Table) {
			t[machine.Executing][machine.Stop].Next = machine.Executing
			t[machine.Executing][machine.Stop].Do = nil
		}},
		{"a version that was executed in place says no READY=1", func(t *machine.Table) {
			c := &t[machine.Renewed][machine.Built]
			c.Do = []machine.Action{machine.TakeLease, machine.NameSelf, machine.Conclude, machine.Accept, machine.BecomeMain}
		}},
		{"a version that was executed in place forgets the verdict", func(t *machine.Table) {
			c := &t[machine.Renewed][machine.Built]
			c.Do = []machine.Action{machine.TakeLease, machine.NameSelf, machine.Accept, machine.BecomeMain, machine.Announce}
		}},
		{"nobody takes the lease over after an execution", func(t *machine.Table) {
			t[machine.Renewed][machine.Built].Do = slices.DeleteFunc(slices.Clone(t[machine.Renewed][machine.Built].Do), func(a machine.Action) bool { return a == machine.TakeLease })
		}},
		{"clients are accepted while the process is about to be executed", func(t *machine.Table) {
			t[machine.Checking][machine.FitInPlace].Next = machine.Executing
			t[machine.Checking][machine.FitInPlace].Do = []machine.Action{machine.Commit, machine.Execute}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			table := *machine.Default
			c.damage(&table)
			res, err := model.Explore(&table, model.Start(model.Limits{Mode: model.Mixed, Faults: 1, Requests: 2, Stops: 1}))
			var v *model.Violation
			if !errors.As(err, &v) {
				t.Fatalf("not found in %d states", res.States)
			}
			t.Logf("found after %d states: %v", res.States, v)
		})
	}
}

// So must bugs of the runner: what it does in the time of an action.
func TestSeededRunnerBugs(t *testing.T) {
	for _, c := range []struct {
		name   string
		bug    model.Bug
		broken string
	}{
		{"a successor commits before the verdict", model.CommitOnTrial, "state has one writer"},
		{"an entry is removed before its replacement is in", model.RemoveFirst, "no committed state is lost"},
		{"a commit is reported before systemd has it", model.NoBarrier, "no committed state is lost"},
		{"MAINPID= moves while a commit is under way", model.CommitWhileMoving, "systemd knows the truth"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			limits := model.Limits{Faults: 1, Requests: 1, Stops: 1, Commits: 2, Bug: c.bug}
			res, err := model.Explore(machine.Default, model.Start(limits))
			var v *model.Violation
			if !errors.As(err, &v) || !strings.Contains(v.Promise.Error(), c.broken) {
				t.Fatalf("not found in %d states: %v", res.States, err)
			}
			t.Logf("found after %d states: %v", res.States, v)
		})
	}
}
