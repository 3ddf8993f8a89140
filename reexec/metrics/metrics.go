// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/counters"
	"github.com/holdfast-go/holdfast/reexec/internal/observe"
)

// Serve registers the metrics of upgrades with a registry, lets all its counters
// continue, and serves them on /metrics of the control socket and of
// [reexec.Service.Handler]. Call it once, before Run and before anything is counted,
// and not beside [counters.Continue], which it calls.
//
// The error is that of [Register] or of [counters.Continue].
func Serve(svc *reexec.Service, registry *prometheus.Registry) error {
	if err := Register(svc, registry); err != nil {
		return err
	}
	gatherer, err := counters.Continue(svc, registry)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	svc.SetMetrics(promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{}))
	return nil
}

// Register registers the metrics of upgrades. Unless the counters of the registry
// continue, by [counters.Continue], they begin at zero in each generation. Call it once,
// before Run. The error is that of the registry: one of the names is taken.
func Register(svc *reexec.Service, registry prometheus.Registerer) error {
	m := newMetrics(svc.Status())
	m.status = svc.Status
	for _, c := range []prometheus.Collector{m.attempts, m.latency, m.drain, m.moved, m} {
		if err := registry.Register(c); err != nil {
			return fmt.Errorf("metrics: register: %w", err)
		}
	}
	svc.Observe(m.observer())
	return nil
}

// latencyBuckets reach from an upgrade in place of a small service to a long
// probation.
var latencyBuckets = []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120}

// results and phases are there from the beginning, so that the first of each is an
// increase. A phase that no mode has appears when it is seen.
var (
	results = []control.Outcome{control.Upgraded, control.Refused, control.RolledBack, control.Stopped}
	phases  = map[string][]string{
		reexec.Overlap.String(): {"checking", "starting", "probation", "promoting"},
		reexec.InPlace.String(): {"checking", "emptying", "executing"},
		reexec.Restart.String(): {"checking"},
	}
	// states are all words of control.Status.State.
	states = []string{
		"starting up", "on trial", "running", "pre-check", "starting", "probation", "promoting", "emptying", control.Executing,
		"draining", "resigning", "stopping", "gone",
	}
)

// metrics collects what is not counted by itself.
type metrics struct {
	attempts *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	drain    prometheus.Histogram
	moved    prometheus.Counter

	status func() control.Status

	success, generation, state, probation, resident, heap, build *prometheus.Desc
}

// name has the prefix of all names.
func name(rest string) string { return "hot_update_" + rest }

func newMetrics(st control.Status) *metrics {
	service := prometheus.Labels{"service": text(st.Name)}
	desc := func(rest, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name(rest), help, labels, service)
	}
	m := &metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: name("attempts_total"), Help: "Attempts to upgrade, by how they ended.", ConstLabels: service,
		}, []string{"result"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name("latency_seconds"), Help: "How long the phases of an attempt to upgrade took.", ConstLabels: service, Buckets: latencyBuckets,
		}, []string{"phase"}),
		drain: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: name("drain_seconds"), Help: "How long the old version of an upgrade took to answer what it had.", ConstLabels: service, Buckets: latencyBuckets,
		}),
		moved: prometheus.NewCounter(prometheus.CounterOpts{
			Name: name("moved_connections_total"), Help: "Connections and sessions that went on in another generation.", ConstLabels: service,
		}),
		success:    desc("success_rate", "Share of the attempts to upgrade to a version that succeeded, of the last 16 attempts.", "version"),
		generation: desc("generation", "Number of the version since systemd started the service."),
		state:      desc("state", "1 for the state of the generation that answers.", "state"),
		probation:  desc("probation", "1 while a new version is on trial."),
		resident:   desc("resident_memory_bytes", "Resident memory of main before and after the last attempt to upgrade.", "when"),
		heap:       desc("heap_bytes", "Heap of main before and after the last attempt to upgrade.", "when"),
		build:      desc("build_info", "1 for the build that answers.", "version", "revision", "modified", "goversion"),
	}
	for _, r := range results {
		m.attempts.WithLabelValues(string(r))
	}
	for _, p := range phases[st.Mode] {
		m.latency.WithLabelValues(p)
	}
	return m
}

func (m *metrics) observer() observe.Observer {
	return observe.Observer{
		Verdict: func(v control.Verdict) {
			m.attempts.WithLabelValues(text(string(v.Outcome))).Inc()
			for _, p := range v.Phases {
				m.latency.WithLabelValues(text(p.Name)).Observe(p.Seconds)
			}
		},
		Drained: func(d control.Drain) { m.drain.Observe(d.Seconds) },
		Moved:   func(n int) { m.moved.Add(float64(n)) },
	}
}

// Describe is that of [prometheus.Collector].
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.success, m.generation, m.state, m.probation, m.resident, m.heap, m.build} {
		to <- d
	}
}

// Collect is that of [prometheus.Collector].
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	st := m.status()
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	for version, rate := range successRates(st.History) {
		gauge(m.success, rate, version)
	}
	gauge(m.generation, float64(st.Generation))
	for _, s := range states {
		gauge(m.state, oneIf(s == st.State), s)
	}
	gauge(m.probation, oneIf(st.State == "probation" || st.State == "promoting" || st.State == "on trial"))
	if len(st.History) > 0 {
		for when, memory := range map[string]*control.Memory{"before": st.History[0].Before, "after": st.History[0].After} {
			if memory != nil {
				gauge(m.resident, float64(memory.Resident), when)
				gauge(m.heap, float64(memory.Heap), when)
			}
		}
	}
	revision, modified, goversion := "", "false", ""
	if f := st.Fingerprint; f != nil {
		revision, goversion = f.Revision, f.Go
		if f.Modified {
			modified = "true"
		}
	}
	gauge(m.build, 1, text(st.Version), text(revision), modified, text(goversion))
}

// successRates are those of all versions in a history. An attempt that a stop has cut
// short says nothing of the version.
func successRates(history []control.Verdict) map[string]float64 {
	type count struct{ good, all float64 }
	counts := map[string]count{}
	for _, v := range history {
		if v.Outcome == control.Stopped {
			continue
		}
		version := ""
		if v.To != nil {
			version = text(v.To.Version)
		}
		c := counts[version]
		c.all++
		if v.Outcome == control.Upgraded {
			c.good++
		}
		counts[version] = c
	}
	rates := make(map[string]float64, len(counts))
	for version, c := range counts {
		rates[version] = c.good / c.all
	}
	return rates
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// text makes a label value of what another version has said: Prometheus takes
// UTF-8 only.
func text(s string) string { return strings.ToValidUTF8(s, "?") }
