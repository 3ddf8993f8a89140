// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// load are clients that ask all the time. Each has one keep-alive connection;
// what they send cannot be sent again, so that net/http hides no failure.
type load struct {
	t    *testing.T
	stop chan struct{}
	done sync.WaitGroup

	mu       sync.Mutex
	answered map[string]int // by the PID that answered
	failures []error
}

func startLoad(t *testing.T, url string, clients int) *load {
	l := newLoad(t)
	for i := range clients {
		transport := &http.Transport{MaxConnsPerHost: 1}
		client := &http.Client{Transport: transport, Timeout: patience}
		l.done.Go(func() {
			defer transport.CloseIdleConnections()
			l.client(client, url, i)
		})
	}
	return l
}

// startHTTP2Load has as many clients with streams requests at a time each.
func startHTTP2Load(t *testing.T, url string, config *tls.Config, clients, streams int) *load {
	l := newLoad(t)
	for i := range clients {
		transport := &http.Transport{TLSClientConfig: config.Clone(), Protocols: new(http.Protocols)}
		transport.Protocols.SetHTTP2(true)
		client := &http.Client{Transport: transport, Timeout: patience}
		var all sync.WaitGroup
		for j := range streams {
			all.Go(func() { l.client(client, url, i*streams+j) })
		}
		l.done.Go(func() {
			defer transport.CloseIdleConnections()
			all.Wait()
		})
	}
	return l
}

func newLoad(t *testing.T) *load {
	l := &load{t: t, stop: make(chan struct{}), answered: map[string]int{}}
	t.Cleanup(func() { l.end() })
	return l
}

func (l *load) client(client *http.Client, url string, number int) {
	for i := 0; ; i++ {
		select {
		case <-l.stop:
			return
		default:
		}
		pid, err := post(client, url, fmt.Sprintf("client %d request %d", number, i))
		l.mu.Lock()
		if err != nil {
			l.failures = append(l.failures, err)
		} else {
			l.answered[pid]++
		}
		l.mu.Unlock()
	}
}

func post(client *http.Client, url, body string) (pid string, err error) {
	// A reader that net/http does not know cannot be rewound.
	ctx, written := context.Background(), atomic.Bool{}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaderField: func(string, []string) { written.Store(true) }})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, struct{ io.Reader }{strings.NewReader(body)})
	if err != nil {
		return "", err
	}
	// On HTTP/2 Go's client fails a request that it has not begun to send when a
	// GOAWAY comes at that very moment, because it has closed the body by then
	// (golang/go#62450); so another one is made as long as nothing was written.
	if client.Transport.(*http.Transport).Protocols != nil {
		req.GetBody = func() (io.ReadCloser, error) {
			if written.Load() {
				return nil, errors.New("the request was sent before")
			}
			return io.NopCloser(strings.NewReader(body)), nil
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && string(answer) != body {
		err = fmt.Errorf("answer %q to %q (%s)", answer, body, resp.Status)
	}
	return resp.Header.Get("X-Pid"), err
}

// end ends the load and returns how many requests each process answered.
func (l *load) end() (answered map[string]int, failures []error) {
	l.mu.Lock()
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.mu.Unlock()
	l.done.Wait()
	return l.answered, l.failures
}

// mustBeWhole fails the test if a request failed.
func (l *load) mustBeWhole() {
	l.t.Helper()
	answered, failures := l.end()
	total := 0
	for _, n := range answered {
		total += n
	}
	for _, err := range failures {
		l.t.Errorf("a request failed: %v", err)
	}
	l.t.Logf("%d requests answered by %d processes, %d failed", total, len(answered), len(failures))
}
