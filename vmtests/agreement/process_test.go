// SPDX-License-Identifier: Apache-2.0

package agreement

import (
	"os/exec"
	"testing"
)

// A process that got SIGKILL is seen to be on its way out until it is dead,
// however busy the machine is, but for the instant in which the kernel takes the
// signal off.
func TestDying(t *testing.T) {
	missed := 0
	for range 50 {
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if p, err := readProcess(cmd.Process.Pid); err != nil || p.dying || p.dead() {
			t.Errorf("before SIGKILL: %+v, %v", p, err)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if p, err := readProcess(cmd.Process.Pid); err != nil {
			t.Error(err)
		} else if !p.dying && !p.dead() {
			missed++
		}
		_ = cmd.Wait()
	}
	if missed > 10 {
		t.Errorf("%d of 50 seemed to live on", missed)
	}
}
