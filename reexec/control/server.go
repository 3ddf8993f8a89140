// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// writeTimeout bounds one write to a client that does not read.
	writeTimeout = 10 * time.Second
	// maxPendingStates bounds what is kept for a client that reads slowly; of
	// more states than these the oldest are dropped, never the verdict.
	maxPendingStates = 64
	// bodyTimeout bounds how long a request's body may take.
	bodyTimeout = 5 * time.Second
	// maxBody bounds the body of a request.
	maxBody = 4 << 10
)

// Backend is the service behind [NewHandler]. Its methods are called from
// several goroutines at once.
type Backend interface {
	// Status is what the service says about itself now. It must not block on
	// an upgrade under way.
	Status() Status

	// Upgrade makes one attempt to upgrade and returns its verdict; a second
	// attempt at the same time gets [Busy] at once. progress may be called at
	// every change of state, from any goroutine, until Upgrade returns; it
	// never blocks.
	//
	// ctx ends when the client has gone away. That is no reason to give the
	// attempt up: Upgrade may then return early with any verdict, since nobody
	// reads it, but the attempt goes on to its end.
	//
	// A verdict without an Outcome is none: the process executes the next
	// version, and that will have it.
	Upgrade(ctx context.Context, progress func(Status)) Verdict

	// Rollback is Upgrade to the version before. The reason has no more than
	// [MaxReason] bytes, and may hold anything that is UTF-8.
	Rollback(ctx context.Context, reason string, progress func(Status)) Verdict

	// Reload reads the configuration again and returns how that has ended. Several
	// at the same time may share one. ctx is as for Upgrade.
	Reload(ctx context.Context) Reload
}

// NewServer returns a server for the control socket: [NewHandler] with limits
// that suit local clients and with its own errors in logger. Give it a
// [PeerListener]. The caller ends it with Shutdown, which waits until a client
// that follows an upgrade has got the verdict, or with Close.
func NewServer(b Backend, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           NewHandler(b),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}

// NewHandler serves the protocol from b. It does not ask who the client is:
// that is the work of [PeerListener].
func NewHandler(b Backend) http.Handler { return handler{b} }

type handler struct{ backend Backend }

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	limitBody(w, r)
	version, resource, ok := splitPath(r.URL.Path)
	switch {
	case !ok:
		writeJSON(w, http.StatusNotFound, &Error{
			Message:  fmt.Sprintf("path %q: must begin with a protocol version, as in /v%d/status", r.URL.Path, Version),
			Versions: []int{Version},
		})
	case version != Version:
		writeJSON(w, http.StatusNotFound, &Error{
			Message:  fmt.Sprintf("protocol version %d is not spoken here: speak version %d", version, Version),
			Versions: []int{Version},
		})
	case resource == "status":
		if allowMethod(w, r, http.MethodGet, http.MethodHead) {
			writeJSON(w, http.StatusOK, h.status())
		}
	case resource == "upgrade":
		if allowMethod(w, r, http.MethodPost) {
			h.attempt(w, r, func([]byte) (attempt, error) { return h.backend.Upgrade, nil })
		}
	case resource == "rollback":
		if allowMethod(w, r, http.MethodPost) {
			h.attempt(w, r, h.rollback)
		}
	case resource == "reload":
		if allowMethod(w, r, http.MethodPost) {
			h.reload(w, r)
		}
	default:
		// No versions here: the version is right, and a client tells the two
		// kinds of 404 apart by them.
		writeJSON(w, http.StatusNotFound, &Error{
			Message: fmt.Sprintf("path %q: version %d has status, upgrade, rollback and reload only", r.URL.Path, Version),
		})
	}
}

// limitBody bounds what is waited for of a body. The deadline of the header is over
// by now, and net/http, too, reads what a client has announced. It sets another one
// for the next request.
func limitBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	}
}

func (h handler) status() Status {
	st := h.backend.Status()
	st.Protocol = Version
	return st
}

func (h handler) reload(w http.ResponseWriter, r *http.Request) {
	// To its end, as in attempt.
	if _, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
		writeJSON(w, http.StatusBadRequest, &Error{Message: "read the body of the request: " + err.Error()})
		return
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{})
	v := h.backend.Reload(r.Context())
	// net/http clears no deadline between requests when WriteTimeout is zero.
	_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	writeJSON(w, http.StatusOK, v)
	if rc.Flush() == nil {
		_ = rc.SetWriteDeadline(time.Time{})
	}
}

// An attempt is one of the methods of [Backend] that end with a verdict.
type attempt func(ctx context.Context, progress func(Status)) Verdict

// rollback reads the body of its request.
func (h handler) rollback(body []byte) (attempt, error) {
	var req RollbackRequest
	if len(body) > 0 {
		if err := json.Unmarshal(body, &req); err != nil {
			return nil, fmt.Errorf(`body of the request: %w: it must be {"reason":"…"}, or empty`, err)
		}
	}
	if n := len(req.Reason); n > MaxReason {
		return nil, fmt.Errorf("reason has %d bytes: must have %d at most", n, MaxReason)
	}
	return func(ctx context.Context, progress func(Status)) Verdict {
		return h.backend.Rollback(ctx, req.Reason, progress)
	}, nil
}

// attempt streams one attempt, which prepare makes of the body of the request.
func (h handler) attempt(w http.ResponseWriter, r *http.Request, prepare func(body []byte) (attempt, error)) {
	// To its end: net/http notices that a client is gone only after that.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		writeJSON(w, http.StatusBadRequest, &Error{Message: "read the body of the request: " + err.Error()})
		return
	}
	run, err := prepare(body)
	if err != nil {
		w.Header().Set("Connection", "close") // no client of ours sends another one
		writeJSON(w, http.StatusBadRequest, &Error{Message: err.Error()})
		return
	}
	rc := http.NewResponseController(w)
	// From here on a read only notices that the client is gone.
	_ = rc.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")

	// The attempt runs beside the writing, so that a client that does not read
	// can never hold it up.
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	queue := newEventQueue()
	go func() {
		if verdict := run(ctx, queue.state); verdict.Outcome != "" {
			queue.verdict(verdict)
		} else {
			queue.end()
		}
	}()

	// The header goes out at once: it tells the client that the attempt has
	// begun.
	if rc.Flush() != nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-queue.more:
		}
		events, last := queue.take()
		for _, ev := range events {
			// A writer that knows no deadlines is one of a test.
			_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
			if json.NewEncoder(w).Encode(ev) != nil || rc.Flush() != nil {
				return
			}
		}
		if last {
			// net/http clears no deadline between requests when WriteTimeout
			// is zero.
			_ = rc.SetWriteDeadline(time.Time{})
			return
		}
	}
}

// eventQueue holds what the writer has yet to write.
type eventQueue struct {
	more chan struct{} // has room for one: "look again"

	mu     sync.Mutex
	events []Event
	ended  bool
}

func newEventQueue() *eventQueue { return &eventQueue{more: make(chan struct{}, 1)} }

func (q *eventQueue) state(st Status) {
	st.Protocol = Version
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		return
	}
	if len(q.events) == maxPendingStates {
		q.events = q.events[1:]
	}
	q.push(Event{State: &st})
}

func (q *eventQueue) verdict(v Verdict) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.push(Event{Verdict: &v})
	q.ended = true
}

// end ends the stream without a verdict.
func (q *eventQueue) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// push runs under q.mu.
func (q *eventQueue) push(ev Event) {
	q.events = append(q.events, ev)
	select {
	case q.more <- struct{}{}:
	default:
	}
}

func (q *eventQueue) take() (events []Event, last bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	events, q.events = q.events, nil
	return events, q.ended
}

// splitPath splits /v1/status into 1 and "status".
func splitPath(path string) (version int, resource string, ok bool) {
	rest, found := strings.CutPrefix(path, "/v")
	if !found {
		return 0, "", false
	}
	digits, resource, _ := strings.Cut(rest, "/")
	version, err := strconv.Atoi(digits)
	// One spelling only: neither +1 nor 01.
	if err != nil || strconv.Itoa(version) != digits || version < 1 {
		return 0, "", false
	}
	return version, resource, true
}

func allowMethod(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	for _, m := range methods {
		if r.Method == m {
			return true
		}
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	writeJSON(w, http.StatusMethodNotAllowed, &Error{
		Message: fmt.Sprintf("method %q on %s: use %s", r.Method, r.URL.Path, methods[0]),
	})
	return false
}

func writeJSON(w http.ResponseWriter, code int, body any) {
	var buf bytes.Buffer
	if err := json.NewEncoder(&buf).Encode(body); err != nil {
		// Only a time beyond the year 9999 gets here.
		http.Error(w, `{"error":"encode the answer"}`, http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(buf.Len()))
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	// The client may be gone; there is nobody else to tell.
	_, _ = w.Write(buf.Bytes())
}
