// SPDX-License-Identifier: Apache-2.0

// Package control is the protocol that a service running under Holdfast
// speaks on its control socket: HTTP with JSON bodies on a Unix socket in the
// service's RuntimeDirectory=. [Client] is its client side; package reexec
// serves it.
//
//	GET  /v1/status    one [Status]
//	POST /v1/upgrade   a stream of [Event] lines (application/x-ndjson): one
//	                   at every change of state, the last one with the verdict
//	POST /v1/rollback  the same, to the version before, which [Status.Previous]
//	                   names; the body is a [RollbackRequest], or empty
//	POST /v1/reload    reads the configuration again; one [Reload], at its end
//	GET  /healthz      alive? [Health]
//	GET  /readyz       able to serve now? [Health]
//	GET  /updatez      where an upgrade is: [Update]
//	GET  /metrics      for Prometheus, if the service has metrics
//
// Only root and the service's own user are served.
package control

import (
	"fmt"
	"time"

	"github.com/holdfast-go/holdfast/reexec/fingerprint"
)

// Version is the protocol version that this package speaks. It is the first
// element of every path; a server answers an unknown version with 404 and an
// [Error] that lists what it speaks.
const Version = 1

// MaxHistory is the length of [Status.History].
const MaxHistory = 16

// SocketName is the name of the control socket inside the runtime directory.
const SocketName = "control.sock"

// Executing is [Status.State] while the process executes the next version in
// place. The stream of those who asked for it ends there without a verdict, and
// whoever connects waits until that version is main: it has the verdict in
// [Status.Last].
const Executing = "executing"

// Outcome says how an attempt to upgrade ended.
type Outcome string

const (
	// Upgraded: the new version is main.
	Upgraded Outcome = "upgraded"
	// Refused: the new version never served; nothing changed.
	Refused Outcome = "refused"
	// RolledBack: the new version served in its probation and was undone; the
	// old version serves again.
	RolledBack Outcome = "rolled back"
	// Reloaded: the configuration was read again and is in use. Of a reload,
	// Refused means that nothing has changed, and Busy that the generation which was
	// asked is not the one to ask any more.
	Reloaded Outcome = "reloaded"
	// Busy: another upgrade is under way, or too many older generations still
	// drain; nothing was started.
	Busy Outcome = "busy"
	// Stopped: the service was told to stop before there was a verdict.
	Stopped Outcome = "stopped"
)

// Process is one generation of the service.
type Process struct {
	PID        int    `json:"pid"`
	Generation int    `json:"generation"`
	Version    string `json:"version,omitempty"`
	// Build tells builds of one version apart: "3f2a9c1, modified". It is empty
	// where the version says it all, or nothing is known.
	Build string `json:"build,omitempty"`
}

// String names the generation: "PID 640, version 1.2 (generation 3)".
func (p Process) String() string {
	s := fmt.Sprintf("PID %d", p.PID)
	if p.Version != "" {
		s += ", version " + p.Version
		if p.Build != "" {
			s += " (" + p.Build + ")"
		}
	}
	return fmt.Sprintf("%s (generation %d)", s, p.Generation)
}

// Phase is one step of an upgrade and the time it took.
type Phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// Verdict is the end of one attempt to upgrade. Reason is empty exactly when
// Outcome is [Upgraded].
type Verdict struct {
	Outcome Outcome `json:"outcome"`
	// Rollback says that the version before was asked for, and not the file of
	// the service.
	Rollback bool      `json:"rollback,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	From     Process   `json:"from"`
	To       *Process  `json:"to,omitempty"`
	Started  time.Time `json:"started"`
	Phases   []Phase   `json:"phases,omitempty"`
	// Before is what main had when the attempt began, After what main has once the
	// verdict is given: the new version if it was upgraded. Only main itself knows
	// that, so the verdict that is given to who has asked is without After.
	Before *Memory `json:"before,omitempty"`
	After  *Memory `json:"after,omitempty"`
	// Drain is how the old version ended after an upgrade; nil until that is known.
	Drain *DrainSum `json:"drain,omitempty"`
}

// Memory is what a process has of it, in bytes.
type Memory struct {
	Resident uint64 `json:"resident"`
	Heap     uint64 `json:"heap"` // of Go: objects that live or are not collected yet
}

// DrainSum is a [Drain] in a verdict.
type DrainSum struct {
	Seconds float64 `json:"seconds"`
	Moved   int     `json:"moved"`
}

// Reload is the end of one reload of the configuration. Reason is empty exactly when
// Outcome is [Reloaded].
type Reload struct {
	Outcome Outcome   `json:"outcome"`
	Reason  string    `json:"reason,omitempty"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
}

// Reloads counts those of one generation.
type Reloads struct {
	Done    uint64 `json:"done"`
	Refused uint64 `json:"refused"`
	// Last is nil before the first one.
	Last *Reload `json:"last,omitempty"`
}

// Drain says how long a generation took to end after another became main.
type Drain struct {
	Process
	Began   time.Time `json:"began"`
	Seconds float64   `json:"seconds"`
	// Moved are the idle connections and the sessions that went on in another
	// generation.
	Moved int `json:"moved,omitempty"`
	// Holders are what it waited for, the longest first.
	Holders []Holder `json:"holders,omitempty"`
}

// Holder is what a drain waited for: the connections of a listener, sessions
// that came from another generation, or what the service has registered.
type Holder struct {
	Name string `json:"name"`
	// Connections were open when the drain began; 0 for what the service has
	// registered.
	Connections int     `json:"connections,omitempty"`
	Seconds     float64 `json:"seconds"`
	// Cut: it was not over at the deadline. Left connections were closed.
	Cut  bool `json:"cut,omitempty"`
	Left int  `json:"left,omitempty"`
	// Error is what the service returned.
	Error string `json:"error,omitempty"`
}

func (h Holder) String() string {
	text := h.Name
	if h.Connections > 0 {
		text += fmt.Sprintf(" (%d connections)", h.Connections)
	}
	text += fmt.Sprintf(" %.1fs", h.Seconds)
	switch {
	case h.Left > 0:
		text += fmt.Sprintf(", %d were cut", h.Left)
	case h.Cut:
		text += ", not over"
	}
	if h.Error != "" {
		text += ": " + h.Error
	}
	return text
}

// Listener is a socket that the service holds.
type Listener struct {
	Name    string `json:"name"`
	Network string `json:"network"`
	Address string `json:"address"`
	// Origin is "socket unit", "fd store" or "bound" (by the service itself).
	Origin string `json:"origin"`
}

// Status is what a service says about itself.
type Status struct {
	Protocol int    `json:"protocol"`
	Name     string `json:"name"`
	// Instance is a random name given by the first generation and carried to
	// its successors: it tells an upgrade from a restart.
	Instance   string    `json:"instance"`
	State      string    `json:"state"`
	Since      time.Time `json:"since"`
	Generation int       `json:"generation"`
	Version    string    `json:"version"`
	PID        int       `json:"pid"`
	// Fingerprint is the build that runs; nil before the release of Holdfast that
	// knows it.
	Fingerprint *fingerprint.Fingerprint `json:"fingerprint,omitempty"`
	// Successor is the process of the upgrade under way, if one was started.
	Successor *Process `json:"successor,omitempty"`
	// Draining are older generations that still answer what they have.
	Draining  []Process  `json:"draining,omitempty"`
	Listeners []Listener `json:"listeners,omitempty"`
	// Adopted counts the idle connections and sessions that this generation has
	// taken over from others.
	Adopted int `json:"adopted,omitempty"`
	// LastDrain is how the predecessor ended, once it has.
	LastDrain *Drain `json:"last_drain,omitempty"`
	// Last is the last verdict, also across generations.
	Last *Verdict `json:"last,omitempty"`
	// History are the last verdicts, the newest first, at most [MaxHistory], and
	// Attempts counts all by their outcome. Both go on across upgrades, and where
	// the unit has a file descriptor store with room for them, across crashes and
	// restarts. What was answered with [Busy] was no attempt. One whose
	// predecessor died on the way has no verdict, so Last is none of it; it is here
	// as the [Upgraded] that it was.
	History  []Verdict          `json:"history,omitempty"`
	Attempts map[Outcome]uint64 `json:"attempts,omitempty"`
	// Mode is how one version follows another: "overlap", "in place" or "restart".
	Mode string `json:"mode,omitempty"`
	// Store is what systemd keeps for the service; nil without a manager.
	Store *Store `json:"store,omitempty"`
	// States are those that the service has registered.
	States []State `json:"states,omitempty"`
	// LastGood is what starts next if the file of the service must not.
	LastGood *LastGood `json:"last_good,omitempty"`
	// Previous is what a rollback would start; nil if there is nothing. In the
	// probation of an upgrade a rollback undoes that instead.
	Previous *Program `json:"previous,omitempty"`
	// Reloads is nil if the service reads no configuration again.
	Reloads *Reloads `json:"reloads,omitempty"`
}

// Program is a version that could run.
type Program struct {
	Version string `json:"version,omitempty"`
	Path    string `json:"path"`
	// Since is when it first proved itself; zero if that is not known.
	Since time.Time `json:"since,omitzero"`
}

// RollbackRequest is the body of POST /v1/rollback.
type RollbackRequest struct {
	// Reason is for people: it is in the log, in the status text and in the
	// record of files that must not start.
	Reason string `json:"reason,omitempty"`
}

// MaxReason bounds RollbackRequest.Reason, in bytes.
const MaxReason = 500

// Store is the file descriptor store of the unit, as far as the service knows it.
type Store struct {
	// Limit is FileDescriptorStoreMax=, or 0 where the service was not told it
	// (before systemd 254).
	Limit int `json:"limit,omitempty"`
	// Entries are what the service has there.
	Entries []StoreEntry `json:"entries,omitempty"`
	// Warning says what a crash would lose, and what to change in the unit.
	Warning string `json:"warning,omitempty"`
}

// StoreEntry is one descriptor in the store.
type StoreEntry struct {
	// Name is that of the entry, with its sequence number.
	Name string `json:"name"`
	// Kind is "bound", "state", "kept" or "program".
	Kind string `json:"kind"`
}

// State is one state of the service.
type State struct {
	Name string `json:"name"`
	// Kind is "snapshot", "merged" or "exclusive".
	Kind string `json:"kind"`
	// Version is that of the format which the service writes.
	Version uint32 `json:"version"`
	// Loaded is the frame that it began with; nil if there was none.
	Loaded *StateFrame `json:"loaded,omitempty"`
	// Committed is the last frame that is in the fd store; nil if there is none.
	Committed *StateFrame `json:"committed,omitempty"`
	// Refused says which frames were not used, and why.
	Refused []string `json:"refused,omitempty"`
}

// StateFrame is one copy of a state.
type StateFrame struct {
	Version uint32 `json:"version"`
	Seq     uint64 `json:"seq"`
	Bytes   int64  `json:"bytes"`
	// Origin is "predecessor" or "fd store".
	Origin string `json:"origin,omitempty"`
}

// LastGood is the record of files that must not start, and of the one that
// starts instead.
type LastGood struct {
	// Fallback says why the last good version runs in place of the file of the
	// service; empty if that runs.
	Fallback string `json:"fallback,omitempty"`
	// Version and Path are empty while no version has proven itself.
	Version string    `json:"version"`
	Path    string    `json:"path"`
	Since   time.Time `json:"since"`
	// Failed are the files that were refused or undone, the newest first.
	Failed []FailedFile `json:"failed,omitempty"`
}

// FailedFile is a version that was refused or undone.
type FailedFile struct {
	Version string    `json:"version,omitempty"`
	Reason  string    `json:"reason"`
	At      time.Time `json:"at"`
}

// Event is one line of the answer to POST /v1/upgrade and POST /v1/rollback: either a state or, as
// the last line, the verdict.
type Event struct {
	State   *Status  `json:"state,omitempty"`
	Verdict *Verdict `json:"verdict,omitempty"`
}

// Error is the body of every answer that is not 200.
type Error struct {
	Message  string `json:"error"`
	Versions []int  `json:"versions,omitempty"`
}

func (e *Error) Error() string { return e.Message }
