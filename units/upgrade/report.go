// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// Outcome is how the rollout, or that of one unit, ended.
type Outcome string

const (
	// Done: the new version serves and has passed its gates.
	Done Outcome = "done"
	// Unchanged: there was nothing to do.
	Unchanged Outcome = "unchanged"
	// Failed: the service has refused or undone the version; the old one serves.
	Failed Outcome = "failed"
	// RolledBack: a gate or its wave has failed; the version before serves again.
	RolledBack Outcome = "rolled back"
	// Broken: the unit is not in the state that it was in, and a rollback has not
	// helped: somebody has to look.
	Broken Outcome = "broken"
	// Skipped: it was not its turn before the rollout ended.
	Skipped Outcome = "skipped"
	// Interrupted: the context ended first.
	Interrupted Outcome = "interrupted"
)

// Report is what has become of a request.
type Report struct {
	ID      string  `json:"id"`
	Action  string  `json:"action"` // "rollout" or "rollback"
	Outcome Outcome `json:"outcome"`
	// Reason is empty exactly when Outcome is Done or Unchanged.
	Reason  string    `json:"reason,omitempty"`
	By      string    `json:"by,omitempty"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	// Units are in the order in which they were dealt with.
	Units []UnitReport `json:"units"`
	// Resumed: the helper was started again in the middle of it.
	Resumed bool `json:"resumed,omitempty"`
}

// UnitReport is what has become of one unit.
type UnitReport struct {
	Unit    string    `json:"unit"`
	Wave    int       `json:"wave"` // from 0, the canary
	Outcome Outcome   `json:"outcome"`
	Reason  string    `json:"reason,omitempty"`
	Gate    string    `json:"gate,omitempty"` // that failed: "process", "version", "health", "ready", "errors"
	From    Version   `json:"from"`
	To      Version   `json:"to"` // that serves now; zero if none does, or none answers
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	// Verdict is the service's own.
	Verdict *control.Verdict `json:"verdict,omitempty"`
	// Phases are those of the helper: "check", "reload", "soak", "rollback".
	Phases []control.Phase `json:"phases,omitempty"`
}

// Version is what serves.
type Version struct {
	Version    string `json:"version,omitempty"`
	PID        int    `json:"pid,omitempty"`
	Generation int    `json:"generation,omitempty"`
}

// Event is progress. The zero value of what does not belong to its Kind.
type Event struct {
	ID string    `json:"id"`
	At time.Time `json:"at"`
	// Kind is "wave", "unit" (another Phase), "state" (another State of the service),
	// "gate" (a look in the soak: Text is "ok" or what has failed), "pause" or "done".
	Kind string `json:"kind"`
	Unit string `json:"unit,omitempty"`
	Wave int    `json:"wave"`
	// Phase is that of the helper: "check", "reload", "soak", "held" (it has passed its
	// gates, and its wave is not over), "rollback" or "done". State is the service's own,
	// and Text then its status text.
	Phase string `json:"phase,omitempty"`
	State string `json:"state,omitempty"`
	Text  string `json:"text,omitempty"`
	Done  int    `json:"done"`  // units that are finished
	Total int    `json:"total"` // of so many
	// Left are the seconds until the end of the soak or of the pause.
	Left float64 `json:"left,omitempty"`
	// Report is in the last one.
	Report *Report `json:"report,omitempty"`
}
