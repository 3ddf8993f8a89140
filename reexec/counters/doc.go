// SPDX-License-Identifier: Apache-2.0

// Package counters lets the counters of a Prometheus registry continue: across
// upgrades, rollbacks, crashes and restarts of the service.
//
//	registry := prometheus.NewRegistry()
//	gatherer, err := counters.Continue(svc, registry) // before Run
//	mux.Handle("/metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{}))
//
// Nothing changes where the service counts. Every process counts from zero, and
// the gatherer adds what earlier generations have counted: to counters, to the
// buckets, counts and sums of histograms, classic and native, and to the counts
// and sums of summaries. A series that was counted earlier and not yet by this
// process is there, too. While two generations serve at once, each tells the other
// what it has counted ([reexec.Merged]), so no request is counted twice or missed.
//
// # What does not continue
//
//   - Gauges, untyped metrics, the quantiles of summaries and exemplars are those of
//     this process.
//   - The counters that describe a process: all go_*, and process_cpu_seconds_total,
//     process_network_receive_bytes_total and process_network_transmit_bytes_total.
//   - Metrics with a time of their own, and float histograms.
//
// Counters of something that outlives the process, such as those of a network
// interface, must not be added up. Put their collectors into a registry of their own:
//
//	prometheus.Gatherers{gatherer, kernel}
//
// # Nothing falls
//
// Prometheus takes a counter that falls, be it by one unit in the last place, for one that began
// again at zero, and counts all of it again. So totals are sums without rounding,
// and nothing is shown that could be lost:
//
//   - Main commits the totals to systemd's fd store before it shows them. After a
//     crash they are at least what was seen last; lost is what was counted since
//     then. A scrape costs some messages to systemd therefore. If
//     the store is full or there is none, the numbers are shown all the same, and begin
//     at zero after a crash; [reexec.Service.Status] says so.
//   - From the handover until the first commit of the new version as main, which is as
//     long as its start and its probation take, and some milliseconds, both versions show what
//     was counted when it began, and what systemd got then: either may die with what it
//     counts meanwhile, or both. Then all of it appears at once.
//   - So does a version that drains.
//
// The time of creation is that of the first generation.
//
// # When a version counts in another way
//
// A sum of what does not fit is never shown. What changes begins anew in the new
// version, as it would in a new process, and Prometheus sees that it does:
//
//   - a metric of another type,
//   - a histogram with other buckets, or with native buckets for the first time or no longer.
//
// What one of two such generations counts during an overlap is not added to the other's.
// Different schemas and zero thresholds of native histograms do fit: the sum has
// the lower resolution. It has at most 320 buckets, if lower resolution helps,
// whatever the limit of the service's own histogram is.
// Other labels are other series, and the old ones stay beside them. So does a metric
// that the new version has no longer, until systemd forgets it: with the
// default FileDescriptorStorePreserve=restart when the service is stopped.
//
// # Resets
//
// A series that the service deletes (DeleteLabelValues, Reset) is gone, with what earlier
// generations have counted, and when it is counted again it begins anew. That is
// seen by a later time of creation or a lower value. A native histogram that resets
// itself (NativeHistogramMinResetDuration) begins anew as well. A series that is
// missing for a while, because its collector does not tell it, goes on when it is
// back. When a collector fails with an error, what it has not told is saved as it was.
package counters
