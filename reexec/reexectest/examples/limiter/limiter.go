// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec"
)

// format is the version of what save writes.
const format = 1

// limiter lets each client have burst requests at once, and one more each interval
// (GCRA, the generic cell rate algorithm). Two generations that serve at the same time
// decide each on their own; what one has granted is charged to the client by the other
// when it is told.
type limiter struct {
	burst    int
	interval time.Duration
	now      func() time.Duration

	mu      sync.Mutex
	clients map[string]client
}

// client is what is known of one. Without an entry nothing is owed. Times are those of sinceBoot.
type client struct {
	Began   time.Duration `json:"began"` // when the entry was made
	Paid    time.Duration `json:"paid"`  // until then all is paid for
	Granted uint64        `json:"granted"`
}

// sinceBoot is the same in all processes, goes on in standby, and does not jump when
// the time of day is set.
func sinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // Linux has it since 2.6.39
	}
	return time.Duration(t.Nano())
}

func newLimiter(burst int, interval time.Duration) *limiter {
	return &limiter{burst: burst, interval: interval, now: sinceBoot, clients: make(map[string]client)}
}

// allow says whether the client may have a request now, or else in which time.
func (l *limiter) allow(name string) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ahead := max(0, l.clients[name].Paid-l.now())
	if wait = ahead - time.Duration(l.burst-1)*l.interval; wait > 0 {
		return wait, false
	}
	l.charge(name, 1)
	return 0, true
}

func (l *limiter) charge(name string, requests uint64) {
	now := l.now()
	c, known := l.clients[name]
	if !known {
		c.Began = now
	}
	c.Paid = max(c.Paid, now) + time.Duration(requests)*l.interval
	c.Granted += requests
	l.clients[name] = c
}

// state is how the limiter continues: see reexec.Merged.
func (l *limiter) state() reexec.Merged {
	return reexec.Merged{Version: format, Save: l.save, Load: l.load, Subtract: subtract, Merge: l.merge}
}

func (l *limiter) save(w io.Writer) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for name, c := range l.clients {
		if c.Paid <= now { // as if it had never come
			delete(l.clients, name)
		}
	}
	return json.NewEncoder(w).Encode(l.clients)
}

func (l *limiter) load(_ uint32, data []byte) error {
	clients := make(map[string]client)
	if err := json.Unmarshal(data, &clients); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clients = clients
	return nil
}

// subtract returns the requests that were granted since then. An entry that was made later
// is all of it: the one before was paid off.
func subtract(total, since []byte) ([]byte, error) {
	var now, before map[string]client
	if err := json.Unmarshal(total, &now); err != nil {
		return nil, err
	}
	if since != nil {
		if err := json.Unmarshal(since, &before); err != nil {
			return nil, err
		}
	}
	granted := make(map[string]uint64)
	for name, c := range now {
		n := c.Granted
		if b, ok := before[name]; ok && b.Began == c.Began {
			n -= b.Granted
		}
		if n > 0 {
			granted[name] = n
		}
	}
	return json.Marshal(granted)
}

func (l *limiter) merge(_ uint32, added []byte) error {
	var granted map[string]uint64
	if err := json.Unmarshal(added, &granted); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, n := range granted {
		l.charge(name, n)
	}
	return nil
}
