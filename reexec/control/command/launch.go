// SPDX-License-Identifier: Apache-2.0

package command

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/reexec/internal/lastgood"
)

const launchHelp = `Become the program of a service, or its last good version if that file must not
start. It is for ExecStart= of a unit:

  ExecStart=/usr/bin/holdfast launch --state=%S/myapp.holdfast -- /usr/bin/myapp
  StateDirectory=myapp.holdfast

Usage: holdfast launch [OPTIONS] [--] PROGRAM [ARG...]

The PROGRAM is executed in this process, with PROGRAM as its name: PID, sockets and
environment stay. A copy of the last version that has proven itself is in the
state directory. It starts instead if PROGRAM
  - was refused or undone in an upgrade,
  - has been started 3 times without getting through its probation, or
  - cannot be executed: missing, cut off, for another machine.
Why is in the journal and in the status of the service. Another content of the
file starts again, and so does the same one after "holdfast retry" or when
"systemctl reload" has upgraded to it. Without a good version PROGRAM starts
whatever is known of it.

PROGRAM is the Go program itself. In front of a script that executes it only the
starts are counted: what an upgrade marks is not the script.

Options:
      --state=DIR       where the record and the copy are; default: the directory
                        holdfast in the first one of $STATE_DIRECTORY
  -h, --help            show this help

Exit codes: those of PROGRAM;
  2    the command line is wrong
  203  nothing could be executed
`

// ExitExec is what systemd has for a program that cannot be executed.
const ExitExec = 203

// Launch is "holdfast launch": it executes a program in this process and
// returns only if that fails. No signal may have a handler when it is called: it
// would be lost.
func Launch(args []string, stdout, stderr io.Writer) int {
	return launch(args, stdout, stderr, os.Environ(), syscall.Exec)
}

// launch is Launch with another way to execute.
func launch(args []string, stdout, stderr io.Writer, environ []string, execute func(path string, argv, envv []string) error) int {
	c := NewFlags("launch", launchHelp, stdout, stderr)
	state := c.String("state", "", "")
	if code, done := c.Read(args); done {
		return code
	}
	argv := c.Args()
	if len(argv) == 0 {
		return c.Wrong("name the PROGRAM")
	}
	if !filepath.IsAbs(argv[0]) {
		return c.Wrong("PROGRAM %q: must be an absolute path", argv[0])
	}
	if *state == "" {
		// systemd.exec(5): several directories are separated by colons.
		if first, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); first != "" {
			*state = filepath.Join(first, "holdfast")
		}
	}
	l := launcher{Flags: c, path: argv[0]}
	environ = without(environ, lastgood.Variable)
	if *state == "" {
		l.Say("%s: there is no state directory, so no last good version could start: set StateDirectory= in the unit, or --state=", c.Name())
		return l.failed(argv[0], execute(argv[0], argv, environ))
	}
	var err error
	if l.dir, err = lastgood.Open(*state); err != nil {
		l.Say("%s: the last good version is not known: %v", c.Name(), err)
		return l.failed(argv[0], execute(argv[0], argv, environ))
	}

	choice, good := l.choose(nil)
	tried := !choice.Good
	if tried {
		if l.script {
			l.Say("%s: %s is a script: an upgrade marks the program that it starts, which is not looked at here, so that one which failed starts again: name the program itself in ExecStart=", c.Name(), argv[0])
		}
		if choice.Why != "" {
			l.Say("%s: %s", c.Name(), choice.Why)
		}
		err := execute(argv[0], argv, l.environ(environ, false))
		failed := fmt.Errorf("%s cannot be executed: %w", argv[0], err)
		if choice, good = l.choose(failed); !choice.Good {
			return l.failed(argv[0], err)
		}
	}
	l.sayFallback(choice, good)
	path := l.dir.CopyOf(good.Identity)
	code := l.failed(path, execute(path, argv, l.environ(environ, true)))
	if tried {
		return code
	}
	// Such as on a file system without execution: a failed file is better than none.
	l.Say("%s: %s starts all the same: allow %s in ExecPaths=, and mount it without noexec", c.Name(), argv[0], l.dir.Path())
	return l.failed(argv[0], execute(argv[0], argv, l.environ(environ, false)))
}

type launcher struct {
	*Flags
	dir  lastgood.Directory
	path string // of the service's file
	// script: that is no program of its own.
	script bool
}

// failed says that a program could not be executed.
func (l *launcher) failed(path string, err error) int {
	l.Say("%s: execute %s: %v", l.Name(), path, err)
	return ExitExec
}

func (l *launcher) environ(environ []string, good bool) []string {
	return append(environ[:len(environ):len(environ)],
		lastgood.Variable+"="+lastgood.Launched{Directory: l.dir.Path(), Good: good}.String())
}

// choose decides what starts and writes it down. Unusable is what is known
// already to be wrong with the file.
func (l *launcher) choose(unusable error) (choice lastgood.Choice, good lastgood.Good) {
	warn := func(err error) { l.Say("%s: %v", l.Name(), err) }
	_, err := l.dir.Update(warn, func(r *lastgood.Record) error {
		c := lastgood.Candidate{Path: l.path, Unusable: unusable, NoGood: l.dir.CheckCopy(r.Good)}
		if unusable == nil {
			c.Identity, c.Unusable = l.examine(r)
		}
		choice = r.Choose(c, time.Now().Truncate(time.Second))
		if r.Good != nil {
			good = *r.Good
		}
		return nil
	})
	if err != nil {
		// The choice is as good as what could be read.
		warn(err)
	}
	return choice, good
}

// examine finds out what the service's file is, and what is wrong with it. What
// is no ELF file is left to the kernel: it may be a script.
func (l *launcher) examine(r *lastgood.Record) (id lastgood.Identity, unusable error) {
	f, err := os.OpenFile(l.path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if errors.Is(err, fs.ErrPermission) {
		return id, nil // one may be executed without being readable
	}
	if err != nil {
		return id, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return id, err
	}
	if !info.Mode().IsRegular() {
		return id, fmt.Errorf("%s is not a regular file", l.path)
	}
	stamp, err := lastgood.StampOf(f)
	if err != nil {
		return id, err
	}
	id, seen := r.Knows(stamp)
	if !seen {
		if id, err = lastgood.Identify(f); err != nil {
			return id, err
		}
		r.Seen = &lastgood.Seen{Stamp: stamp, Identity: id}
	}
	var magic [4]byte
	_, err = f.ReadAt(magic[:], 0)
	l.script = err == nil && bytes.HasPrefix(magic[:], []byte("#!"))
	if err == nil && bytes.Equal(magic[:], []byte("\x7fELF")) {
		if err := lastgood.CheckELF(f, l.path); err != nil {
			return id, err
		}
	}
	return id, nil
}

// sayFallback is the line for the operator.
func (l *launcher) sayFallback(choice lastgood.Choice, good lastgood.Good) {
	version := "the last good version"
	if good.Version != "" {
		version += ", " + good.Version
	}
	l.Say("%s: %s; %s of %s, starts instead: put a newer file in place, or try this one again with \"systemctl reload\" or \"holdfast retry --state=%s\"",
		l.Name(), choice.Why, version, good.Since.Format(time.DateTime), l.dir.Path())
}

// without returns environ without a variable.
func without(environ []string, name string) []string {
	out := make([]string, 0, len(environ)+1)
	for _, kv := range environ {
		if n, _, _ := strings.Cut(kv, "="); n != name {
			out = append(out, kv)
		}
	}
	return out
}
