// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/exec"
	"strings"
	"testing"
)

func TestVersions(t *testing.T) {
	for _, c := range []struct{ asked, program, pkg string }{
		{"1.2.3", "1.2.3", "1.2.3"},
		{"1.3.0-rc.1", "1.3.0-rc.1", "1.3.0~rc.1"},
		{"1.3.0~rc.1", "1.3.0-rc.1", "1.3.0~rc.1"},
		{"1.3.0-rc-1+b-2", "1.3.0-rc-1+b-2", "1.3.0~rc.1+b.2"},
	} {
		program, err := programVersion(t.Context(), ".", c.asked)
		if err != nil || program != c.program || packageVersion(program) != c.pkg {
			t.Errorf("%s: %q, %q (%v), want %q, %q", c.asked, program, packageVersion(program), err, c.program, c.pkg)
		}
	}
	for _, bad := range []string{"1.2", "v1.2.3", "1.2.3 4", "1.2.3\nx"} {
		if v, err := programVersion(t.Context(), ".", bad); err == nil || !strings.Contains(err.Error(), "write it as 1.2.3") {
			t.Errorf("%q: %q, %v", bad, v, err)
		}
	}
	for described, want := range map[string]string{
		"v1.2.3-0-g1a2b3c4": "1.2.3", "v1.2.3-5-g1a2b3c4": "1.2.3+5.1a2b3c4", "v1.3.0-rc.1-5-g1a2b3c4": "1.3.0-rc.1+5.1a2b3c4",
	} {
		if v, err := afterTag(described); err != nil || v != want {
			t.Errorf("%s: %q (%v), want %q", described, v, err, want)
		}
	}
	if v, err := afterTag("v1-5-g1a2b3c4"); err == nil {
		t.Errorf("v1-5-g1a2b3c4: %q, want an error", v)
	}
}

// dpkg and rpm sort our versions as they are meant.
func TestVersionsAreInOrder(t *testing.T) {
	ordered := []string{
		"0.0.0-20261130210653.57b75c27e1bc", "0.0.0-20261201000000.00b75c27e1bc", "0.1.0",
		"1.2.3", "1.2.3+5.1a2b3c4", "1.2.3+12.0a2b3c4", "1.2.4-rc.1", "1.2.4-rc.2", "1.2.4-rc.2+1.1a2b3c4", "1.2.4", "1.2.10",
	}
	for i := range ordered[1:] {
		older, newer := packageVersion(ordered[i]), packageVersion(ordered[i+1])
		if _, err := exec.LookPath("dpkg"); err == nil {
			if out, err := exec.CommandContext(t.Context(), "dpkg", "--compare-versions", older, "lt", newer).CombinedOutput(); err != nil {
				t.Errorf("dpkg: %s is not older than %s: %v %s", older, newer, err, out)
			}
		}
		if _, err := exec.LookPath("rpm"); err == nil {
			out, err := exec.CommandContext(t.Context(), "rpm", "--eval", "%{lua:print(rpm.vercmp('"+older+"','"+newer+"'))}").Output()
			if err != nil || strings.TrimSpace(string(out)) != "-1" {
				t.Errorf("rpm: %s is not older than %s: %v %s", older, newer, err, out)
			}
		}
	}
}
