// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/control/command"
	"github.com/holdfast-go/holdfast/vmtests"
)

// Somebody without privilege types the same commands as root, and D-Bus starts the
// service that does it.
func TestCommandOfDeployUser(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startUpgrade1(t, vmtests.BootPolkitTest(t, v))
		if v == vmtests.Systemd247 { // polkit 0.105 knows no rules
			m.install("deploy.pkla.example", "/etc/polkit-1/localauthority/50-local.d/deploy.pkla")
		} else {
			m.install("50-deploy.rules.example", "/etc/polkit-1/rules.d/50-deploy.rules")
		}
		as := func(uid string, code int, text string, args ...string) (stdout, stderr string) {
			t.Helper()
			stdout, stderr, got := m.exits(append([]string{"setpriv", "--reuid=" + uid, "--regid=" + uid, "--clear-groups", "holdfast"}, args...)...)
			if got != code || !strings.Contains(stdout+stderr, text) {
				t.Errorf("holdfast %s as user %s: exit code %d, want %d and %q\nstdout:\n%s\nstderr:\n%s", strings.Join(args, " "), uid, got, code, text, stdout, stderr)
			}
			return stdout, stderr
		}
		l := m.load()
		m.put(v2)
		as(jane, command.ExitNoPermission, "a rule for action org.holdfast.upgrade1.", "upgrade", "myapp")
		_, stderr := as(deploy, command.ExitOK, "Upgraded myapp.service from 1.0.0 to 2.0.0 in ", "upgrade", "--soak=1s", "--version=2.0.0", "myapp")
		if !strings.Contains(stderr, "myapp.service: version 2.0.0 serves") {
			t.Errorf("the progress is\n%s", stderr)
		}
		m.waitAnswers(l, "2.0.0", 20)
		as(jane, command.ExitOK, "by deploy", "status", "myapp")
		as(jane, command.ExitOK, "done     1.0.0 → 2.0.0", "history", "myapp")
		as(jane, command.ExitNoPermission, "a rule for action org.holdfast.upgrade1.", "rollback", "myapp")
		if v != vmtests.Systemd247 { // the example for polkit 0.105 allows for rollouts only
			as(deploy, command.ExitOK, "Rolled back myapp.service from 2.0.0 to 1.0.0", "rollback", "myapp")
		}
		as(deploy, command.ExitNoPermission, "", "freeze", "myapp")
		m.wantExit(command.ExitOK, "are frozen", "freeze", "--via-service", "--reason=audit", "myapp")
		as(deploy, command.ExitFailed, "by root: audit", "upgrade", "myapp")
		as(deploy, command.ExitNoSuchUnit, "there is none", "upgrade", "nosuch")
		m.nothingLost(l)
	})
}
