// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"testing"

	"github.com/holdfast-go/holdfast/activation/activationtest"
)

// roleVariable makes the test binary play another part than running tests. The
// services of these tests are processes of this binary, and so are their
// successors.
const roleVariable = "HOLDFAST_TEST_ROLE"

var roles = map[string]func() int{
	"service": serviceMain,
	"manager": managerMain,
	"exec":    execMain,
	"wait":    waitMain,
}

// waitMain is there until its standard input ends.
func waitMain() int {
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// The first thread stays with TestMain: /proc/self belongs to the user of that
// thread, and a test that acts as another user must not do so there.
func init() {
	if os.Getenv(roleVariable) == "" {
		runtime.LockOSThread()
	}
}

func TestMain(m *testing.M) {
	if name := os.Getenv(roleVariable); name != "" {
		role, ok := roles[name]
		if !ok {
			fmt.Fprintf(os.Stderr, "%s=%q: no such role\n", roleVariable, name)
			os.Exit(2)
		}
		os.Exit(role())
	}
	activationtest.Main(m)
}
