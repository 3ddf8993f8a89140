// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
)

// TestVMLane runs in one machine of each version all that needs one: a boot takes its time.
func TestVMLane(t *testing.T) {
	for _, v := range vmtests.VMVersions() {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			m := vmtests.BootVMTest(t, v)
			t.Logf("%s booted in %v", m.Name, time.Since(start).Round(time.Millisecond))
			story := func(name string, tell func(*testing.T, *vmtests.Machine)) {
				t.Run(name, func(t *testing.T) { tell(t, m) })
			}
			story("version", testVersion)
			if v == vmtests.Systemd257 { // once is enough
				story("lane", testLane)
				story("hardening", testHardening)
				story("smoke", smoke)
				story("limits", testLimits)
				story("vsock", testVsock)
				if _, err := m.HostPID(1); !errors.Is(err, errors.ErrUnsupported) {
					t.Errorf("HostPID: got error %v, want %v", err, errors.ErrUnsupported)
				}
			}
			story("upgrade", testUpgradeInVirtualMachine)
			story("clock", testClockJumps)
			story("memory", testMemory)
			story("soft-reboot", testSoftReboot)
			story("counters across a soft-reboot", testCountersAcrossSoftReboot)
			story("reboot", testReboot)
		})
	}
}

// testLimits shows what containers cannot: limits by control group, enforced by the kernel.
func testLimits(t *testing.T, m *vmtests.Machine) {
	ctx := t.Context()
	for name, script := range map[string]string{
		"MemoryMax=16M": `dd if=/dev/zero of=/dev/null bs=64M count=1`, // one buffer
		"TasksMax=4":    `sleep 1 & sleep 1 & sleep 1 & sleep 1 & wait`,
	} {
		if err := m.Run(ctx, "systemd-run", "--wait", "--quiet", "sh", "-c", script); err != nil {
			t.Errorf("without %s: %v", name, err)
		}
		if err := m.Run(ctx, "systemd-run", "--wait", "--quiet", "--property="+name, "sh", "-c", script); err == nil {
			t.Errorf("with %s: the kernel let it pass", name)
		}
	}
}

func TestRequireVMsNamesWhatIsMissing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip(vmtests.ErrNotRoot)
	}
	if runtime.GOARCH != "amd64" {
		if err := vmtests.RequireVMs(); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "amd64") {
			t.Errorf("on %s: got %v, want unsupported", runtime.GOARCH, err)
		}
		return
	}
	t.Setenv("PATH", t.TempDir())
	err := vmtests.RequireVMs()
	var missing *vmtests.MissingError
	if !errors.As(err, &missing) {
		t.Fatalf("got %v, want a MissingError", err)
	}
	for _, name := range []string{"qemu-system-x86", "e2fsprogs", "mmdebstrap"} {
		if !slices.Contains(missing.Packages, name) {
			t.Errorf("packages: got %q, want %s among them", missing.Packages, name)
		}
	}
	if text := err.Error(); !strings.Contains(text, "make test-vm") || !strings.Contains(text, "qemu-system-x86_64(1)") {
		t.Errorf("got %q, want the program and the command to install it", text)
	}
}
