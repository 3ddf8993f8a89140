// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"os"
	"testing"

	"github.com/holdfast-go/holdfast/units"
)

// The units of the package are what holdfast render writes.
func TestUnitsOfThePackage(t *testing.T) {
	rendered, err := units.Render(units.Options{
		Name: "myapp", Description: "Example service of Holdfast", Documentation: []string{"man:myapp(8)"},
		Exec: "/usr/bin/myapp", Args: []string{"-config=/etc/myapp/myapp.conf"},
		// Debian 11; later versions understand them.
		Systemd: 247,
		Sockets: []units.Socket{{Name: "http", Address: "127.0.0.1:8080"}},
		// The user that sysusers.d has made, and nobody's but this service's. With DynamicUser= as
		// well systemd 257 would mount the copy of the last good version without execution, which
		// ExecPaths= could allow, but 247 does not know that.
		ServiceLines: []string{"User=myapp", "DynamicUser=no"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(rendered) != 2 {
		t.Errorf("%d units, want a service and a socket", len(rendered))
	}
	for _, unit := range rendered {
		text, err := os.ReadFile(unit.Name)
		if err != nil {
			t.Error(err)
		} else if string(text) != unit.Content {
			t.Errorf("%s is not what is rendered:\n%s", unit.Name, unit.Content)
		}
	}
}
