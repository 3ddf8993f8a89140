// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

func TestStoryIsShortened(t *testing.T) {
	t.Parallel()
	u := &Unit{service: "a.service", born: time.Now(), changed: make(chan struct{})}
	u.tell("%s", strings.Repeat("ö", 1<<20))
	for i := range 1999 {
		u.tell("line %d", i)
	}
	// What floods hides nothing else.
	for i := range 5000 {
		u.event(&wire.Event{Time: time.Now(), Journal: &wire.JournalEntry{Message: fmt.Sprintf("said %d", i)}})
	}
	story := u.Story()
	if n := strings.Count(story, "\n"); n != 2*maxStory+3 || len(story) > 100*n+maxStoryLine {
		t.Errorf("%d lines, %d bytes", n, len(story))
	}
	for _, part := range []string{
		"test    [1700 lines left out]\n", "line 0\n", "line 1998\n", "journal [4700 lines left out]\n", "said 0\n", "said 4999\n",
		fmt.Sprintf("ö [%d bytes left out]\n", 2<<20-maxStoryLine),
	} {
		if !strings.Contains(story, part) {
			t.Errorf("the story lacks %q:\n%s", part, story)
		}
	}
}

// The memory of a unit has an end, whatever its service says, and who waits
// misses nothing.
func TestForgets(t *testing.T) {
	t.Parallel()
	u := &Unit{service: "a.service", changed: make(chan struct{})}
	say := func(text string) { u.event(&wire.Event{Journal: &wire.JournalEntry{Message: text}}) }
	say(raceReport)
	const n = 3 * maxKeptText / (48 << 10)
	line := strings.Repeat("x", 48<<10)
	for range n {
		say(line)
	}
	text := 0
	for _, e := range u.journal {
		text += len(e.Message)
	}
	if text > maxKeptText || text < maxKeptText/3 || u.journalText != text || u.forgotten.journal+len(u.journal) != n+1 {
		t.Errorf("%d bytes, counted as %d; %d lines and %d forgotten of %d", text, u.journalText, len(u.journal), u.forgotten.journal, n+1)
	}
	if !u.raced() {
		t.Error("the data race is forgotten")
	}
	next := u.forgotten.journal + len(u.journal) - 1
	for _, want := range []int{1, 0} {
		if got := since(u.journal, u.forgotten.journal, &next); len(got) != want {
			t.Errorf("%d new lines, want %d", len(got), want)
		}
	}
	for range 2 {
		for range maxKept/2 + 10 {
			u.event(&wire.Event{Notify: &wire.Notify{}})
		}
	}
	if got := u.forgotten.messages + len(u.messages); got != maxKept+20 || len(u.messages) > maxKept {
		t.Errorf("%d messages, %d forgotten", len(u.messages), u.forgotten.messages)
	}
	next = 0
	if got := since(u.messages, u.forgotten.messages, &next); len(got) != len(u.messages) {
		t.Errorf("%d messages for one who saw none, of %d", len(got), len(u.messages))
	}
}

// A service that does nothing but write does not keep the manager from its work.
func TestFlood(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]string{"lines": "yes", "long lines": "tr '\\0' x </dev/zero"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := Start(t, Options{
				Files: map[string]string{
					"loud.service": "[Service]\nType=exec\nExecStart=/bin/sh -c \"exec " + strings.ReplaceAll(command, "\\", "\\\\") + "\"\nExecReload=/bin/true\n",
				},
				Programs: map[string]Program{},
			})
			for range 5 {
				if err := u.Reload(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if len(u.Journal()) == 0 {
				t.Error("the journal is empty")
			}
			if err := u.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}
