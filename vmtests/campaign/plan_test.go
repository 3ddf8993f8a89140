// SPDX-License-Identifier: Apache-2.0

package campaign

import (
	"reflect"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
)

// A seed decides a round, and the seeds of a run decide all that a campaign does.
func TestPlansReplay(t *testing.T) {
	seen := map[act]map[string]bool{}
	first, again := seeds(7, vmtests.Systemd252), seeds(7, vmtests.Systemd252)
	other := seeds(7, vmtests.Systemd257)
	same := true
	for range 1000 {
		seed := first()
		if got := again(); got != seed {
			t.Fatalf("seed %d, and then %d", seed, got)
		}
		same = same && seed == other()
		p := newPlan(seed)
		if !reflect.DeepEqual(p, newPlan(seed)) {
			t.Fatalf("seed %d: %v and %v", seed, p, newPlan(seed))
		}
		if p.delay < 0 || p.delay >= p.moment.spans {
			t.Errorf("seed %d: %v after a moment of %v", seed, p.delay, p.moment.spans)
		}
		if seen[p.act] == nil {
			seen[p.act] = map[string]bool{}
		}
		seen[p.act][p.moment.name] = true
	}
	if same {
		t.Error("two versions of systemd have the same rounds")
	}
	for _, a := range acts {
		if len(seen[a]) != 6 {
			t.Errorf("in 1,000 rounds %s comes at %v, must come at all 6 moments", a, seen[a])
		}
	}
}

// What was lost with a process is told from what was not.
func TestJudge(t *testing.T) {
	const ms = int64(1e6)
	exact := &incident{at: 100 * ms, died: 110 * ms, clients: map[int]bool{1: true}}
	loose := &incident{at: 500 * ms, died: 510 * ms, loose: true}
	lives := &incident{at: 900 * ms, clients: map[int]bool{3: true}}
	k := &killer{incidents: []*incident{exact, loose, lives}}
	fail := func(client string, port int, start, end int64, reused, broken bool, text string) failure {
		f := failure{client: client}
		f.LocalPort, f.Start, f.End, f.Reused, f.Broken, f.Error = port, start*ms, end*ms, reused, broken, text
		return f
	}
	for _, c := range []struct {
		name string
		f    failure
		want judgement
	}{
		{"it was answering", fail("new", 1, 90, 111, false, true, "EOF"), excused},
		{"idle on its connection", fail("keep-alive", 1, 130, 131, true, true, "EOF"), excused},
		{"the port of another connection later", fail("new", 1, 130, 131, false, true, "EOF"), guilty},
		{"another one's connection", fail("new", 2, 90, 111, false, true, "EOF"), guilty},
		{"over before", fail("new", 1, 80, 90, false, true, "EOF"), guilty},
		{"refused", fail("new", 0, 105, 106, false, false, "connect: refused"), guilty},
		{"refused on a Unix socket", fail("unix", 0, 105, 106, false, false, "connect: refused"), guilty},
		{"on a Unix socket", fail("unix", 0, 90, 112, false, false, "EOF"), excusedByTime},
		{"it went on for a moment", fail("new", 9, 490, 511, false, true, "EOF"), excusedByTime},
		{"long after its end", fail("new", 9, 490, 2000, false, true, "EOF"), guilty},
		{"it lives", fail("new", 3, 890, 901, false, true, "EOF"), guilty},
	} {
		if got := k.judge(c.f); got != c.want {
			t.Errorf("%s: judged %d, want %d", c.name, got, c.want)
		}
	}
}
