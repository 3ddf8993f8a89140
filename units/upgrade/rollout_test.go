// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/units/bus"
)

// instances are n units of a template.
func instances(n int) []string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("app@%d.service", i+1))
	}
	return list
}

var errorGate = Gates{Requests: "http_requests_total", Errors: `http_requests_total{code="500"}`, MaxErrorRate: 0.05}

func TestRollout(t *testing.T) {
	type want struct {
		outcome Outcome
		units   map[string]Outcome
		// versions of those that do not serve 2 in the end.
		old    []string
		gate   string
		reason string // contained
	}
	all := func(outcome Outcome, of ...string) map[string]Outcome {
		m := make(map[string]Outcome)
		for _, name := range of {
			m[name] = outcome
		}
		return m
	}
	join := func(parts ...map[string]Outcome) map[string]Outcome {
		m := make(map[string]Outcome)
		for _, p := range parts {
			maps.Copy(m, p)
		}
		return m
	}
	ten := instances(10)
	for _, tt := range []struct {
		name    string
		units   []string
		request Request
		bad     map[string]string
		prepare func(*world)
		want    want
	}{
		{name: "one unit", units: []string{"a.service"}, want: want{outcome: Done, units: all(Done, "a.service")}},
		{name: "no soak", units: []string{"a.service"}, request: Request{Gates: Gates{Soak: -1}}, want: want{outcome: Done, units: all(Done, "a.service")}},
		{
			name: "refused by the service", units: []string{"a.service"}, bad: map[string]string{"a.service": "refused"},
			want: want{outcome: Failed, units: all(Failed, "a.service"), old: []string{"a.service"}, reason: "damaged"},
		},
		{
			name: "dies in the soak", units: []string{"a.service"}, bad: map[string]string{"a.service": "dies"},
			want: want{outcome: RolledBack, units: all(RolledBack, "a.service"), old: []string{"a.service"}, gate: "process", reason: "anew"},
		},
		{
			name: "ill in the soak", units: []string{"a.service"}, bad: map[string]string{"a.service": "ill"},
			want: want{outcome: RolledBack, units: all(RolledBack, "a.service"), old: []string{"a.service"}, gate: "health", reason: `/healthz answers 503: "no database"`},
		},
		{
			name: "not ready in the soak", units: []string{"a.service"}, bad: map[string]string{"a.service": "unready"},
			want: want{outcome: RolledBack, units: all(RolledBack, "a.service"), old: []string{"a.service"}, gate: "ready", reason: "/readyz answers 503"},
		},
		{
			name: "errors in the soak", units: []string{"a.service"}, bad: map[string]string{"a.service": "errors"}, request: Request{Gates: errorGate},
			want: want{outcome: RolledBack, units: all(RolledBack, "a.service"), old: []string{"a.service"}, gate: "errors", reason: "at most 5.00 % may be"},
		},
		{
			name: "another version than was asked for", units: []string{"a.service"}, request: Request{Version: "3"},
			want: want{outcome: RolledBack, units: all(RolledBack, "a.service"), old: []string{"a.service"}, gate: "version", reason: "the file is version 2, and 3 was asked for"},
		},
		{
			name: "that version serves already", units: []string{"a.service"}, request: Request{Version: "1"},
			want: want{outcome: Unchanged, units: all(Unchanged, "a.service"), old: []string{"a.service"}},
		},
		{
			name: "systemd loses the job", units: []string{"a.service"}, prepare: func(w *world) { w.loseJobs = true },
			want: want{outcome: Done, units: all(Done, "a.service")},
		},
		{
			name: "systemd loses the job of a bad version", units: []string{"a.service"}, bad: map[string]string{"a.service": "refused"}, prepare: func(w *world) { w.loseJobs = true },
			want: want{outcome: Failed, units: all(Failed, "a.service"), old: []string{"a.service"}, reason: "damaged"},
		},
		{name: "waves", units: ten, want: want{outcome: Done, units: all(Done, ten...)}},
		{
			name: "a third", units: ten, request: Request{Waves: Waves{Ratio: 0.3}},
			want: want{outcome: Done, units: join(all(Done, ten[:3]...), all(Skipped, ten[3:]...)), old: ten[3:]},
		},
		{
			name: "a bad canary", units: ten, bad: map[string]string{"app@1.service": "ill"},
			want: want{outcome: RolledBack, units: join(all(RolledBack, ten[0]), all(Skipped, ten[1:]...)), old: ten, gate: "health", reason: "wave 1 has failed"},
		},
		{
			name: "a canary that is refused", units: ten, bad: map[string]string{"app@1.service": "refused"},
			want: want{outcome: Failed, units: join(all(Failed, ten[0]), all(Skipped, ten[1:]...)), old: ten, reason: "wave 1 has failed"},
		},
		{
			name: "a bad second wave", units: ten, bad: map[string]string{"app@3.service": "ill"}, request: Request{Waves: Waves{Size: 3}},
			want: want{
				outcome: RolledBack, units: join(all(Done, ten[0]), all(RolledBack, ten[1:4]...), all(Skipped, ten[4:]...)), old: ten[1:],
				reason: "1 units that were upgraded before stay so",
			},
		},
		{
			name: "some may fail", units: ten, bad: map[string]string{"app@3.service": "ill"}, request: Request{Waves: Waves{Size: 3, MaxFailed: 1}},
			want: want{outcome: Done, units: join(all(Done, ten...), all(RolledBack, ten[2])), old: ten[2:3]},
		},
		{
			name: "no canary", units: ten, bad: map[string]string{"app@3.service": "ill"}, request: Request{Waves: Waves{Canary: -1, Size: 10, MaxFailed: 1}},
			want: want{outcome: Done, units: join(all(Done, ten...), all(RolledBack, ten[2])), old: ten[2:3]},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, tt.units...)
				w.install(tt.bad)
				if tt.prepare != nil {
					tt.prepare(w)
				}
				ctx, u := w.helper(t.Context())
				request := tt.request
				request.ID, request.Units = "r", tt.units
				report, err := u.Rollout(ctx, request, nil)
				if err != nil {
					t.Fatal(err)
				}
				checkReport(t, w, report, tt.want.outcome, tt.want.units, tt.want.old)
				if !strings.Contains(report.Reason, tt.want.reason) {
					t.Errorf("reason %q, want it to contain %q", report.Reason, tt.want.reason)
				}
				if tt.want.gate != "" && report.Units[0].Gate != tt.want.gate {
					t.Errorf("gate %q, want %q", report.Units[0].Gate, tt.want.gate)
				}
				if !slices.Equal(names(report), tt.units) {
					t.Errorf("units %q, want the order of %q", names(report), tt.units)
				}
				// The same again does nothing.
				again, err := u.Rollout(ctx, request, nil)
				if err != nil || !again.Started.Equal(report.Started) || again.Outcome != report.Outcome {
					t.Errorf("again: %+v, %v", again, err)
				}
			})
		})
	}
}

// checkReport says whether the report is as wanted, and true.
func checkReport(t *testing.T, w *world, report Report, outcome Outcome, units map[string]Outcome, old []string) {
	t.Helper()
	if report.Outcome != outcome {
		t.Errorf("outcome %q (%s), want %q", report.Outcome, report.Reason, outcome)
	}
	if (report.Reason == "") != (outcome == Done || outcome == Unchanged) {
		t.Errorf("outcome %q with the reason %q", outcome, report.Reason)
	}
	if got := outcomes(report); !maps.Equal(got, units) {
		t.Errorf("outcomes %v, want %v", got, units)
	}
	for name, version := range w.versions() {
		want := "2"
		if slices.Contains(old, name) {
			want = "1"
		}
		if version != want {
			t.Errorf("%s serves version %s, want %s", name, version, want)
		}
	}
	for _, unit := range report.Units {
		if now := w.versions()[unit.Unit]; unit.To.Version != now {
			t.Errorf("%s: the report says that %q serves, it is %q", unit.Unit, unit.To.Version, now)
		}
		if (unit.Reason == "") != (unit.Outcome == Done || unit.Outcome == Unchanged) {
			t.Errorf("%s: outcome %q with the reason %q", unit.Unit, unit.Outcome, unit.Reason)
		}
	}
}

// A helper that is killed at any of its calls is followed by another one, which
// finishes what the first has begun: the end is the same as without, nothing is
// upgraded twice, and nothing is left to do.
func TestResumeAtEveryCut(t *testing.T) {
	three := instances(3)
	for _, story := range []struct {
		name    string
		action  string
		units   []string
		bad     map[string]string
		outcome Outcome
		ends    map[string]Outcome
		old     []string
	}{
		{"good", "rollout", three[:1], nil, Done, map[string]Outcome{three[0]: Done}, nil},
		{"refused", "rollout", three[:1], map[string]string{three[0]: "refused"}, Failed, map[string]Outcome{three[0]: Failed}, three[:1]},
		{"ill", "rollout", three[:1], map[string]string{three[0]: "ill"}, RolledBack, map[string]Outcome{three[0]: RolledBack}, three[:1]},
		{"by hand", "rollback", three[:1], nil, Done, map[string]Outcome{three[0]: Done}, three[:1]},
		{
			"bad second wave", "rollout", three,
			map[string]string{three[2]: "ill"},
			RolledBack,
			map[string]Outcome{three[0]: Done, three[1]: RolledBack, three[2]: RolledBack},
			three[1:],
		},
	} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/after=%v", story.name, after), func(t *testing.T) {
				t.Parallel()
				// Of the longest story, every third, and not the same before and after.
				call, stride := 1, 1
				if len(story.units) > 1 {
					stride = 3
					if after {
						call = 2
					}
				}
				for ; ; call += stride {
					finished := false
					synctest.Test(t, func(t *testing.T) {
						w := newWorld(t, story.units...)
						w.install(story.bad)
						if story.action == "rollback" {
							for _, f := range w.services {
								f.version, f.before = "2", "1"
							}
						}
						request := Request{
							ID: "r", Units: story.units, Waves: Waves{Size: 2},
							Gates: Gates{Soak: time.Second, Interval: 500 * time.Millisecond},
						}
						do := func(ctx context.Context, u *Upgrader, onEvent func(Event)) (Report, error) {
							if story.action == "rollback" {
								return u.Rollback(ctx, request, onEvent)
							}
							return u.Rollout(ctx, request, onEvent)
						}
						w.cut = cut{call, after}
						ctx, u := w.helper(t.Context())
						// An event comes after each step of the journal: that is a cut, too.
						report, err := do(ctx, u, func(Event) { _ = w.call(ctx, 0, func() error { return nil }) })
						w.cut = cut{}
						finished = w.life == 0
						if !finished {
							time.Sleep(3 * time.Second) // somebody starts it again
							ctx, u = w.helper(t.Context())
							var reports []Report
							reports, err = u.Resume(ctx, nil)
							switch {
							case err != nil:
							case len(reports) == 1 && !reports[0].Resumed:
								t.Errorf("cut %d: the report does not say that it was resumed", call)
							case len(reports) > 1:
								t.Errorf("cut %d: %d reports", call, len(reports))
							}
							if err == nil {
								// What was not begun begins now.
								report, err = do(ctx, u, nil)
							}
						}
						if err != nil {
							t.Fatalf("cut %d: %v", call, err)
						}
						checkReport(t, w, report, story.outcome, story.ends, story.old)
						for name, f := range w.services {
							if want := map[string]int{"rollout": 1, "rollback": 0}[story.action]; f.reloads != want {
								t.Errorf("cut %d: %s was reloaded %d times, want %d", call, name, f.reloads, want)
							}
							if f.rollbacks > 1 {
								t.Errorf("cut %d: %s was rolled back %d times", call, name, f.rollbacks)
							}
						}
						if rest, err := u.Resume(ctx, nil); err != nil || len(rest) > 0 {
							t.Errorf("cut %d: left to do: %v, %v", call, rest, err)
						}
						if reports, err := u.History(ctx, story.units[0]); err != nil || len(reports) != 1 {
							t.Errorf("cut %d: history %+v, %v", call, reports, err)
						}
					})
					if t.Failed() || finished {
						if !t.Failed() && call < 10 {
							t.Errorf("only %d cuts", call-1)
						}
						t.Logf("cut at %d of %d calls", (call-1)/stride, call-1)
						return
					}
				}
			})
		}
	}
}

// A report does not say that a version serves which does not.
func TestWhoServes(t *testing.T) {
	for _, tt := range []struct {
		name, kind, phase string
		change            func(*fake)
		want              Version
		reason            string
	}{
		{"it dies in the reload", "unit", phaseReload, func(f *fake) { f.active = "failed" }, Version{}, "the service is down (failed"},
		{
			"somebody else upgrades in the soak", "gate", phaseSoak, func(f *fake) { f.generation, f.pid, f.version = 7, 999, "9" },
			Version{Version: "9", PID: 999, Generation: 7},
			"somebody else has upgraded the service meanwhile: version 9 serves",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "a.service")
				w.install(nil)
				ctx, u := w.helper(t.Context())
				report, err := u.Rollout(ctx, Request{Units: []string{"a"}}, func(e Event) {
					if e.Kind == tt.kind && e.Phase == tt.phase {
						w.mu.Lock()
						defer w.mu.Unlock()
						tt.change(w.services["a.service"])
					}
				})
				if err != nil || report.Outcome != Broken || !strings.Contains(report.Reason, tt.reason) {
					t.Fatalf("report %+v, %v", report, err)
				}
				if got := report.Units[0].To; got != tt.want {
					t.Errorf("it says that %+v serves, want %+v", got, tt.want)
				}
			})
		})
	}
}

// Why it was rolled back is for the service to keep.
func TestRollbackReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a.service")
		w.services["a.service"].before = "0"
		ctx, u := w.helper(t.Context())
		report, err := u.Rollback(ctx, Request{ID: "r1", Units: []string{"a"}, By: "jane", Reason: "orders are lost"}, nil)
		if err != nil || report.Outcome != Done {
			t.Fatalf("report %+v, %v", report, err)
		}
		if got, want := w.services["a.service"].reason, "request r1 by jane: orders are lost"; got != want {
			t.Errorf("reason %q, want %q", got, want)
		}
	})
}

// A context that ends leaves a record that another helper goes on with.
func TestInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a.service", "b.service")
		w.install(nil)
		ctx, cancel := context.WithCancelCause(t.Context())
		hctx, u := w.helper(ctx)
		report, err := u.Rollout(hctx, Request{ID: "r", Units: []string{"a", "b"}}, func(e Event) {
			if e.Phase == phaseSoak {
				cancel(errors.New("somebody pressed a key"))
			}
		})
		if err != nil || report.Outcome != Interrupted || report.Units[0].Outcome != Interrupted || report.Units[1].Outcome != Interrupted {
			t.Fatalf("report %+v, %v", report, err)
		}
		if w.versions()["a.service"] != "2" {
			t.Error("what was begun was undone")
		}
		hctx, u = w.helper(t.Context())
		reports, err := u.Resume(hctx, nil)
		if err != nil || len(reports) != 1 || reports[0].Outcome != Done || !reports[0].Resumed {
			t.Fatalf("resumed: %+v, %v", reports, err)
		}
		if w.services["a.service"].reloads != 1 || w.services["b.service"].reloads != 1 {
			t.Error("not upgraded once each")
		}
	})
}

// What was interrupted long ago upgrades nothing more.
func TestResumeStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a.service", "b.service")
		w.install(nil)
		ctx, cancel := context.WithCancel(t.Context())
		hctx, u := w.helper(ctx)
		if _, err := u.Rollout(hctx, Request{ID: "r", Units: []string{"a", "b"}}, func(e Event) {
			if e.Phase == phaseReload {
				cancel()
			}
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * staleAfter)
		hctx, u = w.helper(t.Context())
		reports, err := u.Resume(hctx, nil)
		if err != nil || len(reports) != 1 {
			t.Fatalf("resumed: %+v, %v", reports, err)
		}
		if got := outcomes(reports[0]); got["b.service"] != Skipped || w.services["b.service"].reloads != 0 {
			t.Errorf("outcomes %v", got)
		}
	})
}

// While systemd cannot be asked, the service is asked, and nothing fails.
func TestBusAwayInSoak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a.service")
		w.install(nil)
		ctx, u := w.helper(t.Context())
		report, err := u.Rollout(ctx, Request{Units: []string{"a"}}, func(e Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.away = e.Phase == phaseSoak
		})
		if err != nil || report.Outcome != Done {
			t.Fatalf("report %+v, %v", report, err)
		}
	})
}

func TestGateForgives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a.service")
		w.install(map[string]string{"a.service": "ill"})
		ctx, u := w.helper(t.Context())
		looks := 0
		report, err := u.Rollout(ctx, Request{Units: []string{"a"}, Gates: Gates{MaxFailures: 2}}, func(e Event) {
			if e.Kind != "gate" {
				return
			}
			if looks++; looks%3 == 2 { // two in a row were bad, now one is good, and so on
				w.mu.Lock()
				defer w.mu.Unlock()
				w.services["a.service"].bad["2"] = ""
			} else if looks%3 == 0 {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.services["a.service"].bad["2"] = "ill"
			}
		})
		if err != nil || report.Outcome != Done {
			t.Fatalf("report %+v, %v", report, err)
		}
		if looks < 8 {
			t.Errorf("%d looks", looks)
		}
	})
}

func TestNothingStarts(t *testing.T) {
	type errorOf func(error) bool
	is := func(err error, kind any) bool { return errors.As(err, kind) }
	for _, tt := range []struct {
		name    string
		prepare func(*fake)
		away    bool
		want    errorOf
		text    string
	}{
		{"inactive", func(f *fake) { f.active = "failed" }, false, func(err error) bool { var e *PreconditionError; return is(err, &e) && e.Inactive }, "it is not active (failed)"},
		{"under way", func(f *fake) { f.state = "probation" }, false, func(err error) bool { var e *PreconditionError; return is(err, &e) && !e.Inactive }, "an upgrade of it is under way (probation)"},
		{"a job", func(f *fake) { f.job = 3 }, false, func(err error) bool { var e *PreconditionError; return is(err, &e) }, "systemd has a job for it (3)"},
		{"mode restart", func(f *fake) { f.mode = "restart" }, false, func(err error) bool { var e *PreconditionError; return is(err, &e) && e.Unfit }, "by a restart only"},
		{"systemd is away", func(*fake) {}, true, func(err error) bool { var e *bus.AwayError; return is(err, &e) }, "cannot be asked"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "a.service", "b.service")
				w.install(nil)
				tt.prepare(w.services["b.service"])
				w.away = tt.away
				ctx, u := w.helper(t.Context())
				_, err := u.Rollout(ctx, Request{ID: "r", Units: []string{"a", "b"}}, nil)
				if err == nil || !tt.want(err) || !strings.Contains(err.Error(), tt.text) {
					t.Fatalf("error %v, want %q", err, tt.text)
				}
				if w.services["a.service"].reloads != 0 {
					t.Error("one of them was upgraded")
				}
				// The ID is free: what is wrong can be mended.
				ids, err := u.journal.requests()
				if err != nil || len(ids) != 0 {
					t.Errorf("requests %q, %v", ids, err)
				}
			})
		})
	}
}

func TestFreeze(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "app@1.service", "b.service")
		w.install(nil)
		ctx, u := w.helper(t.Context())
		for _, name := range []string{"app@", "b"} {
			if err := u.Freeze(ctx, name, "jane", "no release on a Friday"); err != nil {
				t.Fatal(err)
			}
		}
		var frozen *FrozenError
		_, err := u.Rollout(ctx, Request{Units: []string{"app@1"}}, nil)
		if !errors.As(err, &frozen) || frozen.By != "jane" || frozen.Unit != "app@1.service" {
			t.Fatalf("error %v, want a freeze by jane", err)
		}
		if _, err = u.Rollout(ctx, Request{Units: []string{"b"}}, nil); !errors.As(err, &frozen) {
			t.Fatalf("error %v, want a freeze", err)
		}
		for _, name := range []string{"app@.service", "app@.service", "b"} { // twice is fine
			if err := u.Thaw(ctx, name, "jane", ""); err != nil {
				t.Fatal(err)
			}
		}
		if report, err := u.Rollout(ctx, Request{Units: []string{"app@*", "b"}}, nil); err != nil || report.Outcome != Done {
			t.Fatalf("report %+v, %v", report, err)
		}
	})
}

// An ID that was of something else starts nothing, and is not answered with what that was.
func TestIDOfAnotherRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a.service", "b.service")
		w.install(nil)
		ctx, u := w.helper(t.Context())
		first := Request{ID: "one", Units: []string{"a"}}
		if report, err := u.Rollout(ctx, first, nil); err != nil || report.Outcome != Done {
			t.Fatalf("report %+v, %v", report, err)
		}
		same := first
		same.Units = []string{"a.service", "a*"}
		if report, err := u.Rollout(ctx, same, nil); err != nil || report.Outcome != Done {
			t.Errorf("the same: report %+v, %v", report, err)
		}
		for name, ask := range map[string]func() (Report, error){
			"another unit": func() (Report, error) { return u.Rollout(ctx, Request{ID: "one", Units: []string{"b"}}, nil) },
			"another version": func() (Report, error) {
				return u.Rollout(ctx, Request{ID: "one", Units: []string{"a"}, Version: "3"}, nil)
			},
			"a rollback": func() (Report, error) { return u.Rollback(ctx, first, nil) },
		} {
			var request *RequestError
			if report, err := ask(); !errors.As(err, &request) || request.Field != "id" || !strings.Contains(err.Error(), "rollout of a.service") {
				t.Errorf("%s: report %+v, %v", name, report, err)
			}
		}
		if got := w.services["a.service"]; got.reloads != 1 || got.rollbacks != 0 || w.services["b.service"].reloads != 0 {
			t.Errorf("it was done: %d reloads and %d rollbacks", got.reloads, got.rollbacks)
		}
	})
}

// Two requests for one unit: the second is told who works on it. The same request twice:
// the second waits, and gets the report of the first.
func TestOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a.service")
		w.install(nil)
		ctx, u := w.helper(t.Context())
		first := make(chan Report)
		go func() {
			report, err := u.Rollout(ctx, Request{ID: "one", By: "jane", Units: []string{"a"}}, nil)
			if err != nil {
				t.Error(err)
			}
			first <- report
		}()
		time.Sleep(time.Second)
		var busy *BusyError
		_, err := u.Rollout(ctx, Request{ID: "two", Units: []string{"a"}}, nil)
		if !errors.As(err, &busy) || busy.Holder.ID != "one" || busy.Holder.By != "jane" || busy.Unit != "a.service" {
			t.Fatalf("error %v, want that jane works on it", err)
		}
		if st, err := u.Status(ctx, "a"); err != nil || st.Busy == nil || st.Busy.ID != "one" {
			t.Errorf("status %+v, %v", st, err)
		}
		if reports, err := u.Resume(ctx, nil); err != nil || len(reports) != 0 {
			t.Errorf("resumed what somebody works on: %v, %v", reports, err)
		}
		second := make(chan Report)
		go func() {
			report, err := u.Rollout(ctx, Request{ID: "one", Units: []string{"a"}}, nil)
			if err != nil {
				t.Error(err)
			}
			second <- report
		}()
		if a, b := <-first, <-second; a.Outcome != Done || !a.Started.Equal(b.Started) || b.Outcome != Done {
			t.Errorf("reports %+v and %+v", a, b)
		}
		if w.services["a.service"].reloads != 1 {
			t.Errorf("%d reloads", w.services["a.service"].reloads)
		}
		if st, err := u.Status(ctx, "a"); err != nil || st.Busy != nil || len(st.Last) != 1 {
			t.Errorf("status %+v, %v", st, err)
		}
	})
}
