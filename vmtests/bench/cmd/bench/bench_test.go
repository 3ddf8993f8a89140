// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/micro"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/prepare"
	"github.com/holdfast-go/holdfast/vmtests/internal/procs"
)

// shared has the programs, which take longer to build than to run.
var shared = sync.OnceValues(func() (*bench, error) { return newBench(context.Background(), small, peers) })

func sharedBench(t *testing.T) *bench {
	t.Helper()
	b, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	closeShared = b.close
	return b
}

var closeShared = func() error { return nil }

func TestMain(m *testing.M) {
	micro.Child()
	code := m.Run()
	if err := closeShared(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// small is a benchmark that is over soon.
var small = settings{
	on: prepare.OnStandIn, systemd: 257, upgrades: 1, peerUpgrades: 1, costUpgrades: 1, crashRounds: 1, steady: 100 * time.Millisecond, clients: 4, idle: 20,
	think: time.Millisecond, drain: 300 * time.Millisecond, probation: time.Millisecond,
}

// Every service answers as version 1, is upgraded, and answers as version 2 from another process. Services
// of packages are one version; theirs is only another process.
func TestEveryPeerAnswersAndUpgradesOnce(t *testing.T) {
	b := sharedBench(t)
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			if p.missing != nil {
				if err := p.missing(); err != nil {
					t.Skip(err)
				}
			}
			upgradeOnceTest(t, b, p)
		})
	}
}

func upgradeOnceTest(t *testing.T, b *bench, p peer) {
	ctx := t.Context()
	w := workloads[0]
	svc, err := p.start(ctx, b, p, w.protocol)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		pids, err := svc.processes()
		if err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(svc.output(context.WithoutCancel(ctx)))
		}
		if err := svc.close(); err != nil {
			t.Error(err)
		}
		for _, pid := range pids {
			if _, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
				t.Errorf("process %d is left", pid)
			}
		}
	}()
	generator, err := svc.startLoad(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := generator.end(); err != nil {
			t.Error(err)
		}
	}()
	first, err := generator.Start(b.options(svc, w), answerLimit)
	if err != nil {
		t.Fatal(err)
	}
	want := [2]string{"1", "2"}
	if p.missing != nil {
		want[1] = "1" // of the handler behind it
	}
	if first.Version != want[0] {
		t.Errorf("version %q answers first, want %q", first.Version, want[0])
	}
	if err := svc.install(ctx, 2); err != nil {
		t.Fatal(err)
	}
	// Most peers have no way to say that they take signals. They do soon after the first answer.
	if err := pause(ctx, 300*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	at, err := svc.processes()
	if err != nil {
		t.Fatal(err)
	}
	u, next, err := upgradeOnce(ctx, svc, generator, first, len(at), answerLimit)
	if err != nil {
		t.Fatal(err)
	}
	if next.Version != want[1] || next.PID == first.PID {
		t.Errorf("process %s, version %q answers after the upgrade, want %q and not process %s", next.PID, next.Version, want[1], first.PID)
	}
	if u.Signal >= u.First || u.First > u.Settled || u.Memory.PSS < 1<<20 || u.Memory.RSS < u.Memory.PSS {
		t.Errorf("upgrade %+v: times and memory make no sense", u)
	}
	report, err := generator.Stop()
	if err != nil {
		t.Fatal(err)
	}
	answered := 0
	for _, s := range report.Samples {
		if s.Error == "" {
			answered++
		}
	}
	if answered == 0 {
		t.Errorf("no request of %d was answered", len(report.Samples))
	}
}

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A whole run of what has most parts: TLS and HTTP/2, the delay, the table, the file and the drawings.
func TestBenchmark(t *testing.T) {
	b := sharedBench(t)
	dir := t.TempDir()
	p, err := parse([]string{"-peers=holdfast,tableflip-lameduck", "-workloads=idle,http2,session,udp"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	p.settings, p.scales, p.crash, p.micro = small, nil, nil, false
	r := run{Peers: recipes(p.peers), workloads: p.workloads}
	if err := b.measureAll(t.Context(), &r, p, func(string) {}); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := r.write(&out, filepath.Join(dir, "bench.json"), dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "bench.json"))
	if err != nil {
		t.Fatal(err)
	}
	r.Cells = nil
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Cells) != 8 || len(r.broken) != 0 {
		t.Fatalf("%d cells, want 8; broken: %q", len(r.Cells), r.broken)
	}
	for _, c := range r.Cells {
		if (c.Workload == "udp" || c.Workload == "session") && c.Peer == "tableflip-lameduck" {
			if c.Skipped == "" {
				t.Errorf("tableflip-lameduck has no recipe for %s, and the result does not say so", c.Workload)
			}
			continue
		}
		if c.Peer == "holdfast" && c.Workload != "http2" && c.Failed+c.Connections.Reconnects() > 0 {
			t.Errorf("holdfast, %s: %d failed, %d reconnects; want none", c.Workload, c.Failed, c.Connections.Reconnects())
		}
		if c.Error != "" || len(c.Upgrades) != 1 || c.Requests <= c.Failed || c.First <= 0 || c.Exec <= 0 || c.Memory.PSS <= 0 {
			t.Errorf("%s, %s: %s", c.Peer, c.Workload, jsonOf(t, c))
		}
		if c.Workload == "idle" && (c.Requests != 40 || c.Failed+c.Connections.Opened < 20) {
			t.Errorf("%s, idle: %d requests, %+v; want 40 over 20 connections", c.Peer, c.Requests, c.Connections)
		}
	}
	for _, name := range []string{"failed", "reconnects", "latency", "first-answer", "memory", "timeline-http2", "timeline-udp"} {
		if _, err := os.Stat(filepath.Join(dir, name+".svg")); err != nil {
			t.Error(err)
		}
	}
	for _, want := range []string{"http2: ", "tableflip-lameduck: not measured: its recipe has no udp", "p99.9 to steady", "SIGHUP; closes the listener, Connection: close for 1 s"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestArguments(t *testing.T) {
	for _, test := range []struct{ arg, want string }{
		{"-peers=holdfast,nobody", `-peers: "nobody": must be of holdfast,tableflip,`},
		{"-workloads=rest", `-workloads: "rest": must be of new,`},
		{"-on=moon", `-on=moon: must be container or stand-in`},
		{"more", `argument "more"`},
		{"-upgrades=0", `-upgrades`},
	} {
		err := benchmark(t.Context(), []string{test.arg}, &bytes.Buffer{}, os.Stderr)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, want %q", test.arg, err, test.want)
		}
	}
}

func TestSumUp(t *testing.T) {
	const s = int64(time.Second)
	sample := func(start, length int64, failure string) load.Sample {
		return load.Sample{Start: start, End: start + length, Error: failure}
	}
	report := load.Report{
		Samples: []load.Sample{
			sample(s/2, 1, ""),                // before the start
			sample(2*s, 10, ""),               // steady
			sample(3*s, 20, ""),               // steady
			sample(8*s, 9, ""),                // neither: the bare exec disturbs it
			sample(10*s-1, 400, ""),           // around
			sample(10*s+s/2, 100, ""),         // around
			sample(10*s+s/2, 1, "port 1234"),  // failed
			sample(10*s+s/2, 1, "port 99"),    // failed in the same way
			sample(12*s, 7, ""),               // neither: the old version is still there
			sample(9*s, 5*s, ""),              // around: under way all the time
			sample(20*s, 30, ""),              // steady
			sample(25*s, 1, "127.1.2.3:4 no"), // failed elsewhere
		},
		Connections: load.Connections{Opened: 3, Announced: 1, Cut: 1},
	}
	upgrades := []upgrade{{
		Bare: 8 * s, Exec: 20, Signal: 10 * s, First: 10*s + 30, Settled: 13 * s, Memory: procs.Memory{RSS: 9, PSS: 5},
	}}
	c := &cell{}
	c.sumUp(s, upgrades, report, workload{mode: load.KeepAlive})
	if c.Requests != 12 || c.Failed != 3 || c.Failures["port #"] != 2 || c.Connections.Reconnects() != 2 {
		t.Errorf("requests %d, failed %d, %v, reconnects %d", c.Requests, c.Failed, c.Failures, c.Connections.Reconnects())
	}
	if c.Steady.Count != 3 || c.Steady.Worst != 30 || c.Around.Count != 3 || c.Around.P50 != 400 || c.Around.Worst != 5*time.Second {
		t.Errorf("steady %+v, around %+v", c.Steady, c.Around)
	}
	if c.First != 30 || c.FirstOver != 1.5 || c.Memory != (procs.Memory{RSS: 9, PSS: 5}) {
		t.Errorf("first %v, ratio %v, memory %+v", c.First, c.FirstOver, c.Memory)
	}
	failed := 0
	for _, m := range c.Timeline {
		failed += m.Failed
	}
	if at := c.Timeline[(timelineBefore+time.Second/2)/timelineStep]; failed != 2 || at.Failed != 2 || at.Worst != 100 {
		t.Errorf("timeline: %d failed, %+v half a second after the signal; want 2 there and nowhere else", failed, at)
	}
	if texts := c.failureTexts(); len(texts) != 2 || texts[0] != "port #" {
		t.Errorf("failures in order: %q", texts)
	}
}
