// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// storyLine is something that happened to a unit, or that a test asked for.
type storyLine struct {
	time  time.Time
	topic string // "test", "state", "notify", …
	text  string
}

// tell adds what the test does to the story.
func (u *Unit) tell(format string, args ...any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.tellLocked(time.Now(), "test", format, args...)
}

func (u *Unit) tellLocked(at time.Time, topic, format string, args ...any) {
	u.story = append(u.story, storyLine{at, topic, fmt.Sprintf(format, args...)})
}

// event takes what the manager tells. It is called for one event at a time.
func (u *Unit) event(e *wire.Event) {
	u.mu.Lock()
	u.noteLocked(e)
	close(u.changed)
	u.changed = make(chan struct{})
	listeners := make([]*func(*wire.Event), 0, len(u.listeners))
	for l := range u.listeners {
		listeners = append(listeners, l)
	}
	u.mu.Unlock()
	for _, l := range listeners {
		(*l)(e)
	}
}

func (u *Unit) noteLocked(e *wire.Event) {
	say := func(topic, format string, args ...any) { u.tellLocked(e.Time, topic, format, args...) }
	switch {
	case e.Properties != nil:
		was := u.state
		u.state = properties(e.Properties)
		u.states = append(u.states, u.state)
		// What it says of the job is told by the job's beginning and end.
		if now := u.state.String(); now != was.String() {
			say("state", "%s", now)
		}
	case e.Socket != nil:
		u.addresses = nil
		say("socket", "%s is %s (%s), %s", e.Unit, e.Socket.ActiveState, e.Socket.SubState, e.Socket.Result)
	case e.Journal != nil:
		j := e.Journal
		entry := JournalEntry{j.Time, j.Unit, j.PID, j.Identifier, j.Priority, j.Message}
		u.journal = append(u.journal, entry)
		say("journal", "%v", entry)
	case e.Notify != nil:
		n := e.Notify
		m := Message{e.Time, n.PID, n.UID, n.Fields, n.Descriptors, n.Accepted, n.Reason}
		u.messages = append(u.messages, m)
		say("notify", "%v", m)
	case e.Process != nil:
		p := process(*e.Process)
		u.births = append(u.births, p)
		say("birth", "%d, child of %d: %s", p.PID, p.Parent, strings.Join(p.Command, " "))
	case e.Death != nil:
		d := Death{e.Time, e.Death.PID, e.Death.Reaped, e.Death.Code, e.Death.Status}
		u.deaths = append(u.deaths, d)
		say("death", "%v", d)
	case e.Fault != nil:
		say("fault", "%s strikes %d", e.Fault.Kind, e.Fault.PID)
	case e.Job != nil && e.Job.ID == 0:
		say("job", "%s of the stand-in's own: %s", e.Job.Verb, e.Job.Result)
	case e.Job != nil:
		u.ended[e.Job.ID] = u.state
	}
}

// listen has f called at every event, from the goroutine that reads them: it
// must not block, nor ask the manager.
func (u *Unit) listen(f func(*wire.Event)) (stop func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.listeners[&f] = true
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.listeners, &f)
	}
}

// maxStory keeps what is printed readable: the beginning and the end of it.
const maxStory = 600

// Story tells what happened to the unit so far: what the test asked for, changes
// of state, messages on the notify socket, births and deaths of processes, and
// the journal, each with the time since the unit was loaded.
func (u *Unit) Story() string {
	u.mu.Lock()
	lines := slices.Clone(u.story)
	u.mu.Unlock()
	// The manager's lines come a moment after the test's own of the same time.
	slices.SortStableFunc(lines, func(a, b storyLine) int { return a.time.Compare(b.time) })
	var b strings.Builder
	fmt.Fprintf(&b, "story of %s (systemd %d) below %s:\n", u.service, u.opts.Systemd, u.root)
	for i, l := range lines {
		if left := len(lines) - maxStory; left > 0 && i >= maxStory/3 && i < maxStory/3+left {
			if i == maxStory/3 {
				fmt.Fprintf(&b, "  [%d lines left out]\n", left)
			}
			continue
		}
		fmt.Fprintf(&b, "  %8.3fs %-7s %s\n", l.time.Sub(u.born).Seconds(), l.topic, strings.ReplaceAll(l.text, "\n", "\n                    "))
	}
	return b.String()
}

// raced says whether a process of the unit reported a data race.
func (u *Unit) raced() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.ContainsFunc(u.journal, func(e JournalEntry) bool { return strings.Contains(e.Message, "WARNING: DATA RACE") })
}
