// SPDX-License-Identifier: Apache-2.0

package load

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// A Process is a load generator in a process of its own.
type Process struct {
	*Remote
	end func() error
}

// End ends the process if it has not ended, and returns how it did.
func (p *Process) End() error { return p.end() }

// StartProcess starts a load generator on this machine.
func StartProcess(cmd *exec.Cmd) (*Process, error) {
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &Process{NewRemote(stdin, stdout), func() error {
		closeErr := stdin.Close()
		_, _ = io.Copy(io.Discard, stdout) // it must be able to write to its end
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("load generator: %w: %s", errors.Join(err, closeErr), strings.TrimSpace(said.String()))
		}
		return nil
	}}, nil
}

// Piped returns a load generator that reads from requests' other end and writes to that of answers, however
// it was started. When it has ended, wait returns how, and nobody waits for it any more.
func Piped(requests io.WriteCloser, answers io.Reader, wait func() error) *Process {
	return &Process{NewRemote(requests, answers), func() error {
		_ = requests.Close()
		_, _ = io.Copy(io.Discard, answers) // it must be able to write to its end
		return wait()
	}}
}
