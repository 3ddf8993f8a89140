// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/notify/notifytest"
	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// A world is what the state machine of a service asks and orders. The real one
// is made of processes, sockets and directories; tests have one that only
// remembers. Everything runs on the manager's one goroutine: the machine calls
// the world, and the world calls the machine's event methods from its loop,
// never from within a call of the machine.
type world interface {
	// now is CLOCK_MONOTONIC, in the terms of MONOTONIC_USEC=.
	now() time.Duration
	// random returns 64 random bits.
	random() uint64
	// pid is the PID of the manager, which no service may have for its own.
	pid() int
	// schedule has the machine's dispatch called once, when no other event is
	// pending, requests included. To schedule again before that changes nothing.
	schedule()

	// spawn starts a command of the unit and returns its PID. It makes
	// RuntimeDirectory= and the like before. That a directory cannot be made or the program
	// not be executed is no error: the process ends with the status of systemd.exec(5), such as
	// 203. Of the environment it sets all but what depends on the machine's
	// state: see spawnOrder.
	spawn(start spawnOrder) (pid int, err error)
	// signal sends sig to one process; the error is the kernel's.
	signal(pid int, sig syscall.Signal) error
	// signalAll sends sig to every living process of the unit but those named,
	// and returns how many there were. It follows forks until none is left out.
	// Stopped processes are continued after it, as systemd does; signal does not.
	signalAll(sig syscall.Signal, except ...int) int
	// processes are the living processes of the unit; zombies are dead.
	processes() []int
	// isChild reports whether the manager is the parent, so that it sees the
	// death; belongs whether the process is one of the unit's; alive whether it
	// exists and is no zombie.
	isChild(pid int) bool
	belongs(pid int) bool
	alive(pid int) bool
	// handles reports whether the process catches or blocks the signal.
	handles(pid int, sig syscall.Signal) bool
	// pidfdID is the inode number of the process's pidfd; false if the kernel has none.
	pidfdID(pid int) (id uint64, ok bool)

	// readPIDFile returns the number in PIDFile=.
	readPIDFile() (int, error)
	removePIDFile()
	// watchPIDFile has the machine's pidFileChanged called when the file is
	// written, until it is called with false.
	watchPIDFile(on bool)

	// setTimer arms a timer, or moves it; a duration of unit.Infinity disarms.
	// The machine's timer method is called when it is over.
	setTimer(t timer, after time.Duration)
	stopTimer(t timer)

	// removeRuntimeDirectories removes those of RuntimeDirectory=, unless
	// RuntimeDirectoryPreserve=yes. With "restart" the machine does not call it
	// when the service is to be restarted.
	removeRuntimeDirectories()

	// store keeps descriptors for the service.
	store() fdStore
	// socketsWanted starts the sockets that the service requires; socketsTaken
	// tells those that are started that the service runs, socketsFreed that it no
	// longer does, so that they listen; socketsFailed that its start limit is hit,
	// which fails them too. The last three may be called again and again.
	socketsWanted() error
	socketsTaken()
	socketsFreed()
	socketsFailed()

	// jobEnded answers a request. Jobs of the machine's own are not told.
	jobEnded(id int, result jobResult)
	// changed says that a property may have changed.
	changed()
	// log writes a line to the unit's journal in the manager's name.
	log(level int, format string, args ...any)
}

// spawnOrder is one command to start.
type spawnOrder struct {
	command unit.Command
	kind    commandKind
	// environment has what the machine knows: MAINPID=, MAINPIDFDID=, SERVICE_RESULT=,
	// EXIT_CODE=, EXIT_STATUS=, DEBUG_INVOCATION=, INVOCATION_ID=.
	environment []string
	descriptors bool          // passes the sockets and what is stored
	watchdog    time.Duration // WATCHDOG_USEC=; 0 for none
}

// commandKind says which option a command comes from.
type commandKind string

// The commands of a service.
const (
	execCondition  commandKind = "ExecCondition"
	execStartPre   commandKind = "ExecStartPre"
	execStart      commandKind = "ExecStart"
	execStartPost  commandKind = "ExecStartPost"
	execReload     commandKind = "ExecReload"
	execReloadPost commandKind = "ExecReloadPost"
	execStop       commandKind = "ExecStop"
	execStopPost   commandKind = "ExecStopPost"
)

// timer is one of the clocks of a service.
type timer string

// The timers of a service.
const (
	stateTimer    timer = "state"    // TimeoutStartSec=, TimeoutStopSec=, RestartSec=, RuntimeMaxSec=
	watchdogTimer timer = "watchdog" // WatchdogSec=
)

// jobResult is how a job ended, as in the signal JobRemoved of
// org.freedesktop.systemd1(5).
type jobResult = wire.JobResult

// fdStore is the part of the store that the machine uses.
type fdStore interface {
	len() int
	// release closes everything.
	release()
}

// A machine is the state machine of a service as the world's loop sees it. The
// loop calls one method at a time and looks at the notify socket before it
// looks for dead children, and at those before anything else.
type machine interface {
	// request begins a job: start stop restart try-restart reload
	// reload-or-restart. It is answered by world.jobEnded with the same id,
	// perhaps before request returns. An error says that there is no job, such as
	// JobTypeNotApplicable; then nothing follows. IDs of the world's own jobs are negative.
	request(id int, verb wire.Verb) *wire.Error
	// triggered starts the service, because a connection came to a socket unit,
	// unless it is active, activating, or to be started anyway.
	triggered()
	// resetFailed is systemctl reset-failed.
	resetFailed()
	// dispatch runs the job that waits. See world.schedule.
	dispatch()
	// exited is called for each child that was reaped, also for orphans that
	// came to the manager; execed when a child executed its program; empty
	// when no process of the unit is left, after the exited calls that led to it.
	exited(pid int, status syscall.WaitStatus)
	execed(pid int)
	empty()
	// message judges and acts on a message of sd_notify. The sender is a process of the
	// unit: others are dropped before. The verdict says whether NotifyAccess= let it in;
	// only then the world handles FDSTORE=1 and FDSTOREREMOVE=1.
	message(m notification) notifyVerdict
	elapsed(t timer)
	pidFileChanged()
	// reloaded is daemon-reload. The store has its new limit and order by then.
	reloaded(s *unit.Service)
	// storeEmptied says that the last stored descriptor went away on its own.
	storeEmptied()
	// cleaned says that the world did what systemctl clean asks for. It may be asked for only
	// in the SubStates "dead" and "dead-resources-pinned".
	cleaned()
	// properties fills in all but NFileDescriptorStore and FileDescriptorStoreMax.
	properties() wire.Properties
}

// A notification is a message of sd_notify.
type notification struct {
	pid    int // of the sender
	uid    uint32
	fields []notifytest.Field
	files  int // how many descriptors came with it
	// mainPID is the process whose pidfd came with MAINPIDFD=1; 0 if there is none.
	mainPID int
}

// value returns the value of the first field of that name; has reports whether
// the message has exactly that field, such as "READY=1".
func (n notification) value(name string) (value string, ok bool) {
	for _, f := range n.fields {
		if value, ok := strings.CutPrefix(string(f), name+"="); ok {
			return value, true
		}
	}
	return "", false
}

func (n notification) has(field notifytest.Field) bool { return slices.Contains(n.fields, field) }

// A notifyVerdict is what became of a message.
type notifyVerdict struct {
	accepted bool
	reason   string // why it was not accepted, or which fields were refused
}
