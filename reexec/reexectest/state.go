// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// Properties are those of a service, as systemctl show prints them.
type Properties struct {
	ActiveState  string // active reloading inactive failed activating deactivating
	SubState     string // running, start-pre, reload, stop-sigterm, auto-restart, …
	Result       string // success, exit-code, signal, timeout, watchdog, …
	ReloadResult string
	CleanResult  string
	StatusText   string // STATUS=
	StatusErrno  int    // ERRNO=

	MainPID        int // 0 without a main process
	ControlPID     int // of ExecReload= and such while it runs
	ExecMainPID    int // also after its end
	ExecMainCode   int // CLD_EXITED (1), CLD_KILLED (2), CLD_DUMPED (3); 0 while it runs
	ExecMainStatus int // exit status or signal

	NRestarts              int
	NFileDescriptorStore   int
	FileDescriptorStoreMax int
	NotifyAccess           string // as NOTIFYACCESS= changed it
	InvocationID           string
	Job                    string // the job under way: "reload"; empty without one
}

func properties(p *wire.Properties) Properties {
	return Properties{
		ActiveState: string(p.ActiveState), SubState: p.SubState, Result: p.Result,
		ReloadResult: p.ReloadResult, CleanResult: p.CleanResult, StatusText: p.StatusText, StatusErrno: p.StatusErrno,
		MainPID: p.MainPID, ControlPID: p.ControlPID,
		ExecMainPID: p.ExecMainPID, ExecMainCode: p.ExecMainCode, ExecMainStatus: p.ExecMainStatus,
		NRestarts: p.NRestarts, NFileDescriptorStore: p.NFileDescriptorStore, FileDescriptorStoreMax: p.FileDescriptorStoreMax,
		NotifyAccess: p.NotifyAccess, InvocationID: p.InvocationID, Job: string(p.Job),
	}
}

// String is a summary in one line.
func (p Properties) String() string {
	s := fmt.Sprintf("%s (%s)", p.ActiveState, p.SubState)
	if p.Result != "success" && p.Result != "" {
		s += ", result " + p.Result
	}
	if p.ReloadResult != "success" && p.ReloadResult != "" {
		s += ", reload result " + p.ReloadResult
	}
	if p.MainPID != 0 {
		s += fmt.Sprintf(", main PID %d", p.MainPID)
	}
	if p.ControlPID != 0 {
		s += fmt.Sprintf(", control PID %d", p.ControlPID)
	}
	if p.NRestarts > 0 {
		s += fmt.Sprintf(", restarted %d times", p.NRestarts)
	}
	if p.NFileDescriptorStore > 0 {
		s += fmt.Sprintf(", %d stored descriptors", p.NFileDescriptorStore)
	}
	if p.StatusText != "" {
		s += fmt.Sprintf(", status %q", p.StatusText)
	}
	return s
}

// SocketProperties are those of a socket unit.
type SocketProperties struct {
	ActiveState  string
	SubState     string // dead listening running failed …
	Result       string // success, trigger-limit-hit, service-start-limit-hit, …
	NAccepted    int
	NConnections int
	NRefused     int
}

// Process is a process of the unit.
type Process struct {
	PID     int
	Parent  int
	Start   uint64   // clock ticks since boot: with PID it names one process for good
	State   string   // a letter, as in proc_pid_stat(5)
	Exe     string   // the file that it runs, with " (deleted)" after an upgrade
	Command []string // its arguments
}

func process(p wire.Process) Process {
	return Process{PID: p.PID, Parent: p.Parent, Start: p.Start, State: p.State, Exe: p.Exe, Command: p.Command}
}

func (p Process) String() string {
	return fmt.Sprintf("%d (%s) %s", p.PID, p.State, strings.Join(p.Command, " "))
}

// StoredFD is a descriptor in the store, in the terms of systemd-analyze fdstore.
type StoredFD struct {
	Name      string
	Mode      uint32 // st_mode
	DevMajor  uint32
	DevMinor  uint32
	Inode     uint64
	RdevMajor uint32
	RdevMinor uint32
	Path      string // as /proc/self/fd has it: "socket:[4711]"
	Flags     int    // O_RDWR and so on
}

// JournalEntry is a line of the journal of the service and its sockets.
type JournalEntry struct {
	Time       time.Time
	Unit       string
	PID        int    // who wrote it
	Identifier string // the name of its program; "systemd" for lines of the stand-in itself
	Priority   int    // as of syslog(3): 3 is an error, 6 is information
	Message    string
}

func (e JournalEntry) String() string {
	return fmt.Sprintf("%s[%d]: %s", e.Identifier, e.PID, e.Message)
}

// Message is one that came on the notify socket.
type Message struct {
	Time        time.Time
	PID         int
	UID         uint32
	Fields      []string // "READY=1"; none of a message that systemd drops
	Descriptors int
	Accepted    bool   // by NotifyAccess=
	Reason      string // why it was not accepted, or which fields were refused
}

func (m Message) String() string {
	s := fmt.Sprintf("from %d: %s", m.PID, strings.Join(m.Fields, " "))
	if m.Descriptors > 0 {
		s += fmt.Sprintf(" with %d descriptors", m.Descriptors)
	}
	if !m.Accepted {
		s += ", not accepted"
	}
	if m.Reason != "" {
		s += ": " + m.Reason
	}
	return s
}

// Has says whether a field such as "READY=1" is in the message, or, without
// "=", any value of it.
func (m Message) Has(field string) bool {
	for _, f := range m.Fields {
		if name, _, _ := strings.Cut(f, "="); f == field || name == field {
			return true
		}
	}
	return false
}

// Value returns the value of a field such as "MAINPID", or "".
func (m Message) Value(field string) string {
	for _, f := range m.Fields {
		if value, ok := strings.CutPrefix(f, field+"="); ok {
			return value
		}
	}
	return ""
}

// Death is the end of a process.
type Death struct {
	Time   time.Time
	PID    int
	Reaped bool // how it ended is known
	Code   int  // CLD_EXITED (1), CLD_KILLED (2), CLD_DUMPED (3)
	Status int  // exit status or signal
}

func (d Death) String() string {
	switch {
	case !d.Reaped:
		return fmt.Sprintf("%d is gone", d.PID)
	case d.Code == 1:
		return fmt.Sprintf("%d exited with status %d", d.PID, d.Status)
	case d.Code == 3:
		return fmt.Sprintf("%d dumped core by %s", d.PID, signalName(d.Status))
	}
	return fmt.Sprintf("%d was killed by %s", d.PID, signalName(d.Status))
}
