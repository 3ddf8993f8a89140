// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// What a service and its clients see of HTTP/2 is the same as with net/http alone.
func TestHTTP2IsLikePlain(t *testing.T) {
	kindsOfHTTP2(t, func(t *testing.T, k kindOfHTTP2) {
		plain, ours := new(strings.Builder), new(strings.Builder)
		srv := &http.Server{TLSConfig: k.server.Clone()}
		if k.server == nil {
			srv.Protocols = new(http.Protocols)
			srv.Protocols.SetUnencryptedHTTP2(true)
		}
		seen := make(chan string, 100)
		srv.Handler = describing(seen)
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error)
		go func() {
			if k.server != nil {
				served <- srv.ServeTLS(ln, "", "")
			} else {
				served <- srv.Serve(ln)
			}
		}()
		k.talk(t, ln.Addr(), seen, plain)
		_ = srv.Close()
		<-served

		g := k.serve(t, firstInventory(t), describing(seen), nil)
		g.inv.accept()
		k.talk(t, g.ln.Addr(), seen, ours)
		if !strings.Contains(plain.String(), "200 OK HELLO map[After:[all]]") {
			t.Errorf("nothing is compared: %s", plain)
		}
		if plain.String() != ours.String() {
			t.Errorf("net/http:\n%s\nwith us:\n%s", plain, ours)
		}
	})
}

// describing says what it sees.
func describing(seen chan<- string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		say := func(format string, args ...any) { seen <- fmt.Sprintf(format, args...) }
		control := http.NewResponseController(w)
		switch r.URL.Path {
		case "/trailers":
			w.Header().Set("Trailer", "After")
			body, err := io.ReadAll(r.Body)
			_, _ = w.Write(bytes.ToUpper(body))
			w.Header().Set("After", "all")
			say("%s %d %v %v %t", body, r.ContentLength, err, r.Trailer, r.TLS != nil)
		case "/push":
			p, ok := w.(http.Pusher)
			say("pusher %t: %v", ok, ok && errors.Is(p.Push("/x", nil), http.ErrNotSupported))
		case "/early":
			w.Header().Set("Link", "</x>")
			w.WriteHeader(http.StatusEarlyHints)
			_, _ = io.WriteString(w, "early")
			say("hijack: %t", errors.Is(func() error { _, _, err := control.Hijack(); return err }(), http.ErrNotSupported))
		case "/deadline":
			err := control.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, readErr := io.ReadAll(r.Body)
			say("%v, %t", err, errors.Is(readErr, os.ErrDeadlineExceeded))
			err = control.SetWriteDeadline(time.Now().Add(time.Hour))
			say("%v, full duplex %v", err, control.EnableFullDuplex())
		case "/panic":
			defer say("panics")
			panic(http.ErrAbortHandler)
		default: // the client resets the stream
			seen <- "waits"
			<-r.Context().Done()
			_, err := io.ReadAll(r.Body)
			say("%v, %v", r.Context().Err(), err)
		}
	})
}

func (k kindOfHTTP2) talk(t *testing.T, addr net.Addr, seen <-chan string, said *strings.Builder) {
	t.Helper()
	client := &http.Client{Transport: k.transport(t), Timeout: patience}
	if k.client != nil {
		client.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr.String())
		}
	}
	url := k.scheme + "://" + addr.String()
	if k.client != nil {
		url = k.scheme + "://example.com"
	}
	for _, c := range []struct {
		path string
		body io.Reader
		n    int // lines
	}{
		{"/trailers", strings.NewReader("hello"), 1},
		{"/trailers", io.MultiReader(strings.NewReader("chunked")), 1},
		{"/push", nil, 1},
		{"/early", nil, 1},
		{"/deadline", neverSent(), 2},
		{"/panic", nil, 1},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+c.path, c.body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Expect", "100-continue")
		req.Trailer = http.Header{"Sent": {"later"}}
		resp, err := client.Do(req)
		fmt.Fprintf(said, "%s: ", c.path)
		if err == nil {
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			fmt.Fprintf(said, "%s %s %v %v; ", resp.Status, body, resp.Trailer, err)
		} else {
			fmt.Fprintf(said, "error %t; ", err != nil)
		}
		for range c.n {
			fmt.Fprintf(said, "%s; ", <-seen)
		}
		fmt.Fprintln(said)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/reset", neverSent())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { _, err := client.Do(req); done <- err }()
	fmt.Fprintln(said, <-seen)
	cancel()
	fmt.Fprintln(said, errors.Is(<-done, context.Canceled), <-seen)
}

// neverSent is a body that does not come before it is closed.
func neverSent() io.Reader {
	r, _ := io.Pipe()
	return r
}
