// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
)

func newNetwork(t *testing.T) *vmtests.Network {
	t.Helper()
	n, err := vmtests.NewNetwork(t.Context())
	if errors.Is(err, vmtests.ErrNotRoot) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func newDisk(t *testing.T) *vmtests.Disk {
	t.Helper()
	d, err := vmtests.NewDisk(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// serveEcho has a machine answer on port 7.
func serveEcho(t *testing.T, m *vmtests.Machine) {
	t.Helper()
	for name, content := range map[string]string{
		"echo.socket":   "[Socket]\nListenStream=7\nAccept=yes\n",
		"echo@.service": "[Service]\nExecStart=cat\nStandardInput=socket\n",
	} {
		if err := m.WriteFile(t.Context(), "/run/systemd/system/"+name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Run(t.Context(), "systemctl", "start", "echo.socket"); err != nil {
		t.Fatal(err)
	}
}

func mustEcho(t *testing.T, from *vmtests.Machine, address netip.Prefix) {
	t.Helper()
	answer, err := from.Output(t.Context(), "timeout", "60", "bash", "-c",
		`exec 3<>"/dev/tcp/$1/7"; echo hello >&3; read -r answer <&3; echo "$answer"`, "-", address.Addr().String())
	if err != nil || answer != "hello" {
		t.Errorf("%s from %s: got %q (%v), want hello", address, from.Name, answer, err)
	}
}

// TestNetworkAndDisk: machines reach each other and nobody else, and one that boots again has its address and files.
func TestNetworkAndDisk(t *testing.T) {
	network := newNetwork(t)
	disk := newDisk(t)
	here, there := netip.MustParsePrefix("198.18.0.11/24"), netip.MustParsePrefix("198.18.0.12/24")
	ctx := t.Context()
	a := vmtests.BootSetupTest(t, vmtests.Systemd247, vmtests.Setup{Network: network, Address: here})
	setup := vmtests.Setup{Network: network, Address: there, Disk: disk}
	b := vmtests.BootSetupTest(t, vmtests.Systemd257, setup)
	serveEcho(t, b)
	mustEcho(t, a, there)

	if routes, err := a.Output(ctx, "ip", "route"); err != nil || strings.Contains(routes, "default") || len(strings.Split(routes, "\n")) != 1 {
		t.Errorf("routes: got %q (%v), want that to the network alone", routes, err)
	}
	if links, err := os.ReadFile("/proc/net/dev"); err != nil || strings.Contains(string(links), "port1") {
		t.Errorf("the host has a device of the network (%v):\n%s", err, links)
	}
	if err := b.WriteFile(ctx, "/var/lib/kept", []byte("kept\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	id, err := b.Output(ctx, "cat", "/etc/machine-id")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = vmtests.BootSetupTest(t, vmtests.Systemd257, setup)
	if got, err := b.ReadFile(ctx, "/var/lib/kept"); err != nil || string(got) != "kept\n" {
		t.Errorf("file after the second boot: got %q (%v)", got, err)
	}
	if got, err := b.Output(ctx, "cat", "/etc/machine-id"); err != nil || got != id || len(got) != 32 {
		t.Errorf("identity after the second boot: got %q (%v), want %q", got, err, id)
	}
	serveEcho(t, b) // /run is empty again
	mustEcho(t, a, there)

	if _, err := vmtests.BootSetup(ctx, vmtests.Systemd257, vmtests.Setup{Network: network, Address: netip.MustParsePrefix("10.0.0.1/8")}); err == nil || !strings.Contains(err.Error(), "198.18.0.0/15") {
		t.Errorf("an address of another network: got error %v", err)
	}
}
