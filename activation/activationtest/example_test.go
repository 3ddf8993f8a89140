// SPDX-License-Identifier: Apache-2.0

package activationtest_test

import (
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"

	"github.com/holdfast-go/holdfast/activation/activationtest"
)

// A test of a service makes the listener, passes it, and is the client. There is no need to wait until the service
// is ready: as with systemd, the connection waits in the queue of the listener.
func ExampleCommand() {
	_ = func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		cmd := activationtest.Command(t, activationtest.Options{
			Descriptors: []activationtest.Descriptor{{Name: "http", Conn: ln.(*net.TCPListener)}},
		}, "./myservice", "-config", "testdata/config.toml")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}

		resp, err := http.Get("http://" + ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s, %v", resp.Status, err)
		}
		http.DefaultClient.CloseIdleConnections()

		// Without this, the end of the test kills it.
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the service did not stop in peace: %v", err)
		}
	}
}

// In a file of the package's tests.
func ExampleMain() {
	_ = func(m *testing.M) { // func TestMain(m *testing.M)
		activationtest.Main(m)
	}
}
