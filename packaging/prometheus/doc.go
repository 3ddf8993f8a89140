// SPDX-License-Identifier: Apache-2.0

// Package prometheus has no code: beside it are alert rules and a Grafana dashboard for
// what package reexec/metrics shows.
//
//   - alerts.yml goes where rule_files of prometheus.yml looks, alerts_test.yml shows
//     with promtool when each alert fires and when it does not.
//   - dashboard.json is imported into Grafana; it asks for the data source.
//
// Its tests hold both against the metrics that a service really has.
package prometheus
