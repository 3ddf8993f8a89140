// SPDX-License-Identifier: Apache-2.0

package agreement

import (
	"os/exec"
	"testing"
)

// A process that got SIGKILL is seen to be on its way out until it is dead,
// however busy the machine is.
func TestDying(t *testing.T) {
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
		if p, err := readProcess(cmd.Process.Pid); err != nil || !p.dying && !p.dead() {
			t.Errorf("after SIGKILL: %+v, %v", p, err)
		}
		_ = cmd.Wait()
	}
}
