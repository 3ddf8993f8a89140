// SPDX-License-Identifier: Apache-2.0

package config

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// says is a layer that writes its name around what is within.
func says(name string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, name+"(")
			next.ServeHTTP(w, r)
			_, _ = io.WriteString(w, ")")
		})
	}
}

func answerOf(h http.Handler) string {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	return w.Body.String()
}

var core = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "core") })

func TestMiddlewares(t *testing.T) {
	var layers Middlewares[http.Handler]
	layers.Register("auth", says("auth"))
	h := HTTP(&layers, core)
	layers.Register("log", says("log")) // also around what is there
	want := func(text string) {
		t.Helper()
		if got := answerOf(h); got != text {
			t.Errorf("answer %q, want %q", got, text)
		}
	}
	want("auth(log(core))")
	if err := layers.Replace("auth", says("deny")); err != nil {
		t.Fatal(err)
	}
	want("deny(log(core))")
	if got := layers.Replaced(); !slices.Equal(got, []string{"auth"}) {
		t.Errorf("replaced %q", got)
	}
	for _, bad := range []struct {
		name, layer string
		by          func(http.Handler) http.Handler
		want        string
	}{
		{"unknown", "cors", says("x"), `middleware "cors" is not registered`},
		{"nil", "log", nil, `replace middleware "log": nil: use Reset`},
		{"returns nil", "log", func(http.Handler) http.Handler { return nil }, `layer "log": it returns no handler`},
		{"panics", "log", func(http.Handler) http.Handler { panic("no licence") }, `layer "log": panic: no licence`},
	} {
		if err := layers.Replace(bad.layer, bad.by); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: error %v, want %q", bad.name, err, bad.want)
		}
		want("deny(log(core))")
	}
	// A panic at a request is that request's.
	if err := layers.Replace("log", func(http.Handler) http.Handler {
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("of the layer") })
	}); err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() {
			if p := recover(); p != "of the layer" {
				t.Errorf("recovered %v", p)
			}
		}()
		answerOf(h)
	}()
	for _, name := range []string{"log", "auth"} {
		if err := layers.Reset(name); err != nil {
			t.Fatal(err)
		}
	}
	want("auth(log(core))")
	if err := layers.Reset("cors"); err == nil {
		t.Error("what is not registered was reset")
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a name can be registered twice")
			}
		}()
		layers.Register("log", says("log"))
	}()
}

// The layers are typed: they need not be of HTTP.
func TestMiddlewaresOfFunctions(t *testing.T) {
	var layers Middlewares[func(string) string]
	chain := layers.Wrap(strings.ToUpper)
	layers.Register("quote", func(next func(string) string) func(string) string {
		return func(s string) string { return "'" + next(s) + "'" }
	})
	if got := chain.Load()("x"); got != "'X'" {
		t.Errorf("got %s", got)
	}
}

// A request goes through one set of layers, whatever is replaced meanwhile.
func TestMiddlewaresUnderLoad(t *testing.T) {
	var layers Middlewares[http.Handler]
	layers.Register("outer", says("a"))
	layers.Register("inner", says("a"))
	h := HTTP(&layers, core)
	good := []string{"a(a(core))", "b(a(core))", "b(b(core))", "a(b(core))"}
	stop := make(chan struct{})
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if got := answerOf(h); !slices.Contains(good, got) {
					t.Errorf("answer %q", got)
					return
				}
			}
		})
	}
	for range 1000 {
		for _, name := range []string{"outer", "inner"} {
			if err := layers.Replace(name, says("b")); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"outer", "inner"} {
			if err := layers.Reset(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	asking.Wait()
	if got := answerOf(h); got != good[0] {
		t.Errorf("in the end the answer is %q", got)
	}
}
