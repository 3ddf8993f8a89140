// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/activation/activationtest"
)

// asService makes the test binary the service.
const asService = "HOLDFAST_EXAMPLE_SERVICE"

func TestMain(m *testing.M) {
	if os.Getenv(asService) != "" {
		main()
		return
	}
	activationtest.Main(m)
}

// accept is what systemd does with Accept=yes.
func accept(t *testing.T) (client net.Conn, accepted *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = client.SetDeadline(time.Now().Add(30 * time.Second))
	return client, conn.(*net.TCPConn)
}

func serve(t *testing.T, descriptors ...activationtest.Descriptor) (wait func() (stderr string, err error)) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := activationtest.Command(t, activationtest.Options{Descriptors: descriptors}, exe)
	cmd.Env = append(os.Environ(), asService+"=1", "GORACE=atexit_sleep_ms=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() (string, error) {
		err := cmd.Wait()
		return stderr.String(), err
	}
}

func TestAnswersOneConnection(t *testing.T) {
	client, accepted := accept(t)
	wait := serve(t, activationtest.Descriptor{Name: "connection", Conn: accepted})
	in := bufio.NewReader(client)
	for _, c := range []struct{ request, want string }{
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "hello"},
		{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbye", "bye"},
	} {
		if _, err := io.WriteString(client, c.request); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || string(body) != c.want || resp.Header.Get("X-Myapp-Version") != "dev" {
			t.Errorf("answer %q (%v) to %q, %v", body, err, c.request, resp.Header)
		}
	}
	if stderr, err := wait(); err != nil {
		t.Errorf("%v: %s", err, stderr)
	}
}

// The process ends with its client, however that ends.
func TestEndsWithItsClient(t *testing.T) {
	for name, c := range map[string]struct {
		say  string
		want string // of the log
	}{
		"says nothing":    {},
		"breaks off":      {"POST / HTTP/1.1\r\n", "read a request: unexpected EOF"},
		"speaks nonsense": {"hello\r\n\r\n", "malformed HTTP request"},
	} {
		client, accepted := accept(t)
		wait := serve(t, activationtest.Descriptor{Name: "connection", Conn: accepted})
		if _, err := io.WriteString(client, c.say); err != nil {
			t.Fatal(err)
		}
		if err := client.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		stderr, err := wait()
		if (err != nil) != (c.want != "") || !strings.Contains(stderr, c.want) {
			t.Errorf("a client that %s: %v, %q; want %q", name, err, stderr, c.want)
		}
	}
}

// Without a connection it says what to change.
func TestSaysWhatIsMissing(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for name, c := range map[string]struct {
		passed []activationtest.Descriptor
		want   string
	}{
		"by hand":   {nil, `connection "connection" was not passed`},
		"Accept=no": {[]activationtest.Descriptor{{Name: "connection", Conn: ln.(*net.TCPListener)}}, "set Accept=yes in the .socket unit"},
		"renamed":   {[]activationtest.Descriptor{{Name: "web", Conn: ln.(*net.TCPListener)}}, `(passed: "web")`},
	} {
		stderr, err := serve(t, c.passed...)()
		if err == nil || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: %v, %q; want %q", name, err, stderr, c.want)
		}
	}
}
