// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
)

// everyVersion runs story in parallel on a machine of each version.
func everyVersion(t *testing.T, story func(t *testing.T, m *vmtests.Machine)) {
	for _, v := range vmtests.Versions() {
		t.Run(fmt.Sprintf("systemd=%d", int(v)), func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			m := vmtests.BootTest(t, v)
			t.Logf("%s booted in %v", m.Name, time.Since(start).Round(time.Millisecond))
			story(t, m)
		})
	}
}

func TestVersionIsTheOneAskedFor(t *testing.T) { everyVersion(t, testVersion) }

func testVersion(t *testing.T, m *vmtests.Machine) {
	out, err := m.Output(t.Context(), "systemctl", "--version")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("systemd %d ", int(m.Version)); !strings.HasPrefix(out, want) {
		t.Errorf("systemctl --version: got %q, want it to begin with %q", out, want)
	}
	// systemctl could be another package's: ask PID 1 itself.
	version, err := m.Output(t.Context(), "busctl", "get-property", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "Version")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf(`s "%d`, int(m.Version)); !strings.HasPrefix(version, want) {
		t.Errorf("Version of PID 1: got %s, want it to begin with %s", version, want)
	}
}
