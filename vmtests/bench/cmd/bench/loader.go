// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
)

// A loader is a load generator in a process of its own.
type loader struct {
	*load.Remote
	end func() error // ends it if it has not ended, and returns how it did
}

// startLoader starts the load generator on this machine.
func startLoader(cmd *exec.Cmd) (*loader, error) {
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
	return &loader{load.NewRemote(stdin, stdout), func() error {
		closeErr := stdin.Close()
		_, _ = io.Copy(io.Discard, stdout) // it must be able to write to its end
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("load generator: %w: %s", errors.Join(err, closeErr), strings.TrimSpace(said.String()))
		}
		return nil
	}}, nil
}
