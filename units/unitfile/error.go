// SPDX-License-Identifier: Apache-2.0

package unitfile

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	// maxValue is how much of a value an error prints.
	maxValue = 200
	// maxFaults is how many faults are printed.
	maxFaults = 20
)

// Error is a fault in a unit file.
type Error struct {
	File    string // "myapp.service", "myapp.service.d/10-limits.conf"
	Line    int    // 0 when no single line is at fault
	Section string
	Key     string
	Value   string
	Reason  string // what is wrong, and what to write instead
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(excerpt(e.File))
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	b.WriteString(":")
	if e.Section != "" {
		fmt.Fprintf(&b, " [%s]", excerpt(e.Section))
	}
	switch {
	case e.Key != "":
		fmt.Fprintf(&b, " %s=%s:", excerpt(e.Key), excerpt(e.Value))
	case e.Value != "":
		fmt.Fprintf(&b, " %s:", excerpt(e.Value))
	}
	b.WriteByte(' ')
	b.WriteString(e.Reason)
	return b.String()
}

// excerpt makes a value fit for a line of output.
func excerpt(s string) string {
	cut := len(s) > maxValue
	if cut {
		s = s[:maxValue]
		for range utf8.UTFMax - 1 { // no half of a character
			if r, n := utf8.DecodeLastRuneInString(s); r == utf8.RuneError && n == 1 {
				s = s[:len(s)-1]
			}
		}
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError }) {
		q := fmt.Sprintf("%q", s)
		s = q[1 : len(q)-1]
	}
	if cut {
		s += "…"
	}
	return s
}

// Faults are the faults of a unit, in the order in which they were found. It is
// the error that has them all, and prints the first twenty.
type Faults []*Error

// Err returns the faults as an error, nil if there is none.
func (f Faults) Err() error {
	if len(f) == 0 {
		return nil
	}
	return f
}

func (f Faults) Error() string {
	var b strings.Builder
	for i, e := range f {
		if i > 0 {
			b.WriteByte('\n')
		}
		if i == maxFaults {
			fmt.Fprintf(&b, "and %d more", len(f)-i)
			break
		}
		b.WriteString(e.Error())
	}
	return b.String()
}

// Unwrap returns each fault, for errors.Is and errors.As.
func (f Faults) Unwrap() []error {
	errs := make([]error, len(f))
	for i, e := range f {
		errs[i] = e
	}
	return errs
}
