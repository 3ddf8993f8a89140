// SPDX-License-Identifier: Apache-2.0

package upgrade1

import (
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/holdfast-go/holdfast/units/upgrade"
)

func TestNewRequest(t *testing.T) {
	all := variants(
		"request-id", "a", "dry-run", true, "reason", "slow", "timeout-usec", uint64(90e6), "soak-usec", uint64(2e6), "interval-usec", uint64(250e3),
		"max-failures", uint32(2), "requests", "r", "errors", "e", "max-error-rate", 0.25, "health-url", "http://h/", "metrics-url", "http://m/",
		"canary", uint32(3), "wave", uint32(4), "pause-usec", uint64(5e6), "max-failed", uint32(6),
	)
	if len(all) != len(optionTable) {
		t.Fatalf("the test knows %d options, there are %d", len(all), len(optionTable))
	}
	got, fault := newRequest(rollout, "  a.service  b@*.service ", "2", 0.5, all, true)
	want := upgrade.Request{
		ID: "a", Units: []string{"a.service", "b@*.service"}, Version: "2", DryRun: true, Reason: "slow", Timeout: 90 * time.Second,
		Gates: upgrade.Gates{
			Soak: 2 * time.Second, Interval: 250 * time.Millisecond, MaxFailures: 2, Requests: "r", Errors: "e", MaxErrorRate: 0.25,
			HealthURL: "http://h/", MetricsURL: "http://m/",
		},
		Waves: upgrade.Waves{Ratio: 0.5, Canary: 3, Size: 4, Pause: 5 * time.Second, MaxFailed: 6},
	}
	if fault != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v (%v), want %+v", got, fault, want)
	}
	// Nothing of package upgrade's defaults is what a caller has said.
	got, fault = newRequest(rollout, "a", "", 1, variants("soak-usec", uint64(0), "canary", uint32(0)), false)
	if fault != nil || got.Gates.Soak >= 0 || got.Waves.Canary >= 0 {
		t.Errorf("no soak and no canary: %+v (%v)", got, fault)
	}

	for _, tt := range []struct {
		action  string
		unit    string
		ratio   float64
		options options
		root    bool
		name    string
		text    string
	}{
		{rollout, " ", 1, nil, true, ErrorInvalidArgument, "name a service, a pattern, or several"},
		{rollout, "a", 0, nil, true, ErrorInvalidArgument, "ratio 0: must be greater than 0"},
		{rollout, "a", 1.1, nil, true, ErrorInvalidArgument, "ratio 1.1: "},
		{rollout, "a", math.NaN(), nil, true, ErrorInvalidArgument, "ratio NaN: "},
		{rollout, "a", math.Inf(-1), nil, true, ErrorInvalidArgument, "ratio -Inf: "},
		{rollout, "a", 1, variants("Canary", uint32(1)), true, ErrorInvalidArgument, `option "Canary": there is none of this name`},
		{rollout, "a", 1, variants("canary", int32(1)), true, ErrorInvalidArgument, `option "canary": has type i, must be u`},
		{rollout, "a", 1, variants("canary", "1"), true, ErrorInvalidArgument, `option "canary": has type s, must be u`},
		{rollout, "a", 1, variants("canary", uint32(math.MaxUint32)), true, ErrorInvalidArgument, `option "canary": is 4294967295, must be at most`},
		{rollout, "a", 1, variants("soak-usec", uint32(1)), true, ErrorInvalidArgument, `option "soak-usec": has type u, must be t`},
		{rollout, "a", 1, variants("soak-usec", uint64(math.MaxUint64)), true, ErrorInvalidArgument, `option "soak-usec": is 18446744073709551615 µs, must be at most 24h0m0s`},
		{rollout, "a", 1, variants("request-id", ""), true, ErrorInvalidArgument, `option "request-id": must not be empty`},
		{rollout, "a", 1, variants("b", 1, "a", 2), true, ErrorInvalidArgument, `option "a": `},
		{rollback, "a", 1, variants("soak-usec", uint64(1)), true, ErrorInvalidArgument, `option "soak-usec": there is none of this name, only request-id, dry-run, reason, timeout-usec`},
		{rollout, "a", 1, variants("health-url", "http://h/"), false, ErrorPermissionDenied, `option "health-url": only root`},
	} {
		_, fault := newRequest(tt.action, tt.unit, "", tt.ratio, tt.options, tt.root)
		if fault == nil || fault.Name != tt.name || !strings.Contains(fault.Error(), tt.text) {
			t.Errorf("%s %q %v %v: got %v, want %s with %q", tt.action, tt.unit, tt.ratio, tt.options, fault, tt.name, tt.text)
		}
	}
}

func TestSameRequest(t *testing.T) {
	a := upgrade.Request{ID: "x", Units: []string{"a"}, By: "jane"}
	b := upgrade.Request{ID: "x", Units: []string{"a"}, By: "joe"}
	if !sameRequest(a, b) {
		t.Error("two requests for the same are another one each")
	}
	for _, change := range []func(*upgrade.Request){
		func(r *upgrade.Request) { r.Units = []string{"a", "b"} },
		func(r *upgrade.Request) { r.Version = "2" },
		func(r *upgrade.Request) { r.Gates.Soak = 1 },
		func(r *upgrade.Request) { r.Waves.Ratio = 0.5 },
		func(r *upgrade.Request) { r.DryRun = true },
	} {
		c := b
		change(&c)
		if sameRequest(a, c) {
			t.Errorf("%+v and %+v are the same", a, c)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	for _, text := range []string{"", "plain", "a\nb", "\x1b[2J\x00", "\xff\xfe", "\u202e\u0085\ufffd", strings.Repeat("ä", 600), strings.Repeat("\x00", 300)} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := printable(text, maxText)
		if len(got) > maxText || !utf8.ValidString(got) {
			t.Errorf("%q: %d bytes %q", text, len(got), got)
		}
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Errorf("%q: %U in %q", text, r, got)
			}
		}
	})
}
