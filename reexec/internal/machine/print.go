// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// WriteTable prints the table as a matrix: one row a state, one column an
// event, in each cell the next state, a dot where the event is ignored, a
// bang where it cannot come.
func (t *Table) WriteTable(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(tw, " ")
	for e := range Events {
		fmt.Fprintf(tw, "\t%v", e)
	}
	fmt.Fprintln(tw)
	for s := range States {
		fmt.Fprint(tw, s)
		for e := range Events {
			c := t[s][e]
			switch {
			case c.Never:
				fmt.Fprint(tw, "\t!")
			case c.Next == s && len(c.Do) == 0:
				fmt.Fprint(tw, "\t.")
			case c.Next == s:
				fmt.Fprint(tw, "\t(hold)")
			default:
				fmt.Fprintf(tw, "\t%v", c.Next)
			}
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
}

// WriteCells prints every cell that does something or that says why it does
// not, with its actions in order.
func (t *Table) WriteCells(w io.Writer) error {
	var b strings.Builder
	for s := range States {
		fmt.Fprintf(&b, "%v\n", s)
		for e := range Events {
			c := t[s][e]
			switch {
			case c.Never:
				fmt.Fprintf(&b, "  %-14v cannot come: %s\n", e, c.Why)
			case c.Why != "":
				fmt.Fprintf(&b, "  %-14v ignored: %s\n", e, c.Why)
			default:
				fmt.Fprintf(&b, "  %-14v -> %-10v %s\n", e, c.Next, join(c.Do))
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func join(do []Action) string {
	names := make([]string, len(do))
	for i, a := range do {
		names[i] = a.String()
	}
	return strings.Join(names, ", ")
}

// WriteMermaid prints the table as a Mermaid state diagram. Events with the
// same two ends share an arrow; what changes nothing is left out.
func (t *Table) WriteMermaid(w io.Writer) error {
	var b strings.Builder
	b.WriteString("stateDiagram-v2\n")
	b.WriteString("    [*] --> booting : systemd\n")
	b.WriteString("    [*] --> joining : predecessor\n")
	b.WriteString("    [*] --> renewed : execve\n")
	b.WriteString("    executing --> [*] : execve\n")
	b.WriteString("    reverting --> [*] : execve\n")
	for s := range States {
		for next := range States {
			var events []string
			for e := range Events {
				if c := t[s][e]; c.Next == next && next != s {
					events = append(events, e.String())
				}
			}
			if len(events) > 0 {
				fmt.Fprintf(&b, "    %v --> %v : %s\n", s, next, strings.Join(events, ", "))
			}
		}
	}
	b.WriteString("    gone --> [*]\n")
	_, err := io.WriteString(w, b.String())
	return err
}
