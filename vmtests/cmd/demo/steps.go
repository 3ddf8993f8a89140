// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests"
)

// A step is one thing that the demo does to the service.
type step struct {
	title string
	// do returns how it went, or an error that says what did not go as it must.
	do func(context.Context, *demo) (verdict, error)
}

// A verdict is how a step went that went as it must.
type verdict struct {
	Outcome string // a word or two
	Detail  string // the reason, or who is main now
}

func (v verdict) String() string { return v.Outcome + ": " + v.Detail }

// steps are all of them, in order.
var steps = []step{
	{"upgrade to 2.0.0", func(ctx context.Context, d *demo) (verdict, error) {
		return d.upgrade(ctx, version2)
	}},
	{"upgrade back to 1.0.0", func(ctx context.Context, d *demo) (verdict, error) {
		return d.upgrade(ctx, version1)
	}},
	{"a version that crashes at start", func(ctx context.Context, d *demo) (verdict, error) {
		return d.refuse(ctx, crashAtStart, "damaged on purpose: crash at start")
	}},
	{"a version that crashes in probation", func(ctx context.Context, d *demo) (verdict, error) {
		return d.rollBack(ctx, crashInProbation, "a fatal error of the Go runtime")
	}},
	{"a version that hangs at start", func(ctx context.Context, d *demo) (verdict, error) {
		return d.refuse(ctx, hangAtStart, "not ready within "+startTimeout.String())
	}},
	{"a version for " + otherArch.Arch, func(ctx context.Context, d *demo) (verdict, error) {
		return d.refuse(ctx, otherArch, "is built for")
	}},
	{"upgrade to 2.0.0 after all that", func(ctx context.Context, d *demo) (verdict, error) {
		return d.upgrade(ctx, version2)
	}},
	{"SIGKILL to the main process", func(ctx context.Context, d *demo) (verdict, error) {
		return d.kill(ctx)
	}},
}

// enough is how many answers show that a process serves.
const enough = 50

// upgrade replaces the binary and reloads: the reload succeeds, another process is main, and from then on
// every new connection is answered by the new version.
func (d *demo) upgrade(ctx context.Context, to program) (verdict, error) {
	before, err := mainPID(ctx, d.place)
	if err != nil {
		return verdict{}, err
	}
	old, err := openProcess(d.place, before)
	if err != nil {
		return verdict{}, err
	}
	defer old.close()
	if err := d.put(ctx, to); err != nil {
		return verdict{}, err
	}
	if err := d.reload(ctx); err != nil {
		return verdict{}, err
	}
	reloaded := monotonic()
	now, err := mainPID(ctx, d.place)
	if err != nil {
		return verdict{}, err
	}
	if now == before || now == 0 {
		return verdict{}, fmt.Errorf("MainPID is %d after the upgrade, and was %d", now, before)
	}
	from := len(d.load.Results(0))
	afterReload := func(r vmtests.LoadResult) bool { return r.Start > reloaded && onNewConnection(r) && r.Error == "" }
	if err := d.waitAnswers(ctx, from, enough, func(r vmtests.LoadResult) bool {
		return afterReload(r) && r.PID == now && r.Version == to.Version
	}); err != nil {
		return verdict{}, err
	}
	// The old process leaves by itself, when it has answered what it had.
	if _, err := old.waitEnd(ctx); err != nil {
		return verdict{}, err
	}
	if _, err := d.load.Mark(ctx, "drained"); err != nil {
		return verdict{}, err
	}
	for _, r := range d.load.Results(from) {
		if afterReload(r) && r.PID != now {
			return verdict{}, fmt.Errorf("PID %d (version %s) answered on a connection opened after the upgrade to PID %d", r.PID, r.Version, now)
		}
	}
	d.tally.Upgrades++
	return verdict{"upgraded", fmt.Sprintf("PID %d, now %d", before, now)}, nil
}

// refuse tries to upgrade to a version that must not serve.
func (d *demo) refuse(ctx context.Context, to program, reason string) (verdict, error) {
	v, err := d.fail(ctx, to, "refused", reason)
	if err != nil {
		return verdict{}, err
	}
	for _, r := range d.load.Results(0) {
		if r.Version == to.Version {
			return verdict{}, fmt.Errorf("version %s answered a request before it was refused", to.Version)
		}
	}
	d.tally.Refused++
	return v, nil
}

// fail tries to upgrade to a bad version: the reload fails, systemd's status text says how and why, and the
// process that was main before serves on. At last the good binary is back in place.
func (d *demo) fail(ctx context.Context, to program, outcome, reason string) (_ verdict, err error) {
	before, err := mainPID(ctx, d.place)
	if err != nil {
		return verdict{}, err
	}
	if err := d.put(ctx, to); err != nil {
		return verdict{}, err
	}
	good := version1
	defer func() { err = errors.Join(err, d.put(ctx, good)) }()

	switch err := d.reload(ctx); {
	case err == nil:
		return verdict{}, fmt.Errorf("systemctl reload succeeded with version %s", to.Version)
	case !errors.Is(err, errReload):
		return verdict{}, err
	}
	reloaded := monotonic()
	props, err := d.place.properties(ctx, "MainPID", "ActiveState", "SubState", "StatusText", "NRestarts")
	if err != nil {
		return verdict{}, err
	}
	for name, want := range map[string]string{
		"MainPID": fmt.Sprint(before), "ActiveState": "active", "SubState": "running", "NRestarts": "0",
	} {
		if props[name] != want {
			return verdict{}, fmt.Errorf("%s=%s after the failed upgrade, want %s", name, props[name], want)
		}
	}
	text := props["StatusText"]
	if !strings.Contains(text, outcome) || !strings.Contains(text, reason) {
		return verdict{}, fmt.Errorf("the status text is %q, and does not say %q and %q", text, outcome, reason)
	}
	if err := d.waitAnswers(ctx, 0, enough, func(r vmtests.LoadResult) bool {
		return r.Start > reloaded && onNewConnection(r) && r.Error == "" && r.PID == before && r.Version == good.Version
	}); err != nil {
		return verdict{}, err
	}
	why := text
	if _, after, ok := strings.Cut(text, " "+outcome+" at "); ok { // a time follows
		_, why, _ = strings.Cut(after, ": ")
	}
	return verdict{outcome, why}, nil
}

// rollBack tries to upgrade to a version that serves and then crashes in its probation.
func (d *demo) rollBack(ctx context.Context, to program, reason string) (verdict, error) {
	began := monotonic()
	type end struct {
		pid  int
		seen int64
		err  error
	}
	watched := make(chan end, 1)
	watchCtx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		pid, seen, err := d.watchEnd(watchCtx, to.Version)
		watched <- end{pid, seen, err}
	}()
	v, failErr := d.fail(ctx, to, "rolled back", reason)
	if failErr != nil {
		// If it has not died by now it may never die.
		patience := time.AfterFunc(time.Second, stop)
		defer patience.Stop()
	}
	dead := <-watched
	if dead.err != nil {
		return verdict{}, errors.Join(failErr, dead.err)
	}
	// It answered and it died, whatever else went wrong.
	d.tally.Crashes++
	ledger, err := d.place.runtimeFile(ctx, "ledger")
	if err != nil {
		return verdict{}, errors.Join(failErr, err)
	}
	ports, err := parseLedger(ledger)
	if err != nil {
		return verdict{}, errors.Join(failErr, err)
	}
	d.deaths = append(d.deaths, death{Cause: "crash of " + to.Version + " in probation", PID: dead.pid, Ports: ports, Began: began, Seen: dead.seen})
	if failErr != nil {
		return verdict{}, failErr
	}
	d.tally.Rollbacks++
	return v, nil
}

// watchEnd waits until a process of the given version has answered a request, and then for its end.
func (d *demo) watchEnd(ctx context.Context, version string) (pid int, seen int64, err error) {
	err = d.waitAnswers(ctx, 0, 1, func(r vmtests.LoadResult) bool {
		if r.Version == version {
			pid = r.PID
		}
		return r.Version == version
	})
	if err != nil {
		return 0, 0, err
	}
	p, err := openProcess(d.place, pid)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return pid, monotonic(), nil
	}
	if err != nil {
		return 0, 0, err
	}
	defer p.close()
	seen, err = p.waitEnd(ctx)
	return pid, seen, err
}

// kill kills the main process, after a look at what it holds; systemd starts another.
func (d *demo) kill(ctx context.Context) (verdict, error) {
	before, err := mainPID(ctx, d.place)
	if err != nil {
		return verdict{}, err
	}
	p, err := openProcess(d.place, before)
	if err != nil {
		return verdict{}, err
	}
	defer p.close()
	if err := p.freeze(ctx); err != nil {
		return verdict{}, errors.Join(err, p.signal(unix.SIGCONT))
	}
	began := monotonic()
	ports, err := p.clientPorts()
	if err != nil {
		return verdict{}, errors.Join(err, p.signal(unix.SIGCONT))
	}
	if err := p.signal(unix.SIGKILL); err != nil {
		return verdict{}, err
	}
	seen, err := p.waitEnd(ctx)
	if err != nil {
		return verdict{}, err
	}
	d.tally.Crashes++ // main answered up to here
	d.deaths = append(d.deaths, death{Cause: "SIGKILL", PID: before, Ports: ports, Began: began, Seen: seen})
	if err := d.waitAnswers(ctx, 0, enough, func(r vmtests.LoadResult) bool {
		return r.Start > seen && onNewConnection(r) && r.Error == ""
	}); err != nil {
		return verdict{}, err
	}
	now, err := mainPID(ctx, d.place)
	if err != nil {
		return verdict{}, err
	}
	properties, err := d.place.properties(ctx, "NRestarts")
	if err != nil {
		return verdict{}, err
	}
	restarts := properties["NRestarts"]
	if now == before || now == 0 || restarts != "1" {
		return verdict{}, fmt.Errorf("MainPID is %d, and was %d before; NRestarts=%s, want 1", now, before, restarts)
	}
	return verdict{"restarted", fmt.Sprintf("PID %d, now %d", before, now)}, nil
}

// reload runs systemctl reload and notes how long it took.
func (d *demo) reload(ctx context.Context) error {
	start := time.Now()
	err := d.place.reload(ctx)
	d.reloadTook = time.Since(start)
	return err
}

// waitAnswers waits until n results, from the one numbered from, match.
func (d *demo) waitAnswers(ctx context.Context, from, n int, match func(vmtests.LoadResult) bool) error {
	for {
		results := d.load.Results(from)
		from += len(results)
		for _, r := range results {
			if match(r) {
				n--
			}
			if n == 0 {
				return nil
			}
		}
		if _, err := d.load.WaitOK(ctx, 1); err != nil {
			return err
		}
	}
}
