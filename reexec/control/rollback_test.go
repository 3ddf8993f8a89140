// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"context"
	"reflect"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/control"
)

func TestClientRollback(t *testing.T) {
	want := control.Verdict{Outcome: control.Upgraded, Rollback: true, From: control.Process{PID: 2, Version: "2"}, To: &control.Process{PID: 3, Version: "1"}}
	previous := &control.Program{Version: "1", Path: "/var/lib/myapp.holdfast/good-1"}
	var reasons []string
	path := serve(t, backend{
		status: func() control.Status {
			return control.Status{Name: "myapp", Instance: "i1", State: "running", Version: "2", Previous: previous}
		},
		upgrade: func(context.Context, func(control.Status)) control.Verdict {
			t.Error("an upgrade ran")
			return control.Verdict{}
		},
		rollback: func(_ context.Context, reason string, progress func(control.Status)) control.Verdict {
			reasons = append(reasons, reason)
			progress(control.Status{State: "starting"})
			return want
		},
	})
	client := control.NewClient(path)
	st, err := client.Status(t.Context())
	if err != nil || !reflect.DeepEqual(st.Previous, previous) {
		t.Errorf("previous %+v, %v", st.Previous, err)
	}
	long := strings.Repeat("x", control.MaxReason)
	for _, reason := range []string{"", "orders\n\x1b[1m are \"lost\"", "ümläut \xff", long} {
		var states []string
		got, err := client.Rollback(t.Context(), reason, func(st control.Status) { states = append(states, st.State) })
		if err != nil || !reflect.DeepEqual(got, want) || !reflect.DeepEqual(states, []string{"starting"}) {
			t.Errorf("reason %.20q: verdict %+v, states %q, %v", reason, got, states, err)
		}
	}
	if want := []string{"", "orders\n\x1b[1m are \"lost\"", "ümläut ?", long}; !reflect.DeepEqual(reasons, want) {
		t.Errorf("the service was told %q, want %q", reasons, want)
	}
	if _, err := client.Rollback(t.Context(), long+"x", nil); err == nil || !strings.Contains(err.Error(), "has 501 bytes: must have 500 at most") {
		t.Errorf("%v", err)
	}
	result, err := client.RollbackAndFollow(t.Context(), control.FollowOptions{Reason: "why"})
	if err != nil || !reflect.DeepEqual(result.Verdict, want) || reasons[len(reasons)-1] != "why" {
		t.Errorf("%+v, %v", result, err)
	}
	if resp, err := plainHTTP(t, path).Post("http://control/v1/rollback", "", nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("without a body: %v, %v", resp, err)
	} else {
		_ = resp.Body.Close()
	}
}

// A release that does not know rollbacks says so, and nothing was started.
func TestRollbackIsNotKnown(t *testing.T) {
	path := script(t, jsonAnswer(200, goodStatus), jsonAnswer(404, `{"error":"path \"/v1/rollback\": version 1 has status and upgrade only"}`))
	_, err := control.NewClient(path).RollbackAndFollow(t.Context(), control.FollowOptions{})
	if !as[*control.UnsupportedError](err) || as[*control.UnknownError](err) || !strings.Contains(err.Error(), "knows no rollback: upgrade it to a later one first") {
		t.Errorf("%v", err)
	}
}

// Whatever becomes of the connection, the end is found out as for an upgrade.
func TestRollbackAndFollowFindsOut(t *testing.T) {
	path := script(t, jsonAnswer(200, goodStatus), stream(probation), status(t, func(st *control.Status) { st.Generation, st.PID = 2, 20 }))
	got, err := control.NewClient(path).RollbackAndFollow(t.Context(), control.FollowOptions{})
	if err != nil || got.Verdict.Outcome != control.Upgraded || !got.Verdict.Rollback || got.Now == nil || got.Now.PID != 20 {
		t.Errorf("%+v, %v", got, err)
	}
}
