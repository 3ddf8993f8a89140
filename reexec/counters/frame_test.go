// SPDX-License-Identifier: Apache-2.0

package counters

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// sample has one of everything.
func sample(t testing.TB) totals {
	t.Helper()
	registry := prometheus.NewRegistry()
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "requests_total", Help: "Requests \"answered\"\n\\."}, []string{"code", "path"})
	latency := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "latency_seconds", Help: "Latency.", NativeHistogramBucketFactor: 1.1, Buckets: []float64{-1, 0.1, 1, 10},
	}, []string{"method"})
	sizes := prometheus.NewSummary(prometheus.SummaryOpts{Name: "size_bytes", Help: "Größe.", Objectives: map[float64]float64{0.5: 0.05}})
	registry.MustRegister(requests, latency, sizes)
	requests.WithLabelValues("200", "/").Add(1e17)
	requests.WithLabelValues("500", "a\"b\\c\nd{}=,ü\x00").Add(0.1)
	for _, x := range []float64{-3, -0.5, 0, 0.05, 3, 1e300, math.Inf(1), math.NaN()} {
		latency.WithLabelValues("GET").Observe(x)
	}
	sizes.Observe(1.5)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	o := newOthers(nil)
	_, all := o.collect(families)
	// A total with a rest.
	f := all["requests_total"]
	for key, s := range f.series {
		s.sum = s.sum.add(0.3)
		f.series[key] = s
	}
	return all
}

func TestFrameRoundTrip(t *testing.T) {
	want := sample(t).encode(nil)
	got, err := decode(want)
	if err != nil {
		t.Fatal(err)
	}
	if again := got.encode(nil); !bytes.Equal(again, want) {
		t.Errorf("decoded and encoded again:\n got %q\nwant %q", again, want)
	}
	for name, f := range got {
		if f.help != sample(t)[name].help {
			t.Errorf("%s: help %q, want %q", name, f.help, sample(t)[name].help)
		}
	}
	if empty, err := decode(totals{}.encode(nil)); err != nil || len(empty) != 0 {
		t.Errorf("nothing decodes as %v, %v", empty, err)
	}
}

// A frame that is cut anywhere is refused.
func TestFrameCut(t *testing.T) {
	data := sample(t).encode(nil)
	for n := range len(data) {
		if _, err := decode(data[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes are taken for a frame", n, len(data))
		}
	}
}

func TestFrameRefused(t *testing.T) {
	family := func(name string, kind dto.MetricType, series ...byte) []byte {
		buf := appendString(appendString(appendString([]byte{1}, name), "help"), "")
		return append(append(buf, byte(kind)), series...)
	}
	label := func(pairs ...string) []byte {
		var key []byte
		for _, s := range pairs {
			key = appendString(key, s)
		}
		return appendString([]byte{1}, string(key))
	}
	one := appendFloat([]byte{0, 1}, 1) // created and sum
	for _, tc := range []struct {
		name, want string
		data       []byte
	}{
		{"nothing", "it ends too early", nil},
		{"more than there is", "things in", binary.AppendUvarint(nil, math.MaxUint64)},
		{"more after it", "bytes too many", append(totals{}.encode(nil), 0)},
		{"without a name", "without a name", family("", 0, 0)},
		{"not UTF-8", "is of kind", family("\xff", 0, 0)},
		{"a gauge", "is of kind GAUGE", family("x", dto.MetricType_GAUGE, 0)},
		{"labels not sorted", `label "a"="2" after "b"`, family("x", 0, append(label("b", "1", "a", "2"), one...)...)},
		{"labels cut", `labels "\x05a"`, family("x", 0, append(appendString([]byte{1}, "\x05a"), one...)...)},
		{"a negative counter", "a counter of -1", family("x", 0, append(label(), appendFloat([]byte{0, 1}, -1)...)...)},
		{"bounds that fall", "bounds [2 1]", family("x", dto.MetricType_HISTOGRAM,
			append(append(append(label(), one...), 9, 2), append(append(appendFloat(nil, 2), 1), append(appendFloat(nil, 1), 1, 0)...)...)...)},
		{"more below a bound than there are", "of 1 observations", family("x", dto.MetricType_HISTOGRAM,
			append(append(append(label(), one...), 1, 1), append(appendFloat(nil, 2), 5, 0)...)...)},
		{"an unknown schema", "schema 50", family("x", dto.MetricType_HISTOGRAM,
			append(append(append(label(), one...), 1, 0, 1, 100), append(appendFloat(nil, 0), 0, 0, 0)...)...)},
		{"an empty bucket", "with 0 observations", family("x", dto.MetricType_HISTOGRAM,
			append(append(append(label(), one...), 1, 0, 1, 6), append(appendFloat(nil, 0), 0, 1, 2, 0, 0)...)...)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := decode(tc.data)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, error %v; want %q", got, err, tc.want)
			}
		})
	}
	if _, err := decode([]byte{1}); !strings.Contains(err.Error(), "at byte") {
		t.Errorf("%v: want the place", err)
	}
	if _, err := decode([]byte{}); !errors.Is(err, errShort) {
		t.Errorf("%v: want %v", err, errShort)
	}
	if _, err := decodeVersion(format+1, totals{}.encode(nil)); err == nil {
		t.Error("a frame of a later format was taken")
	}
}

// Whatever is taken for a frame can be shown, written again, and added to itself.
func FuzzDecode(f *testing.F) {
	f.Add(sample(f).encode(nil))
	f.Add(totals{}.encode(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		one, err := decode(data)
		if err != nil {
			return
		}
		written := one.encode(nil)
		two, err := decode(written)
		if err != nil {
			t.Fatalf("%q was decoded, but not what was made of it: %v", data, err)
		}
		if again := two.encode(nil); !bytes.Equal(again, written) {
			t.Fatalf("not the same again:\n%q\n%q", written, again)
		}
		for name, mine := range two {
			for key, s := range mine.series {
				m := s.metric(mine.kind, labelsOf(key), nil)
				if back := string(labelKey(nil, m.Label)); back != key {
					t.Fatalf("%s: labels %q became %q", name, key, back)
				}
			}
		}
		show(nil, two)
		two.add(one)
		two.since(one)
	})
}
