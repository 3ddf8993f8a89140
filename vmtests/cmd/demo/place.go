// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/vmtests"
)

// A place is where the service lives. All but close may be called by one goroutine at a time.
type place interface {
	// title names it in a few words, with what boot does if that is much.
	title() string
	// boot makes the place ready, and says which systemd there is.
	boot(ctx context.Context) (systemd string, err error)
	// put installs a program as a package would: under its name, while what runs keeps the old file.
	put(ctx context.Context, name, file string) error
	// start installs the units of myapp and starts its socket and itself. It returns the socket's address.
	start(ctx context.Context) (address string, err error)
	// startLoad starts clients of the service.
	startLoad(ctx context.Context, options vmtests.LoadOptions) (*vmtests.Load, error)

	// reload is "systemctl reload". The error wraps errReload when that had another exit status than 0.
	reload(ctx context.Context) error
	// properties returns some of the service, in the words of "systemctl show".
	properties(ctx context.Context, names ...string) (map[string]string, error)
	// journal returns what was logged last.
	journal(ctx context.Context) (string, error)
	// runtimeFile reads a file in the service's runtime directory.
	runtimeFile(ctx context.Context, name string) ([]byte, error)
	// hostPID returns the PID that this process knows for one that the service knows, insidePID the reverse.
	hostPID(inside int) (int, error)
	insidePID(host int) (int, error)

	// close ends the service and leaves nothing behind. It may be called at any time.
	close() error
}

// errReload says that a reload failed.
var errReload = errors.New("the reload failed")

// The kinds of places, as -on names them, and all of them, the most real one first.
const (
	inContainer = "container"
	underUser   = "user"
	onStandIn   = "stand-in"
)

var places = []string{inContainer, underUser, onStandIn}

// A choice is a place, and why it was chosen.
type choice struct {
	place
	name string // for people
	why  string
}

// choose returns the place that was asked for, or else the most real one that there is.
func choose(ctx context.Context, on string, version vmtests.Version) (choice, error) {
	asked := on != ""
	why := "asked for"
	if !asked {
		on, why = mostReal(ctx)
	}
	switch on {
	case inContainer:
		return choice{newContainer(version), version.String() + " in a container", why}, vmtests.RequireContainers()
	case underUser:
		var err error
		if asked {
			err = userManagerAnswers(ctx)
		}
		return choice{newUserManager(), "the service manager of this login", why}, err
	default:
		return choice{newStandIn(version), "the stand-in for " + version.String() + " (package reexectest)", why}, nil
	}
}

// mostReal returns the kind of the most real place that there is, and why it is that.
func mostReal(ctx context.Context) (on, why string) {
	containers := vmtests.RequireContainers()
	if containers == nil {
		return inContainer, "this is root"
	}
	no := "not root"
	if !errors.Is(containers, vmtests.ErrNotRoot) {
		no = "no " + containers.Error()
	}
	manager := userManagerAnswers(ctx)
	if manager == nil {
		return underUser, no + "; it answers"
	}
	return onStandIn, fmt.Sprintf("%s; %v", no, manager)
}

// myappUnits renders the units of myapp. Of options, what differs from place to place is set.
func myappUnits(options units.Options) ([]units.File, error) {
	options.Description = "Example of Holdfast"
	options.Args = []string{"-probation=" + probation.String(), "-start-timeout=" + startTimeout.String(), "-drain=" + drainTimeout.String()}
	options.StartTimeout, options.Probation, options.DrainTimeout = startTimeout, probation, drainTimeout
	return units.Render(options)
}

// mainPID returns the PID inside of the main process of the service, 0 when it has none.
func mainPID(ctx context.Context, p place) (int, error) {
	properties, err := p.properties(ctx, "MainPID")
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(properties["MainPID"])
	if err != nil {
		return 0, fmt.Errorf("MainPID: %w", err)
	}
	return pid, nil
}

// here is a part of places on this machine itself: what the service knows this process knows, too.
type here struct{}

func (here) hostPID(inside int) (int, error) { return inside, nil }

func (here) insidePID(host int) (int, error) { return host, nil }

func (here) startLoad(ctx context.Context, options vmtests.LoadOptions) (*vmtests.Load, error) {
	return vmtests.StartLoad(ctx, options)
}
