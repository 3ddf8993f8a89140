// SPDX-License-Identifier: Apache-2.0

package command

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/control/command/term"
)

func printable(s string) string { return term.Printable(s) }

// JSONMode is the value of --json=, as in systemd's tools: short, pretty or off,
// which is the default.
type JSONMode string

// String is the value as it was given.
func (m *JSONMode) String() string { return string(*m) }

// Set takes one of the modes.
func (m *JSONMode) Set(s string) error {
	switch s {
	case "short", "pretty", "off":
		*m = JSONMode(s)
		return nil
	}
	return fmt.Errorf("must be short, pretty or off")
}

// On says whether there is to be JSON.
func (m JSONMode) On() bool { return m == "short" || m == "pretty" }

// Write writes v, on one line or on many.
func (m JSONMode) Write(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	if m == "pretty" {
		enc.SetIndent("", "\t")
	}
	return enc.Encode(v)
}

func describe(p control.Process) string { return p.String() }

func processOf(st control.Status) control.Process {
	p := control.Process{PID: st.PID, Generation: st.Generation, Version: st.Version}
	if st.Fingerprint != nil {
		p.Build = st.Fingerprint.Build()
	}
	return p
}

// ago is a time with its distance from now, as systemctl shows it.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "an unknown time"
	}
	s := t.Local().Format("Mon 2006-01-02 15:04:05 MST")
	if d := now.Sub(t); d >= 0 {
		s += "; " + distance(d) + " ago"
	}
	return s
}

func distance(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dmin %ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh %dmin", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd %dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}
