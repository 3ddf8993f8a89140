// SPDX-License-Identifier: Apache-2.0

package micro

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"
)

// A Cost is what a message, or to take all listeners, costs with one library: the median of the rounds.
type Cost struct {
	Library string        `json:"library"`
	Time    time.Duration `json:"ns"`
	Allocs  float64       `json:"allocs"`
	Bytes   float64       `json:"bytes"`
}

// A Comparison is of all libraries that can do the same thing, ours first.
type Comparison struct {
	What  string `json:"what"`
	Costs []Cost `json:"costs"`
}

// Effort says how much is measured. In each round every library has its turn, so that a machine that is not
// always equally quick is so to all.
type Effort struct {
	Rounds    int
	Messages  int // of each library in a round
	Listeners int
}

// Compare measures everything, unless ctx ends.
func Compare(ctx context.Context, e Effort) ([]Comparison, error) {
	messages, err := compareMessages(ctx, e)
	if err != nil {
		return nil, err
	}
	taking, err := compareTaking(ctx, e)
	return append(messages, taking...), err
}

func compareMessages(ctx context.Context, e Effort) (_ []Comparison, err error) {
	s, err := Open()
	if err != nil {
		return nil, err
	}
	defer func() {
		if closeErr := s.Close(); err == nil {
			err = closeErr
		}
	}()
	if err := s.Drain(); err != nil {
		return nil, err
	}
	rounds := make([][]Cost, len(s.Senders))
	for range e.Rounds {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		for i, sender := range s.Senders {
			cost, err := sender.cost(e.Messages)
			if err != nil {
				return nil, err
			}
			rounds[i] = append(rounds[i], cost)
		}
	}
	var all []Comparison
	for _, message := range Messages {
		c := Comparison{What: message}
		for i, sender := range s.Senders {
			if sender.Message == message {
				c.Costs = append(c.Costs, median(rounds[i]))
			}
		}
		all = append(all, c)
	}
	return all, nil
}

// cost is that of one of n messages.
func (s Sender) cost(n int) (Cost, error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	for range n {
		if err := s.Send(); err != nil {
			return Cost{}, fmt.Errorf("%s: send %s: %w", s.Library, s.Message, err)
		}
	}
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	return Cost{
		Library: s.Library, Time: took / time.Duration(n),
		Allocs: float64(after.Mallocs-before.Mallocs) / float64(n), Bytes: float64(after.TotalAlloc-before.TotalAlloc) / float64(n),
	}, nil
}

func compareTaking(ctx context.Context, e Effort) ([]Comparison, error) {
	passed, err := Listen(e.Listeners)
	if err != nil {
		return nil, err
	}
	defer passed.Close()
	rounds := make(map[Taker][]Cost)
	for range e.Rounds {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		for _, taker := range Takers {
			cost, err := passed.Take(taker)
			if err != nil {
				return nil, err
			}
			rounds[taker] = append(rounds[taker], cost)
		}
	}
	var all []Comparison
	for _, named := range []bool{false, true} {
		c := Comparison{What: fmt.Sprintf("take %d listeners of one name", e.Listeners)}
		if named {
			c.What = fmt.Sprintf("take %d listeners, each by its name", e.Listeners)
		}
		for _, taker := range Takers {
			if taker.ByName == named {
				c.Costs = append(c.Costs, median(rounds[taker]))
			}
		}
		all = append(all, c)
	}
	return all, nil
}

// median returns the cost whose time is the median.
func median(rounds []Cost) Cost {
	slices.SortFunc(rounds, func(a, b Cost) int { return int(a.Time - b.Time) })
	return rounds[len(rounds)/2]
}
