// SPDX-License-Identifier: Apache-2.0

package agreement

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Describe puts the unit files, the ops up to the one that differs, and both observations after it, side by
// side, into text.
func (q *Sequence) Describe(systemd, standin []*Observation, differences []Difference) string {
	var b strings.Builder
	for _, f := range q.Setup.Files {
		fmt.Fprintf(&b, "--- %s\n%s", f.Name, f.Text)
	}
	for _, key := range slices.Sorted(maps.Keys(q.Setup.Behave)) {
		fmt.Fprintf(&b, "--- %s: %s\n", key, q.Setup.Behave[key])
	}
	last := differences[0].Step
	for i, op := range q.Ops[:last+1] {
		fmt.Fprintf(&b, "%3d. %v\n", i+1, op)
	}
	different := make(map[string]bool)
	for _, d := range differences {
		if d.Step == last {
			different[d.Key] = true
		}
	}
	r, i := systemd[last], standin[last]
	const width = 60
	row := func(mark, key, left, right string) {
		fmt.Fprintf(&b, "%1s %-24s %-*s %s\n", mark, key, width, left, right)
	}
	row("", "", "systemd", "stand-in")
	row(mark(different["op"]), "op", r.Op, i.Op)
	keys := make(map[string]bool)
	for key := range r.Facts {
		keys[key] = true
	}
	for key := range i.Facts {
		keys[key] = true
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if strings.Contains(key, "#") && !different[key] {
			continue // what a process was started with
		}
		row(mark(different[key]), key, r.Facts[key], i.Facts[key])
	}
	for _, remark := range r.Remarks {
		fmt.Fprintf(&b, "  systemd: %s\n", remark)
	}
	for _, remark := range i.Remarks {
		fmt.Fprintf(&b, "  stand-in: %s\n", remark)
	}
	return b.String()
}

// Story tells what was seen: after each op what changed.
func (q *Sequence) Story(seen []*Observation) string {
	var b strings.Builder
	for _, f := range q.Setup.Files {
		fmt.Fprintf(&b, "--- %s\n%s", f.Name, f.Text)
	}
	last := make(map[string]string)
	for i, o := range seen {
		fmt.Fprintf(&b, "%3d. %v -> %s\n", i+1, q.Ops[i], o.Op)
		for _, key := range slices.Sorted(maps.Keys(o.Facts)) {
			if value := o.Facts[key]; value != last[key] {
				fmt.Fprintf(&b, "       %s: %s\n", key, value)
			}
			last[key] = o.Facts[key]
		}
		for _, remark := range o.Remarks {
			fmt.Fprintf(&b, "       # %s\n", remark)
		}
	}
	return b.String()
}

func mark(different bool) string {
	if different {
		return "*"
	}
	return ""
}
