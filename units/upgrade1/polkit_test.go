// SPDX-License-Identifier: Apache-2.0

package upgrade1

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// authority stands in for polkit where the real one could not be seen into. The real one is in
// package vmtests.
type authority struct {
	mu    sync.Mutex
	asked []question
	// answer is by unit; those that it lacks are denied.
	answer map[string]answer
	// held is closed when who asks for held.service has been heard; it gets no answer.
	held      chan struct{}
	cancelled chan struct{}
}

type question struct {
	kind, name, action string
	details            map[string]string
	flags              uint32
}

type answer struct {
	Authorized, Challenge bool
	Details               map[string]string
}

type subject struct {
	Kind    string
	Details map[string]dbus.Variant
}

func (a *authority) CheckAuthorization(s subject, action string, details map[string]string, flags uint32, id string) (answer, *dbus.Error) {
	a.mu.Lock()
	name, _ := s.Details["name"].Value().(string)
	a.asked = append(a.asked, question{s.Kind, name, action, details, flags})
	result := a.answer[details["unit"]]
	a.mu.Unlock()
	if details["unit"] == "held.service" {
		close(a.held)
		<-a.cancelled
		return answer{}, dbus.NewError("org.freedesktop.PolicyKit1.Error.Cancelled", []any{id})
	}
	result.Details = map[string]string{}
	return result, nil
}

func (a *authority) CancelCheckAuthorization(id string) *dbus.Error {
	if !strings.HasPrefix(id, "holdfast-") {
		return dbus.MakeFailedError(errors.New(id))
	}
	close(a.cancelled)
	return nil
}

func (a *authority) take() []question {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked := a.asked
	a.asked = nil
	return asked
}

func startAuthority(t *testing.T, d *daemon, answers map[string]answer) *authority {
	t.Helper()
	a := &authority{answer: answers, held: make(chan struct{}), cancelled: make(chan struct{})}
	conn := d.dial()
	if err := conn.Export(a, polkitPath, polkitIface); err != nil {
		t.Fatal(err)
	}
	if reply, err := conn.RequestName(polkitName, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("the name of polkit: %v (%v)", reply, err)
	}
	return a
}

var yes, challenge = answer{Authorized: true}, answer{Challenge: true}

func TestPolkit(t *testing.T) {
	u := newDouble("myapp.service", "other.service", "web@1.service", "web@2.service", "db@1.service", "db@2.service", "ask.service")
	s := serve(t, startDaemon(t), u, nil)
	a := startAuthority(t, s.daemon, map[string]answer{
		"myapp.service": yes, "web@1.service": yes, "web@2.service": yes, "db@1.service": yes, "ask.service": challenge, "all@.service": yes,
	})
	c := s.client(1000)
	name := c.conn.Names()[0]
	q := func(action, verb, version, unit string) question {
		return question{
			"system-bus-name", name, "org.holdfast.upgrade1." + action,
			map[string]string{"unit": unit, "verb": verb, "version": version, "polkit.message": messages[verb]},
			0,
		}
	}
	for i, tt := range []struct {
		method string
		args   []any
		err    string
		text   string
		asked  []question
		starts int // units
	}{
		{"Rollout", []any{"myapp.service", "2.0.0", 1.0, variants()}, "", "", []question{q("rollout", "rollout", "2.0.0", "myapp.service")}, 1},
		{"Rollback", []any{"myapp.service", variants()}, "", "", []question{q("rollback", "rollback", "", "myapp.service")}, 1},
		{"Rollout", []any{"other.service", "", 1.0, variants()}, ErrorPermissionDenied, "rollout of other.service by", []question{q("rollout", "rollout", "", "other.service")}, 0},
		{"Rollout", []any{"ask.service", "", 1.0, variants()}, ErrorInteractiveAuthorization, "a rule for action org.holdfast.upgrade1.rollout and unit ask.service", []question{q("rollout", "rollout", "", "ask.service")}, 0},
		// Every unit of a pattern is asked about before any is touched.
		{"Rollout", []any{"web@*.service", "", 0.5, variants()}, "", "", []question{q("rollout", "rollout", "", "web@1.service"), q("rollout", "rollout", "", "web@2.service")}, 2},
		{"Rollout", []any{"db@*.service", "", 1.0, variants()}, ErrorPermissionDenied, "db@2.service", []question{q("rollout", "rollout", "", "db@1.service"), q("rollout", "rollout", "", "db@2.service")}, 0},
		{"Rollout", []any{"myapp.service other.service", "", 1.0, variants()}, ErrorPermissionDenied, "other.service", []question{q("rollout", "rollout", "", "myapp.service"), q("rollout", "rollout", "", "other.service")}, 0},
		{"Freeze", []any{"myapp.service", ""}, "", "", []question{q("freeze", "freeze", "", "myapp.service")}, 0},
		{"Thaw", []any{"myapp.service"}, "", "", []question{q("freeze", "thaw", "", "myapp.service")}, 0},
		{"Freeze", []any{"all@", ""}, "", "", []question{q("freeze", "freeze", "", "all@.service")}, 0},
		// What makes no sense is shown to nobody.
		{"Freeze", []any{"all\n@", ""}, ErrorInvalidArgument, "is not the name of a template", nil, 0},
		{"Rollout", []any{"myapp.service", "2\n", 1.0, variants()}, ErrorInvalidArgument, "version=", nil, 0},
		{"Rollout", []any{"myapp.service", "", 1.0, variants("request-id", "\x1b[2J")}, ErrorInvalidArgument, "id=", nil, 0},
		{"Freeze", []any{"other.service", ""}, ErrorPermissionDenied, "freeze of other.service", []question{q("freeze", "freeze", "", "other.service")}, 0},
		{"Thaw", []any{"other.service"}, ErrorPermissionDenied, "thaw of other.service", []question{q("freeze", "thaw", "", "other.service")}, 0},
		// What reads is free, and what makes no sense is not asked about.
		{"Status", []any{"other.service"}, "", "", nil, 0},
		{"History", []any{"other.service", uint32(0)}, "", "", nil, 0},
		{"Rollout", []any{"none.service", "", 1.0, variants()}, ErrorNotFound, "", nil, 0},
		{"Rollout", []any{"myapp.service", "", 1.0, variants("health-url", "unix:/run/docker.sock:/info")}, ErrorPermissionDenied, "only root may say where root looks", nil, 0},
		{"Rollout", []any{"myapp.service", "", 1.0, variants("metrics-url", "http://127.0.0.1:1/")}, ErrorPermissionDenied, "metrics-url", nil, 0},
	} {
		t.Run(fmt.Sprint(i, tt.method, tt.args[0]), func(t *testing.T) {
			c.t = t
			if tt.err != "" {
				c.wantError(tt.err, tt.text, tt.method, tt.args...)
			} else if err := c.call(tt.method, tt.args...).Err; err != nil {
				t.Error(err)
			}
			if asked := a.take(); !reflect.DeepEqual(asked, tt.asked) {
				t.Errorf("polkit was asked\n%+v, want\n%+v", asked, tt.asked)
			}
			if tt.starts > 0 {
				if r := s.next(); len(r.Units) != tt.starts || r.By != userName(1000) {
					t.Errorf("started %+v", r)
				}
			}
			s.nothingStarted()
		})
	}
	c.t = t
	if frozen := u.frozenUnits(); !slices.Equal(frozen, []string{"all@.service"}) {
		t.Errorf("frozen are %q", frozen)
	}

	// Who can be asked for a password is.
	c.interactive = true
	c.wantError(ErrorPermissionDenied, "polkit says no", "Rollout", "ask.service", "", 1.0, variants())
	if asked := a.take(); len(asked) != 1 || asked[0].flags != polkitAsk {
		t.Errorf("interactive: polkit was asked %+v", asked)
	}

	// Root is not asked about.
	if err := s.client(0).call("Rollout", "other.service", "", 1.0, variants("health-url", "http://127.0.0.1:1/")).Err; err != nil {
		t.Error(err)
	}
	s.next()
	if asked := a.take(); asked != nil {
		t.Errorf("root: polkit was asked %+v", asked)
	}
}

// Nobody waits for the password of who has left.
func TestPolkitIsCancelled(t *testing.T) {
	s := serve(t, startDaemon(t), newDouble("held.service"), nil)
	a := startAuthority(t, s.daemon, nil)
	c := s.client(1000)
	c.conn.Object(Name, Path).Go(Interface+".Rollout", dbus.FlagNoReplyExpected, nil, "held.service", "", 1.0, variants())
	select {
	case <-a.held:
	case <-time.After(patience):
		t.Fatal("polkit is not asked")
	}
	_ = c.conn.Close()
	select {
	case <-a.cancelled:
	case <-time.After(patience):
		t.Fatal("polkit is not told that the caller has left")
	}
	s.nothingStarted()
}

// Without polkit only root may do anything.
func TestNoPolkit(t *testing.T) {
	s := serve(t, startDaemon(t), newDouble("myapp.service"), nil)
	c := s.client(1000)
	for _, tt := range [][]any{
		{"Rollout", "myapp.service", "", 1.0, variants()},
		{"Rollback", "myapp.service", variants()},
		{"Freeze", "myapp.service", ""},
		{"Thaw", "myapp.service"},
	} {
		c.wantError(ErrorPermissionDenied, "polkit is not there to say who may, so only root may", tt[0].(string), tt[1:]...)
	}
	c.text("Status", "myapp.service")
	s.nothingStarted()
	s.client(0).text("Rollout", "myapp.service", "", 1.0, variants())
	s.next()
}
