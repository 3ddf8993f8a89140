// SPDX-License-Identifier: Apache-2.0

package upgrade1

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/holdfast-go/holdfast/units/upgrade"
)

// maxSpan bounds each time that a caller may ask for: nobody occupies a unit for longer.
const maxSpan = 24 * time.Hour

// option is one entry of the options of Rollout or Rollback.
type option struct {
	name string
	// set stores a value; it is an error of the type, or says what the value must be.
	set func(r *upgrade.Request, value dbus.Variant) error
	// rollback: Rollback has it, too.
	rollback bool
	// root: it has this service, which is root, go where the caller may not.
	root bool
}

// optionTable has all options, in the order of the documentation.
var optionTable = []option{
	{name: "request-id", rollback: true, set: typed(func(r *upgrade.Request, v string) error {
		if v == "" {
			return fmt.Errorf("must not be empty: leave it out, and the service makes one")
		}
		r.ID = v
		return nil
	})},
	{name: "dry-run", rollback: true, set: typed(func(r *upgrade.Request, v bool) error { r.DryRun = v; return nil })},
	{name: "reason", rollback: true, set: typed(func(r *upgrade.Request, v string) error { r.Reason = v; return nil })},
	{name: "timeout-usec", rollback: true, set: span(func(r *upgrade.Request, v time.Duration) { r.Timeout = v })},
	{name: "soak-usec", set: span(func(r *upgrade.Request, v time.Duration) {
		if r.Gates.Soak = v; v == 0 {
			r.Gates.Soak = -1
		}
	})},
	{name: "interval-usec", set: span(func(r *upgrade.Request, v time.Duration) { r.Gates.Interval = v })},
	{name: "max-failures", set: count(func(r *upgrade.Request, v int) { r.Gates.MaxFailures = v })},
	{name: "requests", set: typed(func(r *upgrade.Request, v string) error { r.Gates.Requests = v; return nil })},
	{name: "errors", set: typed(func(r *upgrade.Request, v string) error { r.Gates.Errors = v; return nil })},
	{name: "max-error-rate", set: typed(func(r *upgrade.Request, v float64) error { r.Gates.MaxErrorRate = v; return nil })},
	{name: "health-url", root: true, set: typed(func(r *upgrade.Request, v string) error { r.Gates.HealthURL = v; return nil })},
	{name: "metrics-url", root: true, set: typed(func(r *upgrade.Request, v string) error { r.Gates.MetricsURL = v; return nil })},
	{name: "canary", set: count(func(r *upgrade.Request, v int) {
		if r.Waves.Canary = v; v == 0 {
			r.Waves.Canary = -1
		}
	})},
	{name: "wave", set: count(func(r *upgrade.Request, v int) { r.Waves.Size = v })},
	{name: "pause-usec", set: span(func(r *upgrade.Request, v time.Duration) { r.Waves.Pause = v })},
	{name: "max-failed", set: count(func(r *upgrade.Request, v int) { r.Waves.MaxFailed = v })},
}

// typed is for values of exactly one type of D-Bus.
func typed[T any](set func(*upgrade.Request, T) error) func(*upgrade.Request, dbus.Variant) error {
	return func(r *upgrade.Request, value dbus.Variant) error {
		v, ok := value.Value().(T)
		if !ok {
			return fmt.Errorf("has type %s, must be %s", value.Signature(), dbus.SignatureOf(v))
		}
		return set(r, v)
	}
}

func span(set func(*upgrade.Request, time.Duration)) func(*upgrade.Request, dbus.Variant) error {
	return typed(func(r *upgrade.Request, usec uint64) error {
		if usec > uint64(maxSpan/time.Microsecond) {
			return fmt.Errorf("is %d µs, must be at most %v", usec, maxSpan)
		}
		set(r, time.Duration(usec)*time.Microsecond)
		return nil
	})
}

func count(set func(*upgrade.Request, int)) func(*upgrade.Request, dbus.Variant) error {
	return typed(func(r *upgrade.Request, n uint32) error {
		if n > math.MaxInt32 {
			return fmt.Errorf("is %d, must be at most %d", n, math.MaxInt32)
		}
		set(r, int(n))
		return nil
	})
}

const (
	rollout  = "rollout"
	rollback = "rollback"
)

// newRequest reads what a caller asks for. The names of units are left to package upgrade. All
// faults are in the error.
func newRequest(action, unit, version string, ratio float64, options map[string]dbus.Variant, root bool) (upgrade.Request, *dbus.Error) {
	r := upgrade.Request{Units: strings.Fields(unit), Version: version}
	var faults []string
	if len(r.Units) == 0 {
		faults = append(faults, fmt.Sprintf("unit %q: name a service, a pattern, or several of them with spaces between", unit))
	}
	if !(ratio > 0 && ratio <= 1) { // not a number, too
		faults = append(faults, fmt.Sprintf("ratio %v: must be greater than 0 and at most 1, which is all", ratio))
	}
	r.Waves.Ratio = ratio
	denied := ""
	for _, name := range sortedKeys(options) {
		i := slices.IndexFunc(optionTable, func(o option) bool { return o.name == name && (action == rollout || o.rollback) })
		if i < 0 {
			faults = append(faults, fmt.Sprintf("option %q: there is none of this name, only %s", name, strings.Join(optionNames(action), ", ")))
			continue
		}
		if optionTable[i].root && !root && denied == "" {
			denied = name
		}
		if err := optionTable[i].set(&r, options[name]); err != nil {
			faults = append(faults, fmt.Sprintf("option %q: %v", name, err))
		}
	}
	switch {
	case len(faults) > 0:
		return r, fail(ErrorInvalidArgument, "%s", strings.Join(faults, "; "))
	case denied != "":
		return r, fail(ErrorPermissionDenied, "option %q: only root may say where root looks; without it the service's own control socket is asked", denied)
	}
	return r, nil
}

func optionNames(action string) []string {
	var names []string
	for _, o := range optionTable {
		if action == rollout || o.rollback {
			names = append(names, o.name)
		}
	}
	return names
}

func sortedKeys(options map[string]dbus.Variant) []string {
	names := make([]string, 0, len(options))
	for name := range options {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// sameRequest says whether two requests of one id ask for the same. Units were resolved by now,
// and what a pattern stands for may have changed: they are compared as they were asked for.
func sameRequest(a, b upgrade.Request) bool {
	a.By, b.By = "", ""
	return fmt.Sprintf("%+v", a) == fmt.Sprintf("%+v", b)
}
