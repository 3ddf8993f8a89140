// SPDX-License-Identifier: Apache-2.0

package activationtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/activation/internal/pidfd"
)

const trampolineArgument = "--activationtest-trampoline="

// exitTrampoline is the status of env(1) and of shells for a program that could not be started.
const exitTrampoline = 126

// trampolineOrder travels from Command to the process between fork and the program.
type trampolineOrder struct {
	Path        string
	Names       []string
	Stored      []bool
	NonBlocking bool
	PIDFDID     bool
	OmitNames   bool
}

func (o trampolineOrder) argument() string {
	text, err := json.Marshal(o)
	if err != nil {
		panic(err) // strings and booleans always have a JSON form
	}
	return trampolineArgument + string(text)
}

// init and not TestMain: the trampoline must work in packages that have no TestMain, or another one.
func init() {
	if len(os.Args) < 2 {
		return
	}
	text, ok := strings.CutPrefix(os.Args[1], trampolineArgument)
	if !ok {
		return
	}
	err := bounce(text)
	fmt.Fprintf(os.Stderr, "activationtest: start the program with its descriptors: %v\n", err)
	os.Exit(exitTrampoline)
}

// bounce turns this process into the program; it returns only on an error.
func bounce(text string) error {
	var order trampolineOrder
	if err := json.Unmarshal([]byte(text), &order); err != nil {
		return err
	}
	const first = 3
	for i, stored := range order.Stored {
		if stored {
			continue
		}
		if err := unix.SetNonblock(first+i, order.NonBlocking); err != nil {
			return fmt.Errorf("set the blocking mode of descriptor %d: %w", first+i, err)
		}
	}
	if err := closeOnExecFrom(first + len(order.Names)); err != nil {
		return err
	}
	env, err := order.environment(os.Environ())
	if err != nil {
		return err
	}
	argv := slices.Delete(slices.Clone(os.Args), 1, 2)
	return fmt.Errorf("exec %s: %w", order.Path, syscall.Exec(order.Path, argv, env))
}

func (o trampolineOrder) environment(inherited []string) ([]string, error) {
	env := slices.DeleteFunc(inherited, func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains([]string{"LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"}, name)
	})
	if len(o.Names) == 0 {
		return env, nil
	}
	env = append(env, "LISTEN_PID="+strconv.Itoa(os.Getpid()), "LISTEN_FDS="+strconv.Itoa(len(o.Names)))
	if !o.OmitNames {
		env = append(env, "LISTEN_FDNAMES="+strings.Join(o.Names, ":"))
	}
	if o.PIDFDID {
		id, ok := pidfd.OwnID()
		if !ok {
			return nil, errors.New("LISTEN_PIDFDID: pidfds of this kernel have no inode numbers: needs Linux 6.9 on a 64-bit machine")
		}
		env = append(env, "LISTEN_PIDFDID="+strconv.FormatUint(id, 10))
	}
	return env, nil
}

// closeOnExecFrom keeps what the test process itself inherited from reaching the program.
func closeOnExecFrom(first int) error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}
