// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"cmp"
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
	order int // in which it was told
}

const (
	// maxStory keeps what is printed readable: so many lines of each topic are
	// told, a third of them from the beginning. A service that says much does not hide
	// what else happened.
	maxStory = 300
	// maxStoryLine is how many bytes of a line are told.
	maxStoryLine = 2000
	// maxKept is how many lines of the journal, messages, states, births and deaths a unit
	// remembers, maxKeptText how many bytes of text the lines and messages have in all.
	maxKept     = 200_000
	maxKeptText = 64 << 20
)

// A chapter of a story has the first and the last of its lines.
type chapter struct {
	first, last []storyLine
	left        int // how many were left out between the two
}

func (c *chapter) add(l storyLine) {
	const first, last = maxStory / 3, maxStory - maxStory/3
	if len(c.first) < first {
		c.first = append(c.first, l)
		return
	}
	// Twice as many before any go, so that few are moved.
	if c.last = append(c.last, l); len(c.last) == 2*last {
		c.left += last
		c.last = slices.Clone(c.last[last:])
	}
}

// lines returns those that are told, and one that stands for the others.
func (c *chapter) lines() []storyLine {
	last, left := c.last, c.left
	if more := len(last) - (maxStory - maxStory/3); more > 0 {
		last, left = last[more:], left+more
	}
	lines := slices.Clone(c.first)
	if left > 0 {
		lines = append(lines, storyLine{last[0].time, last[0].topic, fmt.Sprintf("[%d lines left out]", left), last[0].order})
	}
	return append(lines, last...)
}

// shortText cuts what is too long for a line that is read.
func shortText(text string) string {
	if left := len(text) - maxStoryLine; left > 0 {
		return fmt.Sprintf("%s [%d bytes left out]", strings.ToValidUTF8(text[:maxStoryLine], ""), left)
	}
	return text
}

// keep appends, and forgets the older half when there is too much.
func keep[T any](kept *[]T, v T, forgotten *int) {
	if *kept = append(*kept, v); len(*kept) > maxKept {
		forget(kept, forgotten)
	}
}

func forget[T any](kept *[]T, forgotten *int) {
	half := len(*kept) / 2
	*forgotten += half
	*kept = slices.Clone((*kept)[half:])
}

// tell adds what the test does to the story.
func (u *Unit) tell(format string, args ...any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.tellLocked(time.Now(), "test", format, args...)
}

func (u *Unit) tellLocked(at time.Time, topic, format string, args ...any) {
	text := shortText(fmt.Sprintf(format, args...))
	if u.story == nil {
		u.story = make(map[string]*chapter)
	}
	if u.story[topic] == nil {
		u.story[topic] = new(chapter)
	}
	u.told++
	u.story[topic].add(storyLine{at, topic, text, u.told})
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
		keep(&u.states, u.state, &u.forgotten.states)
		// What it says of the job is told by the job's beginning and end.
		if now := u.state.String(); now != was.String() {
			say("state", "%s", now)
		}
	case e.Socket != nil:
		u.addresses = nil
		say("socket", "%s is %s (%s), %s", e.Unit, e.Socket.ActiveState, e.Socket.SubState, e.Socket.Result)
		// Otherwise the service runs before its sockets are its own.
		if e.Socket.SubState == "running" && u.state.down() {
			u.triggeredBy = e.Unit
			say("socket", "a connection to %s starts the service", e.Unit)
		}
	case e.Journal != nil:
		j := e.Journal
		entry := JournalEntry{j.Time, j.Unit, j.PID, j.Identifier, j.Priority, j.Message}
		keep(&u.journal, entry, &u.forgotten.journal)
		u.hasRace = u.hasRace || strings.Contains(entry.Message, raceReport)
		if u.journalText += len(entry.Message); u.journalText > maxKeptText {
			forget(&u.journal, &u.forgotten.journal)
			u.journalText = 0
			for _, e := range u.journal {
				u.journalText += len(e.Message)
			}
		}
		say("journal", "%v", entry)
	case e.Notify != nil:
		n := e.Notify
		m := Message{e.Time, n.PID, n.UID, n.Fields, n.Descriptors, n.Accepted, n.Reason}
		keep(&u.messages, m, &u.forgotten.messages)
		say("notify", "%v", m)
	case e.Process != nil:
		p := process(*e.Process)
		keep(&u.births, p, &u.forgotten.births)
		say("birth", "%d, child of %d: %s", p.PID, p.Parent, strings.Join(p.Command, " "))
	case e.Death != nil:
		d := Death{e.Time, e.Death.PID, e.Death.Reaped, e.Death.Code, e.Death.Status}
		keep(&u.deaths, d, &u.forgotten.deaths)
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

// Story tells what happened to the unit so far: what the test asked for, changes
// of state, messages on the notify socket, births and deaths of processes, and
// the journal, each with the time since the unit was loaded. Of what there is very much
// of it has the beginning and the end, and says how much is left out.
func (u *Unit) Story() string {
	u.mu.Lock()
	var lines []storyLine
	for _, topic := range u.story {
		lines = append(lines, topic.lines()...)
	}
	u.mu.Unlock()
	// The manager's lines come a moment after the test's own of the same time.
	slices.SortStableFunc(lines, func(a, b storyLine) int {
		return cmp.Or(a.time.Compare(b.time), cmp.Compare(a.order, b.order))
	})
	var b strings.Builder
	fmt.Fprintf(&b, "story of %s (systemd %d) below %s:\n", u.service, u.opts.Systemd, u.root)
	for _, l := range lines {
		fmt.Fprintf(&b, "  %8.3fs %-7s %s\n", l.time.Sub(u.born).Seconds(), l.topic, strings.ReplaceAll(l.text, "\n", "\n                    "))
	}
	return b.String()
}

// raceReport is what a report of the race detector begins with.
const raceReport = "WARNING: DATA RACE"

// raced says whether a process of the unit reported a data race.
func (u *Unit) raced() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.hasRace
}
