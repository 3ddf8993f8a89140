// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/holdfast-go/holdfast/reexec/fingerprint"
)

// The paths for those who only look: load balancers, monitoring, Prometheus. They
// have no protocol version in them, since all of these expect fixed ones. A reader
// must pass over fields that it does not know.
const (
	HealthzPath = "/healthz"
	ReadyzPath  = "/readyz"
	UpdatezPath = "/updatez"
	MetricsPath = "/metrics"
)

// Health is the answer of /healthz and /readyz: with status 200 if OK, and 503
// else.
type Health struct {
	OK bool `json:"ok"`
	// State and Process are of the process that answers.
	State string `json:"state"`
	Process
	// Accepts says whether it accepts connections itself. One that does not, and is OK,
	// has handed over to another generation.
	Accepts bool `json:"accepts"`
	// Reason says what is in the way; empty if OK.
	Reason string `json:"reason,omitempty"`
}

// Update is the answer of /updatez: where the service is in an upgrade.
type Update struct {
	Name  string    `json:"name"`
	State string    `json:"state"`
	Since time.Time `json:"since"`
	// Process is the one that answers.
	Process
	Instance string `json:"instance"`
	Mode     string `json:"mode,omitempty"`
	// From and To are those of the attempt under way, or else of the last one; To is
	// nil while the new version is not known.
	From *Process `json:"from,omitempty"`
	To   *Process `json:"to,omitempty"`
	// Attempts counts them by their outcome, see [Status.Attempts].
	Attempts map[Outcome]uint64 `json:"attempts"`
	// LastError is the last verdict that is not [Upgraded], if it is in the history.
	LastError *Verdict `json:"last_error,omitempty"`
	// Last is the last verdict.
	Last *Verdict `json:"last,omitempty"`
	// Previous is what a rollback would start.
	Previous    *Program                 `json:"previous,omitempty"`
	Fingerprint *fingerprint.Fingerprint `json:"fingerprint,omitempty"`
}

// Update is what /updatez says, as far as it is in the status.
func (s Status) Update() Update {
	u := Update{
		Name: s.Name, State: s.State, Since: s.Since, Process: s.process(), Instance: s.Instance, Mode: s.Mode,
		Attempts: s.Attempts, Previous: s.Previous, Fingerprint: s.Fingerprint,
	}
	if u.Attempts == nil {
		u.Attempts = map[Outcome]uint64{}
	}
	for i, v := range s.History {
		if i == 0 {
			u.Last = &s.History[i]
		}
		if v.Outcome != Upgraded {
			u.LastError = &s.History[i]
			break
		}
	}
	switch {
	case s.upgrading():
		from := s.process()
		u.From, u.To = &from, s.Successor
	case u.Last != nil:
		u.From, u.To = &u.Last.From, u.Last.To
	}
	return u
}

// Probed is the service behind [NewProbeHandler]. Its methods are called from several
// goroutines at once, and wait for no upgrade.
type Probed interface {
	Healthz() Health
	// Readyz ends with ctx at the latest.
	Readyz(ctx context.Context) Health
	Updatez() Update
	// Metrics is nil if there are none.
	Metrics() http.Handler
}

// NewProbeHandler serves [HealthzPath], [ReadyzPath], [UpdatezPath] and [MetricsPath]
// to whoever asks, by GET and HEAD. Nothing can be changed through it.
func NewProbeHandler(p Probed) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serveProbe(w, r, p)
	})
}

// IsProbe says whether a path is one of a [NewProbeHandler].
func IsProbe(path string) bool {
	switch path {
	case HealthzPath, ReadyzPath, UpdatezPath, MetricsPath:
		return true
	}
	return false
}

func serveProbe(w http.ResponseWriter, r *http.Request, p Probed) {
	if !IsProbe(r.URL.Path) {
		writeJSON(w, http.StatusNotFound, &Error{Message: fmt.Sprintf("path %q: there are %s, %s, %s and %s",
			r.URL.Path, HealthzPath, ReadyzPath, UpdatezPath, MetricsPath)})
		return
	}
	if !allowMethod(w, r, http.MethodGet, http.MethodHead) {
		return
	}
	limitBody(w, r)
	switch r.URL.Path {
	case HealthzPath:
		writeHealth(w, p.Healthz())
	case ReadyzPath:
		writeHealth(w, p.Readyz(r.Context()))
	case UpdatezPath:
		writeJSON(w, http.StatusOK, p.Updatez())
	case MetricsPath:
		h := p.Metrics()
		if h == nil {
			writeJSON(w, http.StatusNotFound, &Error{Message: "this service has no metrics: give a handler to Service.SetMetrics"})
			return
		}
		h.ServeHTTP(w, r)
	}
}

func writeHealth(w http.ResponseWriter, h Health) {
	code := http.StatusOK
	if !h.OK {
		code = http.StatusServiceUnavailable
	}
	if !h.Accepts {
		// Who asks again is to reach the generation that does.
		w.Header().Set("Connection", "close")
	}
	writeJSON(w, code, h)
}
