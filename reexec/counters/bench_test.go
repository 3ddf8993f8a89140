// SPDX-License-Identifier: Apache-2.0

package counters

import (
	"fmt"
	"io"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

// manySeries has n of them: half are counters, half histograms of ten buckets.
func manySeries(n int) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	x := counter("x_total", "client", "code")
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "h", Help: "h"}, []string{"client"})
	registry.MustRegister(x, h)
	for i := range n / 2 {
		x.WithLabelValues(strconv.Itoa(i), "200").Add(float64(i))
		h.WithLabelValues(strconv.Itoa(i)).Observe(float64(i % 10))
	}
	return registry
}

// BenchmarkGather reports in "ratio" what a scrape costs with the totals of earlier
// generations, less systemd's part, as a multiple of one of the registry alone,
// in the same run: of the metrics alone (gather), and with the text that is
// sent (scrape).
func BenchmarkGather(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		first := newCounters(manySeries(n))
		frame := first.snapshot().encode(nil)
		registry := manySeries(n)
		c := newCounters(registry)
		if err := c.load(format, frame); err != nil {
			b.Fatal(err)
		}
		c.state = commit(func() error { return c.save(io.Discard) })
		once := func(g prometheus.Gatherer, send bool) time.Duration {
			began := time.Now()
			families, err := g.Gather()
			if err != nil {
				b.Fatal(err)
			}
			if send {
				encoder := expfmt.NewEncoder(io.Discard, expfmt.NewFormat(expfmt.TypeTextPlain))
				for _, f := range families {
					if err := encoder.Encode(f); err != nil {
						b.Fatal(err)
					}
				}
			}
			return time.Since(began)
		}
		for _, what := range []string{"gather", "scrape"} {
			b.Run(fmt.Sprintf("%s/series=%d", what, n), func(b *testing.B) {
				var plain, continued time.Duration
				for b.Loop() {
					plain += once(registry, what == "scrape")
					continued += once(c, what == "scrape")
				}
				b.ReportMetric(float64(continued)/float64(plain), "ratio")
				b.ReportMetric(float64(plain.Microseconds())/float64(b.N), "plain-µs/op")
				b.ReportMetric(float64(continued.Microseconds())/float64(b.N), "continued-µs/op")
				b.ReportMetric(float64(len(frame)), "frame-bytes")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}
