// SPDX-License-Identifier: Apache-2.0

package activationtest

import (
	"os"
	"testing"
)

// roleVar makes the test binary play a part instead of running tests.
const roleVar = "HOLDFAST_ACTIVATIONTEST_ROLE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVar); role {
	case "":
		// The race detector lets each process linger for a second when it exits; the children need not.
		_ = os.Setenv("GORACE", "atexit_sleep_ms=0")
		Main(m)
	case "report":
		writeReport(os.Stdout)
		os.Exit(0)
	case "wait":
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	case "leak":
		os.Exit(run(leaveDescriptor{}, os.Stderr, 0))
	default:
		panic("unknown role " + role)
	}
}
