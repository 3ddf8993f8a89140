// SPDX-License-Identifier: Apache-2.0

package activation_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/holdfast-go/holdfast/activation"
)

// A process that was killed leaves the path of its socket behind; the next one
// must be able to bind. A living one's path, or a file, is never removed.
func TestListenReplacesStaleUnixSocket(t *testing.T) {
	for _, network := range []string{"unix", "unixpacket"} {
		path := filepath.Join(t.TempDir(), "s")
		killed, err := net.ListenUnix(network, &net.UnixAddr{Name: path, Net: network})
		if err != nil {
			t.Fatal(err)
		}
		set := &activation.Set{}
		if _, err := set.Listen(t.Context(), "x", network, path); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s: beside a living listener: %v, want EADDRINUSE", network, err)
		}
		killed.SetUnlinkOnClose(false)
		if err := killed.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := set.Listen(t.Context(), "x", network, path)
		if err != nil {
			t.Fatalf("%s: after a dead one: %v", network, err)
		}
		if err := got.Listeners[0].Close(); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := set.Listen(t.Context(), "x", network, path); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s: over a file: %v, want EADDRINUSE", network, err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
			t.Errorf("%s: the file is %q, %v", network, b, err)
		}
	}
}
