// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
)

// testVsock runs the tests of package reexec about vsock where its sockets can reach each other: that takes a
// module of the kernel, which many machines do not have.
func testVsock(t *testing.T, m *vmtests.Machine) {
	ctx := t.Context()
	if err := m.Run(ctx, "modprobe", "vsock_loopback"); err != nil {
		t.Fatal(err)
	}
	tests := filepath.Join(t.TempDir(), "reexec.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-trimpath", "-ldflags=-s -w", "-o", tests, "github.com/holdfast-go/holdfast/reexec")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	if err := m.Copy(ctx, tests, "/run/reexec.test", 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := m.Output(ctx, "/run/reexec.test", "-test.v", "-test.run=^(TestBoundVsockCrosses|TestNoConnectionIsLostWhileTheGateFlips|TestStreamsThroughUpgrades)$/^(vsock|)$")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"--- PASS: TestBoundVsockCrosses", "--- PASS: TestNoConnectionIsLostWhileTheGateFlips/vsock",
		"--- PASS: TestStreamsThroughUpgrades",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if !regexp.MustCompile(`vsock: \d+ connections, none lost`).MatchString(out) {
		t.Errorf("vsock had no clients:\n%s", out)
	}
}
