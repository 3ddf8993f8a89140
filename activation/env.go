// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/activation/internal/pidfd"
)

// The variables of sd_listen_fds(3).
const (
	varPID     = "LISTEN_PID"
	varPIDFDID = "LISTEN_PIDFDID" // systemd 259 and newer
	varFDs     = "LISTEN_FDS"
	varNames   = "LISTEN_FDNAMES"
)

const (
	firstDescriptor = 3         // SD_LISTEN_FDS_START
	unnamed         = "unknown" // the name of all descriptors without LISTEN_FDNAMES
)

// FromEnv returns the descriptors that systemd passed to this process. The environment is read once: all calls
// return the same *Set, so that independent parts of a program each claim what is theirs.
//
// A process that was not given descriptors gets an empty Set and no error; [Set.Reason] tells why it is empty.
// That also holds for variables meant for another process: LISTEN_PID or LISTEN_PIDFDID name the receiver, for
// a child inherits them from a parent that does not clear its environment.
//
// A variable that does not follow sd_listen_fds(3) is an [*EnvError], as is a descriptor that is not open. Then
// no descriptor can be claimed, in this and in later calls.
//
// All passed descriptors become close-on-exec, also when there is an error. The variables stay as they are: a
// program that starts others should call [UnsetEnv]. No other code in the process should parse them too.
func FromEnv() (*Set, error) { return processSet() }

var processSet = sync.OnceValues(func() (*Set, error) {
	said, err := parse(os.LookupEnv, os.Getpid(), pidfd.OwnID)
	return adopt(said, err)
})

// UnsetEnv removes LISTEN_PID, LISTEN_PIDFDID, LISTEN_FDS and LISTEN_FDNAMES from the environment of this
// process, so that the programs it starts do not see them. It reads them first, as [FromEnv] does: descriptors
// and errors are there for later calls of FromEnv.
func UnsetEnv() error {
	// The error is kept for FromEnv: it is no concern of the caller of UnsetEnv.
	_, _ = processSet()
	var errs []error
	for _, name := range []string{varPID, varPIDFDID, varFDs, varNames} {
		if err := os.Unsetenv(name); err != nil {
			errs = append(errs, fmt.Errorf("unset %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// announcement is what the environment says.
type announcement struct {
	count int
	names []string // nil without LISTEN_FDNAMES, else count of them
	value string   // of LISTEN_FDS
	// absent is set when count is 0, and tells why.
	absent error
}

func (a announcement) name(i int) string {
	if a.names == nil {
		return unnamed
	}
	return a.names[i]
}

// parse follows sd_listen_fds_with_names, except that numbers have to be plain decimal ones, as systemd writes
// them, and that a backslash is part of a name, as it is in FileDescriptorName=. On an error in the names the
// announcement still holds the number of descriptors.
//
// pidfdID returns the inode number of a pidfd of this process; ok is false where the kernel has none.
func parse(getenv func(string) (string, bool), pid int, pidfdID func() (id uint64, ok bool)) (announcement, error) {
	value, ok := getenv(varPID)
	if !ok {
		return announcement{absent: fmt.Errorf("%w: %s is not set", ErrNotActivated, varPID)}, nil
	}
	receiver, err := parseNumber(value, 31)
	if err != nil || receiver == 0 {
		return announcement{}, &EnvError{varPID, value, errors.New("must be the number of a process")}
	}
	if int(receiver) != pid {
		return announcement{absent: fmt.Errorf("%w: %s=%q names another process, this is %d", ErrNotActivated, varPID, value, pid)}, nil
	}

	if value, ok := getenv(varPIDFDID); ok {
		receiver, err := parseNumber(value, 64)
		if err != nil {
			return announcement{}, &EnvError{varPIDFDID, value, errors.New("must be the inode number of a pidfd")}
		}
		if own, ok := pidfdID(); ok && own != receiver {
			return announcement{absent: fmt.Errorf("%w: %s=%q names another process with the number %d, this has %d",
				ErrNotActivated, varPIDFDID, value, pid, own)}, nil
		}
	}

	value, ok = getenv(varFDs)
	if !ok {
		return announcement{absent: fmt.Errorf("%w: %s is not set", ErrNotActivated, varFDs)}, nil
	}
	count, err := parseNumber(value, 31)
	if err != nil || count == 0 {
		return announcement{}, &EnvError{varFDs, value, errors.New("must be a positive number")}
	}
	const most = 1<<31 - 1 - firstDescriptor
	if count > most {
		return announcement{}, &EnvError{varFDs, value, fmt.Errorf("must not be more than %d", most)}
	}
	said := announcement{count: int(count), value: value}

	// sd_listen_fds_with_names(3): an unset LISTEN_FDNAMES is fine, an empty one is one empty name.
	if value, ok := getenv(varNames); ok {
		if have := strings.Count(value, ":") + 1; have != said.count {
			return said, &EnvError{varNames, value, fmt.Errorf("must be %d names with colons between them, as %s says, not %d", said.count, varFDs, have)}
		}
		said.names = strings.Split(value, ":")
	}
	return said, nil
}

var errNotDecimal = errors.New("not a decimal number")

// parseNumber allows no sign, unlike strconv.Atoi.
func parseNumber(s string, bits int) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, bits)
	if err != nil {
		return 0, errNotDecimal
	}
	return n, nil
}

// adopt makes a Set of the descriptors from 3 on. It goes through all of them even after an error, because none
// may reach the children of this process.
func adopt(said announcement, err error) (*Set, error) {
	set := &Set{reason: said.absent}
	for i := range said.count {
		fd := firstDescriptor + i
		if closeErr := closeOnExec(fd); closeErr != nil {
			// The first one that is not open is the last to look at: the number may be anything.
			return nil, errors.Join(err, &EnvError{varFDs, said.value, fmt.Errorf("descriptor %d cannot be used: %w", fd, closeErr)})
		}
		if err != nil {
			continue
		}
		id, identifyErr := identify(fd)
		if identifyErr != nil {
			err = &EnvError{varFDs, said.value, fmt.Errorf("descriptor %d (%q) cannot be used: %w", fd, said.name(i), identifyErr)}
			continue
		}
		set.entries = append(set.entries, newEntry(i, fd, said.name(i), id))
	}
	if err != nil {
		return nil, err
	}
	set.fromEnv = true
	set.recogniseConnection()
	set.assignSources()
	set.dropDuplicates()
	set.index()
	return set, nil
}

func closeOnExec(fd int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC) // there is no other flag
	return os.NewSyscallError("fcntl", err)
}
