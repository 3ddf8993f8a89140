// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// A client for the service of one user does not speak to that of another.
func TestClientOf(t *testing.T) {
	uid := uint32(os.Getuid())
	path := serve(t, backend{status: func() control.Status { return control.Status{Name: "myapp", Instance: "i1", State: "running"} }})
	if st, err := control.NewClientOf(path, uid).Status(t.Context()); err != nil || st.Name != "myapp" {
		t.Errorf("status %+v, %v", st, err)
	}

	silent, err := net.Listen("unix", filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	other := control.NewClientOf(silent.Addr().String(), uid+1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, ask := range map[string]func() error{
		"status":   func() error { _, err := other.Status(ctx); return err },
		"upgrade":  func() error { _, err := other.UpgradeAndFollow(ctx, control.FollowOptions{}); return err },
		"rollback": func() error { _, err := other.Rollback(ctx, "", nil); return err },
		"healthz":  func() error { _, err := other.Healthz(ctx); return err },
		"dial":     func() error { _, err := other.Dial(ctx); return err },
	} {
		err := ask()
		var foreign *control.OwnerError
		if !errors.As(err, &foreign) || foreign.UID != uid || foreign.Want != uid+1 {
			t.Errorf("%s: %v, want that somebody else listens", name, err)
		}
		conn, err := silent.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%s: something was sent to somebody else (%v)", name, err)
		}
		conn.Close()
	}
}
