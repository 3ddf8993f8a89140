// SPDX-License-Identifier: Apache-2.0

package campaign

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests/internal/load"
)

// clientTimeout is after how long a client gives up. It is longer than anything that a campaign does to the
// service, so that only what is lost for good fails by it.
const clientTimeout = 40 * time.Second

// clients make load of every kind for one system, one worker each, until close.
type clients struct {
	cancel  context.CancelFunc
	working sync.WaitGroup

	mu       sync.Mutex
	list     []*client
	failures []failure
	acked    uint64        // the highest count that was acknowledged
	backward []string      // counts that were lost
	more     chan struct{} // closed when a result has come
}

// A client is one worker.
type client struct {
	name   string
	unix   bool // or UDP: a failure names no port
	began  int64
	OK     int
	Failed int
	// Redialled counts idle connections that the server had closed.
	Redialled int
	// Longest is how long an answer took at most: as long as the service was away.
	Longest time.Duration
}

// A failure is a request that was not answered.
type failure struct {
	client string
	load.Result
}

// refused says whether no connection was made at all.
func (f failure) refused() bool { return f.LocalPort == 0 && strings.HasPrefix(f.Error, "connect:") }

// bound says whether the service has bound the socket itself.
func (f failure) bound() bool {
	return strings.HasPrefix(f.client, "bound") || f.client == "unix" || f.client == "udp"
}

func (f failure) String() string {
	return fmt.Sprintf("%s, port %d, from %.6f for %v: %s", f.client, f.LocalPort, float64(f.Start)/1e9, time.Duration(f.End-f.Start), f.Error)
}

// startClients starts all kinds that the service has sockets for, and returns when each has had an answer.
func (s *System) startClients(ctx context.Context) (*clients, error) {
	all, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &clients{cancel: cancel, more: make(chan struct{})}
	unixDial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		// The file is found without the machine's network namespace.
		return new(net.Dialer).DialContext(ctx, "unix", s.path(ownUnix))
	}
	for _, k := range []struct {
		name    string
		options load.Options
	}{
		{"new", load.Options{URL: "http://127.0.0.1:8080/", New: 1, Think: 10 * time.Millisecond}},
		{"keep-alive", load.Options{URL: "http://127.0.0.1:8080/", KeepAlive: 1, Redial: true, Think: 10 * time.Millisecond}},
		{"keep-alive", load.Options{URL: "http://127.0.0.1:8080/", KeepAlive: 1, Redial: true, Think: 35 * time.Millisecond}},
		{"slow", load.Options{URL: "http://127.0.0.1:8080/slow?for=60ms", New: 1, Think: 5 * time.Millisecond}},
		{"bound", load.Options{URL: "http://127.0.0.1:8081/", New: 1, Think: 20 * time.Millisecond}},
		{"bound, keep-alive", load.Options{URL: "http://127.0.0.1:8081/", KeepAlive: 1, Redial: true, Think: 20 * time.Millisecond}},
		{"unix", load.Options{URL: "http://127.0.0.1:80/", New: 1, Think: 20 * time.Millisecond, Dial: unixDial}},
	} {
		one := &client{name: k.name, unix: k.options.Dial != nil}
		if k.options.Dial == nil {
			k.options.Dial = s.network.dial
		}
		k.options.Timeout, k.options.OnResult = clientTimeout, func(r load.Result) { c.add(one, r) }
		generator, err := load.New(k.options)
		if err != nil {
			cancel()
			return nil, err
		}
		c.list = append(c.list, one)
		c.working.Go(func() { generator.Run(all) })
	}
	datagrams, counting := &client{name: "udp", unix: true}, &client{name: "commits"}
	c.list = append(c.list, datagrams, counting)
	c.working.Go(func() { s.exchangeDatagrams(all, c, datagrams) })
	c.working.Go(func() { s.count(all, c, counting) })
	return c, c.settled(ctx, now())
}

// add notes a result.
func (c *clients) add(one *client, r load.Result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one.began = max(one.began, r.Start)
	if r.ClosedIdle != 0 {
		one.Redialled++
	}
	if r.Error == "" {
		one.OK++
		one.Longest = max(one.Longest, time.Duration(r.End-r.Start))
	} else {
		one.Failed++
		c.failures = append(c.failures, failure{one.name, r})
	}
	close(c.more)
	c.more = make(chan struct{})
}

// settled waits until every client has an answer, or a failure, to a request that it began after that time.
func (c *clients) settled(ctx context.Context, after int64) error {
	for {
		c.mu.Lock()
		more, late := c.more, ""
		for _, one := range c.list {
			if one.began <= after {
				late = one.name
			}
		}
		c.mu.Unlock()
		if late == "" {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return fmt.Errorf("client %q gets no answer: %w", late, context.Cause(ctx))
		}
	}
}

// take returns what failed since the last call.
func (c *clients) take() (failures []failure, backward []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	failures, backward = c.failures, c.backward
	c.failures, c.backward = nil, nil
	return failures, backward
}

func (c *clients) close() {
	c.cancel()
	c.working.Wait()
}

// pause reports whether ctx has not ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// exchangeDatagrams sends a datagram and waits for its echo, again and again. One that waits in the queue of the
// socket is late, and not lost: that shows when one that was sent after it is answered, and it is not.
func (s *System) exchangeDatagrams(ctx context.Context, c *clients, one *client) {
	for n := 0; ctx.Err() == nil; n++ {
		r := load.Result{Mode: one.name, Start: now()}
		err := s.exchangeDatagram(ctx, n)
		if ctx.Err() != nil {
			return
		}
		r.End = now()
		if err != nil {
			r.Error, r.Broken = err.Error(), true
		}
		c.add(one, r)
		pause(ctx, 20*time.Millisecond)
	}
}

func (s *System) exchangeDatagram(ctx context.Context, n int) error {
	const patience = 300 * time.Millisecond
	conn, err := s.network.dial(ctx, "udp", "127.0.0.1:8082")
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	buf := make([]byte, 100)
	limit := time.Now().Add(clientTimeout)
	for try := 0; ctx.Err() == nil; try++ {
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		_, err := fmt.Fprintf(conn, "%d.%d", n, try)
		got := 0
		if err == nil {
			got, err = conn.Read(buf)
		}
		switch {
		case errors.Is(err, unix.ECONNREFUSED):
			return fmt.Errorf("connect: %w", err) // there is no socket
		case errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(limit):
			continue
		case err != nil:
			return err
		case string(buf[:got]) != fmt.Sprintf("%d.0", n):
			return fmt.Errorf("answered %q, and not %d.0 before", buf[:got], n)
		}
		return nil
	}
	return context.Cause(ctx)
}

// count asks the service to count, one request after the other. The service acknowledges a count when it is
// committed, so that none may ever fall below one that was acknowledged.
func (s *System) count(ctx context.Context, c *clients, one *client) {
	transport := &http.Transport{MaxConnsPerHost: 1, DialContext: s.network.dial}
	defer transport.CloseIdleConnections()
	for ctx.Err() == nil {
		r := load.Result{Mode: one.name, Start: now()}
		value, status, said, err := countOnce(transport, &r)
		r.End = now()
		switch {
		case err != nil:
			r.Error, r.Broken = err.Error(), r.LocalPort != 0
			if r.LocalPort == 0 {
				r.Error = "connect: " + r.Error
			}
		case status == http.StatusServiceUnavailable:
			// It is on trial, and not its to commit.
		case status == http.StatusInsufficientStorage:
			r.Error = statusUnkept + said
		case status != http.StatusOK:
			r.Error = fmt.Sprintf("status %d", status)
		default:
			c.mu.Lock()
			if value <= c.acked {
				c.backward = append(c.backward, fmt.Sprintf("%.6f: counted to %d after %d was acknowledged", float64(r.End)/1e9, value, c.acked))
			}
			c.acked = max(c.acked, value)
			c.mu.Unlock()
		}
		c.add(one, r)
		pause(ctx, 10*time.Millisecond)
	}
}

// statusUnkept is the error where systemd does not keep the count: none is acknowledged.
const statusUnkept = "the count is not kept: "

func countOnce(transport *http.Transport, r *load.Result) (value uint64, status int, said string, err error) {
	ctx, cancel := context.WithTimeout(load.WithPort(context.Background(), r), clientTimeout)
	defer cancel()
	// A body without GetBody: net/http cannot send it again.
	body := struct{ io.Reader }{strings.NewReader("1")}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1:8080/add", body)
	if err != nil {
		return 0, 0, "", err
	}
	request.ContentLength = 1
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return 0, response.StatusCode, strings.TrimSpace(string(text)), err
	}
	return value, response.StatusCode, "", json.Unmarshal(text, &value)
}
