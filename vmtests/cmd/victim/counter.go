// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/holdfast-go/holdfast/reexec"
)

// A counter counts for clients, and acknowledges a count only when it is committed.
type counter struct {
	mu     sync.Mutex
	n      uint64
	loaded int // how often n was replaced by what the predecessor has left
	state  *reexec.State
}

func newCounter(svc *reexec.Service) (c *counter, err error) {
	c = &counter{}
	c.state, err = svc.State("count", reexec.Exclusive{Version: 1, Save: c.save, Load: c.load})
	return c, err
}

func (c *counter) save(w io.Writer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return binary.Write(w, binary.BigEndian, c.n)
}

func (c *counter) load(_ uint32, data []byte) error {
	if len(data) != 8 {
		return fmt.Errorf("a count has 8 bytes, not %d", len(data))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n = binary.BigEndian.Uint64(data)
	c.loaded++
	return nil
}

// ServeHTTP counts one more and answers with the count; with 503 where another generation is main,
// and with 507 where systemd cannot keep it.
func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.n++
	n, loaded := c.n, c.loaded
	c.mu.Unlock()
	err := c.state.Commit(r.Context())
	c.mu.Lock()
	replaced := c.loaded != loaded
	c.mu.Unlock()
	switch {
	case replaced:
		http.Error(w, "it became main just now: ask again", http.StatusServiceUnavailable)
	case err == nil:
		fmt.Fprint(w, n)
	case errors.Is(err, reexec.ErrNotMain):
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	default:
		http.Error(w, err.Error(), http.StatusInsufficientStorage)
	}
}
