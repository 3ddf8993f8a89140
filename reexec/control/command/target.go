// SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

const targetHelpText = `The service is named by UNIT ("myapp", "myapp.service", "myapp@1"), whose
control socket is /run/UNIT/control.sock, by --socket, or by
$RUNTIME_DIRECTORY, which systemd sets for the service's own commands.
`

// A question is what the commands have in common that ask a service: whom, for
// how long, and whether the answer is to be JSON.
type question struct {
	target
	socket   string // of whom
	operands []string
	timeout  time.Duration
	asJSON   JSONMode
}

// read parses args with the flags of f and those of every question. Unless done
// is false the command has ended with code.
func (q *question) read(f *Flags, timeout time.Duration, args []string) (code int, done bool) {
	f.StringVar(&q.path, "socket", "", "")
	f.BoolVar(&q.user, "user", false, "")
	f.DurationVar(&q.timeout, "timeout", timeout, "")
	f.Var(&q.asJSON, "json", "")
	if q.operands, code, done = f.ReadMixed(args); done {
		return code, true
	}
	if q.timeout < 0 {
		return f.Wrong("--timeout=%v: must not be negative", q.timeout), true
	}
	var err error
	if q.socket, err = q.resolve(q.operands); err != nil {
		return f.Wrong("%v", err), true
	}
	return 0, false
}

// target says which service a command talks to.
type target struct {
	path string // of the control socket, or empty
	user bool
}

// The characters of systemd.unit(5), escapes included, without "@" and those
// that cannot be first.
var unitRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9:_.\\-]*(@[A-Za-z0-9:_.\\-]*)?$`)

// resolve returns the path of the control socket.
func (t target) resolve(operands []string) (string, error) {
	switch {
	case len(operands) > 1:
		return "", fmt.Errorf("one UNIT at a time: %q is too many", operands[1])
	case len(operands) == 1 && t.path != "":
		return "", fmt.Errorf("UNIT %q and --socket=%q: use one of them", operands[0], t.path)
	case t.path != "":
		return t.path, nil
	case len(operands) == 1:
		return t.ofUnit(operands[0])
	}
	// Several runtime directories are separated by colons (systemd.exec(5)).
	if dir, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":"); dir != "" {
		return filepath.Join(dir, control.SocketName), nil
	}
	return "", errors.New("name the UNIT, or its control socket with --socket=")
}

// SocketOf is the control socket of a unit as "holdfast render" writes units, with
// user one of the user's own service manager.
func SocketOf(unit string, user bool) (string, error) { return target{user: user}.ofUnit(unit) }

func (t target) ofUnit(unit string) (string, error) {
	name := strings.TrimSuffix(unit, ".service")
	switch {
	case strings.Contains(name, "/"):
		return "", fmt.Errorf("UNIT %q is a path: use --socket= for it", unit)
	case !unitRE.MatchString(name):
		return "", fmt.Errorf("UNIT %q is not the name of a service", unit)
	case strings.HasSuffix(name, "@"):
		return "", fmt.Errorf("UNIT %q is a template: name an instance, as in %s1", unit, name)
	case strings.HasSuffix(name, ".socket"):
		return "", fmt.Errorf("UNIT %q is a socket: name its service", unit)
	}
	root := "/run"
	if t.user {
		// sd_notify(3) and systemd's own tools have no other default.
		if root = os.Getenv("XDG_RUNTIME_DIR"); root == "" {
			return "", errors.New("$XDG_RUNTIME_DIR is not set: --user needs it, or use --socket=")
		}
	}
	return filepath.Join(root, name, control.SocketName), nil
}

// displayName is what to call the service: the name it was asked for by or, if
// it was a path, what it calls itself, with the instance that the path shows.
func (t target) displayName(operands []string, socket, itself string) string {
	unit := filepath.Base(filepath.Dir(socket))
	switch {
	case len(operands) == 1:
		return strings.TrimSuffix(operands[0], ".service")
	case itself == "":
		return socket
	case strings.HasPrefix(unit, itself+"@"):
		return unit
	default:
		return itself
	}
}

// journalHint is the command that shows what the service wrote; ok is false if
// the socket does not tell the unit.
func (t target) journalHint(socket string) (hint string, ok bool) {
	unit := filepath.Base(filepath.Dir(socket))
	if filepath.Base(socket) != control.SocketName || !unitRE.MatchString(unit) {
		return "", false
	}
	if t.user {
		return "journalctl --user -e -u " + unit, true
	}
	return "journalctl -e -u " + unit, true
}
