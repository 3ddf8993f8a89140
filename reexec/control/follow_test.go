// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// status answers with goodStatus as changed by change.
func status(t *testing.T, change func(*control.Status)) step {
	t.Helper()
	var st control.Status
	if err := json.Unmarshal([]byte(goodStatus), &st); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&st)
	}
	body, err := json.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	return jsonAnswer(200, string(body))
}

const probation = `{"state":{"protocol":1,"instance":"i1","state":"probation","generation":1,"pid":10}}` + "\n"

func TestUpgradeAndFollow(t *testing.T) {
	before := status(t, nil)
	breaks := stream(probation)
	old := &control.Verdict{Outcome: control.Refused, Reason: "long ago", Started: time.Unix(1000, 0)}
	fresh := &control.Verdict{Outcome: control.RolledBack, Reason: "the health check failed", From: control.Process{PID: 10}, Started: time.Now().Add(time.Minute)} // after it was asked for
	next := func(st *control.Status) { st.Generation, st.PID = 2, 20 }

	for _, tt := range []struct {
		name    string
		steps   []step
		outcome control.Outcome
		reason  string // contained
		note    string // contained; empty: no note
		now     int    // PID of Result.Now, 0: nil
		down    bool
	}{
		{
			name:    "upgraded",
			steps:   []step{before, stream(probation, `{"verdict":{"outcome":"upgraded"}}`+"\n")},
			outcome: control.Upgraded,
		},
		{
			name:    "refused",
			steps:   []step{before, stream(`{"verdict":{"outcome":"refused","reason":"wrong architecture"}}` + "\n"), before},
			outcome: control.Refused, reason: "wrong architecture", now: 10,
		},
		{
			name:    "stopped and gone",
			steps:   []step{before, stream(`{"verdict":{"outcome":"stopped","reason":"told to stop"}}` + "\n"), nil},
			outcome: control.Stopped, reason: "told to stop", down: true,
		},
		{
			name:    "refused and silent",
			steps:   []step{before, stream(`{"verdict":{"outcome":"refused","reason":"x"}}` + "\n"), raw("")},
			outcome: control.Refused, reason: "x",
		},
		{
			name:    "successor took over",
			steps:   []step{before, breaks, status(t, next)},
			outcome: control.Upgraded, note: "the predecessor (PID 10) died before it gave a verdict, and its successor took over", now: 20,
		},
		{
			name: "successor takes over after its probation",
			steps: []step{
				before, breaks,
				status(t, func(st *control.Status) { next(st); st.State = "trial" }),
				raw(""), // dies or drops the connection once more
				status(t, func(st *control.Status) { next(st); st.State = "promoting" }),
				status(t, next),
			},
			outcome: control.Upgraded, note: "its successor took over", now: 20,
		},
		{
			name:    "restarted",
			steps:   []step{before, breaks, status(t, func(st *control.Status) { next(st); st.Instance = "i2" })},
			outcome: control.Restarted, reason: "the service (PID 10) died during the upgrade and was started anew", note: "another instance answers", now: 20,
		},
		{
			name: "verdict asked for afterwards",
			steps: []step{
				status(t, func(st *control.Status) { st.Last = old }), breaks,
				status(t, func(st *control.Status) { st.Last, st.Successor = old, &control.Process{PID: 20} }),
				status(t, func(st *control.Status) { st.Last = fresh }),
			},
			outcome: control.RolledBack, reason: "the health check failed", note: "asked for afterwards", now: 10,
		},
		{
			name:    "first verdict asked for afterwards",
			steps:   []step{before, breaks, status(t, func(st *control.Status) { st.Last = fresh })},
			outcome: control.RolledBack, reason: "the health check failed", note: "asked for afterwards", now: 10,
		},
		{
			name:    "nothing is known",
			steps:   []step{status(t, func(st *control.Status) { st.Last = old }), breaks, status(t, func(st *control.Status) { st.Last = old })},
			outcome: control.Undecided, reason: "generation 1 still serves", note: "without a verdict", now: 10,
		},
		{
			name:    "down",
			steps:   []step{before, breaks, nil},
			outcome: control.Down, reason: "the service (PID 10) died during the upgrade and nothing serves its control socket", note: "without a verdict", down: true,
		},
		{
			name:    "broken before the head",
			steps:   []step{before, func(net.Conn) {}, status(t, next)},
			outcome: control.Upgraded, note: "its successor took over", now: 20,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := control.NewClient(script(t, tt.steps...)).UpgradeAndFollow(t.Context(), control.FollowOptions{DownAfter: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			if got.Verdict.Outcome != tt.outcome {
				t.Errorf("outcome = %q, want %q", got.Verdict.Outcome, tt.outcome)
			}
			if !strings.Contains(got.Verdict.Reason, tt.reason) || (got.Verdict.Reason == "") != (tt.reason == "") {
				t.Errorf("reason = %q, want %q", got.Verdict.Reason, tt.reason)
			}
			if !strings.Contains(got.Note, tt.note) || (got.Note == "") != (tt.note == "") {
				t.Errorf("note = %q, want %q", got.Note, tt.note)
			}
			pid := 0
			if got.Now != nil {
				pid = got.Now.PID
			}
			if pid != tt.now {
				t.Errorf("PID that serves now = %d, want %d", pid, tt.now)
			}
			if got.Down != tt.down {
				t.Errorf("down = %v, want %v", got.Down, tt.down)
			}
		})
	}
}

// A service that is refused for a while is not down yet.
func TestFollowWaitsForRestart(t *testing.T) {
	path := script(t, status(t, nil), stream(probation), nil)
	states := make(chan string, 10)
	restarted := make(chan struct{})
	result := make(chan control.Result, 1)
	go func() {
		got, err := control.NewClient(path).UpgradeAndFollow(t.Context(), control.FollowOptions{
			DownAfter: time.Minute,
			OnState: func(st control.Status) {
				states <- st.State
				if st.Instance == "i2" {
					close(restarted)
				}
			},
		})
		if err != nil {
			t.Error(err)
		}
		result <- got
	}()
	if a, b := <-states, <-states; a != "running" || b != "probation" {
		t.Errorf("states %s, %s, want running, probation", a, b)
	}
	// What systemd does: start it anew, with a socket of its own.
	again := script(t, status(t, func(st *control.Status) { st.Instance, st.PID = "i2", 30 }))
	if err := replaceSocket(again, path); err != nil {
		t.Fatal(err)
	}
	<-restarted
	if got := <-result; got.Verdict.Outcome != control.Restarted || got.Now == nil || got.Now.PID != 30 {
		t.Errorf("result %+v, want restarted as PID 30", got)
	}
}

func TestUpgradeAndFollowErrors(t *testing.T) {
	errEnough := errors.New("enough")
	before := status(t, nil)
	breaks := stream(probation)
	t.Run("before the upgrade", func(t *testing.T) {
		_, err := control.NewClient(script(t, jsonAnswer(403, `{"error":"no"}`))).UpgradeAndFollow(t.Context(), control.FollowOptions{})
		wantError(t, err, "permission", "no")
		if as[*control.UnknownError](err) {
			t.Errorf("%v: nothing was started, so nothing is unknown", err)
		}
	})
	// Somebody else takes the place of the service in the middle.
	for name, s := range map[string]step{
		"permission": jsonAnswer(403, `{"error":"no"}`),
		"version":    jsonAnswer(404, `{"error":"no","versions":[2]}`),
		"protocol":   jsonAnswer(200, `garbage`),
	} {
		t.Run("strange afterwards: "+name, func(t *testing.T) {
			_, err := control.NewClient(script(t, before, breaks, s)).UpgradeAndFollow(t.Context(), control.FollowOptions{})
			var unknown *control.UnknownError
			if !errors.As(err, &unknown) || unknown.Last == nil || unknown.Last.State != "probation" {
				t.Fatalf("error %v, want an *UnknownError with the last state", err)
			}
			wantError(t, unknown.Err, name, "")
		})
	}
	t.Run("garbage in the stream", func(t *testing.T) {
		_, err := control.NewClient(script(t, before, stream(probation, "garbage\n"))).UpgradeAndFollow(t.Context(), control.FollowOptions{})
		if !as[*control.UnknownError](err) || !as[*control.ProtocolError](err) {
			t.Errorf("error %v, want an *UnknownError of a *ProtocolError", err)
		}
	})
	// It never hangs past its context, whatever it is waiting for.
	slow := func(conn net.Conn) {
		stream(probation)(conn)
		hang(conn)
	}
	for name, steps := range map[string][]step{
		"in the stream":            {before, slow},
		"no answer afterwards":     {before, breaks, hang},
		"forever in probation":     {before, breaks, status(t, func(st *control.Status) { st.State = "probation" })},
		"refused, but not so long": {before, breaks, nil},
	} {
		t.Run("context ends: "+name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			_, err := control.NewClient(script(t, steps...)).UpgradeAndFollow(ctx, control.FollowOptions{
				DownAfter: time.Hour,
				OnState: func(st control.Status) {
					if st.State == "probation" {
						time.AfterFunc(50*time.Millisecond, func() { cancel(errEnough) })
					}
				},
			})
			var unknown *control.UnknownError
			if !errors.As(err, &unknown) || !errors.Is(err, errEnough) {
				t.Fatalf("error %v, want an *UnknownError of the context's cause", err)
			}
			if unknown.Last == nil || unknown.Last.State != "probation" {
				t.Errorf("last state %+v, want probation", unknown.Last)
			}
		})
	}
}
