// SPDX-License-Identifier: Apache-2.0

package counters

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/holdfast-go/holdfast/reexec"
)

// stateName is that of the state of the service.
const stateName = "counters"

// commitTimeout bounds how long a scrape waits for systemd. Scrapers wait for 10 s.
const commitTimeout = 2 * time.Second

// Counters gathers the metrics of a registry with the totals of all generations.
// It is a [prometheus.Gatherer], to be given to promhttp.HandlerFor in the place of the
// registry. All methods may be called concurrently.
type Counters struct {
	registry prometheus.Gatherer
	state    interface{ Commit(context.Context) error }
	// phase is where this generation is in an upgrade.
	phase func() phase

	// gathering is held by Gather, so that the shot that a commit takes is its own.
	gathering sync.Mutex

	mu     sync.Mutex
	others others
	// saved is what another generation or the fd store knows: what was saved last, or
	// else loaded. What others have told this one is not part of it before it is saved. Nil
	// before either.
	saved totals
	// committed is what was in the fd store when it was shown last, and safe what was
	// handed over or loaded: both are there whoever dies.
	committed, safe totals
	// wanted: the next shot is for Gather, and is put into taken.
	wanted bool
	taken  *shot
}

// shot is what a registry had at one moment.
type shot struct {
	families []live
	totals   totals // of all generations
	err      error  // of the registry
}

// Continue makes the counters of a registry continue. It registers the state
// "counters" of the service, so it is called once, before Run and before anything is
// counted. Several registries are joined by [prometheus.Gatherers] first.
//
// The error is that of [reexec.Service.State].
func Continue(svc *reexec.Service, registry prometheus.Gatherer) (*Counters, error) {
	c := newCounters(registry)
	state, err := svc.State(stateName, c.merged())
	if err != nil {
		return nil, fmt.Errorf("counters: continue: %w", err)
	}
	c.state = state
	c.phase = func() phase { return phaseOf(svc.Status().State) }
	// What was shown before this generation was main is not in the store yet, and the predecessor
	// may be gone soon.
	svc.Go(stateName, func(context.Context) error {
		c.commit()
		return nil
	})
	return c, nil
}

// phase is what decides about what may be shown.
type phase int

const (
	alone    phase = iota // main
	starts                // main, with a successor that is not ready
	overlaps              // main, with a successor that accepts in its place
	succeeds              // not main yet
	leaves                // main no longer, or not at all
)

// phaseOf takes a state of control.Status.
func phaseOf(state string) phase {
	switch state {
	case "starting":
		return starts
	case "probation", "promoting":
		return overlaps
	case "starting up", "on trial":
		return succeeds
	case "draining", "resigning":
		return leaves
	}
	return alone
}

func newCounters(registry prometheus.Gatherer) *Counters {
	return &Counters{registry: registry, others: newOthers(nil), phase: func() phase { return alone }}
}

func newOthers(t totals) others {
	if t == nil {
		t = totals{}
	}
	return others{totals: t, here: map[string]map[string]*trace{}}
}

func (c *Counters) merged() reexec.Merged {
	return reexec.Merged{Version: format, Save: c.save, Load: c.load, Subtract: subtract, Merge: c.merge}
}

// Gather returns the metrics of the registry, with the totals of all generations in
// its counters, histograms and summaries. What a main version returns is in the fd store
// before, if the service has one, so a crash makes nothing fall that was seen. In an
// upgrade, and in other versions, it returns what all of them know. An error is that
// of the registry, which may come with a part of the metrics.
func (c *Counters) Gather() ([]*dto.MetricFamily, error) {
	c.gathering.Lock()
	defer c.gathering.Unlock()
	c.mu.Lock()
	c.wanted = true
	c.mu.Unlock()
	known := c.commit()

	c.mu.Lock()
	defer c.mu.Unlock()
	// The first that was saved since we began: the successor has at least that if the
	// handover began meanwhile, and the store has if nothing did.
	taken := c.taken
	c.wanted, c.taken = false, nil
	if taken == nil {
		taken = c.shoot()
	}
	t := taken.totals
	switch {
	case known:
		c.committed = t
	case c.committed != nil && c.phase() == starts:
		// What is being handed over need not be in the store yet.
		t = c.committed
	case c.safe != nil:
		t = c.safe
	}
	return show(taken.families, t), taken.err
}

// commit makes what was counted until now survive. It returns false if what survives
// anyway is to be shown instead.
func (c *Counters) commit() (known bool) {
	if p := c.phase(); p == starts || p == overlaps {
		return false
	}
	// A scraper that goes away is no reason not to commit.
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	err := c.state.Commit(ctx)
	var noStore *reexec.StoreError
	if errors.As(err, &noStore) && !errors.Is(err, reexec.ErrNotMain) {
		// Shown all the same: the status of the service says what the store lacks, and
		// to see nothing would be worse than a fall after a crash.
		return true
	}
	return err == nil // else another generation is main, or that is being decided
}

// shoot asks the registry. The caller has mu.
func (c *Counters) shoot() *shot {
	gathered, err := c.registry.Gather()
	s := &shot{err: err}
	s.families, s.totals = c.others.collect(gathered)
	if err == nil {
		return s
	}
	// What a collector has failed to tell is as it was.
	for name, f := range c.saved {
		mine := s.totals.family(name, f)
		for key, was := range f.series {
			if _, ok := mine.series[key]; !ok && mine.kind == f.kind {
				mine.series[key] = was
			}
		}
	}
	return s
}

// save writes the totals of all generations.
func (c *Counters) save(w io.Writer) error {
	_, err := w.Write(c.snapshot().encode(nil))
	return err
}

func (c *Counters) snapshot() totals {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.shoot()
	c.saved = s.totals
	// What is told to a generation that is about to be main, or is, is in the store only
	// when that has committed.
	if p := c.phase(); p == alone || p == starts {
		c.safe = s.totals
	}
	if c.wanted {
		c.wanted, c.taken = false, s
	}
	return s.totals
}

// load begins with the totals of earlier generations.
func (c *Counters) load(version uint32, data []byte) error {
	t, err := decodeVersion(version, data)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.others, c.saved = newOthers(t), t.clone()
	c.committed, c.safe = c.saved, c.saved
	return nil
}

// merge adds what another generation has counted meanwhile.
func (c *Counters) merge(version uint32, data []byte) error {
	added, err := decodeVersion(version, data)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.others.add(added)
	return nil
}

func decodeVersion(version uint32, data []byte) (totals, error) {
	if version != format {
		return nil, fmt.Errorf("counters: frame of format %d: this version knows format %d", version, format)
	}
	t, err := decode(data)
	if err != nil {
		return nil, err
	}
	for name := range t {
		if ofOneProcess(name) {
			delete(t, name)
		}
	}
	return t, nil
}

// subtract returns what was counted between two frames of one process.
func subtract(total, since []byte) ([]byte, error) {
	now, err := decode(total)
	if err != nil {
		return nil, err
	}
	before := totals{}
	if len(since) > 0 {
		if before, err = decode(since); err != nil {
			return nil, err
		}
	}
	return now.since(before).encode(nil), nil
}
