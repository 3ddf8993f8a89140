// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/http"
	"sync"
)

// A counter counts for clients.
type counter struct {
	mu sync.Mutex
	n  uint64
}

// ServeHTTP counts one more and answers with the count.
func (c *counter) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	c.mu.Lock()
	c.n++
	n := c.n
	c.mu.Unlock()
	fmt.Fprint(w, n)
}
