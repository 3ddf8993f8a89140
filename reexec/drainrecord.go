// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// record is who held a drain up.
type record struct {
	mu      sync.Mutex
	began   time.Time
	holders []*holder
}

// holder is one of them.
type holder struct {
	control.Holder
	left func() int // how many of its connections are open
	over bool
}

// maxHolders are told of; the others took less.
const maxHolders = 8

func (r *record) begin(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.began = at
}

// hold adds what the drain waits for, until over is called.
func (r *record) hold(name string, left func() int) (over func(error)) {
	h := &holder{Holder: control.Holder{Name: name, Connections: left()}, left: left}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holders = append(r.holders, h)
	return func(err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if h.over {
			return
		}
		h.over, h.Seconds = true, time.Since(r.began).Seconds()
		if err != nil {
			h.Error = err.Error()
		}
	}
}

// cut ends the record: what is not over now will not be.
func (r *record) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.holders {
		if !h.over {
			h.over, h.Cut, h.Left, h.Seconds = true, true, h.left(), time.Since(r.began).Seconds()
		}
	}
}

// report sums the drain up.
func (r *record) report(p control.Process) control.Drain {
	r.mu.Lock()
	defer r.mu.Unlock()
	report := control.Drain{Process: p, Began: r.began, Seconds: time.Since(r.began).Seconds()}
	for _, h := range r.holders {
		report.Holders = append(report.Holders, h.Holder)
	}
	slices.SortStableFunc(report.Holders, func(a, b control.Holder) int { return cmp.Compare(b.Seconds, a.Seconds) })
	report.Holders = report.Holders[:min(len(report.Holders), maxHolders)]
	return report
}
