// SPDX-License-Identifier: Apache-2.0

package counters_test

import (
	"context"
	"log"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/reexec/counters"
)

func ExampleContinue() {
	svc, err := reexec.New(reexec.Options{Name: "myapp"})
	if err != nil {
		log.Fatal(err)
	}
	requests := prometheus.NewCounter(prometheus.CounterOpts{Name: "requests_total", Help: "Requests."})
	registry := prometheus.NewRegistry()
	registry.MustRegister(requests)
	gatherer, err := counters.Continue(svc, registry)
	if err != nil {
		log.Fatal(err)
	}
	http.Handle("/metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{}))
	http.HandleFunc("/", func(http.ResponseWriter, *http.Request) { requests.Inc() })
	listener, err := svc.Listen("http", "tcp", "127.0.0.1:8080")
	if err != nil {
		log.Fatal(err)
	}
	svc.Serve(&http.Server{}, listener)
	if err := svc.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
