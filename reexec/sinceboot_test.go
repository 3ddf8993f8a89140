// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// What crosses to another process has times of the wall clock for people only, never
// for a deadline: the clock may be set in the middle of an upgrade.
func TestNoDeadlineIsOfTheWallClock(t *testing.T) {
	t.Parallel()
	forPeople := []string{"Verdict.Started", "Drain.Began", "Fingerprint.Built"}
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || seen[typ] {
			return
		}
		seen[typ] = true
		for i := range typ.NumField() {
			f := typ.Field(i)
			if name := typ.Name() + "." + f.Name; f.Type == reflect.TypeFor[time.Time]() {
				if !slices.Contains(forPeople, name) {
					t.Errorf("%s is a time of the wall clock: say how long instead", name)
				}
				continue
			}
			walk(f.Type)
		}
	}
	for _, payload := range []any{
		handover.Hello{},
		handover.Descriptors{},
		handover.Update{},
		handover.Connections{},
		handover.Taken{},
		handover.Complete{},
		handover.Beat{},
		handover.Reason{},
		handover.Drained{},
		handover.Promote{},
		manifest{},
	} {
		walk(reflect.TypeOf(payload))
	}
	if !seen[reflect.TypeFor[control.Verdict]()] {
		t.Error("the verdict was not looked at")
	}
}

func TestTimeLeftAfterExecution(t *testing.T) {
	t.Parallel()
	const whole = time.Minute
	for _, c := range []struct {
		name     string
		executed time.Duration
		most     time.Duration
		least    time.Duration
	}{
		{"now", sinceBoot(), whole, whole - 10*time.Second},
		{"half of it ago", sinceBoot() - whole/2, whole / 2, whole/2 - 10*time.Second},
		{"long ago", sinceBoot() - 2*whole, time.Millisecond, time.Millisecond},
		{"in the future, which no clock that is never set can say", sinceBoot() + time.Hour, whole, whole},
	} {
		r := &renewal{manifest: manifest{Executed: c.executed, Hello: handover.Hello{StartTimeout: whole}}}
		if got := r.left(); got > c.most || got < c.least {
			t.Errorf("executed %s: %v are left, want %v to %v", c.name, got, c.least, c.most)
		}
	}
}

// An undone generation has the rest of its time with the next main, too.
func TestEldersTimeCrosses(t *testing.T) {
	t.Parallel()
	self := control.Process{PID: os.Getpid()}
	for _, c := range []struct {
		name string
		at   time.Time
		left time.Duration
	}{
		{"never", time.Time{}, 0},
		{"in an hour", time.Now().Add(time.Hour), time.Hour},
		{"a while ago", time.Now().Add(-time.Hour), time.Nanosecond},
	} {
		e := newElder(self)
		e.killAt = c.at
		file, err := os.Open(os.DevNull) // stands for the pidfd
		if err != nil {
			t.Fatal(err)
		}
		got, err := sortOut([]handover.Descriptor{{Role: roleElder, Elder: &e.Process, KillIn: e.killIn()}}, []*os.File{file})
		e.handle.close()
		if err != nil || len(got.elders) != 1 {
			t.Fatalf("%s: %+v, %v", c.name, got, err)
		}
		there := got.elders[0]
		switch left := time.Until(there.killAt); {
		case c.left == 0 && !there.killAt.IsZero():
			t.Errorf("%s: it is to be killed in %v", c.name, left)
		case c.left > 0 && (there.killAt.IsZero() || left > c.left || left < c.left-time.Minute):
			t.Errorf("%s: %v are left, want %v", c.name, left, c.left)
		}
		there.handle.close()
		_ = got.set.Close()
	}
}
