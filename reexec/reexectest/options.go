// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// DefaultSystemd is the version of systemd that is stood in for unless
// [Options] say another.
const DefaultSystemd = 257

// OldestSystemd and NewestSystemd are the versions whose behaviour is known.
const (
	OldestSystemd = 239
	NewestSystemd = 262
)

// DefaultPatience bounds what has no deadline of its own.
const DefaultPatience = 30 * time.Second

// Options say what a [Unit] is made of. Either Units or Files is needed;
// everything else has a default.
type Options struct {
	// Units is a directory of unit files, or one unit file. Of a directory are
	// taken the service, the socket units that belong to it, and their
	// drop-ins ("myapp.service.d/10-limits.conf"); units of other types are
	// not looked at.
	Units string
	// Files are further unit files and drop-ins, by name. They take precedence
	// over those of Units, as /etc does over /usr/lib. So a drop-in for tests:
	//
	//	"myapp.service.d/50-test.conf": "[Service]\nTimeoutStopSec=2s\n"
	Files map[string]string
	// Service names the service unit if there are several: "myapp.service",
	// or a template "myapp@.service".
	Service string
	// Instance is the instance name of a template.
	Instance string

	// Systemd is the version whose behaviour is wanted: [OldestSystemd] to
	// [NewestSystemd]. Default: [DefaultSystemd].
	Systemd int

	// Programs are what stands behind paths that the units name. They are
	// installed below the unit's root; other paths are the host's. Default: the
	// program of ExecStart=, or that which "holdfast launch" starts there, is the
	// test binary, see [Main]. A path with the
	// base name holdfast that is not in Programs is that command.
	Programs map[string]Program
	// Version is the label of the first version of the test binary. Default: "1".
	Version string

	// Root is an existing directory below which the unit's paths are put: %t is
	// Root/run, StateDirectory= is below Root/var/lib. It must be short, since
	// paths of Unix sockets are. Default: a temporary one, which is removed.
	Root string
	// KeepAddresses binds the addresses in socket units as they are written.
	// Otherwise each TCP and UDP port is replaced by a free one on the loopback
	// address of the family, so that tests can run side by side; Unit.Addr tells
	// which. Unix sockets are put below Root.
	KeepAddresses bool
	// Addresses are those that the service itself binds, by names of your
	// choice, for Unit.Addr and Unit.Dial: see [FreeAddress].
	Addresses map[string]string
	// Environment is added to that of every process of the unit, as NAME=value.
	Environment []string

	// Patience bounds every call whose context has no deadline. Default:
	// [DefaultPatience].
	Patience time.Duration
}

func (o Options) withDefaults() (Options, error) {
	if o.Units == "" && len(o.Files) == 0 {
		return o, errors.New("reexectest: Options has neither Units nor Files: name the directory of the unit files")
	}
	if o.Systemd == 0 {
		o.Systemd = DefaultSystemd
	}
	if o.Systemd < OldestSystemd || o.Systemd > NewestSystemd {
		return o, fmt.Errorf("reexectest: Options.Systemd=%d: must be from %d to %d", o.Systemd, OldestSystemd, NewestSystemd)
	}
	if o.Patience < 0 {
		return o, fmt.Errorf("reexectest: Options.Patience=%v: must not be negative", o.Patience)
	}
	if o.Patience == 0 {
		o.Patience = DefaultPatience
	}
	if o.Version == "" {
		o.Version = "1"
	}
	for _, kv := range o.Environment {
		if name, _, ok := strings.Cut(kv, "="); !ok || name == "" {
			return o, fmt.Errorf("reexectest: Options.Environment has %q: must be NAME=value", kv)
		}
	}
	for path := range o.Programs {
		if !filepath.IsAbs(path) || filepath.Clean(path) != path {
			return o, fmt.Errorf("reexectest: Options.Programs has %q: must be an absolute path as it stands in ExecStart=", path)
		}
	}
	return o, nil
}

// FreeAddress returns a TCP or UDP address on this machine that nothing else
// uses, for a service that binds its sockets itself. Tell it to the service, and
// to the test by Options.Addresses. It is taken at random from 127.0.0.0/8, so
// that it stays free while nobody holds it, as between two versions.
func FreeAddress() string {
	host := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	// Below the ports that the kernel gives to clients, above the privileged ones.
	return host + ":" + strconv.Itoa(10000+rand.IntN(20000))
}
