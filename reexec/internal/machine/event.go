// SPDX-License-Identifier: Apache-2.0

package machine

import "fmt"

// Event is something that happened to a generation. Events about a successor
// belong to one attempt; the runner drops those of attempts that are over.
type Event uint8

// The events.
const (
	// Built: the service called Run; everything it needs is there.
	Built Event = iota
	// Failed: the service itself reports that it cannot go on.
	Failed
	// Upgrade: SIGUSR2, or a request on the control socket.
	Upgrade
	// Fit: the new binary passed the pre-check, and is to run beside this one.
	Fit
	// FitInPlace: it passed, and is to run in this process.
	FitInPlace
	// FitToRestart: it passed, and the service manager is to start it.
	FitToRestart
	// Unfit: the new binary was refused, or the check timed out.
	Unfit
	// Ready: the successor is ready to accept.
	Ready
	// Ill: the successor lives and says that it cannot serve.
	Ill
	// Hung: the successor missed its beats.
	Hung
	// Died: the successor is gone, or could not be started.
	Died
	// Deadline: the state's time is over.
	Deadline
	// Moved: MAINPID= was sent and systemd has worked off all before it.
	Moved
	// Unmoved: MAINPID= could not be sent.
	Unmoved
	// Unexecuted: execve(2) came back, or could not even be prepared.
	Unexecuted
	// Serve: the predecessor says: accept.
	Serve
	// Promote: the predecessor says: you are main.
	Promote
	// Undo: the predecessor says: go away.
	Undo
	// Orphaned: the predecessor is gone.
	Orphaned
	// Stop: SIGTERM, SIGINT, the end of Run's context, or the predecessor's
	// word that the service stops.
	Stop
	// Hurry: a second SIGINT: do not wait for what is left.
	Hurry
	// Drained: nothing is left to answer.
	Drained

	Events
)

var eventNames = [Events]string{
	"built", "failed", "upgrade", "fit", "fit in place",
	"fit to restart", "unfit", "ready", "ill", "hung", "died",
	"deadline", "moved", "unmoved", "unexecuted", "serve", "promote", "undo", "orphaned", "stop",
	"hurry", "drained",
}

func (e Event) String() string {
	if e < Events {
		return eventNames[e]
	}
	return fmt.Sprintf("event %d", uint8(e))
}
