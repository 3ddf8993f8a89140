// SPDX-License-Identifier: Apache-2.0

// Command counting is an HTTP service that counts its requests for Prometheus, and
// goes on to do so across upgrades, rollbacks, crashes and restarts: upgrade_test.go
// scrapes it all the while.
package main

import (
	"context"
	"flag"
	"io"
	"log"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/reexec/counters"
)

func main() {
	probation := flag.Duration("probation", 5*time.Second, "how long a new version is on trial")
	flag.Parse()

	service, err := reexec.New(reexec.Options{Name: "counting", Probation: *probation})
	if err != nil {
		log.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	requests := prometheus.NewCounter(prometheus.CounterOpts{Name: "requests_total", Help: "Requests that were answered."})
	latency := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "latency_seconds", Help: "How long that took.", Buckets: prometheus.DefBuckets, NativeHistogramBucketFactor: 1.1,
	})
	registry.MustRegister(requests, latency)
	gatherer, err := counters.Continue(service, registry)
	if err != nil {
		log.Fatal(err)
	}

	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{}))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		_, _ = io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, 1<<20))
		requests.Inc() // before the answer, so that nobody has one that is not counted
		latency.Observe(time.Since(began).Seconds())
		_, _ = io.WriteString(w, "counted\n")
	})
	listener, err := service.Listen("http", "tcp", "127.0.0.1:8080")
	if err != nil {
		log.Fatal(err)
	}
	service.Serve(&http.Server{Handler: mux}, listener)
	if err := service.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
