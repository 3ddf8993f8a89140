// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// guestPackage is the program that we run inside machines, and guestPath where it is in there.
const (
	guestPackage = "github.com/holdfast-go/holdfast/vmtests/cmd/guest"
	guestPath    = "/run/holdfast-vmtests/guest"
)

// WaitProps waits until enough reports true for the named properties of a unit, and returns them. It
// asks at once and then after every change that systemd signals, with values as [Machine.Prop] returns
// them. States that last shorter than the look at them may be missed, and changes that systemd does not
// signal are not seen: those of NFileDescriptorStore, for one.
func (m *Machine) WaitProps(ctx context.Context, unit string, names []string, enough func(map[string]string) bool) (map[string]string, error) {
	if err := m.install(ctx, guestPackage, guestPath); err != nil {
		return nil, err
	}
	watchCtx, stop := context.WithCancel(ctx)
	defer stop()
	stdout, output := io.Pipe()
	p, err := m.Start(watchCtx, Command{Args: append([]string{guestPath, "watch", unit}, names...), Stdout: output})
	if err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() {
		err := p.Wait()
		output.CloseWithError(io.EOF)
		ended <- err
	}()

	var props map[string]string
	lines := json.NewDecoder(stdout)
	for {
		var next map[string]string
		if err := lines.Decode(&next); err != nil {
			stdout.Close()
			stop()
			err = errors.Join(err, <-ended)
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return props, fmt.Errorf("%s: wait for properties of %s, last %v: %w", m.Name, unit, props, err)
		}
		props = next
		if enough(props) {
			stdout.Close()
			stop()
			<-ended // was killed by us
			return props, nil
		}
	}
}
