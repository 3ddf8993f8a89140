// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/holdfast-go/holdfast/reexec/reexectest"
)

func TestMain(m *testing.M) { reexectest.Main(m, main) }

// Without ExecReload= a version is upgraded by a restart, and what needs two at a
// time is skipped.
func TestUpgrade(t *testing.T) {
	reexectest.TestUpgrade(t, reexectest.Service{
		Options: reexectest.Options{Units: "systemd"},
		Clients: reexectest.HTTP{Socket: "http"},
	})
}
