// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"syscall"
	"time"
)

// Verb says what a request asks for.
type Verb string

// Jobs. The answer comes when the job has ended and has the Result, or it has
// an Error if there was none to begin with. Unit says which unit; jobs other
// than Start, Stop and Restart are for services.
const (
	Start           Verb = "start"
	Stop            Verb = "stop"
	Restart         Verb = "restart"
	TryRestart      Verb = "try-restart"
	Reload          Verb = "reload"
	ReloadOrRestart Verb = "reload-or-restart"
)

// Orders. They are answered at once.
const (
	// ResetFailed takes a unit out of the failed state and forgets its start limit.
	ResetFailed Verb = "reset-failed"
	// Kill sends Signal to the processes that Whom names.
	Kill Verb = "kill"
	// DaemonReload loads Files in place of those of the Config or of the last
	// DaemonReload; without Files it loads the same again. The fd store changes its order
	// and, if FileDescriptorStoreMax= is lower now, its size. Sockets that listen stay as they are.
	// If the files have errors, nothing changes and the Error lists them.
	DaemonReload Verb = "daemon-reload"
	// Show answers with Properties for the service, with Socket for a socket unit. An event
	// has told what is new in the Properties.
	Show Verb = "show"
	// Processes answers with the living processes of the service.
	Processes Verb = "processes"
	// FDStore answers with the entries of the fd store, in the order in which
	// the next start passes them.
	FDStore Verb = "fdstore"
	// Clean is systemctl clean: What is a list of runtime, state, cache, logs,
	// configuration, fdstore and all. (Told nothing, systemctl asks for cache and runtime.)
	Clean Verb = "clean"
	// Addresses answers with the addresses on which sockets listen.
	Addresses Verb = "addresses"
	// Install replaces the program at Path, a path as the unit writes it, by
	// the file at Source, a path on the host: copied, then renamed into place. From
	// then on Path is one of the Config's Programs. The test may as well do that itself.
	Install Verb = "install"
	// SetFault puts a fault in place; it stays until it has struck Fault.Count
	// times or is cleared. A Fault event tells each time that it strikes.
	SetFault Verb = "fault"
	// ClearFault ends the fault that the request with the ID FaultID put in
	// place, and lets go what it holds. A fault that has ended is no error.
	ClearFault Verb = "clear-fault"
	// End stops everything as the end of the connection does. The answer comes when no
	// process is left and, with Config.RemoveRoot, Root is gone; the connection ends after it.
	End Verb = "end"
)

// IsJob reports whether the answer comes only when a job has ended.
func (v Verb) IsJob() bool {
	switch v {
	case Start, Stop, Restart, TryRestart, Reload, ReloadOrRestart:
		return true
	}
	return false
}

// Request is one request to the manager. Fields other than ID, Verb and Unit
// belong to the verbs that name them.
type Request struct {
	ID   int64 // not 0, and not that of another request of this connection
	Verb Verb
	// Unit is the name of the unit: "myapp.socket"; empty is the service.
	Unit string `json:",omitempty"`

	Whom    Whom           `json:",omitempty"`
	Signal  syscall.Signal `json:",omitempty"`
	Files   []File         `json:",omitempty"`
	What    []string       `json:",omitempty"`
	Path    string         `json:",omitempty"`
	Source  string         `json:",omitempty"`
	Fault   *Fault         `json:",omitempty"`
	FaultID int64          `json:",omitempty"`
}

// Whom says which processes Kill signals: those of systemctl kill --kill-whom=.
type Whom string

// The processes of a service.
const (
	MainProcess    Whom = "main"
	ControlProcess Whom = "control"
	AllProcesses   Whom = "all" // also the empty Whom
)

// FaultKind says what goes wrong.
type FaultKind string

// Faults.
const (
	// DropNotify: messages on the notify socket that have all of Fields are
	// lost, descriptors included.
	DropNotify FaultKind = "drop-notify"
	// DelayNotify: such messages are read only after Delay. What comes after them waits too,
	// because the socket is one queue.
	DelayNotify FaultKind = "delay-notify"
	// HoldProcess: a process of the service that is born is stopped with SIGSTOP as
	// soon as it is seen, within about 2 ms, and continued after Delay. Processes that the
	// manager starts itself are stopped before their program runs, others, such as successors, very
	// early in it.
	HoldProcess FaultKind = "hold-process"
	// CloseNotify: the notify socket is closed, and its path is gone, until
	// the fault ends. Count does not matter.
	CloseNotify FaultKind = "close-notify"
	// FullStore: the fd store takes no more descriptors, as if it were full.
	FullStore FaultKind = "full-store"
)

// Fault is something that goes wrong on request.
type Fault struct {
	Kind   FaultKind
	Fields []string      `json:",omitempty"` // "READY=1", or "MAINPID" for any value; none is any message
	Delay  time.Duration `json:",omitempty"`
	Count  int           `json:",omitempty"` // ends after so many; 0 is no limit
}
