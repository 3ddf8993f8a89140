// SPDX-License-Identifier: Apache-2.0

package upgrade1

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/introspect"

	"github.com/holdfast-go/holdfast/packaging/holdfast"
	"github.com/holdfast-go/holdfast/units/upgrade"
)

// A rollout from the call to the end, as a caller sees it.
func TestRollout(t *testing.T) {
	s := serve(t, startDaemon(t), newDouble("myapp.service"), nil)
	c := s.client(0)
	id := c.text("Rollout", "myapp.service", "2.0.0", 1.0, variants("soak-usec", uint64(0)))
	r := s.next()
	if r.ID != id || r.Version != "2.0.0" || r.By != userName(0) || r.Gates.Soak >= 0 || r.Waves.Ratio != 1 {
		t.Errorf("request %+v", r)
	}
	progress := c.wait(Interface+".Progress", func([]any) bool { return true })
	if want := []any{id, "", "wave", "", `wave 1 of 1\x1b[2J`, uint32(0), uint32(1)}; !reflect.DeepEqual(progress, want) {
		t.Errorf("Progress: got %q, want %q", progress, want)
	}
	active, err := c.conn.Object(Name, Path).GetProperty(Interface + ".Active")
	if err != nil || !reflect.DeepEqual(active.Value(), []string{id}) {
		t.Errorf("Active: %v (%v)", active, err)
	}
	s.end <- upgrade.Failed
	done := c.wait(Interface+".Done", func([]any) bool { return true })
	if want := []any{id, "failed", `not healthy\xff\x00`}; !reflect.DeepEqual(done, want) {
		t.Errorf("Done: got %q, want %q", done, want)
	}
	c.wait("org.freedesktop.DBus.Properties.PropertiesChanged", func(body []any) bool {
		changed, _ := body[1].(map[string]dbus.Variant)
		return body[0] == Interface && reflect.DeepEqual(changed["Active"].Value(), []string{})
	})
	var report upgrade.Report
	if err := json.Unmarshal([]byte(c.text("Wait", id)), &report); err != nil || report.ID != id || report.Outcome != upgrade.Failed {
		t.Errorf("Wait: %+v (%v)", report, err)
	}
	var reports []upgrade.Report
	if err := json.Unmarshal([]byte(c.text("History", "myapp.service", uint32(1))), &reports); err != nil || len(reports) != 1 || reports[0].ID != id {
		t.Errorf("History: %+v (%v)", reports, err)
	}
	if text := c.text("History", "other.service", uint32(0)); text != "[]" {
		t.Errorf("History of another unit: %s", text)
	}
	var status upgrade.UnitStatus
	if err := json.Unmarshal([]byte(c.text("Status", "myapp.service")), &status); err != nil || status.Unit.Name != "myapp.service" {
		t.Errorf("Status: %+v (%v)", status, err)
	}

	id = c.text("Rollback", "myapp.service", variants())
	if r := s.next(); r.ID != id {
		t.Errorf("Rollback started %+v", r)
	}
	s.end <- upgrade.Done
	if err := json.Unmarshal([]byte(c.text("Wait", id)), &report); err != nil || report.Action != rollback || report.Outcome != upgrade.Done {
		t.Errorf("Wait: %+v (%v)", report, err)
	}
}

func TestErrors(t *testing.T) {
	u := newDouble("myapp.service", "idle.service", "busy.service", "broken.service", "bad.service")
	u.fails["idle.service"] = errors.Join(&upgrade.PreconditionError{Unit: "idle.service", What: "it is not active", Hint: "systemctl start idle"}, errors.New("and more"))
	u.fails["busy.service"] = fmt.Errorf("lock: %w", &upgrade.BusyError{Unit: "busy.service", Holder: upgrade.Holder{ID: "x", PID: 7}})
	u.fails["broken.service"] = errors.New("the disk is full")
	u.fails["bad.service"] = &upgrade.RequestError{Field: "gates.interval", Value: 1, Want: "must be more"}
	s := serve(t, startDaemon(t), u, nil)
	c := s.client(0)
	for _, tt := range []struct {
		name, text, method string
		args               []any
	}{
		{ErrorNotFound, `"none.service"`, "Rollout", []any{"none.service", "", 1.0, variants()}},
		{ErrorNotFound, `"none@*.service"`, "Rollback", []any{"none@*.service", variants()}},
		{ErrorNotFound, `"none.service"`, "Status", []any{"none.service"}},
		{ErrorNotFound, `request "none": there is none`, "Wait", []any{"none"}},
		{ErrorNotFound, `"none.service"`, "Freeze", []any{"none.service", ""}},
		{ErrorFailedPrecondition, "it is not active; and more; next: systemctl start idle", "Rollout", []any{"idle.service", "", 1.0, variants()}},
		{ErrorBusy, "(PID 7)", "Rollout", []any{"busy.service", "", 1.0, variants()}},
		{ErrorFailed, "the disk is full", "Rollout", []any{"broken.service", "", 1.0, variants()}},
		{ErrorInvalidArgument, "gates.interval", "Rollout", []any{"bad.service", "", 1.0, variants()}},
		{ErrorInvalidArgument, "ratio 0: must be greater than 0", "Rollout", []any{"myapp.service", "", 0.0, variants()}},
		{ErrorInvalidArgument, `option "colour": there is none of this name, only request-id, dry-run`, "Rollout", []any{"myapp.service", "", 1.0, variants("colour", "red")}},
		{ErrorInvalidArgument, "name one unit, or a template", "Freeze", []any{"myapp*", ""}},
		{"org.freedesktop.DBus.Error.InvalidArgs", "", "Rollout", []any{"myapp.service"}},
		{"org.freedesktop.DBus.Error.UnknownMethod", "", "Upgrade", []any{"myapp.service"}},
	} {
		c.wantError(tt.name, tt.text, tt.method, tt.args...)
	}
	s.nothingStarted()

	if err := c.call("Freeze", "myapp.service", "release day").Err; err != nil {
		t.Fatal(err)
	}
	c.wantError(ErrorFrozen, "release day", "Rollout", "myapp.service", "", 1.0, variants())
	if err := c.call("Freeze", "myapp@", "").Err; err != nil || !slices.Contains(u.frozenUnits(), "myapp@.service") {
		t.Errorf("freeze of a template: %v, frozen %q", err, u.frozenUnits())
	}
	if err := c.call("Thaw", "myapp.service").Err; err != nil {
		t.Fatal(err)
	}
	c.text("Rollout", "myapp.service", "", 1.0, variants())
	s.next()
}

// The same id is the same request, for the same user, as long as it asks for the same.
func TestIdempotent(t *testing.T) {
	s := serve(t, startDaemon(t), newDouble("myapp.service", "other.service"), nil)
	c := s.client(0)
	ask := []any{"myapp.service", "2.0.0", 1.0, variants("request-id", "deploy-7")}
	if id := c.text("Rollout", ask...); id != "deploy-7" {
		t.Fatalf("id %q", id)
	}
	s.next()
	again := func(when string) {
		t.Helper()
		if id := s.client(0).text("Rollout", ask...); id != "deploy-7" {
			t.Errorf("%s: id %q", when, id)
		}
		s.nothingStarted()
		for _, other := range [][]any{
			{"other.service", "2.0.0", 1.0, ask[3]}, {"myapp.service", "2.0.1", 1.0, ask[3]},
		} {
			c.wantError(ErrorInvalidArgument, "it is that of another request", "Rollout", other...)
		}
		c.wantError(ErrorInvalidArgument, "it is that of another request", "Rollback", "myapp.service", ask[3])
		s.client(1000).wantError(ErrorPermissionDenied, "another user's request", "Rollout", ask...)
		s.nothingStarted()
	}
	again("under way")
	c.wantError(ErrorInvalidArgument, "it is that of another request", "Rollout", "myapp.service", "2.0.0", 0.5, ask[3])
	s.end <- upgrade.Done
	c.text("Wait", "deploy-7")
	again("over")

	// What another process has done is known by the journal.
	s.cancel()
	<-s.ended
	if s.err != nil {
		t.Errorf("Serve: %v", s.err)
	}
	s = serve(t, s.daemon, s.double, nil)
	c = s.client(0)
	again("after a restart")
	if text := c.text("Wait", "deploy-7"); !strings.Contains(text, `"outcome":"done"`) {
		t.Errorf("Wait after a restart: %s", text)
	}
	// What never started can be asked for again.
	s.failWith("other.service", errors.New("not now"))
	c.wantError(ErrorFailed, "not now", "Rollout", "other.service", "", 1.0, variants("request-id", "deploy-8"))
	s.failWith("other.service", nil)
	c.text("Rollout", "other.service", "", 1.0, variants("request-id", "deploy-8"))
	s.next()
}

// Checks that take long do not hold up the caller, who hears of what they find.
func TestSlowChecks(t *testing.T) {
	u := newDouble("myapp.service")
	u.checks = make(chan struct{})
	u.fails["myapp.service"] = errors.New("not today")
	s := serve(t, startDaemon(t), u, func(o *Options) { o.acceptTimeout = 10 * time.Millisecond })
	c := s.client(0)
	ask := []any{"myapp.service", "", 1.0, variants("request-id", "deploy-7")}
	id := c.text("Rollout", ask...)
	close(u.checks)
	done := c.wait(Interface+".Done", func([]any) bool { return true })
	if want := []any{id, "failed", "not today"}; !reflect.DeepEqual(done, want) {
		t.Errorf("Done: got %q, want %q", done, want)
	}
	c.wantError(ErrorFailed, "not today", "Wait", id)
	// It was not started, so it can be.
	u.failWith("myapp.service", nil)
	c.text("Rollout", ask...)
	s.next()
}

// A rollout belongs to the service.
func TestCallerLeaves(t *testing.T) {
	s := serve(t, startDaemon(t), newDouble("myapp.service"), nil)
	leaver, stayer := s.client(0), s.client(0)
	id := leaver.text("Rollout", "myapp.service", "", 1.0, variants())
	s.next()
	waiting := leaver.conn.Object(Name, Path).Go(Interface+".Wait", 0, nil, id)
	_ = leaver.conn.Close()
	if waiting = <-waiting.Done; waiting.Err == nil {
		t.Error("Wait of who has left: no error")
	}
	s.end <- upgrade.Done
	if text := stayer.text("Wait", id); !strings.Contains(text, `"outcome":"done"`) {
		t.Errorf("Wait: %s", text)
	}
}

// A call ends with its caller: else waiting for nothing would use up the calls.
func TestLimits(t *testing.T) {
	s := serve(t, startDaemon(t), newDouble("myapp.service"), nil)
	c, other := s.client(0), s.client(0)
	id := c.text("Rollout", "myapp.service", "", 1.0, variants())
	s.next()
	waiting := make(chan *dbus.Call, 3*maxSenderCalls)
	for range maxSenderCalls + 1 {
		other.conn.Object(Name, Path).Go(Interface+".Wait", 0, waiting, id)
	}
	// One too many has its answer at once.
	var e dbus.Error
	if first := <-waiting; !errors.As(first.Err, &e) || e.Name != ErrorLimitsExceeded {
		t.Errorf("one call too many: %v", first.Err)
	}
	c.text("Status", "myapp.service")
	_ = other.conn.Close()
	s.end <- upgrade.Done
	c.text("Wait", id)
}

// A user does not use up the calls by many connections.
func TestUserLimit(t *testing.T) {
	s := serve(t, startDaemon(t), newDouble("myapp.service"), nil)
	id := s.client(0).text("Rollout", "myapp.service", "", 1.0, variants())
	s.next()
	waiting := make(chan *dbus.Call, 2*maxUserCalls)
	for range maxUserCalls / maxSenderCalls * 2 {
		c := s.client(1000)
		for range maxSenderCalls {
			c.conn.Object(Name, Path).Go(Interface+".Wait", 0, waiting, id)
		}
	}
	for range maxUserCalls { // those too many
		var e dbus.Error
		if first := <-waiting; !errors.As(first.Err, &e) || e.Name != ErrorLimitsExceeded {
			t.Fatalf("%v", first.Err)
		}
	}
	s.client(1000).wantError(ErrorLimitsExceeded, "64 calls of", "Status", "myapp.service")
	s.client(1001).text("Status", "myapp.service")
	s.end <- upgrade.Done
	s.client(0).text("Wait", id)
	for range maxUserCalls {
		if c := <-waiting; c.Err != nil {
			t.Error(c.Err)
		}
	}
	s.client(1000).text("Status", "myapp.service")
}

// The bus is restarted in the middle: the rollout goes on, and its end can be asked for.
func TestBusRestart(t *testing.T) {
	s := serve(t, startDaemon(t), newDouble("myapp.service"), nil)
	id := s.client(0).text("Rollout", "myapp.service", "", 1.0, variants())
	s.next()
	s.stop()
	s.start()
	c := s.client(0)
	owned := func() bool {
		var has bool
		if err := c.conn.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, Name).Store(&has); err != nil {
			t.Fatal(err)
		}
		return has
	}
	for end := time.Now().Add(patience); !owned(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the service does not come back")
		}
	}
	s.end <- upgrade.Done
	c.wait(Interface+".Done", func(body []any) bool { return body[0] == id && body[1] == "done" })
	if text := c.text("Wait", id); !strings.Contains(text, `"outcome":"done"`) {
		t.Errorf("Wait: %s", text)
	}
}

// Without anything to do it ends, when the bus does not come back as well.
func TestIdle(t *testing.T) {
	s := serve(t, startDaemon(t), newDouble("myapp.service"), func(o *Options) { o.Idle = 300 * time.Millisecond })
	c := s.client(0)
	id := c.text("Rollout", "myapp.service", "", 1.0, variants())
	s.next()
	select {
	case <-s.ended:
		t.Fatalf("Serve has ended in a rollout: %v", s.err)
	case <-time.After(900 * time.Millisecond): // three times the limit
	}
	s.end <- upgrade.Done
	c.text("Wait", id)
	wantEnd(t, s, "")

	s = serve(t, startDaemon(t), newDouble(), func(o *Options) { o.Patience = time.Millisecond })
	s.stop()
	wantEnd(t, s, "connect to the bus")
}

func wantEnd(t *testing.T, s *service, want string) {
	t.Helper()
	select {
	case <-s.ended:
	case <-time.After(patience):
		t.Fatal("Serve does not end")
	}
	if want == "" && s.err != nil || want != "" && (s.err == nil || !strings.Contains(s.err.Error(), want)) {
		t.Errorf("Serve: got %v, want %q", s.err, want)
	}
}

// A second one has no use.
func TestNameIsTaken(t *testing.T) {
	s := serve(t, startDaemon(t), newDouble(), nil)
	err := Serve(t.Context(), Options{Upgrader: newDouble(), Address: s.address})
	if err == nil || !strings.Contains(err.Error(), "another process has it") {
		t.Errorf("Serve: %v", err)
	}
}

// What is interrupted is no end; the next service resumes it.
func TestResume(t *testing.T) {
	s := serve(t, startDaemon(t), newDouble("myapp.service", "other.service"), nil)
	c := s.client(0)
	id := c.text("Rollout", "myapp.service", "", 1.0, variants())
	s.next()
	second := c.text("Rollout", "other.service", "", 1.0, variants())
	s.next()
	waiting := c.conn.Object(Name, Path).Go(Interface+".Wait", 0, nil, id)
	c.text("Status", "myapp.service") // so Wait was read
	s.cancel()
	var e dbus.Error
	if answer := <-waiting.Done; !errors.As(answer.Err, &e) || e.Name != ErrorInterrupted {
		t.Errorf("Wait: got %v, want %s", answer.Err, ErrorInterrupted)
	}
	wantEnd(t, s, "")
	s.left = []string{id, second}
	s = serve(t, s.daemon, s.double, func(o *Options) { o.Idle = 50 * time.Millisecond })
	if r := s.next(); r.ID != id {
		t.Errorf("resumed %+v", r)
	}
	c = s.client(0)
	if got := c.text("Rollout", "myapp.service", "", 1.0, variants("request-id", id)); got != id {
		t.Errorf("the same request: id %q", got)
	}
	active, err := c.conn.Object(Name, Path).GetProperty(Interface + ".Active")
	if err != nil || !reflect.DeepEqual(active.Value(), []string{id}) {
		t.Errorf("Active: %v (%v)", active, err)
	}
	waiting = c.conn.Object(Name, Path).Go(Interface+".Wait", 0, nil, id)
	s.end <- upgrade.Done
	c.wait(Interface+".Done", func(body []any) bool { return body[0] == id && body[1] == "done" })
	var text string
	if err := (<-waiting.Done).Store(&text); err != nil || !strings.Contains(text, `"outcome":"done"`) {
		t.Errorf("Wait: %s (%v)", text, err)
	}
	// One after the other, and each has its own end.
	if r := s.next(); r.ID != second {
		t.Errorf("resumed %+v", r)
	}
	s.end <- upgrade.Done
	c.wait(Interface+".Done", func(body []any) bool { return body[0] == second && body[1] == "done" })
	wantEnd(t, s, "")
}

// What comes while it ends is not lost: somebody has to start it again.
func TestLateCall(t *testing.T) {
	d := startDaemon(t)
	srv := newServer(t.Context(), Options{
		Upgrader: newDouble("myapp.service"), Address: d.address, userOf: func(string) (uint32, error) { return 0, nil },
	}.withDefaults())
	current, err := srv.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer current.close()
	c := d.dial()
	current.mu.Lock() // what arrives is not looked at
	answer := c.Object(Name, Path).Go(Interface+".Rollout", 0, nil, "myapp.service", "", 1.0, variants())
	if err := c.BusObject().Call("org.freedesktop.DBus.GetId", 0).Err; err != nil { // the bus has delivered it
		t.Fatal(err)
	}
	left := make(chan error, 1)
	go func() { left <- srv.leave(t.Context(), current) }()
	current.mu.Unlock()
	if err := (<-answer.Done).Err; err != nil {
		t.Error(err)
	}
	if err := <-left; !errors.Is(err, ErrLate) {
		t.Errorf("leave: got %v, want ErrLate", err)
	}
	srv.end()
}

// The installed description is that of the methods which there are.
func TestIntrospection(t *testing.T) {
	s := serve(t, startDaemon(t), newDouble(), nil)
	c := s.client(0)
	var text string
	if err := c.conn.Object(Name, Path).Call("org.freedesktop.DBus.Introspectable.Introspect", 0).Store(&text); err != nil || text != holdfast.Interface {
		t.Fatalf("Introspect: %v, %q", err, text)
	}
	node, err := introspect.Call(c.conn.Object(Name, Path))
	if err != nil {
		t.Fatal(err)
	}
	described := make(map[string]string)
	for _, iface := range node.Interfaces {
		for _, m := range iface.Methods {
			for _, a := range m.Args {
				described[iface.Name+"."+m.Name] += a.Direction + " " + a.Type + ","
			}
			described[iface.Name+"."+m.Name] += ""
		}
		if iface.Name != Interface {
			continue
		}
		var names []string
		for _, p := range iface.Properties {
			value, err := c.conn.Object(Name, Path).GetProperty(Interface + "." + p.Name)
			if err != nil || value.Signature().String() != p.Type {
				t.Errorf("property %s: %v (%v), described as %s", p.Name, value, err, p.Type)
			}
			names = append(names, p.Name)
		}
		var all map[string]dbus.Variant
		if err := c.conn.Object(Name, Path).Call("org.freedesktop.DBus.Properties.GetAll", 0, Interface).Store(&all); err != nil || len(all) != len(names) {
			t.Errorf("GetAll: %v (%v), described are %q", all, err, names)
		}
	}
	there := make(map[string]string)
	for name, object := range map[string]any{Interface: manager{}, "org.freedesktop.DBus.Properties": properties{}} {
		methods := reflect.TypeOf(object)
		for i := range methods.NumMethod() {
			m := methods.Method(i)
			if last := m.Type.NumOut() - 1; last < 0 || m.Type.Out(last) != reflect.TypeFor[*dbus.Error]() {
				continue
			}
			key := name + "." + m.Name
			there[key] = ""
			for j := 1; j < m.Type.NumIn(); j++ {
				if m.Type.In(j) != reflect.TypeFor[dbus.Message]() {
					there[key] += "in " + dbus.SignatureOfType(m.Type.In(j)).String() + ","
				}
			}
			for j := range m.Type.NumOut() - 1 {
				there[key] += "out " + dbus.SignatureOfType(m.Type.Out(j)).String() + ","
			}
		}
	}
	there["org.freedesktop.DBus.Introspectable.Introspect"] = "out s,"
	there["org.freedesktop.DBus.Peer.Ping"] = ""
	there["org.freedesktop.DBus.Peer.GetMachineId"] = "out s,"
	if !reflect.DeepEqual(described, there) {
		t.Errorf("described are\n%q\nand there are\n%q", described, there)
	}
	if err := c.conn.Object(Name, Path).SetProperty(Interface+".Version", dbus.MakeVariant("9")); err == nil {
		t.Error("Version can be set")
	}
}

// The bus says who somebody is, and does not who has left.
func TestUserOf(t *testing.T) {
	d := startDaemon(t)
	srv := newServer(t.Context(), Options{Upgrader: newDouble(), Address: d.address}.withDefaults())
	current, err := srv.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer current.close()
	conn := d.dial()
	name := conn.Names()[0]
	uid, err := current.userOf(context.Background(), name)
	if err != nil || uid != uint32(os.Geteuid()) {
		t.Errorf("user of %s: %d (%v)", name, uid, err)
	}
	_ = conn.Close()
	for end := time.Now().Add(patience); ; {
		if _, err := current.userOf(context.Background(), name); err != nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal("who has left is still somebody")
		}
	}
}
