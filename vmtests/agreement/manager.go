// SPDX-License-Identifier: Apache-2.0

package agreement

import (
	"context"
	"net"
)

// A Manager is one side: real systemd, or the stand-in for it. It has one service and its sockets. Names of
// properties, results and errors are those of org.freedesktop.systemd1(5).
type Manager interface {
	// PID is the process that the service's processes have as their parent.
	PID() int
	// Load makes the units known; hub is the address that stands for "{hub}".
	Load(ctx context.Context, setup *Setup, hub string) error
	// Unload ends every process of the service and forgets the units.
	Unload(ctx context.Context) error

	// Job asks for a job. The channel, which has room for it, gets the result when the job has ended, or the
	// name of the D-Bus error with which it was refused.
	Job(ctx context.Context, unit string, verb Verb) (<-chan string, error)
	// The following return a [*Refusal] for what systemd refuses.
	Kill(ctx context.Context, whom string, signal int) error
	ResetFailed(ctx context.Context, unit string) error
	DaemonReload(ctx context.Context, files []File) error
	Clean(ctx context.Context, what string) error

	// Properties are those of [ServiceProperties] for the service and of [SocketProperties] for a socket
	// unit, as far as this version has them.
	Properties(ctx context.Context, unit string) (map[string]string, error)
	// Processes are the PIDs of the service, in no order.
	Processes(ctx context.Context) ([]int, error)
	// Store lists what the fd store holds, in the order in which the next start passes it, and false where
	// this version does not tell.
	Store(ctx context.Context) ([]Stored, bool, error)
	// Dial connects to a socket of the setup.
	Dial(ctx context.Context, name string) (net.Conn, error)
	// Root is the directory that stands for "/" in paths that the manager hands out, such as
	// $RUNTIME_DIRECTORY.
	Root() string
	// Puppet is the program vmtests/cmd/puppet, for processes that the manager does not start.
	Puppet() string
}

// Properties to compare.
var (
	ServiceProperties = []string{
		"ActiveState", "SubState", "InvocationID",
		"Result", "ReloadResult", "CleanResult", "StatusText", "StatusErrno", "MainPID", "ControlPID",
		"ExecMainPID", "ExecMainCode", "ExecMainStatus", "NRestarts", "NFileDescriptorStore", "NotifyAccess",
	}
	SocketProperties = []string{"ActiveState", "SubState", "Result", "NConnections", "NAccepted"}
)

// A Stored is an entry of the fd store.
type Stored struct {
	Name     string
	Dev, Ino uint64
}

// A Refusal is an error of the manager's.
type Refusal struct{ Name, Message string }

func (r *Refusal) Error() string { return r.Name + ": " + r.Message }

// ExitStatus is that of systemctl(1) for a job with this result, or that was refused with this error.
func ExitStatus(result string) int {
	switch result {
	case "done", "skipped":
		return 0
	case "org.freedesktop.systemd1.NoSuchUnit":
		return 5
	}
	return 1
}
