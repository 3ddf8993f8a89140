// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"os"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/units"
)

// executable is what cannot be rendered for 247, which does not know it.
const executable = `# From 257 on the copy of the last good version is mounted without execution else; 247 ignores the line.
ExecPaths=%S/myapp.holdfast
`

// The units of the package are what holdfast render writes.
func TestUnitsOfThePackage(t *testing.T) {
	rendered, err := units.Render(units.Options{
		Name: "myapp", Description: "Example service of Holdfast", Documentation: []string{"man:myapp(8)"},
		Exec: "/usr/bin/myapp", Args: []string{"-config=/etc/myapp/myapp.conf"},
		// Debian 11; later versions understand them.
		Systemd: 247,
		Sockets: []units.Socket{{Name: "http", Address: "127.0.0.1:8080"}},
		// The user that sysusers.d has made. With DynamicUser= it starts also where that could not be
		// done, because the version before had a dynamic user of this name.
		ServiceLines: []string{"User=myapp"},
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
		} else if want := strings.Replace(unit.Content, "User=myapp\n", "User=myapp\n"+executable, 1); string(text) != want {
			t.Errorf("%s is not what is rendered:\n%s", unit.Name, want)
		}
	}
}
