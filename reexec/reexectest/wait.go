// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Condition is what [Unit.WaitFor] waits for.
type Condition struct {
	Text  string // "the service is running"
	Holds func(Properties) bool
}

// Conditions that tests wait for most.
var (
	Running  = SubState("running")
	Inactive = ActiveState("inactive")
	Failed   = ActiveState("failed")
)

// ActiveState is the condition that ActiveState= has that value.
func ActiveState(state string) Condition {
	return Condition{"ActiveState=" + state, func(p Properties) bool { return p.ActiveState == state }}
}

// SubState is the condition that SubState= has that value.
func SubState(state string) Condition {
	return Condition{"SubState=" + state, func(p Properties) bool { return p.SubState == state }}
}

// StatusText is the condition that the status text has that in it.
func StatusText(part string) Condition {
	return Condition{fmt.Sprintf("a status with %q", part), func(p Properties) bool { return strings.Contains(p.StatusText, part) }}
}

// MainPIDIsNot is the condition that there is a main process, and another one.
func MainPIDIsNot(pid int) Condition {
	return Condition{fmt.Sprintf("another MainPID than %d", pid), func(p Properties) bool { return p.MainPID != 0 && p.MainPID != pid }}
}

// WaitFor waits until the service is in a state. No state that it passes
// through meanwhile is missed, however short.
func (u *Unit) WaitFor(ctx context.Context, c Condition) error {
	u.mu.Lock()
	next := u.forgotten.states + len(u.states)
	u.mu.Unlock()
	if c.Holds(u.Show()) {
		return nil
	}
	return u.wait(ctx, c.Text, func() bool {
		return slices.ContainsFunc(since(u.states, u.forgotten.states, &next), c.Holds)
	})
}

// WaitForJournal waits for a line that has that in it, from now on or before.
func (u *Unit) WaitForJournal(ctx context.Context, part string) (JournalEntry, error) {
	var found JournalEntry
	next := 0
	err := u.wait(ctx, fmt.Sprintf("%q in the journal", part), func() bool {
		lines := since(u.journal, u.forgotten.journal, &next)
		i := slices.IndexFunc(lines, func(e JournalEntry) bool { return strings.Contains(e.Message, part) })
		if i >= 0 {
			found = lines[i]
		}
		return i >= 0
	})
	return found, err
}

// WaitForMessage waits for a message on the notify socket that has a field such
// as "READY=1", or "MAINPID" with any value, from now on or before.
func (u *Unit) WaitForMessage(ctx context.Context, field string) (Message, error) {
	var found Message
	next := 0
	err := u.wait(ctx, field+" on the notify socket", func() bool {
		messages := since(u.messages, u.forgotten.messages, &next)
		i := slices.IndexFunc(messages, func(m Message) bool { return m.Has(field) })
		if i >= 0 {
			found = messages[i]
		}
		return i >= 0
	})
	return found, err
}

// since returns what came from the next one on, of all that there were, and
// makes next what comes after it.
func since[T any](kept []T, forgotten int, next *int) []T {
	from := max(*next-forgotten, 0)
	*next = forgotten + len(kept)
	return kept[from:]
}

// wait waits until done says so, which is called with the lock held, first now
// and then after every event.
func (u *Unit) wait(ctx context.Context, what string, done func() bool) error {
	ctx, cancel := u.patient(ctx, "wait for "+what)
	defer cancel()
	for {
		u.mu.Lock()
		ok, changed, state := done(), u.changed, u.state
		u.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w; it is %v", u.service, context.Cause(ctx), state)
		case <-u.client.Done():
			return fmt.Errorf("%s: wait for %s: the manager process has ended; the service was %v", u.service, what, state)
		}
	}
}
