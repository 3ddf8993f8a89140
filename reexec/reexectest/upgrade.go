// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
)

// Capability is something that an upgrade may promise. Which of them a service
// has is seen from its unit, as in the table at [TestUpgrade], or told in [Service].
type Capability string

// Capabilities.
const (
	// Overlaps: the old version serves until the next one is ready.
	Overlaps Capability = "overlaps"
	// InPlace: the next version is executed in the process of the old one. A
	// service that has it neither overlaps nor rolls back.
	InPlace Capability = "in place"
	// LosesNothing: no request is lost to an upgrade, and a failed one changes
	// nothing.
	LosesNothing Capability = "loses nothing"
	// ReportsFailure: the reload fails when the upgrade does. So it does if
	// ExecReload= waits for the verdict.
	ReportsFailure Capability = "reports failure"
	// RollsBack: a next version that serves already, and then dies or hangs
	// before it is main, is undone.
	RollsBack Capability = "rolls back"
	// HeldSockets: systemd holds the sockets.
	HeldSockets Capability = "held sockets"
	// Restarts: Restart= starts the service again when main was killed.
	Restarts Capability = "restarts"
)

// Service is what [TestUpgrade] tests.
type Service struct {
	// Options say how the service is run; each case has a unit of its own.
	Options Options
	// OnTrial are Files in addition for the cases in which something happens while
	// the next version is on trial: there a trial should last some hundred milliseconds, in all others
	// it is best over at once.
	OnTrial map[string]string
	// Each may change the Options of each unit, as for a [FreeAddress] of its own.
	Each func(*Options)
	// Clients are what the service's clients do: [HTTP], or your own.
	Clients Clients
	// Next is the program of the n-th version, from 2. Default: the program of
	// ExecStart= again, under that label if it is the test binary.
	Next func(n int) Program
	// Has and Lacks are capabilities that the unit does not show, with the
	// reason why the service lacks one.
	Has   []Capability
	Lacks map[Capability]string
	// Upgrades is how many upgrades follow each other under load, and half of those in
	// which descriptors are counted. Default: 5.
	Upgrades int
	// Prompt is how long an answer may take when nothing is in the way: the
	// service is ready, or it was and serves on. Default: 5 s.
	Prompt time.Duration
}

// conformance is a service that was looked at.
type conformance struct {
	Service
	program string // the path of ExecStart=
	verb    string // what upgrades: reload, or restart
	kinds   []Kind
	lacks   map[Capability]string // the reason
}

// suiteCase is one rule, and how it is tried.
type suiteCase struct {
	name  string
	rule  string
	needs []Capability
	run   func(*trial)
}

// TestUpgrade tests what any handover to a next version must keep, from the
// outside: it knows the unit files, the sockets, and what systemd sees. Each
// rule is a subtest, runs in parallel with the others, and has a unit of its own. A rule that does not
// apply, because the service cannot do such a thing, is skipped with the reason.
//
//	reexectest.TestUpgrade(t, reexectest.Service{
//		Options: reexectest.Options{Units: "../systemd"},
//		Clients: reexectest.HTTP{Socket: "http", Path: "/"},
//	})
//
// What a service can do is seen from its unit; Has and Lacks say where that is wrong:
//
//	Overlaps        ExecReload=, or Type=notify-reload
//	LosesNothing    the same
//	RollsBack       the same: a unit does not show whether there is a trial
//	InPlace         never: say so in Has
//	ReportsFailure  ExecReload= that is more than kill, pkill or killall
//	HeldSockets     a socket unit
//	Restarts        Restart=always, on-failure, on-abnormal or on-abort
//
// Whether a request can be in flight for long is seen from the clients: see
// [HTTP].SlowPath and [SlowClient].
//
// A reload that only reads the configuration again is no upgrade. Take it out with a
// drop-in in Options.Files that says Type=notify and an empty ExecReload=, and the
// service is upgraded by restarts. They come faster than systemd's default start limit
// allows, so StartLimitIntervalSec=0 belongs there, too.
//
// It takes a few seconds, and more on a loaded machine: some forty upgrades,
// each as long as the service's own. Give the service short times with a drop-in in
// Options.Files. They are waiting for the most part, so -parallel=8 makes it shorter.
// Where the service is the test binary, -race and -cover build it with them: a
// data race in it fails the test. What it executes is not counted as covered.
func TestUpgrade(t *testing.T, s Service) {
	t.Helper()
	c, err := look(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, sc := range suite {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			if why := c.missing(sc); why != "" {
				t.Skip(why)
			}
			sc.try(t, c)
		})
	}
}

// missing says why a case does not apply.
func (c *conformance) missing(sc suiteCase) string {
	for _, need := range sc.needs {
		if why, lacks := c.lacks[need]; lacks {
			return fmt.Sprintf("the service lacks the capability %q: %s", need, why)
		}
	}
	return ""
}

func (sc suiteCase) try(t testing.TB, c *conformance) {
	t.Helper()
	sc.run(&trial{TB: t, conformance: c, suiteCase: sc})
}

// look finds out what the unit shows.
// check finds what nobody can have meant.
func (s *Service) check() error {
	known := []Capability{Overlaps, InPlace, LosesNothing, ReportsFailure, RollsBack, HeldSockets, Restarts}
	for _, c := range s.Has {
		if _, both := s.Lacks[c]; both {
			return fmt.Errorf("reexectest: Service.Has and Lacks have %q: must be in one of them", c)
		}
		if !slices.Contains(known, c) {
			return fmt.Errorf("reexectest: Service.Has has %q: must be one of %q", c, known)
		}
	}
	for c := range s.Lacks {
		if !slices.Contains(known, c) {
			return fmt.Errorf("reexectest: Service.Lacks has %q: must be one of %q", c, known)
		}
	}
	if s.Upgrades < 0 {
		return fmt.Errorf("reexectest: Service.Upgrades=%d: must be positive, or 0 for the default", s.Upgrades)
	}
	if s.Prompt < 0 {
		return fmt.Errorf("reexectest: Service.Prompt=%v: must be positive, or 0 for the default", s.Prompt)
	}
	return nil
}

func look(s Service) (*conformance, error) {
	if s.Clients == nil {
		return nil, errors.New("reexectest: Service.Clients is nil: nobody would notice what is lost")
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	if s.Upgrades == 0 {
		s.Upgrades = 5
	}
	if s.Prompt == 0 {
		s.Prompt = 5 * time.Second
	}
	c := &conformance{Service: s, kinds: s.Clients.Kinds(), lacks: make(map[Capability]string)}
	u, _, err := prepare(c.options())
	if err != nil {
		return nil, err
	}
	c.detect(u)
	for _, has := range s.Has {
		delete(c.lacks, has)
		if has == InPlace {
			why := "the next version is executed in the process of the old one"
			c.lacks[Overlaps], c.lacks[RollsBack] = why, why
		}
	}
	maps.Copy(c.lacks, s.Lacks)
	if c.program == "" {
		return nil, fmt.Errorf("reexectest: the program of ExecStart= is not in Options.Programs, which has %q",
			slices.Sorted(maps.Keys(u.programs)))
	}
	if c.Next == nil {
		c.Next = func(n int) Program {
			p := u.programs[c.program]
			if p.kind == selfProgram {
				p.trailer.Version = strconv.Itoa(n)
			}
			return p
		}
	}
	return c, nil
}

func (c *conformance) detect(u *Unit) {
	service := u.set.Service
	for _, command := range service.ExecStart {
		path := launched(command)
		if _, ok := u.programs[path]; ok {
			c.program = path
		}
	}
	c.verb = "reload"
	c.lacks[InPlace] = "Service.Has does not say so"
	switch reload := service.ExecReload; {
	case len(reload) == 0 && service.Type != "notify-reload":
		c.verb = "restart"
		why := "it has neither ExecReload= nor Type=notify-reload: an upgrade is a restart"
		c.lacks[Overlaps], c.lacks[LosesNothing], c.lacks[RollsBack], c.lacks[ReportsFailure] = why, why, why, why
	case len(reload) == 0:
		c.lacks[ReportsFailure] = "with Type=notify-reload READY=1 is always a success, see sd_notify(3)"
	case onlySignals(reload):
		c.lacks[ReportsFailure] = fmt.Sprintf("ExecReload=%s only sends a signal, and does not wait", reload[0].Path)
	}
	if len(u.set.Sockets) == 0 {
		c.lacks[HeldSockets] = "it has no socket unit"
	}
	switch service.Restart {
	case "no", "on-success", "on-watchdog":
		c.lacks[Restarts] = fmt.Sprintf("Restart=%s", service.Restart)
	}
}

// onlySignals says whether commands end before the service has done anything.
func onlySignals(commands []unit.Command) bool {
	return !slices.ContainsFunc(commands, func(c unit.Command) bool {
		return !slices.Contains([]string{"kill", "pkill", "killall"}, filepath.Base(c.Path))
	})
}

func (c *conformance) options() Options {
	o := c.Options
	o.Files, o.Programs, o.Addresses = maps.Clone(o.Files), maps.Clone(o.Programs), maps.Clone(o.Addresses)
	o.Environment = slices.Clone(o.Environment)
	if c.Each != nil {
		c.Each(&o)
	}
	return o
}

// trial is a case under way.
type trial struct {
	testing.TB
	*conformance
	suiteCase
	unit    *Unit  // that was made last
	version int    // of the program that was installed last
	hint    string // for a service that cannot keep the rule
}

// broken ends the case: the rule does not hold.
func (t *trial) broken(format string, args ...any) {
	t.Helper()
	text := fmt.Sprintf("broken rule: %s\n%s", t.rule, fmt.Sprintf(format, args...))
	if t.unit != nil {
		if why := t.unit.alien(); why != "" {
			text += "\n" + why
		}
	}
	if t.hint != "" {
		text += "\n" + t.hint
	}
	t.Fatal(text)
}

// alien says which process became main and is none of systemd's children, what
// that leads to, and what to do; empty if there was none.
func (u *Unit) alien() string {
	for _, entry := range u.Journal() {
		_, text, found := strings.Cut(entry.Message, "Supervising process ")
		pid := 0
		if _, err := fmt.Sscanf(text, "%d which is not our child.", &pid); !found || err != nil || entry.Identifier != "systemd" {
			continue
		}
		parent := "another process"
		u.mu.Lock()
		for _, p := range u.births {
			if p.PID == pid {
				parent = fmt.Sprintf("process %d", p.Parent)
			}
		}
		u.mu.Unlock()
		return fmt.Sprintf("The likely cause: process %d, which MAINPID= made main, was a child of %s and not of systemd. Of such a process systemd "+
			"does not notice the death, does not start the service again, and at a stop it kills it without waiting for an end by SIGTERM. "+
			"Start the next version as a child of systemd: by syscall.ForkExec with SysProcAttr{Cloneflags: syscall.CLONE_PARENT}; see notify.MainPID.",
			pid, parent)
	}
	return ""
}

// load makes a unit for the case.
func (t *trial) load() *Unit {
	t.Helper()
	t.version = 1
	o := t.options()
	if slices.Contains(t.needs, RollsBack) {
		if o.Files == nil {
			o.Files = make(map[string]string)
		}
		maps.Copy(o.Files, t.OnTrial)
	}
	t.unit = Load(t.TB, o)
	return t.unit
}

// start makes a unit and starts it; every kind of client gets an answer.
func (t *trial) start() *Unit {
	t.Helper()
	u := t.load()
	t.mustStart(u)
	return u
}

func (t *trial) mustStart(u *Unit) {
	t.Helper()
	if err := u.Start(t.Context()); err != nil {
		t.broken("the service does not start: %v", err)
	}
	if err := t.answered(u); err != nil {
		t.broken("the service was started and does not answer: %v", err)
	}
}

// answered has every kind of client ask once, over a new connection.
func (t *trial) answered(u *Unit) error {
	for _, kind := range t.kinds {
		if err := t.ask(u, kind); err != nil {
			return fmt.Errorf("%s: %w", kind.Name, err)
		}
	}
	return nil
}

func (t *trial) ask(u *Unit, kind Kind) error {
	ctx, cancel := context.WithTimeoutCause(t.Context(), t.Prompt, fmt.Errorf("no answer within %v (Service.Prompt)", t.Prompt))
	defer cancel()
	client, err := kind.Dial(ctx, u)
	if err != nil {
		return err
	}
	err = client.Exchange(ctx)
	return errors.Join(err, client.Close())
}

func (t *trial) mustAnswer(u *Unit, when string) {
	t.Helper()
	if err := t.answered(u); err != nil {
		t.broken("%s the service does not answer: %v", when, err)
	}
}

// clients starts clients of every kind.
func (t *trial) clients(u *Unit, n int, pause time.Duration) *load {
	l := startLoad(t.Context(), u, t.kinds, n, pause)
	t.Cleanup(func() { l.end() })
	return l
}

// nothingLost ends the load.
func (t *trial) nothingLost(l *load) {
	t.Helper()
	if n, losses := l.end(); len(losses) > 0 {
		t.broken("%d of %d requests were lost:%s", len(losses), n, describe(losses))
	}
}

// upgrade installs the next version, upgrades to it and waits until it is main.
func (t *trial) upgrade(u *Unit) error {
	t.version++
	if err := u.Install(t.program, t.Next(t.version)); err != nil {
		return err
	}
	return t.again(u)
}

// again upgrades to the file that is there.
func (t *trial) again(u *Unit) error {
	was := u.MainPID()
	if err := t.reload(u); err != nil {
		return err
	}
	return t.upgraded(t.Context(), u, was)
}

// reload asks for an upgrade, by reload or restart.
func (t *trial) reload(u *Unit) error { return u.Systemctl(t.Context(), t.verb, u.Name()) }

// upgraded waits until another process than the old main one is main. Without a
// process that is next to it, it may be the same, and runs the file that was installed.
func (t *trial) upgraded(ctx context.Context, u *Unit, was int) error {
	_, inPlace := t.lacks[Overlaps]
	err := u.wait(ctx, "another main process", func() bool {
		s := u.state
		return s.SubState == "running" && s.MainPID != 0 &&
			(s.MainPID != was || inPlace && sameFile(s.MainPID, u.Path(t.program)))
	})
	if err != nil && t.verb == "reload" && u.MainPID() == was {
		return fmt.Errorf("%w; the reload ended and PID %d is still main: if it only reads its configuration again, "+
			"test with a drop-in without ExecReload= and with Type=notify, so that restart is the upgrade", err, was)
	}
	return err
}

func (t *trial) mustUpgrade(u *Unit) {
	t.Helper()
	if err := t.upgrade(u); err != nil {
		t.broken("the upgrade to version %d failed: %v", t.version, err)
	}
}

// quiet waits until a failed upgrade is over: the unit has as many processes as
// before. If a reload does not wait for its end, that must be so for a while.
func (t *trial) quiet(u *Unit, processes int) {
	t.Helper()
	calm := time.Duration(0)
	if _, lacks := t.lacks[ReportsFailure]; lacks {
		calm = 250 * time.Millisecond
	}
	t.alone(u, processes, calm)
}

// alone waits until the unit has so many processes, and goes on having them for
// a while: failed versions and older generations are gone.
func (t *trial) alone(u *Unit, processes int, calm time.Duration) {
	t.Helper()
	var since time.Time
	var all []Process
	deadline := time.Now().Add(u.opts.Patience)
	for pause := time.Millisecond; time.Now().Before(deadline); pause = min(2*pause, 20*time.Millisecond) {
		state := u.Show()
		all = u.Processes()
		if len(all) != processes || state.ControlPID != 0 || state.Job != "" {
			since = time.Time{}
		} else if since.IsZero() {
			since = time.Now()
		}
		if !since.IsZero() && time.Since(since) >= calm {
			return
		}
		time.Sleep(pause)
	}
	t.broken("%v after the upgrade the unit has %d processes, and had %d before:%s", u.opts.Patience, len(all), processes, listed(all))
}

func listed(all []Process) string {
	var b strings.Builder
	for _, p := range all {
		fmt.Fprintf(&b, "\n  %v", p)
	}
	return b.String()
}

// unchanged checks that a failed upgrade left nothing behind: the same main
// process answers.
func (t *trial) unchanged(u *Unit, before Properties, what string) {
	t.Helper()
	now := u.Show()
	switch {
	case now.ActiveState != "active":
		t.broken("after %s the service is %v", what, now)
	case now.NRestarts != before.NRestarts:
		t.broken("%s restarted the service: it is %v", what, now)
	case now.MainPID != before.MainPID:
		t.broken("after %s another process is main: %d, and was %d", what, now.MainPID, before.MainPID)
	}
	t.mustAnswer(u, "after "+what)
}

// failedReload checks what a failed upgrade returned.
func (t *trial) failedReload(err error, what string) {
	t.Helper()
	if _, lacks := t.lacks[ReportsFailure]; !lacks && err == nil {
		t.broken("%s, and the %s succeeded", what, t.verb)
	}
}
