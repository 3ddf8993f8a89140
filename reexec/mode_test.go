// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"strings"
	"testing"
)

func TestModeText(t *testing.T) {
	for _, want := range []Mode{Overlap, InPlace, Restart} {
		text, err := want.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got Mode
		if err := got.UnmarshalText(text); err != nil || got != want {
			t.Errorf("%v is %q, which is %v: %v", want, text, got, err)
		}
	}
	var m Mode
	if err := m.UnmarshalText([]byte("in place")); err == nil || !strings.Contains(err.Error(), `must be one of ["overlap" "in-place" "restart"]`) {
		t.Errorf("error is %v", err)
	}
	if _, err := Mode(7).MarshalText(); err == nil || Mode(7).String() != "Mode(7)" {
		t.Errorf("%v has a text: %v", Mode(7), err)
	}
}

func TestOptionsMode(t *testing.T) {
	_, err := Options{Name: "service", Mode: -1}.withDefaults()
	if err == nil || !strings.Contains(err.Error(), "Options.Mode=Mode(-1): must be Overlap, InPlace or Restart") {
		t.Errorf("error is %v", err)
	}
}

func TestUnitOf(t *testing.T) {
	for _, c := range []struct {
		text, unit string
		user       bool
	}{
		{"0::/system.slice/myapp.service\n", "myapp.service", false},
		{"0::/system.slice/system-myapp.slice/myapp@1.service/worker\n", "myapp@1.service", false},
		{"0::/user.slice/user-1000.slice/user@1000.service/app.slice/myapp.service\n", "myapp.service", true},
		{"0::/user.slice/user-1000.slice/session-1.scope\n", "", false},
		// cgroup v1: the hierarchy of systemd has a name.
		{"4:memory:/other.service\n1:name=systemd:/system.slice/myapp.service\n", "myapp.service", false},
		{"nonsense\n", "", false},
	} {
		if unit, user := unitOf(c.text); unit != c.unit || user != c.user {
			t.Errorf("%q is in %q, user %t; want %q, %t", c.text, unit, user, c.unit, c.user)
		}
	}
}
