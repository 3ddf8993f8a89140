// SPDX-License-Identifier: Apache-2.0

// Package observe is how package metrics hears of what happens to a service: the
// service itself knows nothing of Prometheus.
package observe

import "github.com/holdfast-go/holdfast/reexec/control"

// Observer hears of each event in the generation that is main then, once. Its functions
// are called from several goroutines, and do not block. Nil ones hear nothing.
type Observer struct {
	// Verdict is that of an attempt, with what main has of memory after it.
	Verdict func(control.Verdict)
	// Drained says how the old version of an upgrade has ended.
	Drained func(control.Drain)
	// Moved are connections and sessions that have come from another generation.
	Moved func(n int)
}
