// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/fingerprint"
)

// sample is one series of a gathered registry.
func sample(t *testing.T, families []*dto.MetricFamily, name string, labels ...string) *dto.Metric {
	t.Helper()
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	series:
		for _, m := range f.Metric {
			have := map[string]string{}
			for _, l := range m.Label {
				have[l.GetName()] = l.GetValue()
			}
			if have["service"] != "myapp" {
				t.Errorf("%s has the labels %v", name, have)
			}
			for i := 0; i < len(labels); i += 2 {
				if have[labels[i]] != labels[i+1] {
					continue series
				}
			}
			return m
		}
	}
	return nil
}

func register(t *testing.T, st *control.Status) (*metrics, func() []*dto.MetricFamily) {
	t.Helper()
	m := newMetrics(*st)
	m.status = func() control.Status { return *st }
	r := prometheus.NewPedanticRegistry()
	for _, c := range []prometheus.Collector{m.attempts, m.latency, m.drain, m.moved, m} {
		if err := r.Register(c); err != nil {
			t.Fatal(err)
		}
	}
	return m, func() []*dto.MetricFamily {
		t.Helper()
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		return families
	}
}

func TestMetrics(t *testing.T) {
	to := func(version string) *control.Process { return &control.Process{PID: 2, Version: version} }
	st := control.Status{
		Name: "myapp", Mode: "overlap", State: "running", Generation: 3, Version: "v3",
		Fingerprint: &fingerprint.Fingerprint{Revision: "abc", Modified: true, Go: "go1.26.0"},
	}
	m, gather := register(t, &st)
	value := func(name string, labels ...string) float64 {
		t.Helper()
		s := sample(t, gather(), name, labels...)
		switch {
		case s == nil:
			t.Fatalf("there is no %s%q", name, labels)
		case s.Counter != nil:
			return s.Counter.GetValue()
		case s.Histogram != nil:
			return float64(s.Histogram.GetSampleCount())
		}
		return s.Gauge.GetValue()
	}
	// All are there before the first attempt, so that it is an increase.
	for _, r := range []string{"upgraded", "refused", "rolled back", "stopped"} {
		if v := value("hot_update_attempts_total", "result", r); v != 0 {
			t.Errorf("%v attempts ended %s", v, r)
		}
	}
	for _, p := range []string{"checking", "starting", "probation", "promoting"} {
		if v := value("hot_update_latency_seconds", "phase", p); v != 0 {
			t.Errorf("%v observations of %s", v, p)
		}
	}
	if s := sample(t, gather(), "hot_update_resident_memory_bytes"); s != nil {
		t.Errorf("memory around no attempt: %v", s)
	}

	o := m.observer()
	verdicts := []control.Verdict{
		{Outcome: control.Upgraded, To: to("v3"), Before: &control.Memory{Resident: 10, Heap: 1}, After: &control.Memory{Resident: 20, Heap: 2}},
		{Outcome: control.Refused, To: to("v3")},
		{Outcome: control.Stopped, To: to("v3")},
		{Outcome: control.RolledBack, To: to("v2")},
		{Outcome: control.Refused},
	}
	for _, v := range verdicts {
		v.Phases = []control.Phase{{Name: "checking", Seconds: 0.3}, {Name: "probation", Seconds: 5}}
		o.Verdict(v)
	}
	o.Drained(control.Drain{Seconds: 1.5})
	o.Moved(7)
	st.History = verdicts
	for _, c := range []struct {
		name  string
		label []string
		want  float64
	}{
		{"hot_update_attempts_total", []string{"result", "refused"}, 2},
		{"hot_update_attempts_total", []string{"result", "rolled back"}, 1},
		{"hot_update_latency_seconds", []string{"phase", "checking"}, 5},
		{"hot_update_drain_seconds", nil, 1},
		{"hot_update_moved_connections_total", nil, 7},
		{"hot_update_generation", nil, 3},
		{"hot_update_success_rate", []string{"version", "v3"}, 0.5},
		{"hot_update_success_rate", []string{"version", "v2"}, 0},
		{"hot_update_success_rate", []string{"version", ""}, 0},
		{"hot_update_resident_memory_bytes", []string{"when", "before"}, 10},
		{"hot_update_resident_memory_bytes", []string{"when", "after"}, 20},
		{"hot_update_heap_bytes", []string{"when", "after"}, 2},
		{"hot_update_probation", nil, 0},
		{"hot_update_build_info", []string{"version", "v3", "revision", "abc", "modified", "true", "goversion", "go1.26.0"}, 1},
	} {
		if got := value(c.name, c.label...); got != c.want {
			t.Errorf("%s%q is %v, want %v", c.name, c.label, got, c.want)
		}
	}
	for _, le := range []float64{0.1, 0.25, 0.5, 1, 2} {
		found := false
		for _, b := range sample(t, gather(), "hot_update_latency_seconds", "phase", "checking").Histogram.Bucket {
			found = found || b.GetUpperBound() == le
		}
		if !found {
			t.Errorf("no bucket ends at %v", le)
		}
	}

	// One state at a time is 1, whatever it is.
	for _, state := range states {
		st.State = state
		for _, s := range states {
			if got := value("hot_update_state", "state", s); (got == 1) != (s == state) {
				t.Errorf("in %s the series of %s is %v", state, s, got)
			}
		}
		if got, want := value("hot_update_probation"), state == "probation" || state == "promoting" || state == "on trial"; (got == 1) != want {
			t.Errorf("in %s probation is %v", state, got)
		}
	}
}

// What another version says of itself may be anything, and spoils no scrape.
func TestMetricsOfAStrangeVersion(t *testing.T) {
	st := control.Status{Name: "myapp", Version: "\xff", History: []control.Verdict{
		{Outcome: "\xfe", To: &control.Process{Version: "v\xff"}, Started: time.Now()},
		{Outcome: control.Refused, To: &control.Process{Version: "v?"}},
		{Outcome: control.Refused, To: &control.Process{Version: strings.Repeat("x\"\n", 100)}},
	}}
	m, gather := register(t, &st)
	m.observer().Verdict(control.Verdict{Outcome: "\xfe", Phases: []control.Phase{{Name: "\xff", Seconds: -1}}})
	if s := sample(t, gather(), "hot_update_success_rate", "version", "v?"); s == nil {
		t.Error("the version is not there")
	}
}
