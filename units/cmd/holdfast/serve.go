// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/holdfast-go/holdfast/notify"
	"github.com/holdfast-go/holdfast/reexec/control/command"
	"github.com/holdfast-go/holdfast/units/upgrade"
	"github.com/holdfast-go/holdfast/units/upgrade1"
)

const serveHelp = `Serve org.holdfast.Upgrade1 on the system bus: with it those who are not root
upgrade services, as far as polkit lets them.

  busctl call org.holdfast.Upgrade1 /org/holdfast/Upgrade1 \
      org.holdfast.Upgrade1.Manager Rollout 'ssda{sv}' myapp.service '' 1 0

Usage: holdfast serve [OPTIONS]

D-Bus starts it when it is called, as holdfast-upgrade.service. It resumes what
was interrupted, and ends when it has had nothing to do for a while.

Options:
      --idle=TIME        how long that is (30s); 0: it does not end by itself
      --address=ADDRESS  of another bus, as in unix:path=/run/test/bus
  -h, --help             show this help

` + command.ExitCodesHelp

func serve(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := command.NewFlags("serve", serveHelp, stdout, stderr)
	idle := c.Duration("idle", 30*time.Second, "")
	address := c.String("address", "", "")
	if code, done := c.Read(args); done {
		return code
	}
	switch {
	case c.NArg() > 0:
		return c.Wrong("%q: takes no arguments: units are named in the calls", c.Arg(0))
	case *idle < 0:
		return c.Wrong("--idle %v: must not be negative", *idle)
	}
	if err := serveBus(ctx, *idle, *address, stderr); err != nil {
		c.Say("Failed to serve %s: %v", upgrade1.Name, err)
		var e dbus.Error
		if errors.As(err, &e) && e.Name == "org.freedesktop.DBus.Error.AccessDenied" {
			return command.ExitNoPermission
		}
		return command.ExitFailed
	}
	return command.ExitOK
}

func serveBus(ctx context.Context, idle time.Duration, address string, log io.Writer) (err error) {
	// The journal has the time.
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	notifier, err := notify.FromEnv()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, notifier.Close()) }()
	u, err := upgrade.New(upgrade.Options{Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, u.Close()) }()
	return upgrade1.Serve(ctx, upgrade1.Options{
		Upgrader: u, Address: address, Version: buildVersion(), Idle: idle, Notifier: notifier, Logger: logger,
	})
}
