// SPDX-License-Identifier: Apache-2.0

package counters

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/holdfast-go/holdfast/reexec"
)

// generation is one process of the service, less the process.
type generation struct {
	*Counters
	t        *testing.T
	world    *world
	main     bool
	accepts  bool        // the successor, before the verdict
	next     *generation // a successor on trial
	base     []byte      // what the other generation of an overlap has of it
	pending  []byte      // the last commit of the predecessor
	to       *generation // to whom it drains
	registry *prometheus.Registry

	requests *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	sizes    *prometheus.SummaryVec
	limited  *prometheus.HistogramVec
}

// world is the service: what systemd keeps, and what should be seen.
type world struct {
	t        *testing.T
	r        *rand.Rand
	main     *generation
	next     *generation   // on trial
	draining []*generation // the oldest first
	stored   []byte
	truth    map[string]*big.Float
	seen     map[string]map[string]float64 // by scraper and series
	log      []string
}

func (w *world) say(format string, args ...any) { w.log = append(w.log, fmt.Sprintf(format, args...)) }

func (w *world) start() *generation {
	g := &generation{t: w.t, world: w, registry: prometheus.NewRegistry()}
	g.requests = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "requests_total", Help: "R."}, []string{"code"})
	g.latency = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "latency_seconds", Help: "L.", Buckets: []float64{0.1, 1, 10}}, []string{"code"})
	g.sizes = prometheus.NewSummaryVec(prometheus.SummaryOpts{Name: "size_bytes", Help: "S."}, []string{"code"})
	g.limited = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "native_seconds", Help: "N.", NativeHistogramBucketFactor: []float64{1.1, 1.5, 3}[w.r.IntN(3)],
		NativeHistogramMaxBucketNumber: uint32(w.r.IntN(10)), NativeHistogramMaxZeroThreshold: 0.1,
	}, []string{"code"})
	g.registry.MustRegister(g.requests, g.latency, g.sizes, g.limited)
	g.Counters = newCounters(g.registry)
	g.state, g.phase = g, func() phase {
		switch {
		case g.next != nil && g.next.accepts:
			return overlaps
		case g.next != nil:
			return starts
		case g == w.next:
			return succeeds
		case g != w.main || g.to != nil:
			return leaves
		}
		return alone
	}
	return g
}

// Commit is what a state of package reexec does.
func (g *generation) Commit(context.Context) error {
	if !g.main {
		return fmt.Errorf("commit: %w", reexec.ErrNotMain)
	}
	g.world.stored = g.frame()
	if g.next != nil {
		g.next.pending = g.world.stored
	}
	return nil
}

func (g *generation) frame() []byte {
	var buf bytes.Buffer
	if err := g.save(&buf); err != nil {
		g.t.Fatal(err)
	}
	return buf.Bytes()
}

func (g *generation) difference(total, since []byte) []byte {
	added, err := subtract(total, since)
	if err != nil {
		g.t.Fatal(err)
	}
	return added
}

func (g *generation) take(err error) {
	if err != nil {
		g.t.Fatal(err)
	}
}

// tell sends what was counted here since the last word.
func (g *generation) tell(to *generation) {
	now := g.frame()
	to.pending = nil
	to.take(to.merge(format, g.difference(now, g.base)))
	g.base = now
}

// value is never negative, and often has bits that do not fit into a sum.
func (w *world) value() float64 {
	switch w.r.IntN(3) {
	case 0:
		return float64(w.r.IntN(5))
	case 1:
		return w.r.Float64() * math.Ldexp(1, w.r.IntN(30))
	}
	return w.r.Float64()
}

// count counts something here, and in what should be seen.
func (g *generation) count() {
	w := g.world
	code := []string{"200", "404", "a\"\\\n,=}", "ü"}[w.r.IntN(4)]
	x := w.value()
	add := func(series string, by float64) {
		if w.truth[series] == nil {
			w.truth[series] = new(big.Float).SetPrec(exactBits)
		}
		w.truth[series].Add(w.truth[series], big.NewFloat(by))
	}
	switch w.r.IntN(4) {
	case 0:
		// Whole numbers, for the sum within a process rounds.
		x = math.Trunc(x)
		g.requests.WithLabelValues(code).Add(x)
		add("requests_total "+code, x)
	case 1:
		g.latency.WithLabelValues(code).Observe(x)
		add("latency_seconds "+code+" count", 1)
		for _, bound := range []float64{0.1, 1, 10} {
			if x <= bound {
				add(fmt.Sprint("latency_seconds ", code, " le ", bound), 1)
			}
		}
	case 2:
		g.sizes.WithLabelValues(code).Observe(x)
		add("size_bytes "+code+" count", 1)
	case 3:
		g.limited.WithLabelValues(code).Observe(x)
		add("native_seconds "+code+" count", 1)
	}
}

// flatten returns all that must not fall.
func flatten(families []*dto.MetricFamily) map[string]float64 {
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				all[name] = m.GetCounter().GetValue()
			case dto.MetricType_SUMMARY:
				all[name+" count"] = float64(m.GetSummary().GetSampleCount())
				all[name+" sum"] = m.GetSummary().GetSampleSum()
			case dto.MetricType_HISTOGRAM:
				h := m.GetHistogram()
				all[name+" count"] = float64(h.GetSampleCount())
				all[name+" sum"] = h.GetSampleSum()
				for _, b := range h.Bucket {
					all[fmt.Sprint(name, " le ", b.GetUpperBound())] = float64(b.GetCumulativeCount())
				}
				if n, ok := nativeOf(h); ok && n != nil {
					// Prometheus takes these for a restart as well.
					all[name+" resolution lost"] = float64(maxSchema - n.schema)
					all[name+" zero threshold"] = n.threshold
				}
			}
		}
	}
	return all
}

func (g *generation) gathered() map[string]float64 {
	g.t.Helper()
	families, err := g.Gather()
	if err != nil {
		g.t.Fatal(err)
	}
	return flatten(families)
}

// scrape compares with what the scraper has seen before: nothing falls, and
// nothing is gone.
func (w *world) scrape(who string, g *generation) {
	w.t.Helper()
	now := g.gathered()
	for series, before := range w.seen[who] {
		if after, ok := now[series]; !ok || after < before {
			w.t.Fatalf("%s: %s was %v, is %v (there: %v)\n%q", who, series, before, after, ok, w.log)
		}
	}
	w.seen[who] = now
}

// check compares main with the truth.
func (w *world) check() {
	w.t.Helper()
	now := w.main.gathered()
	for series, sum := range w.truth {
		want, _ := sum.Float64()
		if now[series] != want {
			w.t.Fatalf("%s is %v, want %v\n%q", series, now[series], want, w.log)
		}
	}
}

// died makes the truth what the living have: the rest is lost with a process.
func (w *world) died() {
	for _, g := range w.draining {
		g.tell(g.to)
	}
	now := w.main.gathered()
	for series, sum := range w.truth {
		sum.SetFloat64(now[series])
	}
}

var seeds = flag.Uint64("seeds", 20, "how many sequences of events TestSumsContinue tries")

// Whatever comes after what, with several generations counting at once: the sums are
// exact, and no scraper sees anything fall. One comes with a new connection each
// time, one stays with its connection as long as it lives or until it moves.
func TestSumsContinue(t *testing.T) {
	for seed := range *seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			runWorld(t, seed)
		})
	}
}

func runWorld(t *testing.T, seed uint64) {
	w := &world{t: t, r: rand.New(rand.NewPCG(seed, 7)), truth: map[string]*big.Float{}, seen: map[string]map[string]float64{}}
	w.main = w.start()
	w.main.main = true
	for range 100 {
		w.step()
	}
	if w.next != nil {
		w.next.tell(w.main)
		w.next, w.main.next = nil, nil
	}
	for len(w.draining) > 0 {
		w.drained()
	}
	w.check()
}

func (w *world) step() {
	w.countAll()
	if w.r.IntN(2) == 0 {
		w.scrape("newcomer", w.accepting())
	}
	if w.r.IntN(2) == 0 {
		w.scrape("keep-alive", w.main)
	}
	main, next := w.main, w.next
	switch event := w.r.IntN(10); {
	case event == 9 && next != nil && !next.accepts:
		w.say("serve")
		next.accepts = true
	case event == 9:
		w.say("commit")
		w.main.take(main.Commit(w.t.Context()))
	case event == 0 && next == nil:
		w.say("upgrade")
		main.base = main.frame()
		w.stored = main.base // the state is committed with the handover
		w.next = w.start()
		w.next.take(w.next.load(format, main.base))
		w.next.base, main.next = main.base, w.next
	case event <= 1 && next != nil:
		w.say("promote")
		main.main, main.next = false, nil
		main.to = next
		main.tell(next)
		w.scrape("keep-alive", main)
		if w.r.IntN(2) == 0 {
			w.scrape("keep-alive", next) // it moves before that has the lease
		}
		w.scrape("newcomer", next)
		w.draining = append(w.draining, main)
		w.main, w.next = next, nil
		next.main = true
		if w.r.IntN(3) == 0 {
			w.say("killed before its first commit")
			w.draining = nil
			w.restart()
			return
		}
		next.commit()
	case event == 2 && next != nil:
		w.say("roll back")
		w.next, main.next = nil, nil
		w.scrape("newcomer", main)
		next.tell(main)
		w.scrape("newcomer", main)
		next.count() // what it still answers
		next.tell(main)
	case event == 3 && next != nil:
		w.say("successor killed")
		w.next, main.next = nil, nil
		w.died()
	case event == 4 && next != nil && len(w.draining) == 0:
		w.say("predecessor killed")
		if next.pending != nil {
			next.take(next.merge(format, next.difference(next.pending, next.base)))
		}
		w.main, w.next = next, nil
		next.main = true
		w.died()
	case event <= 6 && len(w.draining) > 0:
		w.say("beat of the drain")
		for _, g := range w.draining {
			g.tell(g.to)
		}
	case event == 7 && len(w.draining) > 0:
		w.drained()
	case event == 8 && next == nil && len(w.draining) == 0 && w.stored != nil:
		w.say("killed")
		w.restart()
	}
	if w.next == nil && len(w.draining) == 0 && w.r.IntN(3) == 0 {
		w.check()
	}
}

// restart begins with what systemd has.
func (w *world) restart() {
	w.main = w.start()
	w.main.take(w.main.load(format, w.stored))
	w.main.main = true
	w.died()
}

// accepting is who gets new connections.
func (w *world) accepting() *generation {
	if w.next != nil && w.next.accepts {
		return w.next
	}
	return w.main
}

func (w *world) countAll() {
	all := append([]*generation{w.main}, w.draining...)
	if w.next != nil && w.next.accepts {
		all = append(all, w.next)
	}
	for _, g := range all {
		for range w.r.IntN(4) {
			g.count()
		}
	}
}

// drained ends the oldest drain. The others wait for it.
func (w *world) drained() {
	w.say("drained")
	g := w.draining[0]
	w.draining = w.draining[1:]
	g.tell(g.to)
}
