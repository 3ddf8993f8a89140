// SPDX-License-Identifier: Apache-2.0

package command

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// printable escapes what could move the cursor or change the terminal: a
// service is another user's program, and its words are shown to root. Lines
// after the first are indented, so that none can pass for one of ours.
func printable(s string) string {
	var b strings.Builder
	for _, r := range strings.TrimRight(s, "\n") {
		switch {
		case r == '\n':
			b.WriteString("\n    ")
		case r == '\t':
			b.WriteByte(' ')
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// isTerminal says whether somebody may watch w: whether it is a character
// device. One that is no terminal, such as /dev/null, is not hurt by what is
// shown there.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// jsonMode is the value of --json=, as in systemd's tools.
type jsonMode string

func (m *jsonMode) String() string { return string(*m) }

func (m *jsonMode) Set(s string) error {
	switch s {
	case "short", "pretty", "off":
		*m = jsonMode(s)
		return nil
	}
	return fmt.Errorf("must be short, pretty or off")
}

func (m jsonMode) on() bool { return m == "short" || m == "pretty" }

func (m jsonMode) write(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	if m == "pretty" {
		enc.SetIndent("", "\t")
	}
	return enc.Encode(v)
}

// describe names one generation: "PID 640, version 1.2 (generation 3)".
func describe(p control.Process) string {
	s := fmt.Sprintf("PID %d", p.PID)
	if p.Version != "" {
		s += ", version " + p.Version
		if p.Build != "" {
			s += " (" + p.Build + ")"
		}
	}
	return fmt.Sprintf("%s (generation %d)", s, p.Generation)
}

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
