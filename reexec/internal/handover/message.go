// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"fmt"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/fingerprint"
)

// The versions of the protocol that this code speaks. A release raises Latest
// by one at most and keeps Oldest at Latest-1 or below, so that a service can
// always go one release forward and one back.
const (
	Oldest = 1
	Latest = 2
)

// MovesConnections says whether idle connections move in this version.
func MovesConnections(version int) bool { return version >= 2 }

// Updates says whether changes to what was handed over are told in this version.
func Updates(version int) bool { return version >= 2 }

// Range is a range of versions.
type Range struct {
	Oldest int `json:"oldest"`
	Latest int `json:"latest"`
}

// Ours is the range that this code speaks.
var Ours = Range{Oldest, Latest}

func (r Range) String() string {
	if r.Oldest == r.Latest {
		return fmt.Sprint(r.Latest)
	}
	return fmt.Sprintf("%d to %d", r.Oldest, r.Latest)
}

// Negotiate returns the highest version that both speak.
func Negotiate(ours, theirs Range) (int, error) {
	v := min(ours.Latest, theirs.Latest)
	if theirs.Oldest < 1 || theirs.Oldest > theirs.Latest || v < max(ours.Oldest, theirs.Oldest) {
		return 0, fmt.Errorf("handover: we speak version %v, the other side %v: go through a release in between, or restart the service", ours, theirs)
	}
	return v, nil
}

// Hello is the first frame of each side.
type Hello struct {
	Versions Range  `json:"versions"`
	Name     string `json:"name"`
	Version  string `json:"version"`
	PID      int    `json:"pid"`
	// Fingerprint is the sender's build. Releases before it do not send it, and
	// overlook it.
	Fingerprint *fingerprint.Fingerprint `json:"fingerprint,omitempty"`
	// The rest is the predecessor's.
	Instance   string           `json:"instance,omitempty"`
	Generation int              `json:"generation,omitempty"` // of the successor
	Beat       time.Duration    `json:"beat,omitempty"`       // nanoseconds
	Last       *control.Verdict `json:"last,omitempty"`
	// StartTimeout is how long the predecessor waits for the successor, in
	// nanoseconds.
	StartTimeout time.Duration `json:"start_timeout,omitempty"`
}

// Descriptor describes one descriptor that travels with a Descriptors frame.
type Descriptor struct {
	// Role is "socket" (from systemd), "bound" (bound by an earlier
	// generation), "control" (the control socket), "elder" (a pidfd of an
	// older generation that may still drain), "state" (a frame of a state of the
	// service) or "kept" (what the service itself keeps in the fd store). In an
	// update it may also be "stored": an entry of the fd store, without a
	// descriptor.
	Role string `json:"role"`
	Name string `json:"name,omitempty"`
	// Stored is the name of its entry in systemd's fd store, if it has one.
	Stored string `json:"stored,omitempty"`
	// Current: it is what a state of the sender was at that moment. Other frames
	// are for other versions.
	Current bool `json:"current,omitempty"`
	// Source is how systemd passed it, a number of package activation.
	Source uint8 `json:"source,omitempty"`
	// Network and Address are what a bound socket was asked for.
	Network string `json:"network,omitempty"`
	Address string `json:"address,omitempty"`
	// Elder is the process behind a pidfd.
	Elder *control.Process `json:"elder,omitempty"`
	// KillIn is after how many nanoseconds main ends that process if it lives on: it
	// was undone. 0 is never.
	KillIn time.Duration `json:"kill_in,omitempty"`
}

// Descriptors announces the descriptors beside it, in the same order.
type Descriptors struct {
	List []Descriptor `json:"list"`
}

// Update is a change to what was handed over, until the sender's drain is over.
// The descriptor is beside it, unless it was removed.
type Update struct {
	Descriptor
	// Removed: it is no longer there.
	Removed bool `json:"removed,omitempty"`
	// Added: the frame is what was counted since the last one, to be merged.
	Added bool `json:"added,omitempty"`
}

// Received acknowledges all descriptors so far.
type Received struct {
	Count int `json:"count"`
}

// Connections announces the connections beside it, in the same order.
type Connections struct {
	List []Connection `json:"list"`
}

// Connection is one that waits for a request of HTTP, or else a session.
type Connection struct {
	Listener string `json:"listener,omitempty"`
	// Left is what is left of its idle time, in nanoseconds; 0 is no limit.
	Left time.Duration `json:"left,omitempty"`
	// Session is the kind of a session. Who knows none refuses it, since it
	// names no listener.
	Session string `json:"session,omitempty"`
	State   []byte `json:"state,omitempty"`
}

// Size bounds the length of c in a Connections frame: a byte of a name may be
// escaped as six, and three of a state are written as four.
func (c Connection) Size() int {
	const fields = len(`{"listener":"","left":-9223372036854775808,"session":"","state":""},`)
	return fields + 6*(len(c.Listener)+len(c.Session)) + (len(c.State)+2)/3*4
}

// Taken answers one Connections frame, before anything is read from them.
type Taken struct {
	// Count is how many were announced.
	Count int `json:"count"`
	// Kept are the places of those that the sender must close. All others are
	// the sender's, and were closed here.
	Kept []int `json:"kept,omitempty"`
}

// Complete says how many descriptors there were.
type Complete struct {
	Count int `json:"count"`
}

// Beat is a sign of life.
type Beat struct {
	// Ill is empty when the service is healthy.
	Ill string `json:"ill,omitempty"`
}

// Reason goes with Leaving, Undo and Stop.
type Reason struct {
	Reason string `json:"reason,omitempty"`
	// Stop: a signal has told the sender of Leaving to stop.
	Stop bool `json:"stop,omitempty"`
}

// Drained says how a generation that was main has ended.
type Drained struct {
	Drain control.Drain `json:"drain"`
}

// Promote makes the successor main.
type Promote struct {
	Verdict *control.Verdict `json:"verdict,omitempty"`
	// Signalled: a SIGUSR2 came too late for the predecessor; it is yours.
	Signalled bool `json:"signalled,omitempty"`
	// Reload: a SIGHUP came during the upgrade, and you may have read your
	// configuration before that.
	Reload bool `json:"reload,omitempty"`
}
