// SPDX-License-Identifier: Apache-2.0

package packages_test

import (
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/packages"
)

// plainUnits are those of myapp before it adopted Holdfast.
var plainUnits = map[string]string{
	"myapp.service": `[Unit]
Description=Example service
Requires=myapp.socket
After=myapp.socket

[Service]
Type=notify
ExecStart=/usr/bin/myapp
DynamicUser=yes

[Install]
WantedBy=multi-user.target
`,
	"myapp.socket": `[Unit]
Description=Socket of the example service

[Socket]
ListenStream=127.0.0.1:8080

[Install]
WantedBy=sockets.target
`,
}

// beforeHoldfast are the packages of myapp that an upgrade adopts.
var beforeHoldfast = []struct {
	name  string
	units map[string]string
	loses bool // nobody keeps the socket
}{
	{"with a socket unit", plainUnits, false},
	{"without a socket unit", map[string]string{
		"myapp.service": "[Unit]\nDescription=Example service\n\n[Service]\nType=notify\nExecStart=/usr/bin/myapp\nDynamicUser=yes\n\n[Install]\nWantedBy=multi-user.target\n",
	}, true},
}

// Every apt takes the repository for what it is: signed, and not when it was changed afterwards.
func TestRepository(t *testing.T) {
	for _, v := range vmtests.Versions() {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			m := vmtests.BootTest(t, v)
			ctx := t.Context()
			deb, err := made.DebhelperPlain("0.9.0", plainUnits)
			if err != nil {
				t.Fatal(err)
			}
			repository, err := packages.NewRepository(ctx, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if err := repository.Add(ctx, deb); err != nil {
				t.Fatal(err)
			}
			if err := repository.Publish(ctx, m); err != nil {
				t.Fatal(err)
			}
			if out, err := m.Output(ctx, "apt-get", "install", "--yes", "myapp"); err != nil || !strings.Contains(out, "Setting up myapp (0.9.0)") {
				t.Fatalf("%v\n%s", err, out)
			}
			if version, err := m.Output(ctx, "dpkg-query", "--show", "--showformat=${Version} ${Status}", "myapp"); version != "0.9.0 install ok installed" {
				t.Errorf("dpkg-query: %q, %v", version, err)
			}
			if err := m.Run(ctx, "sh", "-c", "sed -i s/^Suite:.*/Suite:another/ /srv/repository/InRelease"); err != nil {
				t.Fatal(err)
			}
			out, err := m.Output(ctx, "sh", "-c", "apt-get update 2>&1")
			if !strings.Contains(out, "error occurred during the signature verification") {
				t.Errorf("apt-get update with a changed index: %v\n%s", err, out)
			}
		})
	}
}
