// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"time"
)

// Message is one message of the manager: an Answer or an Event.
type Message struct {
	Answer *Answer `json:",omitempty"`
	Event  *Event  `json:",omitempty"`
}

// Answer answers the Request with its ID, or the Config if ID is 0.
type Answer struct {
	ID int64
	// Error says why there is no answer of another kind.
	Error *Error `json:",omitempty"`
	// Result is how a job ended.
	Result JobResult `json:",omitempty"`

	Properties *Properties       `json:",omitempty"` // Show of a service
	Socket     *SocketProperties `json:",omitempty"` // Show of a socket unit
	Processes  []Process         `json:",omitempty"`
	Store      []StoredFD        `json:",omitempty"` // FDStore
	Addresses  []Address         `json:",omitempty"` // also of the Config, with Network "" as long as nothing listens
	Loaded     *Loaded           `json:",omitempty"` // of the Config and of DaemonReload
}

// ExitStatus is the exit status of systemctl after this answer to a job.
func (a *Answer) ExitStatus() int {
	switch {
	case a.Error != nil && a.Error.Name == ErrNoSuchUnit:
		return 5
	case a.Error != nil:
		return 1
	case a.Result == "" || a.Result == Done || a.Result == Skipped:
		return 0
	}
	return 1
}

// Loaded names what the unit files say.
type Loaded struct {
	Service    string   // the name of the service, with its instance
	Sockets    []string // the names of the socket units
	ManagerPID int      // the PID that the service's processes see as their parent
	NotifyAddr string   // NOTIFY_SOCKET
	Root       string   // that of the Config, or the one that the manager has made
}

// JobResult is how a job ended.
type JobResult string

// Results of jobs, as the signal JobRemoved has them.
const (
	Done       JobResult = "done"
	Canceled   JobResult = "canceled"
	Timeout    JobResult = "timeout"
	Failed     JobResult = "failed"
	Dependency JobResult = "dependency"
	Skipped    JobResult = "skipped"
	Invalid    JobResult = "invalid"
	Assert     JobResult = "assert"
)

// Error is a request that was refused.
type Error struct {
	Name    string // of a D-Bus error, one of those below
	Message string
}

func (e *Error) Error() string {
	if e.Name == ErrBadUnit || e.Name == ErrBadWorld {
		return e.Message
	}
	return fmt.Sprintf("%s (%s)", e.Message, e.Name)
}

// Names of errors. Those that begin with the name of this module are not
// systemd's.
const (
	ErrNoSuchUnit           = "org.freedesktop.systemd1.NoSuchUnit"
	ErrJobTypeNotApplicable = "org.freedesktop.systemd1.JobTypeNotApplicable"
	ErrOnlyByDependency     = "org.freedesktop.systemd1.OnlyByDependency"
	ErrUnitMasked           = "org.freedesktop.systemd1.UnitMasked"
	ErrNoSuchProcess        = "org.freedesktop.systemd1.NoSuchProcess" // Kill: no such process now
	ErrUnitBusy             = "org.freedesktop.systemd1.UnitBusy"      // Clean: not in this state
	ErrNothingToClean       = "org.freedesktop.systemd1.NothingToClean"
	ErrFDStoreDisabled      = "org.freedesktop.systemd1.FileDescriptorStoreDisabled"
	ErrInvalidArgs          = "org.freedesktop.DBus.Error.InvalidArgs"
	ErrNotSupported         = "org.freedesktop.DBus.Error.NotSupported"

	ErrSystem = "System.Error." // and the name of an errno, such as ESRCH

	ErrBadUnit  = "io.github.holdfast-go.BadUnit"  // unit files with errors; Message has one a line
	ErrBadWorld = "io.github.holdfast-go.BadWorld" // this machine refused something; Message says what
)

// Properties are those of a service.
type Properties struct {
	ActiveState  string // active reloading inactive failed activating deactivating maintenance
	SubState     string // "running", "stop-sigterm", ...
	Result       string // "success", "exit-code", ...
	ReloadResult string
	CleanResult  string
	StatusText   string
	StatusErrno  int

	MainPID        int
	ControlPID     int
	ExecMainPID    int // also after its end
	ExecMainCode   int // CLD_EXITED (1), CLD_KILLED (2), CLD_DUMPED (3); 0 while it runs
	ExecMainStatus int // exit status or signal

	NRestarts              int
	NFileDescriptorStore   int
	FileDescriptorStoreMax int
	NotifyAccess           string // also as NOTIFYACCESS= changed it
	InvocationID           string // 32 hexadecimal digits
	Job                    Verb   `json:",omitempty"` // the job that is under way or waits
}

// SocketProperties are those of a socket unit.
type SocketProperties struct {
	ActiveState  string
	SubState     string // dead listening running failed ...
	Result       string // "success", "service-start-limit-hit", "trigger-limit-hit", ...
	NAccepted    int
	NConnections int
	NRefused     int
}

// Process is a process of the service.
type Process struct {
	PID     int
	Parent  int
	Start   uint64   // clock ticks since boot, as in /proc/PID/stat: with PID it names one process for good
	State   string   // a letter, as in /proc/PID/stat
	Exe     string   // the file that it executes, empty if that cannot be read; with " (deleted)" when it is gone
	Command []string `json:",omitempty"`
}

// StoredFD is an entry of the fd store, in the terms of DumpUnitFileDescriptorStore.
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
	PID        int    // the process that wrote it; the manager's for its own lines
	Identifier string // its name; "systemd" for the manager's own lines
	Priority   int    // as of syslog(3): 3 is an error, 6 is information
	Message    string
}

// Address is where a Listen* line of a socket unit listens.
type Address struct {
	Unit    string // "myapp.socket"
	Name    string // FileDescriptorName=, or systemd's default
	Listen  string // as the unit has it, specifiers replaced: "ListenStream=8080"
	Network string // of package net: tcp tcp4 tcp6 udp udp4 udp6 unix unixgram unixpacket; else fifo special vsock
	Address string // for net.Dial; "[::1]:40123", "/tmp/x/run/myapp.sock", "@name"
}

// EventKind says which field of an Event is set.
type EventKind string

// Events.
const (
	PropertiesChanged EventKind = "properties"
	SocketChanged     EventKind = "socket"
	JournalLine       EventKind = "journal"
	NotifyReceived    EventKind = "notify"
	ProcessBorn       EventKind = "birth"
	ProcessDied       EventKind = "death"
	FaultStruck       EventKind = "fault"
	JobEnded          EventKind = "job"
)

// Event is something that happened.
type Event struct {
	Kind EventKind
	Time time.Time // of the manager's clock
	Unit string    // the service's name, or the socket unit's

	Properties *Properties       `json:",omitempty"` // all of them, after each change
	Socket     *SocketProperties `json:",omitempty"`
	Journal    *JournalEntry     `json:",omitempty"`
	Notify     *Notify           `json:",omitempty"`
	Process    *Process          `json:",omitempty"` // a birth: as it was first seen; short-lived processes that are not the manager's children may be missed
	Death      *Death            `json:",omitempty"`
	Fault      *FaultStrike      `json:",omitempty"`
	Job        *Job              `json:",omitempty"`
}

// Notify is a message on the notify socket.
type Notify struct {
	PID         int
	UID         uint32
	Payload     []byte
	Fields      []string // as systemd reads them; none if it drops the message
	Descriptors int      // how many came with it
	Accepted    bool     // by NotifyAccess=; a field may still be refused for its value
	Reason      string   `json:",omitempty"` // why it was not accepted, or which fields were refused
}

// Death is the end of a process: of one that the manager reaped, with its
// status, or of one of which only its absence is seen.
type Death struct {
	PID    int
	Reaped bool
	Code   int // CLD_EXITED (1), CLD_KILLED (2), CLD_DUMPED (3)
	Status int // exit status or signal
}

// FaultStrike is one time that a fault struck.
type FaultStrike struct {
	ID   int64 // of the request that put it in place
	Kind FaultKind
	PID  int // the process that was held, or that sent the message
}

// Job is the end of a job, also of one that no request asked for.
type Job struct {
	ID     int64 // of the request; 0 for one of the manager's own, such as socket activation
	Verb   Verb
	Result JobResult
}
