// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
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
	l := &load{t: t, stop: make(chan struct{}), answered: map[string]int{}}
	for i := range clients {
		l.done.Go(func() { l.client(url, i) })
	}
	t.Cleanup(func() { l.end() })
	return l
}

func (l *load) client(url string, number int) {
	transport := &http.Transport{MaxConnsPerHost: 1}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: patience}
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
	req, err := http.NewRequest(http.MethodPost, url, struct{ io.Reader }{strings.NewReader(body)})
	if err != nil {
		return "", err
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
