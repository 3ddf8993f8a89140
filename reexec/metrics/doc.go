// SPDX-License-Identifier: Apache-2.0

// Package metrics shows the upgrades of a service to Prometheus.
//
//	registry := prometheus.NewRegistry()
//	registry.MustRegister(requests) // the service's own
//	if err := metrics.Serve(svc, registry); err != nil { ... } // before Run
//	mux.Handle("/metrics", svc.Handler()) // for those who may not ask on the control socket
//
// [Serve] lets all counters of the registry continue (package counters), and serves
// them on /metrics of the control socket and of [reexec.Service.Handler]. A service that
// does these two itself calls [Register] only.
//
// # The metrics
//
// All have the label service, the name of the service.
//
//	hot_update_attempts_total{result}          attempts to upgrade, by their outcome: "upgraded",
//	                                           "refused", "rolled back", "stopped"
//	hot_update_success_rate{version}           of the attempts in the history (the last 16), the
//	                                           share of those to this version that ended upgraded
//	hot_update_latency_seconds{phase}          histogram: how long each phase of an attempt took
//	hot_update_drain_seconds                   histogram: how long the old version of an upgrade
//	                                           took to answer what it had
//	hot_update_moved_connections_total         connections and sessions that went on in another
//	                                           generation
//	hot_update_generation                      counts the versions since systemd started the service
//	hot_update_state{state}                    1 for the state of the generation that answers, else 0
//	hot_update_probation                       1 while a version is on trial, else 0
//	hot_update_resident_memory_bytes{when}     of main before and after the last attempt: "before",
//	                                           "after"
//	hot_update_heap_bytes{when}                the same of Go's heap
//	hot_update_build_info{version, revision, modified, goversion}
//	                                           1: the build that answers
//
// The counters and histograms continue across upgrades, rollbacks and crashes, as
// package counters says: no scrape shows less than one before, whichever generation
// answers. An attempt is counted once, by the generation that is main after it, so
// from the verdict on. The gauges are those of the generation that answers; what is
// about attempts is the same in all.
//
// Dashboard and alerts are in packaging/prometheus.
package metrics
