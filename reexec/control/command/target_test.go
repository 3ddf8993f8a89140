// SPDX-License-Identifier: Apache-2.0

package command

import "testing"

func TestUnitNames(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/1000")
	for _, tt := range []struct {
		unit string
		user bool
		want string
	}{
		{"myapp", false, "/run/myapp/control.sock"},
		{"myapp.service", false, "/run/myapp/control.sock"},
		{"my.app-2_x", false, "/run/my.app-2_x/control.sock"},
		{"myapp@1", false, "/run/myapp@1/control.sock"},
		{`myapp@a\x2db.service`, false, `/run/myapp@a\x2db/control.sock`},
		{"myapp@1", true, "/run/user/1000/myapp@1/control.sock"},
	} {
		got, err := target{user: tt.user}.resolve([]string{tt.unit})
		if err != nil || got != tt.want {
			t.Errorf("%s: socket %q, error %v, want %q", tt.unit, got, err, tt.want)
		}
	}
}

func TestDisplayName(t *testing.T) {
	for _, tt := range []struct {
		operands       []string
		socket, itself string
		want           string
	}{
		{[]string{"myapp@1.service"}, "/run/myapp@1/control.sock", "myapp", "myapp@1"},
		{nil, "/run/myapp@1/control.sock", "myapp", "myapp@1"},
		{nil, "/run/myapp/control.sock", "myapp", "myapp"},
		{nil, "/run/other/x.sock", "myapp", "myapp"},
		{nil, "/run/myapp/control.sock", "", "/run/myapp/control.sock"},
	} {
		if got := (target{}).displayName(tt.operands, tt.socket, tt.itself); got != tt.want {
			t.Errorf("displayName(%q, %q, %q) = %q, want %q", tt.operands, tt.socket, tt.itself, got, tt.want)
		}
	}
}
