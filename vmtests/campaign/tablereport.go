// SPDX-License-Identifier: Apache-2.0

package campaign

import (
	"cmp"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/vmtests"
)

// A TableReport is what came of the faults.
type TableReport struct {
	options TableOptions
	began   time.Time
	took    time.Duration

	mu   sync.Mutex
	rows []*tableRow
}

// A tableRow is one fault in one mode.
type tableRow struct {
	fault fault
	mode  reexec.Mode
	want  want
	seen  map[vmtests.Version]seen
}

func newTableReport(o TableOptions) *TableReport {
	return &TableReport{options: o, began: time.Now().UTC().Truncate(time.Second)}
}

func (r *TableReport) log(text string) {
	if r.options.Log != nil {
		r.options.Log(text)
	}
}

func (r *TableReport) add(v vmtests.Version, mode reexec.Mode, f fault, w want, s seen) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var row *tableRow
	for _, one := range r.rows {
		if one.fault.name == f.name && one.mode == mode {
			row = one
		}
	}
	if row == nil {
		row = &tableRow{fault: f, mode: mode, want: w, seen: make(map[vmtests.Version]seen)}
		r.rows = append(r.rows, row)
	}
	row.seen[v] = s
	r.log(fmt.Sprintf("%v  %v  %-50s %s", v, mode, f.name, s.text(f)))
	for _, p := range s.problems {
		r.log("      PROBLEM " + p)
	}
}

// text is what the columns show.
func (s seen) text(f fault) string {
	text := cmp.Or(string(s.outcome), "no verdict") + ", " + f.command()
	if s.command != nil {
		text += " fails"
	} else {
		text += " succeeds"
	}
	if s.restarted {
		text += ", started again"
	}
	return text + fmt.Sprintf(", %d lost", s.lost)
}

func (w want) text(f fault) string {
	text := cmp.Or(string(w.outcome), "no verdict")
	if w.or != "" {
		text += " or " + string(w.or)
	}
	text += ", " + f.command() + " " + w.exit.String()
	if w.restarted {
		text += ", started again"
	}
	if w.stops {
		if w.loses {
			return text + ", its own lost, and those of its own sockets"
		}
		return text + ", 0 lost, but for its own sockets"
	}
	if w.loses {
		return text + ", its own lost"
	}
	return text + ", 0 lost"
}

// Problems are all that is not as it must be.
func (r *TableReport) Problems() []string {
	var all []string
	for _, row := range r.rows {
		for _, v := range r.options.Versions {
			for _, p := range row.seen[v].problems {
				all = append(all, fmt.Sprintf("%v, %v, %s: %s", v, row.mode, row.fault.name, p))
			}
		}
	}
	return all
}

// Rows is how many faults were brought about, of all versions and modes.
func (r *TableReport) Rows() (n int) {
	for _, row := range r.rows {
		n += len(row.seen)
	}
	return n
}

func (r *TableReport) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d faults in %v\n", r.began.Format(time.DateTime), r.Rows(), r.took)
	mode := reexec.Mode(-1)
	for _, row := range r.rows {
		if row.mode != mode {
			mode = row.mode
			fmt.Fprintf(&b, "\nmode %v\n", mode)
		}
		fmt.Fprintf(&b, "\n%s\n  expected       %s\n                 because %s\n", row.fault.name, row.want.text(row.fault), row.want.why)
		for _, v := range r.options.Versions {
			s, ok := row.seen[v]
			if !ok {
				continue
			}
			mark := "as expected"
			if len(s.problems) > 0 {
				mark = "NOT AS EXPECTED"
			}
			fmt.Fprintf(&b, "  %v    %s: %s\n", v, mark, s.text(row.fault))
			for _, p := range s.problems {
				fmt.Fprintf(&b, "                 PROBLEM %s\n", p)
			}
		}
	}
	return b.String()
}
