// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
)

func TestSettle(t *testing.T) {
	type results = []vmtests.LoadResult
	// One dead process held ports 40001 and 40002. It had them from time 1000 on, and was seen dead at 2000.
	dead := death{Cause: "SIGKILL", PID: 7, Ports: []int{40001, 40002}, Began: 1000, Seen: 2000}
	broken := func(port int, start, end int64) vmtests.LoadResult {
		return vmtests.LoadResult{Mode: "new", Start: start, End: end, LocalPort: port, Error: "read response: EOF", Broken: true}
	}
	answered := func(port int, start, end int64) vmtests.LoadResult {
		return vmtests.LoadResult{Mode: "new", Start: start, End: end, LocalPort: port}
	}
	with := func(r vmtests.LoadResult, change func(*vmtests.LoadResult)) vmtests.LoadResult {
		change(&r)
		return r
	}
	tests := []struct {
		name    string
		results results
		deaths  []death
		cut     []int    // by death
		failed  []string // what each reason says
	}{
		{name: "nothing at all"},
		{
			name:    "all answered",
			results: results{answered(40001, 900, 950), answered(40001, 1100, 1200)},
			deaths:  []death{dead}, cut: []int{0},
		},
		{
			name:    "cut",
			results: results{broken(40001, 1500, 1900)},
			deaths:  []death{dead}, cut: []int{1},
		},
		{
			name:    "sent before the look at the connections, cut",
			results: results{broken(40001, 500, 1900)},
			deaths:  []death{dead}, cut: []int{1},
		},
		{
			name:    "sent in the instant when the death was seen",
			results: results{broken(40001, 2000, 2100)},
			deaths:  []death{dead}, cut: []int{1},
		},
		{
			name:    "sent after the death was seen",
			results: results{broken(40001, 2001, 2100)},
			deaths:  []death{dead}, cut: []int{0}, failed: []string{"sent 1ns after the death of PID 7 was seen"},
		},
		{
			name:    "another port",
			results: results{broken(40003, 1500, 1900)},
			deaths:  []death{dead}, cut: []int{0}, failed: []string{"no process that died held it"},
		},
		{
			name:    "no death",
			results: results{broken(40001, 1500, 1900)},
			failed:  []string{"no process that died held it"},
		},
		{
			name:    "ended before the process could have died",
			results: results{broken(40001, 500, 999)},
			deaths:  []death{dead}, cut: []int{0}, failed: []string{"it ended 1ns before PID 7 could have died"},
		},
		{
			name: "refused",
			results: results{{
				Mode: "new", Start: 1500, End: 1600,
				Error: "connect: dial tcp 127.0.0.1:8080: connect: connection refused",
			}},
			deaths: []death{dead}, cut: []int{0}, failed: []string{"there was no connection"},
		},
		{
			name: "an answer that says no",
			results: results{with(broken(40001, 1500, 1600), func(r *vmtests.LoadResult) {
				r.Error, r.Broken = "status 503 Service Unavailable", false
			})},
			deaths: []death{dead}, cut: []int{0}, failed: []string{"the connection held"},
		},
		{
			name: "no answer in time",
			results: results{with(broken(40001, 1500, 9000), func(r *vmtests.LoadResult) {
				r.Error, r.Broken = "read response: i/o timeout", false
			})},
			deaths: []death{dead}, cut: []int{0}, failed: []string{"the connection held"},
		},
		{
			name:    "every connection",
			results: results{broken(40002, 1500, 1900), broken(40001, 1500, 1900)},
			deaths:  []death{dead}, cut: []int{2},
		},
		{
			name:    "more than the connection can carry",
			results: results{broken(40001, 1500, 1900), broken(40001, 1901, 1950)},
			deaths:  []death{dead}, cut: []int{1}, failed: []string{"the connection that PID 7 held has excused a request already"},
		},
		{
			name:    "a process that held nothing",
			results: results{broken(40001, 1500, 1900)},
			deaths:  []death{{PID: 7, Began: 1000, Seen: 2000}}, cut: []int{0}, failed: []string{"no process that died held it"},
		},
		{
			name:    "two deaths, one connection each",
			results: results{broken(40001, 1500, 1900), broken(50001, 3500, 3900)},
			deaths:  []death{dead, {PID: 8, Ports: []int{50001}, Began: 3000, Seen: 4000}}, cut: []int{1, 1},
		},
		{
			name:    "two deaths, the same port: the client used it again",
			results: results{broken(40001, 1500, 1900), broken(40001, 3500, 3900)},
			deaths:  []death{dead, {PID: 8, Ports: []int{40001}, Began: 3000, Seen: 4000}}, cut: []int{1, 1},
		},
		{
			name:    "two deaths, and the request belongs to the second",
			results: results{broken(40001, 3500, 3900)},
			deaths:  []death{dead, {PID: 8, Ports: []int{40001}, Began: 3000, Seen: 4000}}, cut: []int{0, 1},
		},
		{
			name:    "two deaths, and the request fell between them",
			results: results{broken(40001, 2500, 2600)},
			deaths:  []death{dead, {PID: 8, Ports: []int{40001}, Began: 3000, Seen: 4000}}, cut: []int{0, 0},
			failed: []string{"it ended 400ns before PID 8 could have died"},
		},
		{
			name:    "two deaths, and the port is that of the other",
			results: results{broken(50001, 1500, 1900)},
			deaths:  []death{dead, {PID: 8, Ports: []int{50001}, Began: 3000, Seen: 4000}}, cut: []int{0, 0},
			failed: []string{"it ended 1.1µs before PID 8 could have died"},
		},
		{
			name: "an idle connection of the dead process: nothing was lost",
			results: results{with(answered(41000, 2500, 2600), func(r *vmtests.LoadResult) {
				r.ClosedIdle = 40001
			})},
			deaths: []death{dead}, cut: []int{0},
		},
		{
			name: "an idle connection that the server closed without a word",
			results: results{with(answered(41000, 2500, 2600), func(r *vmtests.LoadResult) {
				r.ClosedIdle = 40009
			})},
			deaths: []death{dead}, cut: []int{0},
			failed: []string{"the server closed the idle connection: no process that died held it"},
		},
		{
			name: "a connection that was idle cannot have cut a request",
			results: results{
				with(answered(41000, 2500, 2600), func(r *vmtests.LoadResult) { r.ClosedIdle = 40001 }),
				broken(40001, 1500, 1900),
			},
			deaths: []death{dead}, cut: []int{0}, failed: []string{"has excused a request already"},
		},
		{
			name: "an idle connection of the dead process, and then another failure",
			results: results{with(broken(41000, 2500, 2600), func(r *vmtests.LoadResult) {
				r.ClosedIdle = 40001
			})},
			deaths: []death{dead}, cut: []int{0}, failed: []string{"no process that died held it"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := settle(tt.results, tt.deaths)
			if fmt.Sprint(got.CutBy) != fmt.Sprint(tt.cut) {
				t.Errorf("cut by each death: got %v, want %v", got.CutBy, tt.cut)
			}
			sum := 0
			for _, n := range got.CutBy {
				sum += n
			}
			if len(got.Cut) != sum || got.Requests != len(tt.results) {
				t.Errorf("got %d requests, %d cut in all and %v by each death", got.Requests, len(got.Cut), got.CutBy)
			}
			if len(got.Failed) != len(tt.failed) {
				t.Fatalf("failed: got %v, want %q", got.Failed, tt.failed)
			}
			for i, want := range tt.failed {
				if text := got.Failed[i].String(); !strings.Contains(text, want) {
					t.Errorf("failed: got %q, want it to say %q", text, want)
				}
			}
		})
	}
}

// Whatever happens, no death cuts more than it held, and each request is answered, cut or failed.
func TestSettleBounds(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var deaths []death
		for i := range random.IntN(4) {
			d := death{PID: i, Began: random.Int64N(100)}
			d.Seen = d.Began + random.Int64N(20)
			for _, port := range random.Perm(6)[:random.IntN(6)] {
				d.Ports = append(d.Ports, port+1)
			}
			deaths = append(deaths, d)
		}
		var results []vmtests.LoadResult
		unanswered := 0
		for range random.IntN(40) {
			r := vmtests.LoadResult{Start: random.Int64N(100), LocalPort: random.IntN(8)}
			r.End = r.Start + random.Int64N(20)
			if random.IntN(2) == 0 {
				r.Error, r.Broken = "lost", random.IntN(3) > 0
				unanswered++
			}
			results = append(results, r)
		}
		s := settle(results, deaths)
		if len(s.Cut)+len(s.Failed) != unanswered {
			t.Fatalf("%d requests were not answered, but %d are cut and %d failed", unanswered, len(s.Cut), len(s.Failed))
		}
		for i, d := range deaths {
			if s.CutBy[i] > len(d.Ports) {
				t.Fatalf("a death that held %d connections cut %d requests", len(d.Ports), s.CutBy[i])
			}
		}
		for _, r := range s.Cut {
			if !r.Broken || r.LocalPort == 0 {
				t.Fatalf("cut: %+v", r)
			}
		}
	}
}
