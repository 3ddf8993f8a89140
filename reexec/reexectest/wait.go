// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
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
//
// It and the methods that follow return an error at once when nothing can come any
// more: the service has ended or failed, no process is left, and no job, restart or
// other call of the test is about to start it. Start it before you wait for it.
func (u *Unit) WaitFor(ctx context.Context, c Condition) error {
	u.mu.Lock()
	next := u.forgotten.states + len(u.states)
	u.mu.Unlock()
	holds := c.Holds(u.Show())
	return u.wait(ctx, c.Text, func() bool {
		return holds || slices.ContainsFunc(since(u.states, u.forgotten.states, &next), c.Holds)
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
	if err := u.open(); err != nil {
		return fmt.Errorf("wait for %s: %w", what, err)
	}
	ctx, cancel := u.patient(ctx, "wait for "+what)
	defer cancel()
	idle := u.known()
	for {
		u.mu.Lock()
		ok, changed, state := done(), u.changed, u.state
		u.mu.Unlock()
		if ok {
			return nil
		}
		if state.down() && u.over(ctx, idle) {
			u.mu.Lock()
			ok, state = done(), u.state // with what came before the answer
			why := u.whyLocked()
			u.mu.Unlock()
			if ok {
				return nil
			}
			if why != "" {
				why = "; the journal says: " + shortText(why)
			}
			return fmt.Errorf("%s: wait for %s: it cannot come any more: the service is %v%s, and nothing is about to start it%s",
				u.service, what, state, state.lastEnd(), why)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w; it is %v%s", u.service, context.Cause(ctx), state, u.startedBy())
		case <-u.client.Done():
			return fmt.Errorf("%s: wait for %s: %w; the service was %v", u.service, what, u.gone(), state)
		}
	}
}

// down says whether the service does not run, and does not wait to be restarted.
func (p Properties) down() bool { return p.ActiveState == "inactive" || p.ActiveState == "failed" }

// lastEnd is how the last main process ended, for the end of a sentence.
func (p Properties) lastEnd() string {
	if p.ExecMainPID == 0 || p.ExecMainCode == 0 {
		return ""
	}
	return fmt.Sprintf(" (main process %v)", Death{PID: p.ExecMainPID, Reaped: true, Code: p.ExecMainCode, Status: p.ExecMainStatus})
}

// startedBy says so, for the end of a sentence, if a connection has started the service.
func (u *Unit) startedBy() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.triggeredBy == "" || u.state.down() {
		return ""
	}
	return ", which a connection to " + u.triggeredBy + " has started"
}

// over asks whether nothing happens to the service any more, unless somebody starts it.
// What was begun before is heeded: the manager comes to requests last. Idle is what
// the service was when the wait began.
func (u *Unit) over(ctx context.Context, idle Properties) bool {
	answer, err := u.call(ctx, wire.Request{Verb: wire.Show})
	if err != nil || answer.Properties == nil {
		return false
	}
	p := properties(answer.Properties)
	u.mu.Lock()
	jobs := u.jobs
	u.mu.Unlock()
	// One that was never started may be about to be; what is stored may go away.
	if !p.down() || p.Job != "" || jobs > 0 || p.InvocationID == "" || p.NFileDescriptorStore > 0 {
		return false
	}
	if p.ActiveState == "inactive" && idle.down() && idle.InvocationID == p.InvocationID && u.listens(ctx) {
		return false // it may be one that comes and goes with its connections
	}
	answer, err = u.call(ctx, wire.Request{Verb: wire.Processes})
	return err == nil && len(answer.Processes) == 0
}

// listens says whether a connection can start the service.
func (u *Unit) listens(ctx context.Context) bool {
	answer, err := u.call(ctx, wire.Request{Verb: wire.Addresses})
	return err == nil && slices.ContainsFunc(answer.Addresses, func(a wire.Address) bool { return a.Address != "" })
}
