// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/exec"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
)

// A loader is a load generator in a process of its own.
type loader struct{ *load.Process }

// end ends it if it has not ended, and returns how it did.
func (l *loader) end() error { return l.End() }

// startLoader starts the load generator on this machine.
func startLoader(cmd *exec.Cmd) (*loader, error) {
	p, err := load.StartProcess(cmd)
	if err != nil {
		return nil, err
	}
	return &loader{p}, nil
}
