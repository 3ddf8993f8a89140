// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

var randomSeed = flag.Uint64("seed", 0, "seed of the random requests; 0 takes the time")

// Whatever is asked for, in whatever order and while whatever happens: each
// request is answered, the manager lives, and in the end nothing is left.
func TestRandomRequests(t *testing.T) {
	seed := *randomSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	pick := func(n int) int { return random.IntN(n) }
	const unit = `
[Unit]
StartLimitIntervalSec=0
Requires=a.socket
[Service]
Type=notify
NotifyAccess=all
Restart=always
RestartSec=1ms
TimeoutStartSec=2s
TimeoutStopSec=200ms
FileDescriptorStoreMax=4
FileDescriptorStorePreserve=yes
RuntimeDirectory=r
ExecStartPre=/bin/true
ExecStart=/usr/bin/tool store:a pipe:b fork:daemon:wait,wait notify:READY=1 barrier fork:notify:STATUS=child,exit:3 hangup notify:RELOADING=1 notify:READY=1 stubborn wait
ExecReload=/usr/bin/tool notify:STATUS=reload barrier
ExecStopPost=/bin/true
`
	sockets := []string{"[Socket]\nListenStream=127.0.0.1:80\n", "[Socket]\nListenStream=127.0.0.1:80\nListenStream=@x\n"}
	r := runUnits(t, wire.Config{RemoveRoot: true}, "a.service", unit, "a.socket", sockets[0])
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	signals := []syscall.Signal{syscall.SIGHUP, syscall.SIGKILL, syscall.SIGTERM, syscall.SIGSTOP, syscall.SIGCONT}
	faults := []wire.Fault{
		{Kind: wire.DropNotify, Count: 1},
		{Kind: wire.DelayNotify, Delay: 5 * time.Millisecond, Count: 2},
		{Kind: wire.HoldProcess, Delay: 5 * time.Millisecond, Count: 3},
		{Kind: wire.CloseNotify},
		{Kind: wire.FullStore, Count: 2},
	}
	var waits sync.WaitGroup
	var faultIDs []int64
	for range 300 {
		q := wire.Request{}
		switch pick(14) {
		case 0, 1:
			q.Verb = wire.Start
		case 2:
			q.Verb = wire.Stop
		case 3:
			q.Verb = []wire.Verb{wire.Restart, wire.TryRestart, wire.ReloadOrRestart}[pick(3)]
		case 4, 5:
			q.Verb = wire.Reload
		case 6, 7:
			q.Verb, q.Signal = wire.Kill, signals[pick(len(signals))]
			q.Whom = []wire.Whom{wire.MainProcess, wire.ControlProcess, wire.AllProcesses}[pick(3)]
		case 8:
			q.Verb = wire.DaemonReload
			q.Files = []wire.File{{Name: "a.service", Text: unit}, {Name: "a.socket", Text: sockets[pick(2)]}}
		case 9:
			q.Verb, q.Unit = []wire.Verb{wire.Start, wire.Stop, wire.Restart, wire.ResetFailed, wire.Show}[pick(5)], "a.socket"
		case 10:
			q.Verb, q.What = wire.Clean, []string{"runtime", "fdstore"}
		case 11:
			q.Verb, q.Fault = wire.SetFault, &faults[pick(len(faults))]
		case 12:
			if q.Verb = wire.Show; len(faultIDs) > 0 {
				q.Verb, q.FaultID = wire.ClearFault, faultIDs[pick(len(faultIDs))]
			}
		case 13:
			q.Verb = []wire.Verb{wire.ResetFailed, wire.FDStore, wire.Processes, wire.Addresses}[pick(4)]
		}
		id, wait := r.client.Begin(&q)
		if q.Verb == wire.SetFault {
			faultIDs = append(faultIDs, id)
		}
		waits.Go(func() {
			var refused *wire.Error
			if _, err := wait(ctx); err != nil && !errors.As(err, &refused) {
				t.Errorf("%+v: %v", q, err)
			}
		})
		if pick(3) == 0 {
			time.Sleep(time.Duration(pick(20)) * time.Millisecond)
		}
	}
	// What a fault or a stopped process holds up ends with these.
	for _, id := range faultIDs {
		_, _ = r.client.Call(ctx, wire.Request{Verb: wire.ClearFault, FaultID: id})
	}
	if _, err := r.client.Call(ctx, wire.Request{Verb: wire.Stop}); err != nil {
		t.Error(err)
	}
	waits.Wait()
	r.call(wire.Request{Verb: wire.ResetFailed})
	r.job(wire.Start, wire.Done)
	r.call(wire.Request{Verb: wire.End})
	if _, err := os.Stat(r.root); !os.IsNotExist(err) {
		t.Errorf("the root is left: %v", err)
	}
	alive := make(map[int]uint64)
	for _, e := range r.all() {
		if e.Kind == wire.ProcessBorn {
			alive[e.Process.PID] = e.Process.Start
		}
	}
	for pid, start := range alive {
		if p, err := readProcess(pid); err == nil && p.start == start {
			t.Errorf("process %+v survived", p)
		}
	}
}
