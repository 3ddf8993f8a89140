// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/vmtests"
)

// A container is systemd of a version of choice, in a container.
type container struct {
	manager
	version vmtests.Version
	machine *vmtests.Machine // nil until it is booted
}

func newContainer(version vmtests.Version) *container {
	c := &container{version: version}
	c.manager = manager{run: c.output, scope: "--system", unit: "myapp"}
	return c
}

func (c *container) output(ctx context.Context, argv ...string) (string, error) {
	out, err := c.machine.Output(ctx, argv...)
	if errors.As(err, new(*vmtests.ExitError)) {
		err = fmt.Errorf("%w: %w", errExit, err)
	}
	return out, err
}

func (c *container) title() string { return "boot " + c.version.String() }

func (c *container) boot(ctx context.Context) (systemd string, err error) {
	if c.machine, err = vmtests.Boot(ctx, c.version); err != nil {
		return "", err
	}
	said, err := c.output(ctx, "systemctl", "--version")
	systemd, _, _ = strings.Cut(said, "\n")
	return systemd, err
}

func (c *container) put(ctx context.Context, name, file string) error {
	return c.machine.Copy(ctx, file, "/usr/bin/"+name, 0o755)
}

func (c *container) start(ctx context.Context) (string, error) {
	const address = "127.0.0.1:8080" // nobody else is there
	files, err := myappUnits(units.Options{
		Name: c.unit, Exec: "/usr/bin/myapp", Systemd: int(c.version), Sockets: []units.Socket{{Name: "http", Address: address}},
	})
	if err != nil {
		return "", err
	}
	for _, f := range files {
		if err := c.machine.WriteFile(ctx, "/etc/systemd/system/"+f.Name, []byte(f.Content), 0o644); err != nil {
			return "", err
		}
	}
	return address, c.startUnits(ctx, files)
}

func (c *container) startLoad(ctx context.Context, options vmtests.LoadOptions) (*vmtests.Load, error) {
	return c.machine.StartLoad(ctx, options)
}

func (c *container) runtimeFile(ctx context.Context, name string) ([]byte, error) {
	return c.machine.ReadFile(ctx, "/run/"+c.unit+"/"+name)
}

func (c *container) hostPID(inside int) (int, error) { return c.machine.HostPID(inside) }

func (c *container) insidePID(host int) (int, error) { return c.machine.GuestPID(host) }

func (c *container) close() error {
	if c.machine == nil {
		return nil
	}
	return c.machine.Close()
}
