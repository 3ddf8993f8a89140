// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

func TestRequestIsChecked(t *testing.T) {
	good := func() Request { return Request{Units: []string{"myapp"}} }
	for _, tt := range []struct {
		name   string
		change func(*Request)
		want   string // contained in the error; empty for none
	}{
		{"good", func(*Request) {}, ""},
		{"id", func(r *Request) { r.ID = "../x" }, `id="../x": must have 1 to 64`},
		{"long id", func(r *Request) { r.ID = strings.Repeat("x", 65) }, "must have 1 to 64"},
		{"hidden id", func(r *Request) { r.ID = ".x" }, "must have 1 to 64"},
		{"no units", func(r *Request) { r.Units = nil }, "units=0: name 1 to"},
		{"socket", func(r *Request) { r.Units = []string{"a.socket"} }, `units="a.socket": is not a service`},
		{"template", func(r *Request) { r.Units = []string{"a@"} }, `units="a@": is a template: name an instance, as in a@1, or all of them, as in 'a@*'`},
		{"path", func(r *Request) { r.Units = []string{"/run/a"} }, "is not the name of a service"},
		{"line", func(r *Request) { r.Units = []string{"a\nb"} }, `units="a\nb": is not the name of a service`},
		{"bad pattern", func(r *Request) { r.Units = []string{"a[*"} }, "is not a pattern"},
		{"two faults", func(r *Request) { r.Units, r.Timeout = []string{""}, -1 }, "must not be negative"},
		{"control characters", func(r *Request) { r.By = "\x1b[2J" }, `by="\x1b[2J": must have at most`},
		{"reason", func(r *Request) { r.Reason = strings.Repeat("x", 257) }, "must have at most 256 bytes"},
		{"interval", func(r *Request) { r.Gates.Interval = time.Millisecond }, "gates.interval=1ms: must be 50ms or more"},
		{"health URL", func(r *Request) { r.Gates.HealthURL = "ftp://x/" }, "gates.health_url"},
		{"metrics URL", func(r *Request) { r.Gates.MetricsURL = "unix:x" }, "must be"},
		{"counter", func(r *Request) { r.Gates.Requests, r.Gates.Errors = "a b", "c" }, `gates.requests="a b": must be the name of a counter`},
		{"one counter", func(r *Request) { r.Gates.Requests = "a" }, "needs gates.errors"},
		{"rate without counters", func(r *Request) { r.Gates.MaxErrorRate = 0.1 }, "name the counters"},
		{"rate", func(r *Request) { r.Gates.MaxErrorRate = math.NaN() }, "must be from 0 to 1"},
		{"ratio", func(r *Request) { r.Waves.Ratio = 1.1 }, "waves.ratio=1.1: must be from 0 to 1"},
		{"pause", func(r *Request) { r.Waves.Pause = -time.Second }, "waves.pause=-1s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := good()
			tt.change(&r)
			r, err := r.withDefaults()
			if tt.want == "" {
				if err != nil || r.ID == "" || r.Units[0] != "myapp.service" || r.Gates.Soak != defaultSoak || r.Gates.Interval != time.Second {
					t.Errorf("%+v, %v", r, err)
				}
				return
			}
			var request *RequestError
			if !errors.As(err, &request) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestTarget(t *testing.T) {
	for _, tt := range []struct{ text, socket, url, err string }{
		{"http://127.0.0.1:80%i/healthz", "", "http://127.0.0.1:801/healthz", ""},
		{"https://example.org/a%%20b", "", "https://example.org/a%20b", ""},
		{"unix:/run/app@%i/http.sock:/healthz", "/run/app@1/http.sock", "http://localhost/healthz", ""},
		{"unix:run/http.sock:/healthz", "", "", "unix:PATH:/path"},
		{"unix:/run/http.sock", "", "", "unix:PATH:/path"},
		{"http:///healthz", "", "", "http://HOST/path"},
		{"http://x/%t", "", "", "neither %i"},
		{"http://x/%", "", "", "neither %i"},
		{"", "", "", "http://HOST/path"},
	} {
		got, err := parseTarget(tt.text, "1")
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q: error %v, want %q", tt.text, err, tt.err)
			}
			continue
		}
		if err != nil || got != (target{tt.socket, tt.url}) {
			t.Errorf("%q: %+v, %v", tt.text, got, err)
		}
	}
}

// The report goes to everybody.
func TestTargetKeepsSecrets(t *testing.T) {
	for text, want := range map[string]string{
		"http://127.0.0.1:1/a%%20b":              "http://127.0.0.1:1/a%20b",
		"http://jane:secret@127.0.0.1:1/h":       "http://jane:xxxxx@127.0.0.1:1/h",
		"http://127.0.0.1:1/h?token=secret":      "http://127.0.0.1:1/h?...",
		"unix:/nosuch/http.sock:/h?token=secret": "unix:/nosuch/http.sock http://localhost/h?...",
	} {
		target, err := parseTarget(text, "")
		if err != nil {
			t.Fatal(err)
		}
		if got := target.String(); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		_, _, err = fetch(t.Context(), target)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: error %v", text, err)
		}
	}
}

func TestNatural(t *testing.T) {
	ordered := []string{"a@1.service", "a@2.service", "a@9.service", "a@10.service", "a@010b.service", "b@1.service"}
	for i := range ordered {
		for j := range ordered {
			if got, want := natural(ordered[i], ordered[j]), i-j; (got < 0) != (want < 0) || (got > 0) != (want > 0) {
				t.Errorf("natural(%q, %q) = %d", ordered[i], ordered[j], got)
			}
		}
	}
}

func FuzzServiceName(f *testing.F) {
	for _, seed := range []string{"myapp", "myapp@1.service", "myapp@*", "a@", "../x", "a[", "\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		full, err := serviceName(name)
		if err != nil {
			return
		}
		if !strings.HasSuffix(full, ".service") || strings.ContainsAny(full, "/\n\x00 ") || len(full) > 255 || full == ".service" {
			t.Fatalf("%q became %q", name, full)
		}
		if again, err := serviceName(full); err != nil || again != full {
			t.Fatalf("%q became %q, and that %q (%v)", name, full, again, err)
		}
	})
}

func FuzzTarget(f *testing.F) {
	for _, seed := range []string{"http://x/", "unix:/a:/b", "http://%i%%/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseTarget(text, "1")
		if err == nil && !strings.HasPrefix(got.url, "http") {
			t.Fatalf("%q became %+v", text, got)
		}
	})
}
