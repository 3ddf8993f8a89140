// SPDX-License-Identifier: Apache-2.0

package mixed

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestParseMark(t *testing.T) {
	for _, fault := range []Fault{Sound, BadCheck, BadStart, FallingIll} {
		text := string(Mark(1234567, fault))
		if len(text) != markLength {
			t.Errorf("a mark for %q has %d bytes, must have %d", fault, len(text), markLength)
		}
		if version, got := parseMark(text); version != 1234567 || got != fault {
			t.Errorf("%q: version %d, fault %q; want 1234567, %q", text, version, got, fault)
		}
	}
	for _, text := range []string{"", "\x7fELF", strings.Repeat("x", markLength), markPrefix, markPrefix + "1x345678 health  "} {
		if version, fault := parseMark(text); version != 1 || fault != Sound {
			t.Errorf("%q: version %d, fault %q; want the first one, sound", text, version, fault)
		}
	}
}

const askVariable = "MIXED_TEST_MARK"

func TestMain(m *testing.M) {
	if os.Getenv(askVariable) != "" {
		version, fault := mark()
		os.Stdout.Write(Mark(version, fault))
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
	for _, want := range []string{string(Mark(1, Sound)), string(Mark(77, FallingIll))} {
		file := t.TempDir() + "/marked"
		added := want
		if want == string(Mark(1, Sound)) {
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
