// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec"
)

// A fault is what is wrong with a version.
type fault struct {
	prepare func(*reexec.Options)
	start   func()       // before New, unless this is a pre-check
	onWire  func(*relay) // sets what happens to the frames of a successor
}

// inPlaceVariable tells a process that it was executed in place.
const inPlaceVariable = "HOLDFAST_INPLACE"

// illAfter is when a version that falls ill does: it is on trial by then.
const illAfter = 150 * time.Millisecond

// slow is how long a phase lasts in which something is to happen.
const slow = 800 * time.Millisecond

var faults = map[string]fault{
	"": {},

	// In the pre-check.
	"check-fails": {prepare: func(o *reexec.Options) {
		o.Check = func(context.Context) error { return errors.New("damaged on purpose: the check fails") }
	}},
	"check-hangs": {prepare: func(o *reexec.Options) {
		o.Check = func(context.Context) error { select {} }
	}},
	"check-slow": {prepare: func(o *reexec.Options) {
		o.Check = func(context.Context) error { time.Sleep(slow); return nil }
	}},
	"check-waits-for-removal": {prepare: func(o *reexec.Options) { o.Check = untilRemoved }},

	// Before it is ready.
	"exits-0": {start: func() {
		if os.Getenv(handoverVariable) != "" {
			os.Exit(0)
		}
	}},
	"panics": {start: func() {
		if os.Getenv(handoverVariable) != "" {
			panic("damaged on purpose: panic at start")
		}
	}},
	"never-ready": {prepare: func(o *reexec.Options) {
		o.Health = func(context.Context) error { return errors.New("damaged on purpose: never healthy") }
	}},
	"never-ready-in-place": {prepare: func(o *reexec.Options) {
		if os.Getenv(inPlaceVariable) != "" {
			o.Health = func(context.Context) error { return errors.New("damaged on purpose: never healthy") }
		}
	}},
	"starts-slowly": {start: func() {
		if os.Getenv(handoverVariable) != "" {
			time.Sleep(slow)
		}
	}},
	"starts-slowly-in-place": {prepare: func(o *reexec.Options) {
		if os.Getenv(inPlaceVariable) != "" {
			startSlowly(o)
		}
	}},
	"hangs-in-place": {start: func() {
		if os.Getenv(inPlaceVariable) != "" {
			time.Sleep(time.Hour)
		}
	}},
	"hangs": {start: func() {
		if os.Getenv(handoverVariable) != "" {
			time.Sleep(time.Hour)
		}
	}},

	// The same at each start.
	"always-exits-0": {start: func() { os.Exit(0) }},
	"always-hangs":   {start: func() { time.Sleep(time.Hour) }},
	"always-starts-slowly": {prepare: func(o *reexec.Options) {
		if os.Getenv("HOLDFAST_CHECK") == "" {
			startSlowly(o)
		}
	}},
	"always-panics": {start: func() { panic("damaged on purpose: panic at each start") }},

	// On trial.
	"falls-ill": {prepare: func(o *reexec.Options) {
		o.Health = after(illAfter, func() error { return errors.New("damaged on purpose: the database is gone") })
	}},
	"crashes-on-trial": {prepare: func(o *reexec.Options) {
		o.Health = after(illAfter, func() error { panic("damaged on purpose: panic on trial") })
	}},
	"hangs-on-trial": {prepare: func(o *reexec.Options) {
		o.Health = after(illAfter, func() error { return unix.Kill(os.Getpid(), unix.SIGSTOP) })
	}},
	"leaks": {prepare: func(o *reexec.Options) { o.Health = leak }},

	// On the wire.
	"ready-twice": {onWire: func(r *relay) {
		r.on(kindReady, 1, func() { r.sendAgain() })
	}},
	"closes-at-start": {onWire: func(r *relay) {
		r.on(kindReady, 1, func() { r.hangUp() })
	}},
	"closes-on-trial": {onWire: func(r *relay) {
		r.on(kindBeat, 2, func() { r.hangUp() })
	}},
	"garbage-at-start": {onWire: func(r *relay) {
		r.on(kindReady, 1, func() { r.sendRaw([]byte("GET / HTTP/1.1\r\n\r\n")) })
	}},
	"garbage-on-trial": {onWire: func(r *relay) {
		r.on(kindBeat, 2, func() { r.sendRaw(make([]byte, 100)) })
	}},
	"torn-frame": {onWire: func(r *relay) {
		r.on(kindBeat, 2, func() { r.sendTorn() })
	}},
	"floods": {onWire: func(r *relay) {
		r.on(kindBeat, 1, func() { r.flood(20_000) })
	}},
	"floods-unknown": {onWire: func(r *relay) {
		r.on(kindBeat, 2, func() { r.sendKind(999) })
	}},
	"leaks-descriptors": {
		onWire: func(r *relay) {
			for n := range 10 {
				r.on(kindBeat, n+1, func() { r.sendDescriptors(200) })
			}
		},
		prepare: func(o *reexec.Options) {
			o.Health = after(2*illAfter, func() error { return errors.New("damaged on purpose: it has leaked enough") })
		},
	},
}

// startSlowly says that a phase has begun in which something is to happen.
func startSlowly(o *reexec.Options) {
	o.Logger.Info("starting slowly")
	time.Sleep(slow)
}

func lookUp(name string) (fault, error) {
	f, ok := faults[name]
	if !ok {
		return f, fmt.Errorf("mark: fault %q: unknown", name)
	}
	return f, nil
}

// after returns a health check that is content until d after it was first asked.
func after(d time.Duration, then func() error) func(context.Context) error {
	var once sync.Once
	var first time.Time
	return func(context.Context) error {
		once.Do(func() { first = time.Now() })
		if time.Since(first) < d {
			return nil
		}
		return then()
	}
}

// untilRemoved is a check that ends when the file of this program has no name any more. The file checking in
// the runtime directory says that it has begun.
func untilRemoved(ctx context.Context) error {
	begun := os.Getenv("RUNTIME_DIRECTORY") + "/checking"
	if err := os.WriteFile(begun, nil, 0o600); err != nil {
		return err
	}
	defer os.Remove(begun)
	for ctx.Err() == nil {
		if _, err := os.Stat(os.Args[0]); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		time.Sleep(2 * time.Millisecond)
	}
	return ctx.Err()
}

// leaked keeps descriptors from the garbage collector.
var leaked []*os.File

// leak opens files until none can be opened any more. What opens files cannot do its work then, and says so.
func leak(context.Context) error {
	few := unix.Rlimit{Cur: 300, Max: 300}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		return err
	}
	for {
		f, err := os.Open("/proc/self/stat")
		if err != nil {
			return fmt.Errorf("damaged on purpose: %w", err)
		}
		leaked = append(leaked, f)
		if len(leaked)%200 == 0 {
			return nil // the rest on the next beats, so that it comes on trial
		}
	}
}
