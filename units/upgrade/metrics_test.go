// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"strings"
	"testing"
)

const page = `# HELP http_requests_total Requests.
# TYPE http_requests_total counter
http_requests_total{code="200",method="get"} 90
http_requests_total{code="200",method="post"} 5
http_requests_total{code="500",method="get"} 5
# TYPE temperature gauge
temperature 3
untyped_total 7
# TYPE latency histogram
latency_bucket{le="+Inf"} 3
latency_sum 1
latency_count 3
`

func TestSum(t *testing.T) {
	for _, tt := range []struct {
		selector string
		want     float64
		err      string
	}{
		{"http_requests_total", 100, ""},
		{`http_requests_total{code="500"}`, 5, ""},
		{`http_requests_total{code="200",method="post"}`, 5, ""},
		{`http_requests_total{code="404"}`, 0, ""},
		{`http_requests_total{nosuch=""}`, 0, ""},
		{"absent_total", 0, ""},
		{"untyped_total", 7, ""},
		{"temperature", 0, "temperature is not a counter"},
		{"latency", 0, "latency is not a counter"},
	} {
		s, err := parseSelector(tt.selector)
		if err != nil {
			t.Errorf("%s: %v", tt.selector, err)
			continue
		}
		got, err := s.sum([]byte(page))
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: error %v, want %q", tt.selector, err, tt.err)
			}
		} else if err != nil || got != tt.want {
			t.Errorf("%s: %v, %v; want %v", tt.selector, got, err, tt.want)
		}
	}
	for _, bad := range []string{"x 1\ny", "<html>", "http_requests_total NaN", "http_requests_total -1"} {
		s := selector{name: "http_requests_total"}
		if v, err := s.sum([]byte(bad + "\n")); err == nil {
			t.Errorf("%q: %v, want an error", bad, v)
		}
	}
}

func TestSelectorIsChecked(t *testing.T) {
	for _, bad := range []string{"", "a b", "a{", `a{b="c"`, "a 1\nb", "# TYPE a counter\na", "1a", "a\n", "a 0", `a{b="c"} 0`, "a "} {
		if s, err := parseSelector(bad); err == nil {
			t.Errorf("%q: %+v, want an error", bad, s)
		}
	}
}

func TestRate(t *testing.T) {
	for _, tt := range []struct {
		before, now counts
		want        float64
		bad         bool
	}{
		{counts{0, 0}, counts{0, 0}, 0, false},
		{counts{10, 5}, counts{110, 5}, 0, false},
		{counts{10, 5}, counts{110, 10}, 0.05, false},
		{counts{10, 5}, counts{10, 6}, 1, false},
		{counts{10, 5}, counts{9, 5}, 0, true},
		{counts{10, 5}, counts{11, 4}, 0, true},
	} {
		got, err := tt.before.rate(tt.now)
		if got != tt.want || (err != nil) != tt.bad {
			t.Errorf("%+v to %+v: %v, %v", tt.before, tt.now, got, err)
		}
	}
}

func FuzzSelector(f *testing.F) {
	for _, seed := range []string{"a", `a{b="c"}`, `{"a"}`, "a 1\nb", "a{b=\"\\n\"}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseSelector(text)
		if err != nil {
			return
		}
		if s.name == "" || strings.ContainsAny(text, "\n\r") {
			t.Fatalf("%q became %+v", text, s)
		}
		if v, err := s.sum([]byte(text + " 5\n")); err != nil || v != 5 {
			t.Fatalf("%q: %v, %v in its own line", text, v, err)
		}
	})
}
