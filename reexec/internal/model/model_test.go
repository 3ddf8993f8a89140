// SPDX-License-Identifier: Apache-2.0

package model_test

import (
	"errors"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/internal/machine"
	"github.com/holdfast-go/holdfast/reexec/internal/model"
)

func TestExplore(t *testing.T) {
	for _, c := range []struct {
		name                    string
		faults, requests, stops uint8
	}{
		{"no faults", 0, 2, 1},
		{"one fault", 1, 2, 1},
		{"two faults", 2, 2, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			begin := time.Now()
			res, err := model.Explore(machine.Default, model.Start(c.faults, c.requests, c.stops))
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
	} {
		t.Run(c.name, func(t *testing.T) {
			table := *machine.Default
			c.damage(&table)
			res, err := model.Explore(&table, model.Start(1, 2, 1))
			var v *model.Violation
			if !errors.As(err, &v) {
				t.Fatalf("not found in %d states", res.States)
			}
			t.Logf("found after %d states: %v", res.States, v)
		})
	}
}
