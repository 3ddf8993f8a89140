// SPDX-License-Identifier: Apache-2.0

package mark

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, fault := range []string{"", "check", strings.Repeat("x", faultLength)} {
		text := string(Of(1234567, fault))
		if len(text) != length {
			t.Errorf("a mark for %q has %d bytes, must have %d", fault, len(text), length)
		}
		if version, got := parse(text); version != 1234567 || got != fault {
			t.Errorf("%q: version %d, fault %q; want 1234567, %q", text, version, got, fault)
		}
	}
	for _, text := range []string{"", "\x7fELF", strings.Repeat("x", length), prefix, prefix + "1x345678 health  "} {
		if version, fault := parse(text); version != 1 || fault != "" {
			t.Errorf("%q: version %d, fault %q; want the first one, sound", text, version, fault)
		}
	}
}

const askVariable = "MARK_TEST_MARK"

func TestMain(m *testing.M) {
	if os.Getenv(askVariable) != "" {
		version, fault := Mine()
		os.Stdout.Write(Of(version, fault))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A binary runs with a mark, and knows it.
func TestMarkedBinary(t *testing.T) {
	binary, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{string(Of(1, "")), string(Of(77, "health"))} {
		file := t.TempDir() + "/marked"
		added := want
		if want == string(Of(1, "")) {
			added = "" // as it was linked
		}
		if err := os.WriteFile(file, append(binary[:len(binary):len(binary)], added...), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), file)
		cmd.Env = append(os.Environ(), askVariable+"=1")
		got, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("with %q added it knows %q, want %q", added, got, want)
		}
	}
}
