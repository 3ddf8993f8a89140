// SPDX-License-Identifier: Apache-2.0

package activation_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/holdfast-go/holdfast/activation/activationtest"
)

// roleVar makes the test binary play the service of one test instead of running tests.
const roleVar = "HOLDFAST_ACTIVATION_ROLE"

// roles are the services. What they return goes to standard output as JSON.
var roles = map[string]func() any{}

func TestMain(m *testing.M) {
	role := os.Getenv(roleVar)
	if role == "" {
		// The race detector lets each process linger for a second when it exits; the children need not.
		_ = os.Setenv("GORACE", "atexit_sleep_ms=0")
		activationtest.Main(m)
	}
	if err := json.NewEncoder(os.Stdout).Encode(roles[role]()); err != nil {
		panic(err)
	}
	os.Exit(0)
}

// command prepares the test binary to play a role with the descriptors that options say.
func command(t *testing.T, role string, options activationtest.Options) *exec.Cmd {
	t.Helper()
	if roles[role] == nil {
		t.Fatalf("no role %q", role)
	}
	cmd := activationtest.Command(t, options, "/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVar+"="+role)
	return cmd
}

// play runs a role to its end and returns what it reported.
func play[T any](t *testing.T, role string, options activationtest.Options) T {
	t.Helper()
	return finish[T](t, command(t, role, options))
}

func finish[T any](t *testing.T, cmd *exec.Cmd) T {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var result T
	if err := cmd.Run(); err != nil {
		t.Fatalf("the service failed: %v\n%s", err, stderr.String())
	}
	if err := json.Unmarshal(stdout.Bytes(), &result); err != nil {
		t.Fatalf("%v: %s", err, stdout.String())
	}
	return result
}

// must ends a role on an error: its exit status and its standard error reach the test.
func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

// text makes an error fit for JSON.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
