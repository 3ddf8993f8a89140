// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/reexec/fingerprint"
)

// Options says what service this is and how its upgrades go.
type Options struct {
	// Name of the service, the same in all its versions. A binary that says
	// another name in the pre-check is refused. Required.
	Name string

	// Version is shown in the status. Default: that of the fingerprint, with the
	// revision where there is no version.
	Version string

	// Fingerprint is an embedded file (go:embed) that says what build this is, for
	// those whose builds carry no version or revision: see
	// [fingerprint.Fingerprint.Embed]. Version wins over it.
	Fingerprint []byte

	// Downgrade says what an upgrade to an older version is, as
	// [fingerprint.Compare] has it. Default: [AllowDowngrade].
	Downgrade Downgrade

	// Executable is the file that the next upgrade runs, looked up at that
	// moment. Default: argv[0], which under systemd is the path of
	// ExecStart=. It is never taken from /proc/self/exe: after a package
	// manager has replaced the file, or behind a symbolic link that was
	// switched, that is the old version.
	Executable string

	// RuntimeDirectory holds the control socket and the PID file. Default:
	// the first directory of $RUNTIME_DIRECTORY, which systemd sets for
	// RuntimeDirectory=. Without one there is no control socket, and a
	// predecessor's death during probation restarts the unit.
	RuntimeDirectory string

	// Mode is how one version follows another. Default: [Overlap].
	Mode Mode

	// Check is the service's own pre-check, for example parsing its
	// configuration. It runs in a process of the new binary before anything
	// else of it runs, started with the arguments of the running version,
	// without sockets and without NOTIFY_SOCKET. It must not change anything.
	Check func(context.Context) error

	// CheckOnly makes New run the check and exit, for a -check flag that
	// people can use.
	CheckOnly bool

	// Health says whether the service can serve. It is asked before READY=1,
	// on every beat of the probation, and before every ping of systemd's
	// watchdog; under "holdfast launch" also on every beat of the first
	// Probation of a main that has not been on trial. Calls may overlap. A check
	// that hangs counts as ill health. Nil: always healthy.
	Health func(context.Context) error

	CheckTimeout  time.Duration // of the pre-check; default 10 s
	StartTimeout  time.Duration // from its start until a successor is ready; default 30 s
	Probation     time.Duration // how long a successor is on trial; default 5 s
	Beat          time.Duration // interval of a successor's beats; three missed mean hung, and probation ends on one; default 500 ms
	ReloadTimeout time.Duration // of a reload of the configuration; default 30 s
	DrainTimeout  time.Duration // how long what is left may take; default 30 s

	// MaxDraining is how many older generations may still drain when a new
	// upgrade starts. Beyond it a request is answered with busy. Default 3.
	MaxDraining int

	// OwnTicketKeys says that the service sets the keys of TLS session tickets
	// itself, for example because other machines have the same ones. Serve then
	// leaves them alone.
	OwnTicketKeys bool

	// Logger gets one line for every change of state. Default: slog.Default.
	Logger *slog.Logger
}

// Downgrade is what an upgrade to an older version is.
type Downgrade int

const (
	// AllowDowngrade: it is as good as any other. A package manager that is told to
	// install an older version means it.
	AllowDowngrade Downgrade = iota
	// RefuseDowngrade: the pre-check refuses it, for a service whose older versions
	// cannot read what a newer one has written. Versions of which nobody can say
	// which is the older one are let through, with a line in the log. A restart is
	// not refused.
	RefuseDowngrade
)

func (o Options) withDefaults() (Options, error) {
	if o.Name == "" || strings.ContainsAny(o.Name, "/\n\x00") {
		return o, fmt.Errorf("reexec: Options.Name=%q: must be a non-empty name without slashes", o.Name)
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		or    time.Duration
	}{
		{"CheckTimeout", &o.CheckTimeout, 10 * time.Second},
		{"StartTimeout", &o.StartTimeout, 30 * time.Second},
		{"Probation", &o.Probation, 5 * time.Second},
		{"Beat", &o.Beat, 500 * time.Millisecond},
		{"ReloadTimeout", &o.ReloadTimeout, 30 * time.Second},
		{"DrainTimeout", &o.DrainTimeout, 30 * time.Second},
	} {
		if *d.value < 0 {
			return o, fmt.Errorf("reexec: Options.%s=%v: must not be negative", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.or
		}
	}
	if o.Mode < Overlap || o.Mode > Restart {
		return o, fmt.Errorf("reexec: Options.Mode=%v: must be Overlap, InPlace or Restart", o.Mode)
	}
	if o.Downgrade < AllowDowngrade || o.Downgrade > RefuseDowngrade {
		return o, fmt.Errorf("reexec: Options.Downgrade=%d: must be AllowDowngrade or RefuseDowngrade", int(o.Downgrade))
	}
	if o.MaxDraining < 0 {
		return o, fmt.Errorf("reexec: Options.MaxDraining=%d: must not be negative", o.MaxDraining)
	}
	if o.MaxDraining == 0 {
		o.MaxDraining = 3
	}
	if o.RuntimeDirectory == "" {
		// systemd.exec(5): several directories are separated by colons.
		o.RuntimeDirectory, _, _ = strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":")
	}
	if o.RuntimeDirectory != "" && !filepath.IsAbs(o.RuntimeDirectory) {
		return o, fmt.Errorf("reexec: runtime directory %q: must be an absolute path", o.RuntimeDirectory)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	var err error
	o.Executable, err = executable(o.Executable, argv[0])
	return o, err
}

// build finds out what build this is, and names the version if Version does not.
func (o *Options) build() (fingerprint.Fingerprint, error) {
	// A program without build information runs, but is no match for any other in
	// the pre-check.
	f, _ := fingerprint.Self()
	f, err := f.Embed(o.Fingerprint)
	if err != nil {
		return f, fmt.Errorf("reexec: Options.Fingerprint: %w", err)
	}
	if o.Version == "" {
		o.Version = f.Release()
	} else {
		f.Version = o.Version
	}
	return f, nil
}

// argv and environ are as the process got them: main may change its own.
var (
	argv    = slices.Clone(os.Args)
	environ = os.Environ()
)

// executableVariable carries a path that was resolved to the successor, whose
// working directory may be another.
const executableVariable = "HOLDFAST_EXECUTABLE"

// executable decides the path that upgrades run. Only a relative one is
// resolved now, against the working directory that it was meant for; links
// are followed at the moment of the upgrade.
func executable(option, argv0 string) (string, error) {
	path := option
	if path == "" {
		path = argv0
		if resolved := os.Getenv(executableVariable); filepath.IsAbs(resolved) && !filepath.IsAbs(path) {
			path = resolved
		}
	}
	if filepath.IsAbs(path) {
		return path, nil
	}
	if path == "" {
		return "", errors.New("reexec: argv[0] is empty: set Options.Executable")
	}
	if !strings.Contains(path, "/") {
		found, err := exec.LookPath(path)
		if err != nil {
			return "", fmt.Errorf("reexec: executable %q: %w: set Options.Executable", path, errors.Unwrap(err))
		}
		path = found
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("reexec: executable %q: %w", path, err)
	}
	return abs, nil
}
