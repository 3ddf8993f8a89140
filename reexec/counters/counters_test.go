// SPDX-License-Identifier: Apache-2.0

package counters

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-go/holdfast/reexec"
)

// commit is what Counters asks for before it shows something.
type commit func() error

func (c commit) Commit(context.Context) error { return c() }

// begin returns the gatherer of a version with these collectors that is main,
// and has a frame of an earlier version, or nil.
func begin(t *testing.T, frame []byte, collect ...prometheus.Collector) *Counters {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collect...)
	c := newCounters(registry)
	if frame != nil {
		if err := c.load(format, frame); err != nil {
			t.Fatal(err)
		}
	}
	c.state = commit(func() error { return c.save(&bytes.Buffer{}) })
	return c
}

func frameOf(t *testing.T, c *Counters) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := c.save(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// text is what a scraper gets, without comments and the series _created.
func text(t *testing.T, c prometheus.Gatherer) string {
	t.Helper()
	families, err := c.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(exposition(t, families, expfmt.NewFormat(expfmt.TypeTextPlain))) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return strings.Join(lines, "; ")
}

func exposition(t *testing.T, families []*dto.MetricFamily, as expfmt.Format) string {
	t.Helper()
	var buf bytes.Buffer
	encoder := expfmt.NewEncoder(&buf, as)
	for _, f := range families {
		if err := encoder.Encode(f); err != nil {
			t.Fatal(err)
		}
	}
	if closer, ok := encoder.(expfmt.Closer); ok {
		if err := closer.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return buf.String()
}

func want(t *testing.T, what string, c prometheus.Gatherer, want string) {
	t.Helper()
	if got := text(t, c); got != want {
		t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

func counter(name string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: name}, labels)
}

func gauge(name string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: name})
}

func histogram(name string, buckets ...float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: name, Buckets: buckets})
}

func TestContinues(t *testing.T) {
	one, open, h := counter("x_total", "code"), gauge("open"), histogram("h", 1, 2)
	c := begin(t, nil, one, open, h)
	one.WithLabelValues("200").Add(3)
	one.WithLabelValues("404").Add(1)
	open.Set(5)
	h.Observe(1.5)
	first := frameOf(t, c)

	two, open, h := counter("x_total", "code"), gauge("open"), histogram("h", 1, 2)
	c = begin(t, first, two, open, h)
	want(t, "before anything was counted", c, `h_bucket{le="1"} 0; h_bucket{le="2"} 1; h_bucket{le="+Inf"} 1; h_sum 1.5; h_count 1; open 0; x_total{code="200"} 3; x_total{code="404"} 1`)
	two.WithLabelValues("200").Add(1)
	two.WithLabelValues("100").Add(1)
	h.Observe(7)
	want(t, "after that", c, `h_bucket{le="1"} 0; h_bucket{le="2"} 1; h_bucket{le="+Inf"} 2; h_sum 8.5; h_count 2; open 0; x_total{code="100"} 1; x_total{code="200"} 4; x_total{code="404"} 1`)

	// A version that has none of these metrics hands them on.
	c = begin(t, frameOf(t, c))
	c = begin(t, frameOf(t, c), counter("x_total", "code"))
	want(t, "two versions later", c, `h_bucket{le="1"} 0; h_bucket{le="2"} 1; h_bucket{le="+Inf"} 2; h_sum 8.5; h_count 2; x_total{code="100"} 1; x_total{code="200"} 4; x_total{code="404"} 1`)
}

// The time of creation is the first generation's, and exemplars and quantiles are of
// this process.
func TestWhatDoesNotAdd(t *testing.T) {
	build := func() (prometheus.Counter, prometheus.Histogram, prometheus.Summary) {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "x_total", Help: "x"}),
			prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", Help: "h", Buckets: []float64{1}, NativeHistogramBucketFactor: 2}),
			prometheus.NewSummary(prometheus.SummaryOpts{Name: "s", Help: "s", Objectives: map[float64]float64{0.5: 0.05}})
	}
	observe := func(x prometheus.Counter, h prometheus.Histogram, s prometheus.Summary, v float64) {
		label := prometheus.Labels{"trace": fmt.Sprint(v)}
		x.(prometheus.ExemplarAdder).AddWithExemplar(v, label)
		h.(prometheus.ExemplarObserver).ObserveWithExemplar(v, label)
		h.(prometheus.ExemplarObserver).ObserveWithExemplar(v/10, label)
		s.Observe(v)
	}
	x, h, s := build()
	c := begin(t, nil, x, h, s)
	observe(x, h, s, 4)
	before, err := c.Gather()
	if err != nil {
		t.Fatal(err)
	}
	x, h, s = build()
	c = begin(t, frameOf(t, c), x, h, s)
	observe(x, h, s, 6)
	after, err := c.Gather()
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(x, h, s)
	own, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range after { // h, s, x_total
		was, is, mine := before[i].Metric[0], f.Metric[0], own[i].Metric[0]
		switch f.GetName() {
		case "x_total":
			if is.Counter.GetValue() != 10 || !proto.Equal(is.Counter.Exemplar, mine.Counter.Exemplar) || !proto.Equal(is.Counter.CreatedTimestamp, was.Counter.CreatedTimestamp) {
				t.Errorf("counter %v after %v", is, was)
			}
		case "s":
			if is.Summary.GetSampleCount() != 2 || is.Summary.GetSampleSum() != 10 || is.Summary.Quantile[0].GetValue() != 6 || !proto.Equal(is.Summary.CreatedTimestamp, was.Summary.CreatedTimestamp) {
				t.Errorf("summary %v after %v", is, was)
			}
		case "h":
			if is.Histogram.GetSampleCount() != 4 || !proto.Equal(is.Histogram.CreatedTimestamp, was.Histogram.CreatedTimestamp) || len(is.Histogram.Exemplars) != 2 {
				t.Errorf("histogram %v after %v", is, was)
			}
			for j, b := range is.Histogram.Bucket {
				if !proto.Equal(b.Exemplar, mine.Histogram.Bucket[j].Exemplar) || b.GetCumulativeCount() != 2*mine.Histogram.Bucket[j].GetCumulativeCount() {
					t.Errorf("bucket %v, this process's is %v", b, mine.Histogram.Bucket[j])
				}
			}
			if n := len(is.Histogram.Bucket); n != 2 || !math.IsInf(is.Histogram.Bucket[1].GetUpperBound(), 1) {
				t.Errorf("%d buckets: %v", n, is.Histogram.Bucket)
			}
		}
	}
}

// What describes a process or has a time of its own is as the registry has it.
func TestDoesNotContinue(t *testing.T) {
	timed := collector(func(ch chan<- prometheus.Metric) {
		desc := prometheus.NewDesc("timed_total", "t", nil, nil)
		ch <- prometheus.NewMetricWithTimestamp(time.Unix(1, 0), prometheus.MustNewConstMetric(desc, prometheus.CounterValue, 7))
	})
	kinds := func() []prometheus.Collector {
		return []prometheus.Collector{
			timed, counter("go_things_total"), prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "process_cpu_seconds_total", Help: "p"}, func() float64 { return 3 }),
			prometheus.NewUntypedFunc(prometheus.UntypedOpts{Name: "untyped", Help: "u"}, func() float64 { return 4 }),
			prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "process_orders_total", Help: "p"}, func() float64 { return 3 }),
		}
	}
	c := begin(t, nil, kinds()...)
	c = begin(t, frameOf(t, c), kinds()...)
	want(t, "in the second version", c, `process_cpu_seconds_total 3; process_orders_total 6; timed_total 7 1000; untyped 4`)

	// All that grows in what client_golang says about a process.
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(collectors.MetricsAll)))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counters := 0
	for _, f := range families {
		if grows(f.GetType()) {
			counters++
			if !ofOneProcess(f.GetName()) {
				t.Errorf("%s describes one process, and would continue", f.GetName())
			}
		}
	}
	if counters < 20 {
		t.Errorf("%d counters of a process found", counters)
	}
}

// collector is an unchecked one: it describes nothing before.
type collector func(chan<- prometheus.Metric)

func (collector) Describe(chan<- *prometheus.Desc)           {}
func (c collector) Collect(metrics chan<- prometheus.Metric) { c(metrics) }

// A version that counts something in another way begins anew with it, and with
// nothing else.
func TestCountedInAnotherWay(t *testing.T) {
	fixed, other := counter("fixed_total"), prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "x", Help: "x"}, func() float64 { return 9 })
	h, sum := histogram("h", 1, 2), histogram("s", 1)
	fixed.WithLabelValues().Add(1)
	h.Observe(1)
	sum.Observe(1)
	old := begin(t, nil, fixed, other, h, sum)
	first := frameOf(t, old)

	build := func() []prometheus.Collector {
		x, h, sum := gauge("x"), histogram("h", 1, 3), prometheus.NewSummary(prometheus.SummaryOpts{Name: "s", Help: "s"})
		h.Observe(3)
		sum.Observe(2)
		return []prometheus.Collector{counter("fixed_total"), x, h, sum}
	}
	const anew = `fixed_total 1; h_bucket{le="1"} 0; h_bucket{le="3"} 1; h_bucket{le="+Inf"} 1; h_sum 3; h_count 1; s_sum 2; s_count 1; x 0`
	c := begin(t, first, build()...)
	want(t, "another type and other buckets", c, anew)

	// What the old version counts while both serve is not added to what is another thing.
	fixed.WithLabelValues().Add(1)
	h.Observe(1)
	sum.Observe(1)
	added, err := subtract(frameOf(t, old), first)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.merge(format, added); err != nil {
		t.Fatal(err)
	}
	want(t, "with what the old version counts", c, strings.Replace(anew, "fixed_total 1", "fixed_total 2", 1))

	// And the other way round: the new version was undone.
	if added, err = subtract(frameOf(t, c), first); err != nil {
		t.Fatal(err)
	}
	before := text(t, old)
	if err := old.merge(format, added); err != nil {
		t.Fatal(err)
	}
	want(t, "the old version", old, strings.Replace(before, "fixed_total 2", "fixed_total 3", 1))

	// A native part for the first time.
	with := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", Help: "h", Buckets: []float64{1, 2}, NativeHistogramBucketFactor: 2})
	with.Observe(1)
	want(t, "with native buckets", begin(t, first, with), `fixed_total 1; h_bucket{le="1"} 1; h_bucket{le="2"} 1; h_bucket{le="+Inf"} 1; h_sum 1; h_count 1; s_bucket{le="1"} 1; s_bucket{le="+Inf"} 1; s_sum 1; s_count 1; x 9`)
}

// What an earlier version has counted under a name that is part of another metric now is gone:
// it would be there twice.
func TestNamesCollide(t *testing.T) {
	old := counter("h_count")
	old.WithLabelValues().Add(5)
	h := histogram("h", 1)
	want(t, "a histogram over a counter", begin(t, frameOf(t, begin(t, nil, old)), h),
		`h_bucket{le="1"} 0; h_bucket{le="+Inf"} 0; h_sum 0; h_count 0`)
	old.WithLabelValues().Add(1)
	want(t, "a counter over a histogram", begin(t, frameOf(t, begin(t, nil, h)), old), `h_count 6`)
}

func TestResetByTheService(t *testing.T) {
	x := counter("x_total", "tenant")
	x.WithLabelValues("a").Add(10)
	x.WithLabelValues("b").Add(10)
	x.WithLabelValues("c").Add(10)
	frame := frameOf(t, begin(t, nil, x))

	x = counter("x_total", "tenant")
	c := begin(t, frame, x)
	x.WithLabelValues("a").Add(1)
	x.WithLabelValues("b").Add(1)
	want(t, "first", c, `x_total{tenant="a"} 11; x_total{tenant="b"} 11; x_total{tenant="c"} 10`)
	x.DeleteLabelValues("a")
	x.DeleteLabelValues("b")
	x.WithLabelValues("b").Add(5)
	want(t, "a was deleted, b was and is counted again", c, `x_total{tenant="b"} 5; x_total{tenant="c"} 10`)
	x.WithLabelValues("a").Add(1)
	want(t, "a is counted again", c, `x_total{tenant="a"} 1; x_total{tenant="b"} 5; x_total{tenant="c"} 10`)
	want(t, "the next version", begin(t, frameOf(t, c)), `x_total{tenant="a"} 1; x_total{tenant="b"} 5; x_total{tenant="c"} 10`)
}

// A collector that is silent or fails for a while does not make anything begin anew.
func TestCollectorFails(t *testing.T) {
	type answer int
	const (
		tells answer = iota
		silent
		fails
	)
	state := tells
	desc := prometheus.NewDesc("peer_total", "p", nil, nil)
	peer := collector(func(ch chan<- prometheus.Metric) {
		switch state {
		case tells:
			ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, 4)
		case fails:
			ch <- prometheus.NewInvalidMetric(desc, errors.New("the peer does not answer"))
		}
	})
	c := begin(t, nil, peer)
	c = begin(t, frameOf(t, c), peer)
	want(t, "first", c, "peer_total 8")
	state = silent
	want(t, "silent", c, "")
	state = tells
	want(t, "again", c, "peer_total 8")

	state = fails
	families, err := c.Gather()
	if err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("error %v, want the collector's", err)
	}
	if len(families) != 1 || families[0].Metric[0].Counter.GetValue() != 8 {
		t.Errorf("while it fails: %v, want what was seen last", families)
	}
	want(t, "the next version", begin(t, frameOf(t, c)), "peer_total 8")
	state = tells
	want(t, "after the failure", c, "peer_total 8")
}

// What main shows is committed before, and what others show is known to main.
func TestShowsWhatIsKnown(t *testing.T) {
	x := counter("x_total")
	c := begin(t, nil, x)
	x.WithLabelValues().Add(1)
	var committed []byte
	var answer error
	c.state = commit(func() error {
		if answer == nil || errors.As(answer, new(*reexec.StoreError)) && !errors.Is(answer, reexec.ErrNotMain) {
			committed = frameOf(t, c)
			// It is counted on, and somebody else saves, before the commit is over.
			x.WithLabelValues().Add(1)
			frameOf(t, c)
		}
		return answer
	})
	want(t, "main", c, "x_total 1")
	want(t, "after a crash", begin(t, committed), "x_total 1")
	want(t, "main", c, "x_total 2")

	answer = fmt.Errorf("commit: %w", reexec.ErrNotMain)
	x.WithLabelValues().Add(10)
	want(t, "no longer main", c, "x_total 3")
	added, err := subtract(frameOf(t, begin(t, nil, x)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.merge(format, added); err != nil {
		t.Fatal(err)
	}
	want(t, "what another has told it, and nobody else", c, "x_total 3")
	frameOf(t, c)
	want(t, "told to main", c, "x_total 26")

	answer = context.DeadlineExceeded
	want(t, "while it is decided who is main", c, "x_total 26")
	answer = nil
	c.phase = func() phase { return overlaps }
	want(t, "while a successor is on trial", c, "x_total 26")
	c.phase = func() phase { return alone }
	answer = &reexec.StoreError{Err: reexec.ErrNotMain}
	want(t, "on the way to another", c, "x_total 26")
	answer = &reexec.StoreError{Err: errors.New("full")}
	want(t, "without a store", c, "x_total 26")
}

// Before a state was loaded or saved there is nothing but this process's.
func TestOnTrialWithoutPredecessor(t *testing.T) {
	x := counter("x_total")
	x.WithLabelValues().Add(2)
	c := begin(t, nil, x)
	c.state = commit(func() error { return reexec.ErrNotMain })
	want(t, "alone", c, "x_total 2")
}

// What comes out can be read by what reads Prometheus's formats, and says the same in each.
func TestExposition(t *testing.T) {
	all := sample(t)
	c := begin(t, all.encode(nil), counter("requests_total", "code", "path"), gauge("open"))
	families, err := c.Gather()
	if err != nil {
		t.Fatal(err)
	}
	plain := exposition(t, families, expfmt.NewFormat(expfmt.TypeTextPlain))
	parser := expfmt.NewTextParser(model.UTF8Validation)
	parsed, err := parser.TextToMetricFamilies(strings.NewReader(plain))
	if err != nil {
		t.Fatalf("%v in\n%s", err, plain)
	}
	if got, want := slices.Sorted(maps.Keys(parsed)), []string{"latency_seconds", "open", "requests_total", "size_bytes"}; !slices.Equal(got, want) {
		t.Errorf("metrics %q, want %q", got, want)
	}
	labels := map[string]float64{}
	for _, m := range parsed["requests_total"].Metric {
		labels[m.Label[1].GetValue()] = m.Counter.GetValue()
	}
	if labels["/"] != 1e17 || labels["a\"b\\c\nd{}=,ü\x00"] != 0.1+0.3 || len(labels) != 2 {
		t.Errorf("requests %v", labels)
	}
	if help := parsed["requests_total"].GetHelp(); help != "Requests \"answered\"\n\\." && help != "requests_total" {
		t.Errorf("help %q", help)
	}
	h := parsed["latency_seconds"].Metric[0].Histogram
	if h.GetSampleCount() != 8 || !math.IsNaN(h.GetSampleSum()) || h.Bucket[len(h.Bucket)-1].GetCumulativeCount() != 8 {
		t.Errorf("histogram %v", h)
	}

	// OpenMetrics refuses metrics that are not grouped, and ends with # EOF.
	open := exposition(t, families, expfmt.NewFormat(expfmt.TypeOpenMetrics))
	if !strings.HasSuffix(open, "# EOF\n") || !strings.Contains(open, `requests_total{code="200",path="/"} 1e+17`) {
		t.Errorf("OpenMetrics:\n%s", open)
	}

	// As protocol buffers, with the native part.
	var buf bytes.Buffer
	encoder := expfmt.NewEncoder(&buf, expfmt.NewFormat(expfmt.TypeProtoDelim))
	for _, f := range families {
		if err := encoder.Encode(f); err != nil {
			t.Fatal(err)
		}
	}
	decoder := expfmt.NewDecoder(&buf, expfmt.NewFormat(expfmt.TypeProtoDelim))
	for _, f := range families {
		var got dto.MetricFamily
		if err := decoder.Decode(&got); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(&got, f) {
			t.Errorf("got %v, want %v", &got, f)
		}
	}
}

// Labels of one series are never taken for those of another.
func TestLabelKeys(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 9))
	pieces := []string{"", "a", "b", "\x01", "\x02a", "ab", "é", "\""}
	seen := map[string][]string{}
	for range 5000 {
		var pairs []string
		for i := range r.IntN(4) {
			pairs = append(pairs, fmt.Sprint("l", i)+pieces[r.IntN(len(pieces))], pieces[r.IntN(len(pieces))]+pieces[r.IntN(len(pieces))])
		}
		var labels []*dto.LabelPair
		for i := 0; i < len(pairs); i += 2 {
			labels = append(labels, &dto.LabelPair{Name: &pairs[i], Value: &pairs[i+1]})
		}
		key := string(labelKey(nil, labels))
		if other, ok := seen[key]; ok && !slices.Equal(other, pairs) {
			t.Fatalf("%q and %q have the key %q", other, pairs, key)
		}
		seen[key] = pairs
		back := labelsOf(key)
		if len(back) != len(labels) {
			t.Fatalf("%q became %v", pairs, back)
		}
		for i := range back {
			if !proto.Equal(back[i], labels[i]) {
				t.Fatalf("%q became %v", pairs, back)
			}
		}
	}
}
