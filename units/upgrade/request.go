// SPDX-License-Identifier: Apache-2.0

package upgrade

import "time"

// Request asks for a rollout. The zero value of a field that is not marked as
// required means its default.
type Request struct {
	// ID makes the request idempotent: while it is under way, and after it, the same
	// ID gets its report and starts nothing. Of another action, other units or another
	// version it is a RequestError. Default: a new one.
	ID string `json:"id"`
	// Units are names of services, "myapp.service" or "myapp@1.service", and
	// patterns as in "myapp@*.service", which stand for the active ones. Required.
	Units []string `json:"units"`
	// Version is that which must serve in the end; one that serves it already is
	// left alone. Empty: whatever the file is.
	Version string `json:"version,omitempty"`
	// By is who asked: a user's name, for the journal.
	By string `json:"by,omitempty"`
	// Reason is why, for people: of a rollback it is in the log, the status text and
	// the record of what must not start. At most 256 bytes.
	Reason string `json:"reason,omitempty"`

	Gates Gates `json:"gates"`
	Waves Waves `json:"waves"`

	// DryRun checks the units and changes nothing.
	DryRun bool `json:"dry_run,omitempty"`
	// Timeout bounds the reload of one unit. Default: TimeoutStartUSec= of the unit,
	// and 10 s.
	Timeout time.Duration `json:"timeout,omitempty"`
}

// Gates are what a new version has to pass before it is taken for good. Its
// process must stay the same, and the unit active, with any of them.
type Gates struct {
	// Soak is how long it is watched after the reload. Default: 10 s. Negative: the
	// verdict of the service is enough.
	Soak time.Duration `json:"soak,omitempty"`
	// Interval is between two looks. Default: 1 s, at most a tenth of Soak.
	Interval time.Duration `json:"interval,omitempty"`
	// HealthURL must answer 2xx: http, https, or unix:PATH:/path. %i is the instance.
	// Default: the control socket's /healthz and /readyz.
	HealthURL string `json:"health_url,omitempty"`
	// MetricsURL is where Prometheus metrics are. Default: the control socket's /metrics.
	MetricsURL string `json:"metrics_url,omitempty"`
	// Requests and Errors are counters in these metrics, all label values summed up;
	// one with a matcher as in http_requests_total{code="500"} is that alone.
	Requests string `json:"requests,omitempty"`
	Errors   string `json:"errors,omitempty"`
	// MaxErrorRate is how many errors there may be to a request, from 0 to 1, in the
	// time of the soak. It needs Requests and Errors.
	MaxErrorRate float64 `json:"max_error_rate,omitempty"`
	// MaxFailures is how many looks in a row may fail. Default: 0, the first one counts.
	MaxFailures int `json:"max_failures,omitempty"`
}

// Waves say in which order several units are upgraded.
type Waves struct {
	// Ratio ends the rollout when so many of the units have the new version, from 0
	// to 1. Default: 1, all.
	Ratio float64 `json:"ratio,omitempty"`
	// Canary is the number of units of the first wave. Default: 1. Negative: no canary.
	Canary int `json:"canary,omitempty"`
	// Size is the number of units of each other wave. Default: a quarter, at least 1.
	Size int `json:"size,omitempty"`
	// Pause is between two waves.
	Pause time.Duration `json:"pause,omitempty"`
	// MaxFailed is how many units of a wave may fail before it is a bad one. In the
	// canary wave none may.
	MaxFailed int `json:"max_failed,omitempty"`
}
