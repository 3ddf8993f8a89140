// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"watch"}, {"watch", "a.service"}, {"serve", "x"}, {"other"}} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), args, &out, &errs); code != 2 || out.Len() > 0 || !strings.HasPrefix(errs.String(), "usage: guest") {
			t.Errorf("%q: got exit status %d, %q and %q; want 2 and the usage", args, code, out.String(), errs.String())
		}
	}
}

func TestFindPort(t *testing.T) {
	class := t.TempDir()
	for port, name := range map[string]string{"vport1p1": "org.example.other\n", "vport1p2": "holdfast\n"} {
		if err := os.Mkdir(filepath.Join(class, port), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(class, port, "name"), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if device, err := findPort(class, "holdfast"); err != nil || device != "/dev/vport1p2" {
		t.Errorf("got %q (%v), want /dev/vport1p2", device, err)
	}
	if device, err := findPort(class, "absent"); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("got %q (%v), want an error that names the port", device, err)
	}
}

// Values are written as systemctl writes them.
func TestText(t *testing.T) {
	for want, value := range map[string]any{"yes": true, "no": false, "42": uint32(42), "-1": int32(-1), "active": "active"} {
		if got := text(dbus.MakeVariant(value)); got != want {
			t.Errorf("%v: got %q, want %q", value, got, want)
		}
	}
}
