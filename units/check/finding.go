// SPDX-License-Identifier: Apache-2.0

package check

import "github.com/holdfast-go/holdfast/units"

// Level says how much a finding matters.
type Level string

const (
	// Error: an upgrade, or what saves a failed one, does not work.
	Error Level = "error"
	// Warning: an upgrade works, and some promise does not hold: in a crash, under
	// load, or for who watches.
	Warning Level = "warning"
	// Note: worth to know. Nothing need be changed.
	Note Level = "note"
)

// Finding is one thing that stands in the way of an upgrade.
type Finding struct {
	Level   Level  `json:"level"`
	Option  string `json:"option,omitempty"` // "KillMode", or a property of the running unit
	Section string `json:"section,omitempty"`
	// File and Line are where it is set. What is not set has the file where it
	// belongs, and no line.
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	// Found is what is there, as in the file: "KillMode=mixed". It is text of the file or
	// of systemd, and may hold any character.
	Found string `json:"found,omitempty"`
	Why   string `json:"why"`
	// Write are the lines to write instead. Without any there is none to write: Why says what to do.
	Write []string `json:"write,omitempty"`
}

// Report is what a check has found.
type Report struct {
	Unit string `json:"unit"` // the name of the service
	// Systemd is the version that was judged for.
	Systemd int `json:"systemd"`
	// Holdfast: the unit is that of a service that upgrades with Holdfast. Others
	// get no finding of the level [Error]: how they upgrade is not known.
	Holdfast bool `json:"holdfast"`
	// Mode is that of a Holdfast service; empty for others.
	Mode units.Mode `json:"mode,omitempty"`
	// Running: the running unit was judged, too.
	Running bool `json:"running"`
	// Files are those that were read, those of the service first.
	Files    []string  `json:"files"`
	Findings []Finding `json:"findings"`
}

// Fit says whether there is no error among the findings.
func (r *Report) Fit() bool { return r.Count(Error) == 0 }

// Count returns how many findings are of a level.
func (r *Report) Count(level Level) int {
	n := 0
	for _, f := range r.Findings {
		if f.Level == level {
			n++
		}
	}
	return n
}
