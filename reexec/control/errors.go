// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// NotRunningError says that nothing serves the control socket: there is none,
// or nobody listens on it. Err is the error of connect(2).
type NotRunningError struct {
	Socket string
	Err    error
}

func (e *NotRunningError) Error() string {
	return fmt.Sprintf("connect to control socket %q: nobody serves it: start the service: %v", e.Socket, e.Err)
}

func (e *NotRunningError) Unwrap() error { return e.Err }

// PermissionError says that this user may not use the control socket: Err is
// an error of connect(2), or an [*Error] of the service that names the uid.
type PermissionError struct {
	Socket string
	Err    error
}

func (e *PermissionError) Error() string {
	return fmt.Sprintf("use control socket %q as uid %d: only root and the service's own user may: %v", e.Socket, os.Geteuid(), e.Err)
}

func (e *PermissionError) Unwrap() error { return e.Err }

// OwnerError says that another user than that of the service listens on the control
// socket. Nothing was sent there.
type OwnerError struct {
	Socket    string
	UID, Want uint32
}

func (e *OwnerError) Error() string {
	return fmt.Sprintf("control socket %q: uid %d listens there, and the service runs as uid %d: its path leads to the socket of another service", e.Socket, e.UID, e.Want)
}

// VersionError says that the service does not speak protocol [Version].
type VersionError struct {
	Socket   string
	Versions []int // what the service speaks
}

func (e *VersionError) Error() string {
	speaks := make([]string, len(e.Versions))
	for i, v := range e.Versions {
		speaks[i] = strconv.Itoa(v)
	}
	return fmt.Sprintf("control socket %q: the service speaks protocol version %s, this client version %d: use the holdfast of the service's release",
		e.Socket, strings.Join(speaks, ", "), Version)
}

// ProtocolError says that the answer is not the control protocol: something
// else listens on the socket.
type ProtocolError struct {
	Socket string
	Err    error
}

func (e *ProtocolError) Error() string {
	return fmt.Sprintf("control socket %q: not an answer of the control protocol: %v", e.Socket, e.Err)
}

func (e *ProtocolError) Unwrap() error { return e.Err }

// UnsupportedError says that the service is of a release that does not know what
// it was asked for. Nothing was started.
type UnsupportedError struct {
	Socket   string
	Resource string // "rollback", "/readyz"
	Err      error
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("control socket %q: the service is of an older release of Holdfast, which knows no %s: upgrade it to a later one first: %v", e.Socket, e.Resource, e.Err)
}

func (e *UnsupportedError) Unwrap() error { return e.Err }

// BrokenError says that the connection ended before the answer did: the
// process at the other end died. After [Client.Upgrade] or [Client.Rollback] this
// tells nothing about the attempt; [Client.UpgradeAndFollow] and
// [Client.RollbackAndFollow] find out.
type BrokenError struct {
	Socket string
	Last   *Status // the last state that arrived, if one did
	Err    error
}

func (e *BrokenError) Error() string {
	return fmt.Sprintf("control socket %q: the service ended the connection before its answer was complete: %v", e.Socket, e.Err)
}

func (e *BrokenError) Unwrap() error { return e.Err }

// UnknownError says that an upgrade or a rollback was asked for and that the client stopped
// waiting before it knew the end. It goes on without it. Err is the
// cause of the context's end, or why the service could not be asked any more.
type UnknownError struct {
	Last *Status // the last state that arrived, if one did
	Err  error
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("wait for the verdict: %v", e.Err)
}

func (e *UnknownError) Unwrap() error { return e.Err }
