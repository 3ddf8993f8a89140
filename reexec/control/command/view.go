// SPDX-License-Identifier: Apache-2.0

package command

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/control/command/term"
)

// View is what "holdfast status" shows of one unit: what the service says
// itself, and what else the caller knows of it. What is not known is zero.
type View struct {
	// Unit is what the unit was asked for by; empty for a service that was asked
	// by its socket.
	Unit string
	// Service is nil if it does not answer, and Problem says why.
	Service *control.Status
	Problem string
	// Systemd is what systemd says of the unit; nil where it cannot be asked.
	Systemd *UnitView
	// Attempts are the last upgrades, the newest first.
	Attempts []Attempt
	// Frozen says since when, by whom and why upgrades are frozen.
	Frozen string
	// Warnings are sentences, each with what to do.
	Warnings []string
}

// UnitView is what systemd says of a unit.
type UnitView struct {
	LoadState, ActiveState, SubState string
	Since                            time.Time
	MainPID                          int
	StatusText                       string
	// StoreUsed of StoreMax descriptors are in the store.
	StoreUsed, StoreMax int
	// Sockets are the socket units that it gets listeners from.
	Sockets []SocketView
}

// SocketView is a socket unit.
type SocketView struct {
	Unit      string
	Name      string // FileDescriptorName=
	Addresses []string
}

// socketOf is the name of the socket unit of a listener, or empty.
func (u *UnitView) socketOf(l control.Listener) string {
	if l.Origin != "socket unit" {
		return ""
	}
	if len(u.Sockets) == 1 {
		return u.Sockets[0].Unit
	}
	for _, s := range u.Sockets {
		if s.Name == l.Name || slices.Contains(s.Addresses, l.Address) {
			return s.Unit
		}
	}
	return ""
}

// Attempt is one upgrade.
type Attempt struct {
	At      time.Time `json:"at"`
	Outcome string    `json:"outcome"`
	// From and To are versions.
	From    string          `json:"from,omitempty"`
	To      string          `json:"to,omitempty"`
	Seconds float64         `json:"seconds"`
	Reason  string          `json:"reason,omitempty"`
	By      string          `json:"by,omitempty"`
	Phases  []control.Phase `json:"phases,omitempty"`
}

// AttemptOf is the attempt that a service has given its verdict of.
func AttemptOf(v control.Verdict) Attempt {
	a := Attempt{At: v.Started, Outcome: string(v.Outcome), From: v.From.Version, Reason: v.Reason, Phases: v.Phases}
	if v.To != nil {
		a.To = v.To.Version
	}
	for _, p := range v.Phases {
		a.Seconds += p.Seconds
	}
	return a
}

// good are the outcomes that nobody has to look after.
var good = map[string]bool{string(control.Reloaded): true, string(control.Upgraded): true, "done": true, "unchanged": true}

// OutcomeColor is that of the outcome of an upgrade.
func OutcomeColor(outcome string) term.Color {
	if good[outcome] {
		return term.Green
	}
	return term.Red
}

// shownAttempts are those of a screen; "holdfast history" has all.
const shownAttempts = 5

// State is the state in one word, and its colour.
func (v View) State() (string, term.Color) {
	switch {
	case v.Service != nil && v.Service.State == "running" && v.Service.Successor == nil:
		if v.Frozen != "" || len(v.Warnings) > 0 || v.Service.LastGood != nil && v.Service.LastGood.Fallback != "" {
			return v.Service.State, term.Yellow
		}
		return v.Service.State, term.Green
	case v.Service != nil:
		return v.Service.State, term.Yellow
	case v.Systemd == nil:
		return "no answer", term.Red
	case v.Systemd.LoadState != "loaded" && v.Systemd.LoadState != "":
		return v.Systemd.LoadState, term.Red
	case v.Systemd.ActiveState == "inactive":
		return v.Systemd.ActiveState, term.Plain
	default:
		return v.Systemd.ActiveState, term.Red
	}
}

// Screen lays out all of it.
func (v View) Screen(t term.Terminal, now time.Time) string {
	s := screen{Rows: term.Rows{Terminal: t, Labels: 14}, now: now}
	s.title(v)
	s.state(v)
	if st := v.Service; st != nil {
		s.processes(*st)
		s.listeners(*st, v.Systemd)
	}
	s.store(v)
	if st := v.Service; st != nil {
		s.drain(*st)
	}
	s.attempts(v)
	if st := v.Service; st != nil {
		s.reloads(*st)
		s.lastGood(*st)
		s.previous(*st)
	}
	if v.Frozen != "" {
		s.row("Frozen", "%s", v.Frozen)
	}
	for _, w := range v.Warnings {
		s.Add("Warning", t.Paint(term.Yellow, term.Printable(w)))
	}
	if st := v.Service; st != nil {
		s.row("Instance", "%s", st.Instance)
	}
	return s.String()
}

type screen struct {
	term.Rows
	now time.Time
}

// row adds a row of text that may come from a service.
func (s *screen) row(label, format string, args ...any) {
	s.Add(label, printable(fmt.Sprintf(format, args...)))
}

func (s *screen) title(v View) {
	name := v.Unit
	version := ""
	if st := v.Service; st != nil {
		name = cmp.Or(name, st.Name)
		version = st.Version
	}
	text := s.Paint(term.Bold, term.Line(name))
	if version != "" {
		text += " " + term.Line(version)
		if f := v.Service.Fingerprint; f != nil && f.Build() != "" {
			text += " (" + term.Line(f.Build()) + ")"
		}
	}
	if s.Width > 0 {
		_, color := v.State()
		text = s.Mark(color) + " " + text
	}
	s.Title(text)
}

func (s *screen) state(v View) {
	state, color := v.State()
	since := time.Time{}
	switch {
	case v.Service != nil:
		since = v.Service.Since
	case v.Systemd != nil:
		since = v.Systemd.Since
	}
	text := s.Paint(color, term.Line(state))
	if v.Service != nil || !since.IsZero() {
		text += " since " + ago(since, s.now)
	}
	if u := v.Systemd; u != nil && u.ActiveState != "" {
		text += fmt.Sprintf("; the unit is %s (%s)", term.Line(u.ActiveState), term.Line(u.SubState))
	}
	s.Add("State", text)
	if v.Service == nil && v.Problem != "" {
		s.row("", "%s", v.Problem)
	}
	if v.Service == nil && v.Systemd != nil {
		if v.Systemd.MainPID > 0 {
			s.row("Main PID", "%d", v.Systemd.MainPID)
		}
		if v.Systemd.StatusText != "" {
			s.row("Status", "%s", v.Systemd.StatusText)
		}
	}
}

func (s *screen) processes(st control.Status) {
	s.row("Served by", "%s", describe(processOf(st)))
	if st.Successor != nil {
		s.row("Successor", "%s", describe(*st.Successor))
	}
	for _, p := range st.Draining {
		s.row("Draining", "%s", describe(p))
	}
}

func (s *screen) listeners(st control.Status, unit *UnitView) {
	for _, l := range st.Listeners {
		origin := l.Origin
		if unit != nil {
			origin = cmp.Or(unit.socketOf(l), origin)
		}
		s.row("Listeners", "%s: %s %s (%s)", l.Name, l.Network, l.Address, origin)
	}
}

// store shows what the service has in the store, and what systemd counts there.
func (s *screen) store(v View) {
	var (
		used, limit int
		warning     string
		kinds       []string
	)
	if v.Service != nil && v.Service.Store != nil {
		used, limit, warning = len(v.Service.Store.Entries), v.Service.Store.Limit, v.Service.Store.Warning
		counts := make(map[string]int)
		for _, e := range v.Service.Store.Entries {
			if counts[e.Kind]++; counts[e.Kind] == 1 {
				kinds = append(kinds, e.Kind)
			}
		}
		for i, kind := range kinds {
			kinds[i] = fmt.Sprintf("%d %s", counts[kind], kind)
		}
	}
	if v.Systemd != nil && v.Systemd.StoreMax > 0 {
		used, limit = v.Systemd.StoreUsed, v.Systemd.StoreMax
	}
	if used == 0 && warning == "" {
		return
	}
	text := fmt.Sprint(used)
	if limit > 0 {
		text += fmt.Sprintf(" of %d", limit)
	}
	text += " in use"
	if len(kinds) > 0 {
		text += " (" + strings.Join(kinds, ", ") + ")"
	}
	s.row("FD store", "%s", text)
	if warning != "" {
		s.Add("", s.Paint(term.Yellow, printable("warning: "+warning)))
	}
}

func (s *screen) drain(st control.Status) {
	if st.Adopted > 0 {
		s.row("Adopted", "%d connections", st.Adopted)
	}
	if d := st.LastDrain; d != nil {
		s.row("Last drain", "%s in %.1fs", describe(d.Process), d.Seconds)
		for _, h := range d.Holders {
			s.row("", "%s", h)
		}
	}
}

// attempts shows the last verdict in full, and those before it in a line each.
func (s *screen) attempts(v View) {
	older := v.Attempts
	if st := v.Service; st != nil && st.Last != nil {
		last := *st.Last
		label, outcome := "Last upgrade", string(last.Outcome)
		if last.Rollback {
			label = "Last rollback"
			if last.Outcome == control.Upgraded {
				outcome = "done"
			}
		}
		s.Add(label, s.Paint(OutcomeColor(string(last.Outcome)), printable(outcome))+" on "+ago(last.Started, s.now))
		if last.To != nil {
			s.row("", "from %s to %s", describe(last.From), describe(*last.To))
		}
		if last.Reason != "" {
			s.row("", "%s", last.Reason)
		}
		if len(last.Phases) > 0 {
			s.row("", "%s", phases(last.Phases))
		}
		if len(older) > 0 && older[0].At.Equal(last.Started) && older[0].By == "" {
			older = older[1:]
		}
	}
	for _, a := range older[:min(len(older), shownAttempts)] {
		s.Add("Upgrades", s.attempt(a))
	}
}

func (s *screen) attempt(a Attempt) string {
	text := a.At.Local().Format("2006-01-02 15:04:05") + "  " + s.Paint(OutcomeColor(a.Outcome), term.Line(a.Outcome))
	if versions := a.Versions(s.Terminal); versions != "" {
		text += "  " + versions
	}
	text += fmt.Sprintf(" in %.1fs", a.Seconds)
	if a.By != "" {
		text += " by " + term.Line(a.By)
	}
	if a.Reason != "" {
		text += ": " + term.Line(a.Reason)
	}
	return text
}

// Versions are those of the attempt: "1.2 → 1.3".
func (a Attempt) Versions(t term.Terminal) string {
	switch {
	case a.From == "" && a.To == "":
		return ""
	case a.From == a.To || a.To == "":
		return term.Line(a.From)
	default:
		return term.Line(cmp.Or(a.From, "?")) + " " + t.Arrow() + " " + term.Line(a.To)
	}
}

// reloads shows the last reload of the configuration.
func (s *screen) reloads(st control.Status) {
	if st.Reloads == nil || st.Reloads.Last == nil {
		return
	}
	last := st.Reloads.Last
	s.Add("Configuration", s.Paint(OutcomeColor(string(last.Outcome)), printable(string(last.Outcome)))+" on "+ago(last.Started, s.now))
	if last.Reason != "" {
		s.row("", "%s", last.Reason)
	}
}

func (s *screen) lastGood(st control.Status) {
	g := st.LastGood
	if g == nil {
		return
	}
	if g.Fallback != "" {
		s.Add("Runs instead", s.Paint(term.Yellow, printable("the last good version, because "+g.Fallback)))
	}
	if g.Path != "" {
		s.row("Last good", "%s of %s, %s", g.Version, ago(g.Since, s.now), g.Path)
	}
	for _, f := range g.Failed {
		s.row("Failed", "%s on %s: %s", cmp.Or(f.Version, "a file"), ago(f.At, s.now), f.Reason)
	}
}

// previous is what a rollback would start.
func (s *screen) previous(st control.Status) {
	p := st.Previous
	switch {
	case p == nil:
	case p.Since.IsZero():
		s.row("Previous", "%s, %s", cmp.Or(p.Version, "a version"), p.Path)
	default:
		s.row("Previous", "%s of %s, %s", cmp.Or(p.Version, "a version"), ago(p.Since, s.now), p.Path)
	}
}

// maxVersion is how wide a version may be on a terminal, so that it leaves room for
// the state.
const maxVersion = 20

// Table lays out several units, a line each.
func Table(views []View, t term.Terminal, now time.Time) string {
	columns := []term.Column{{Name: "UNIT"}, {Name: "VERSION"}, {Name: "STATE"}, {Name: "GENERATION", Drop: 2}, {Name: "PID", Drop: 1}, {Name: "SINCE", Drop: 4}, {Name: "LAST", Drop: 3}}
	rows := make([][]string, len(views))
	for i, v := range views {
		state, color := v.State()
		row := []string{term.Line(v.Unit), "", t.Paint(color, term.Line(state)), "", "", "", ""}
		if st := v.Service; st != nil {
			row[0] = term.Line(cmp.Or(v.Unit, st.Name))
			row[1] = term.Line(st.Version)
			if t.Width > 0 {
				row[1] = t.Cut(row[1], maxVersion)
			}
			row[3] = fmt.Sprint(st.Generation)
			row[4] = fmt.Sprint(st.PID)
			if !st.Since.IsZero() {
				row[5] = distance(max(now.Sub(st.Since), 0)) + " ago"
			}
		} else if u := v.Systemd; u != nil {
			if u.MainPID > 0 {
				row[4] = fmt.Sprint(u.MainPID)
			}
			if !u.Since.IsZero() {
				row[5] = distance(max(now.Sub(u.Since), 0)) + " ago"
			}
		}
		if last, ok := v.last(); ok {
			row[6] = t.Paint(OutcomeColor(last.Outcome), term.Line(last.Outcome))
		}
		for j := range row {
			row[j] = cmp.Or(row[j], "-")
		}
		rows[i] = row
	}
	return t.Table(columns, rows)
}

func (v View) last() (Attempt, bool) {
	switch {
	case len(v.Attempts) > 0:
		return v.Attempts[0], true
	case v.Service != nil && v.Service.Last != nil:
		return AttemptOf(*v.Service.Last), true
	default:
		return Attempt{}, false
	}
}
