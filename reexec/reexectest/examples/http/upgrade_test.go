// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/holdfast-go/holdfast/reexec/reexectest"
)

// The test binary stands in for the service's program.
func TestMain(m *testing.M) { reexectest.Main(m, main) }

func TestUpgrade(t *testing.T) {
	reexectest.TestUpgrade(t, reexectest.Service{
		Options: reexectest.Options{Units: "systemd", Files: dropIn("1us")},
		OnTrial: dropIn("1s"),
		Clients: reexectest.HTTP{Socket: "http"},
	})
}

// dropIn has new versions be on trial for so long.
func dropIn(probation string) map[string]string {
	return map[string]string{
		"greeter.service.d/test.conf": "[Service]\nExecStart=\nExecStart=/usr/bin/greeter -probation=" + probation + "\nRestartSec=50ms\n",
	}
}
