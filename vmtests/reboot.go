// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"context"
	"errors"
	"fmt"
)

// Reboot reboots the machine with "systemctl reboot", and returns once systemd says again that it is running.
// Commands under way end with an error, and the descriptors that systemd kept are gone, as is all in /run.
//
// Only virtual machines reboot: for containers the error is [errors.ErrUnsupported].
func (m *Machine) Reboot(ctx context.Context) error {
	return m.reboot(ctx, "reboot", func(ctx context.Context) error {
		return m.lane.reboot(ctx, true, func(ctx context.Context) error { return m.beginReboot(ctx, "reboot") })
	})
}

// SoftReboot is [Machine.Reboot] with "systemctl soft-reboot", which systemd knows from 254 on: user space
// starts anew and the kernel goes on, with /run and with what systemd-soft-reboot.service(8) lets survive.
func (m *Machine) SoftReboot(ctx context.Context) error {
	return m.reboot(ctx, "soft-reboot", func(ctx context.Context) error {
		return m.lane.reboot(ctx, false, func(ctx context.Context) error { return m.beginReboot(ctx, "soft-reboot") })
	})
}

// Reset is [Machine.Reboot] by the reset button: nothing is stopped, and what was not synced to the disk is
// lost.
func (m *Machine) Reset(ctx context.Context) error { return m.reboot(ctx, "reset", m.lane.reset) }

func (m *Machine) reboot(ctx context.Context, verb string, do func(context.Context) error) error {
	err := do(ctx)
	if err == nil {
		m.forgetInstalled()
		err = m.waitRunning(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s: %s: %w", m.Name, verb, err)
	}
	return nil
}

// beginReboot has systemd begin. The answer to systemctl may not come through any more.
func (m *Machine) beginReboot(ctx context.Context, verb string) error {
	_, err := m.Systemctl(ctx, "--no-block", verb)
	var exit *ExitError
	if errors.As(err, &exit) && exit.Signal == "" {
		return err
	}
	return nil
}
