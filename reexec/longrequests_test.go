// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// longRequest is one that is under way when its generation begins to drain.
type longRequest struct {
	name    string
	phase   phase // in which it is when the drain begins
	handler func(draining <-chan struct{}) http.HandlerFunc
	before  func(*httpClient) // brings the request under way
	after   func(*httpClient) // to its end, which the old version answers
}

// chunk reads one chunk of a body as it is on the wire.
func (c *httpClient) chunk() string {
	c.t.Helper()
	size, err := c.in.ReadString('\n')
	if err != nil {
		c.t.Fatalf("no chunk: %v", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(size), 16, 31)
	if err != nil {
		c.t.Fatalf("chunk of size %q: %v", size, err)
	}
	b := make([]byte, n+2)
	if _, err := io.ReadFull(c.in, b); err != nil {
		c.t.Fatalf("chunk of %d bytes: %v", n, err)
	}
	return string(b[:n])
}

// head reads the head of an answer, whose body comes bit by bit.
func (c *httpClient) head() {
	c.t.Helper()
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			c.t.Fatalf("no head: %v", err)
		}
		if strings.TrimSpace(line) == "" {
			return
		}
		if strings.HasPrefix(strings.ToLower(line), "connection: close") {
			c.t.Errorf("the answer leads away")
		}
	}
}

// bigAnswer is more than the buffers of a connection hold.
const bigAnswer = 16 << 20

// tick is what the client sends or the test releases between two chunks.
func longRequests(tick <-chan struct{}) []longRequest {
	streaming := func(last string) func(<-chan struct{}) http.HandlerFunc {
		return func(draining <-chan struct{}) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				stream := http.NewResponseController(w)
				for i := range 3 {
					fmt.Fprintf(w, "chunk %d", i)
					if err := stream.Flush(); err != nil {
						return
					}
					if last != "" {
						<-draining
						fmt.Fprint(w, last)
						return
					}
					<-tick
				}
			}
		}
	}
	const get = "GET / HTTP/1.1\r\nHost: test\r\n\r\n"
	return []longRequest{{
		name:    "long upload",
		phase:   busy,
		handler: func(<-chan struct{}) http.HandlerFunc { return echo("A").ServeHTTP },
		before: func(c *httpClient) {
			c.write("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
		},
		after: func(c *httpClient) {
			c.write("5\r\n-full\r\n")
			c.write("0\r\n\r\n")
			c.answer("A: half-full")
		},
	}, {
		name:    "streaming answer",
		phase:   busy,
		handler: streaming(""),
		before: func(c *httpClient) {
			c.write(get)
			c.head()
			if got := c.chunk(); got != "chunk 0" {
				c.t.Errorf("got %q", got)
			}
		},
		after: nil, // see below: the test releases the chunks
	}, {
		name:    "server-sent events",
		phase:   busy,
		handler: streaming("event: goodbye\n\n"),
		before: func(c *httpClient) {
			c.write(get)
			c.head()
			c.chunk()
		},
		after: func(c *httpClient) {
			// The handler ends when Draining is closed, and the client asks again.
			if got := c.chunk(); got != "event: goodbye\n\n" {
				c.t.Errorf("got %q", got)
			}
			if got := c.chunk(); got != "" {
				c.t.Errorf("after the end: %q", got)
			}
		},
	}, {
		name:  "slow reader",
		phase: busy,
		handler: func(<-chan struct{}) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write(bytes.Repeat([]byte("x"), bigAnswer))
			}
		},
		before: func(c *httpClient) { c.write(get) },
		after: func(c *httpClient) {
			resp, err := http.ReadResponse(c.in, nil)
			if err != nil {
				c.t.Fatal(err)
			}
			defer resp.Body.Close()
			// Few bytes at a time.
			n, err := io.Copy(io.Discard, bufio.NewReaderSize(resp.Body, 512))
			if n != bigAnswer || err != nil || resp.Close {
				c.t.Errorf("%d bytes, leads away: %t, %v", n, resp.Close, err)
			}
		},
	}, {
		name:    "slow header",
		phase:   arriving,
		handler: func(<-chan struct{}) http.HandlerFunc { return echo("A").ServeHTTP },
		before:  func(c *httpClient) { c.write("POST / HTTP/1.1\r\nHo") },
		after: func(c *httpClient) {
			c.write("st: test\r\nContent-Le")
			c.write("ngth: 1\r\n\r\nx")
			c.answer("A: x")
		},
	}}
}

// A request that takes long is answered by the version that has read its
// beginning, to its end; then its connection moves like any other.
func TestLongRequestsEndWhereTheyBegan(t *testing.T) {
	tick := make(chan struct{})
	for _, r := range longRequests(tick) {
		t.Run(r.name, func(t *testing.T) {
			draining := make(chan struct{})
			a := firstGeneration(t, &http.Server{Handler: r.handler(draining)})
			c := dialHTTP(t, a.ln.Addr())
			r.before(c)
			a.waitPhase(r.phase, 1)
			b := a.following(&http.Server{Handler: echo("B")})
			a.moveTo(linked(t, b, nil))
			a.mustWait()
			close(draining)
			if r.after != nil {
				r.after(c)
			} else {
				for i := 1; i < 3; i++ {
					tick <- struct{}{}
					if got, want := c.chunk(), fmt.Sprintf("chunk %d", i); got != want {
						t.Errorf("got %q, want %q", got, want)
					}
				}
				tick <- struct{}{}
				if got := c.chunk(); got != "" {
					t.Errorf("after the end: %q", got)
				}
			}
			a.mustEnd() // it has moved
			c.mustAsk("next", "B: next")
		})
	}
}
