// SPDX-License-Identifier: Apache-2.0

package campaign

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/vmtests"
)

// A fault is one row of the table: an upgrade to which something happens.
type fault struct {
	name string
	// next is what is wrong with the next version; see cmd/victim. With put, that puts the file in place.
	next string
	put  func(*stage) error
	// verb is what systemctl is asked for, "" for a reload. With ask, that asks in its place, and verb names it.
	verb string
	ask  func(*stage, context.Context) error
	// setUp makes the surroundings of the row before, takeDown undoes it after.
	setUp, takeDown func(*stage, context.Context) error
	// release is called when the command has ended, where the service cannot come to rest before.
	release func(*stage, context.Context) error
	// strike is called when the service has logged this line, and runs beside the upgrade.
	line   string
	strike func(*stage, context.Context) error
	// unkept: what is committed meanwhile cannot be kept, and is not acknowledged.
	unkept bool
	// look says what is wrong after it that the columns do not show; or nil.
	look func(*stage, context.Context) error
	want map[reexec.Mode]want
}

// command is what asks for the upgrade.
func (f fault) command() string { return cmp.Or(f.verb, "reload") }

// exit is what the command must say.
type exit int

const (
	fails exit = iota
	succeeds
	either
)

func (e exit) String() string { return [...]string{"fails", "succeeds", "fails or not"}[e] }

// want is what must come of a fault, and why.
type want struct {
	outcome control.Outcome
	or      control.Outcome // as well; "" for none
	reason  string          // in the verdict
	exit    exit
	// restarted: systemd starts the service again.
	restarted bool
	// stops: systemd closes what the service has bound itself, and clients of that are refused for a moment.
	stops bool
	// loses: what the successor is answering goes with it; else nothing is lost.
	loses bool
	why   string
}

func refused(reason, why string) want {
	return want{outcome: control.Refused, reason: reason, why: why}
}

func rolledBack(reason, why string) want {
	return want{outcome: control.RolledBack, reason: reason, why: why}
}

func losing(w want) want {
	w.loses = true
	return w
}

func upgraded(why string) want {
	return want{outcome: control.Upgraded, exit: succeeds, why: why}
}

// alike is for what is the same in the modes that upgrade.
func alike(w want) map[reexec.Mode]want {
	return map[reexec.Mode]want{reexec.Overlap: w, reexec.InPlace: w}
}

// anywhere is for what fails before anything is done in any mode.
func anywhere(w want) map[reexec.Mode]want {
	return map[reexec.Mode]want{reexec.Overlap: w, reexec.InPlace: w, reexec.Restart: w}
}

func restart(w want) map[reexec.Mode]want { return map[reexec.Mode]want{reexec.Restart: w} }

func overlap(w want) map[reexec.Mode]want { return map[reexec.Mode]want{reexec.Overlap: w} }

func inPlace(w want) map[reexec.Mode]want { return map[reexec.Mode]want{reexec.InPlace: w} }

// Lines that the service logs at the begin of the phases of an upgrade.
const (
	lineCheck = "serving -> checking"
	lineStart = "checking -> starting"
	lineTrial = "starting -> probation"
	lineDrain = "promoting -> draining"
	lineEmpty = "checking -> emptying"
	lineSlow  = "starting slowly" // the victim itself, see cmd/victim
)

// faults is the table. What is wanted follows from the promises of Holdfast (README.md) and from the protocol
// (reexec/PROTOCOL.md), not from what was seen.
func faults() []fault {
	const nothing = "it is not started, so nothing can have changed"
	var rows []fault
	for _, b := range badFiles() {
		f := fault{name: b.name, put: b.put, want: anywhere(refused(b.reason, nothing))}
		if b.noexec {
			f.setUp, f.takeDown = (*stage).mountNoexec, (*stage).unmountNoexec
		}
		rows = append(rows, f)
	}
	rows = append(rows, []fault{
		{
			name: "the file is removed between check and start", next: "check-waits-for-removal", line: lineCheck, strike: (*stage).removeWhenChecking,
			want: alike(upgraded("what was checked is what runs: by its descriptor, which has no name to lose")),
		},

		{name: "its check fails", next: "check-fails", want: anywhere(refused("damaged on purpose: the check fails", nothing))},
		{name: "its check hangs", next: "check-hangs", want: anywhere(refused("did not end within", "each phase has a bound"))},
		{name: "it exits with 0", next: "exits-0", want: overlap(refused("", "it was not ready, so it has accepted nothing"))},
		{name: "it panics at start", next: "panics", want: overlap(refused("damaged on purpose: panic at start", "it was not ready"))},
		{name: "it hangs at start", next: "hangs", want: overlap(refused("not ready within", "each phase has a bound"))},
		{name: "it is never healthy", next: "never-ready", want: overlap(refused("damaged on purpose: never healthy", "the verdict says what it waited for"))},
		{name: "it falls ill on trial", next: "falls-ill", want: overlap(rolledBack("the database is gone", "an ill version answers what it has"))},
		{name: "it panics on trial", next: "crashes-on-trial", want: overlap(losing(rolledBack("panic on trial", "lost is what it was answering")))},
		{name: "it hangs on trial", next: "hangs-on-trial", want: overlap(losing(rolledBack("hangs: no beat for", "it is killed, with what it was answering")))},
		{name: "it leaks descriptors until it has none", next: "leaks", want: overlap(rolledBack("too many open files", "its health check says so"))},

		{name: "it says ready twice", next: "ready-twice", want: overlap(upgraded("it is ready, and was so before: nothing to decide"))},
		{name: "it closes the socket pair at start", next: "closes-at-start", want: overlap(refused("closed the handover socket and lives on", "who cannot be told anything must not serve"))},
		{name: "it closes the socket pair on trial", next: "closes-on-trial", want: overlap(losing(rolledBack("", "it cannot be told to drain, so it is killed; the end of the socket shows it, or the beats that do not come")))},
		{name: "it sends garbage at start", next: "garbage-at-start", want: overlap(refused("bad frame", "what speaks another protocol must not serve"))},
		{name: "it sends garbage on trial", next: "garbage-on-trial", want: overlap(losing(rolledBack("bad frame", "the same; it may be killed if it does not listen either")))},
		{name: "it sends a torn frame", next: "torn-frame", want: overlap(losing(rolledBack("bad frame", "the checksum is there for this")))},
		{name: "it sends frames of an unknown kind", next: "floods-unknown", want: overlap(losing(rolledBack("unexpected kind 999", "within one version both know all kinds")))},
		{name: "it floods with 20,000 beats", next: "floods", want: overlap(upgraded("each says that it is well, and none is kept"))},
		{
			name: "it sends descriptors that nobody asked for", next: "leaks-descriptors", setUp: (*stage).noteDescriptors, look: (*stage).sameDescriptors,
			want: overlap(losing(rolledBack("it has leaked enough", "each is closed: main has as many after it as before"))),
		},

		{
			name: "the runtime directory is full", setUp: (*stage).fillRuntimeDirectory, takeDown: (*stage).emptyRuntimeDirectory,
			want: map[reexec.Mode]want{
				reexec.Overlap: upgraded("the PID file says who stays if main dies on trial; without it the unit would be started again then, and a full disk must not keep a fix out"),
				reexec.InPlace: upgraded("nothing is written there: the control socket crosses, and the manifest is a memfd"),
			},
		},
		{
			name: "main is at its limit of descriptors", setUp: (*stage).reachLimit, release: (*stage).leaveClients, takeDown: (*stage).leaveLimit,
			unkept: true,
			want:   alike(refused("too many open files", "the control socket has one descriptor in reserve, so the request is heard; but nothing can be started")),
		},
		{
			name: "the fd store is too small", setUp: (*stage).shrinkStore, takeDown: (*stage).restoreStore, look: (*stage).saysWhatIsNotStored,
			unkept: true,
			want:   alike(upgraded("the store is for crashes, and an upgrade passes what it needs itself; what a crash would lose is said, and not acknowledged")),
		},
		{
			name: "NOTIFY_SOCKET is gone before", setUp: (*stage).hideNotify, release: (*stage).showNotify,
			want: overlap(refused("notify", "a version that systemd cannot hear must not become main")),
		},
		{
			name: "NOTIFY_SOCKET is gone on trial", line: lineTrial, strike: (*stage).hideNotify, release: (*stage).showNotify,
			want: overlap(upgraded("both are connected to it since they started, and its name is of no use any more")),
		},

		{
			name: "ten clients reload at once", line: lineCheck, strike: (*stage).storm, look: (*stage).oneMain,
			want: alike(want{outcome: control.Upgraded, exit: either, why: "one upgrade at a time; who comes during it is told so"}),
		},
		{
			name: "SIGUSR2 to main on trial", line: lineTrial, strike: (*stage).signalMain, look: (*stage).oneMain,
			want: overlap(upgraded("the second request is held until the verdict, and answered with busy then")),
		},
		{
			name: "SIGUSR2 to the successor on trial", line: lineTrial, strike: (*stage).signalSuccessor, look: (*stage).twoUpgrades,
			want: overlap(upgraded("who is on trial keeps it, and begins an upgrade when it is main")),
		},
	}...)
	return slices.Concat(rows, commandFaults(), inPlaceFaults(), commandFaultsInPlace(), restartFaults(), commandFaultsInRestart())
}

// commandFaults are the commands of systemctl in each phase.
func commandFaults() []fault {
	phases := []struct{ name, next, line string }{
		{"in the pre-check", "check-slow", lineCheck},
		{"at the start", "starts-slowly", lineStart},
		{"on trial", "", lineTrial},
		{"in the drain", "", lineDrain},
	}
	var rows []fault
	for _, phase := range phases {
		over := phase.line == lineDrain // the verdict was told before
		for _, verb := range []string{"stop", "restart", "daemon-reload", "daemon-reexec"} {
			var w want
			switch verb {
			case "stop":
				w = want{outcome: control.Stopped, restarted: true, stops: true, why: "stop wins, and all is answered; then its socket starts it again for the next client"}
			case "restart":
				// job.c of systemd: a reload that is under way becomes a part of the restart, whose end is its own.
				w = want{outcome: control.Stopped, exit: either, restarted: true, why: "it is a stop first, and the next file starts; systemd merges the reload into it"}
			case "daemon-reload":
				w = upgraded("systemd keeps what it knows")
			case "daemon-reexec":
				w = upgraded("the same; but systemctl loses its connection and returns 1 whatever the verdict")
				w.exit = either
			}
			if over && w.outcome == control.Stopped {
				w.outcome, w.exit = control.Upgraded, either
			}
			if (phase.line == lineCheck || phase.line == lineStart) && w.outcome == control.Stopped {
				// SIGTERM is for all processes; the pre-check and a successor that starts do not catch it.
				w.or = control.Refused
			}
			if phase.line == lineTrial && w.outcome == control.Stopped {
				// It may reach the successor first, which says that it leaves.
				w.or = control.RolledBack
			}
			rows = append(rows, fault{
				name: "systemctl " + verb + " " + phase.name, next: phase.next, line: phase.line, want: overlap(w),
				strike: systemctl(verb),
			})
		}
	}
	return rows
}

// systemctl is a strike that runs a command of systemctl.
func systemctl(verb string) func(*stage, context.Context) error {
	return func(s *stage, ctx context.Context) error {
		err := s.ask(ctx, verb)
		var exit *vmtests.ExitError
		if errors.As(err, &exit) {
			err = nil // it may lose the connection to systemd, or its job to another one's
		}
		return err
	}
}

// commandFaultsInPlace are the commands of systemctl in each phase of an upgrade in place.
func commandFaultsInPlace() []fault {
	phases := []struct {
		name, next, line string
		executed         bool
	}{
		{"in the pre-check", "check-slow", lineCheck, false},
		{"while it empties", "", lineEmpty, false},
		{"when it is executed", "starts-slowly-in-place", lineSlow, true},
	}
	var rows []fault
	for _, phase := range phases {
		for _, verb := range []string{"stop", "restart", "daemon-reload", "daemon-reexec"} {
			var w want
			switch verb {
			case "stop":
				w = want{outcome: control.Stopped, or: control.Refused, restarted: true, stops: true, why: "stop wins, and all is answered; then its socket starts it again for the next client"}
			case "restart":
				w = want{outcome: control.Stopped, or: control.Refused, exit: either, restarted: true, why: "it is a stop first, and the next file starts; systemd merges the reload into it"}
			case "daemon-reload":
				w = upgraded("systemd keeps what it knows")
			case "daemon-reexec":
				w = upgraded("the same; but systemctl loses its connection and returns 1 whatever the verdict")
				w.exit = either
			}
			if phase.line == lineEmpty && w.restarted {
				w.loses = true
				w.why += "; what was gathered for the next program, in which a request may be on its way, ends with the process"
			}
			if phase.executed && w.restarted {
				w.outcome, w.or, w.loses, w.exit = "", "", true, either
				w.why = "it has not called New, so the signal ends it at once; idle connections, in which a request may be on its way, end with it"
			}
			f := fault{name: "systemctl " + verb + " " + phase.name, next: phase.next, line: phase.line, want: inPlace(w), strike: systemctl(verb)}
			if phase.line == lineEmpty {
				f.setUp, f.takeDown = (*stage).occupy, (*stage).leaveClients
			}
			rows = append(rows, f)
		}
	}
	return rows
}

// commandFaultsInRestart are those in the mode restart, in which systemctl restart is the upgrade.
func commandFaultsInRestart() []fault {
	phases := []struct{ name, line string }{
		{"while the old one stops", "serving -> stopping"},
		{"while the new one starts", lineSlow},
	}
	var rows []fault
	for _, phase := range phases {
		for _, verb := range []string{"stop", "restart", "daemon-reload", "daemon-reexec"} {
			w := want{exit: either, restarted: true}
			switch verb {
			case "stop":
				w.stops, w.why = true, "the stop takes the place of the restart; then its socket starts it again for the next client"
			case "restart":
				w.why = "the one that is under way is made use of, or another one follows"
			case "daemon-reload":
				w.exit, w.why = succeeds, "systemd keeps what it knows"
			case "daemon-reexec":
				w.why = "the same; but systemctl may lose its connection"
			}
			rows = append(rows, fault{
				name: "systemctl restart, and " + verb + " " + phase.name, next: "always-starts-slowly", verb: "restart", line: phase.line,
				want: restart(w), strike: systemctl(verb),
			})
		}
	}
	return rows
}

// A badFile cannot be executed.
type badFile struct {
	name   string
	put    func(*stage) error // nil for a sound one
	noexec bool               // on a mount with that option
	reason string             // of the refusal
}

func badFiles() []badFile {
	return []badFile{
		{name: "the file is missing", put: (*stage).removeBinary, reason: "no such file"},
		{name: "the file is not executable", put: func(s *stage) error { return s.put(s.programs.victim, 0o644) }, reason: "is not executable"},
		{name: "the file is of another architecture", put: (*stage).putForeign, reason: "is built for"},
		{name: "the file is cut off", put: func(s *stage) error {
			return s.put(s.programs.victim[:len(s.programs.victim)/2], 0o755)
		}},
		{name: "the file is empty", put: func(s *stage) error { return s.put(nil, 0o755) }, reason: "not an ELF"},
		{name: "a directory is there", put: (*stage).putDirectory, reason: "not a regular file but a directory"},
		{name: "a script without an interpreter is there", put: func(s *stage) error {
			return s.put([]byte("#!/nowhere/at/all\n"), 0o755)
		}, reason: "not an ELF"},
		{name: "the file is on a mount with noexec", noexec: true, reason: "is not executable"},
	}
}

// restartFaults are those of the mode restart. There a version begins with systemd, which takes whatever file is
// there, by way of "holdfast launch".
func restartFaults() []fault {
	const toType = "restart only: systemctl restart " + unitName
	rows := []fault{
		{name: "the file is fit", want: restart(refused(toType, "the answer to a reload is what to type; the pre-check alone has run"))},
		{
			name: "SIGUSR2 by hand", verb: "signal", ask: (*stage).signalAndWait,
			want: restart(want{outcome: control.Refused, reason: toType, exit: succeeds, why: "it asks for the same as a reload; the answer is in the journal"}),
		},
		{name: "systemctl restart", verb: "restart", want: restart(want{
			exit: succeeds, restarted: true, why: "all is answered before it stops, and clients wait in sockets that systemd has",
		})},
		{name: "systemctl stop", verb: "stop", want: restart(want{
			exit: succeeds, restarted: true, stops: true, why: "all is answered; then its socket starts it again for the next client",
		})},
		{name: "systemctl daemon-reload", verb: "daemon-reload", want: restart(want{exit: succeeds, why: "systemd keeps what it knows"})},
		{name: "systemctl daemon-reexec", verb: "daemon-reexec", want: restart(want{
			exit: either, why: "the same; but systemctl may lose its connection",
		})},
	}
	for _, b := range badFiles() {
		f := fault{
			name: "systemctl restart, and " + b.name, verb: "restart", put: b.put, setUp: (*stage).awaitGood, look: (*stage).lastGoodRuns,
			want: restart(want{exit: succeeds, restarted: true, why: "holdfast launch starts the last good version in its place"}),
		}
		if b.noexec {
			f.setUp = func(s *stage, ctx context.Context) error { return errors.Join(s.awaitGood(ctx), s.mountNoexec(ctx)) }
			f.takeDown, f.look = (*stage).unmountNoexec, (*stage).execPathsRun
			f.want = restart(want{exit: succeeds, restarted: true, why: "ExecPaths= of the unit takes the option off in its mounts, so that the file runs; before systemd 248, which has no ExecPaths=, the last good version"})
		}
		rows = append(rows, f)
	}
	for _, d := range []struct{ name, next, why string }{
		{"it panics at its start", "always-panics", "the command ends with the first start; " + secondStart},
		{"it exits with 0 at its start", "always-exits-0", "who ends before READY=1 has failed, with every exit status; " + secondStart},
	} {
		rows = append(rows, fault{
			name: "systemctl restart, and " + d.name, next: d.next, verb: "restart", setUp: (*stage).awaitGood, look: (*stage).lastGoodRuns,
			want: restart(want{exit: fails, restarted: true, why: d.why}),
		})
	}
	for _, d := range []struct{ name, next, why string }{
		{"it hangs before New", "always-hangs", "TimeoutStartSec= ends the first start, and with it the command; " + secondStart},
		{"it is never healthy", "never-ready", "it never says READY=1, so TimeoutStartSec= ends the first start, and with it the command; " + secondStart},
	} {
		rows = append(rows, fault{
			name: "systemctl restart, and " + d.name, next: d.next, verb: "restart",
			setUp: (*stage).boundStart, takeDown: (*stage).unboundStart, look: (*stage).lastGoodRuns,
			want: restart(want{exit: fails, restarted: true, why: d.why}),
		})
	}
	return append(rows, fault{
		name: "systemctl restart, and the fd store is too small", verb: "restart",
		setUp: (*stage).shrinkStore, takeDown: (*stage).restoreStore, look: (*stage).saysWhatIsNotStored, unkept: true,
		want: restart(want{exit: succeeds, restarted: true, stops: true, why: "what the service has bound itself and the store has no room for is closed with the old version, as its status has said"}),
	})
}

const startDropIn = "/run/systemd/system/" + unitName + ".d/start.conf"

// boundStart makes systemd wait less long for READY=1, so that three starts fit into a row.
func (s *stage) boundStart(ctx context.Context) error {
	if err := s.WriteFile(ctx, startDropIn, []byte("[Service]\nTimeoutStartSec=4s\n"), 0o644); err != nil {
		return err
	}
	_, err := s.Systemctl(ctx, "daemon-reload")
	return errors.Join(err, s.awaitGood(ctx))
}

func (s *stage) unboundStart(ctx context.Context) error {
	return s.Run(ctx, "sh", "-c", "rm "+startDropIn+" && systemctl daemon-reload")
}

const watchdogDropIn = "/run/systemd/system/" + unitName + ".d/watchdog.conf"

// shortWatchdog starts the service with a watchdog that ends a row before its clients give up.
func (s *stage) shortWatchdog(ctx context.Context) error {
	if err := s.WriteFile(ctx, watchdogDropIn, []byte("[Service]\nWatchdogSec=3s\n"), 0o644); err != nil {
		return err
	}
	return errors.Join(s.startAnew(ctx), s.awaitGood(ctx))
}

func (s *stage) longWatchdog(ctx context.Context) error {
	if err := os.Remove(s.path(watchdogDropIn)); err != nil {
		return err
	}
	return s.startAnew(ctx)
}

// secondStart is what becomes of a version that cannot be seen to be bad before it runs.
const secondStart = "then systemd starts it again, and after three such starts holdfast launch takes the last good version; clients wait in the sockets that systemd has"

// execPathsRun says that what is in a directory of ExecPaths= was started, where systemd knows that.
func (s *stage) execPathsRun(ctx context.Context) error {
	if s.Version < 248 {
		return s.lastGoodRuns(ctx)
	}
	status, err := s.status(ctx)
	if err == nil && status.Version != strconv.Itoa(s.version) {
		err = fmt.Errorf("version %s runs, want %d", status.Version, s.version)
	}
	return err
}

// inPlaceFaults are those after execve(2), from which there is no way back in the same process.
func inPlaceFaults() []fault {
	const carried = "all that was read is answered before, and idle connections, in which a request may be on its way, end with the process"
	return []fault{
		{
			name: "it panics when it is executed", next: "always-panics", setUp: (*stage).awaitGood, look: (*stage).lastGoodRuns,
			want: inPlace(want{restarted: true, loses: true, why: carried + "; " + secondStart}),
		},
		{
			name: "it exits with 0 when it is executed", next: "always-exits-0", setUp: (*stage).awaitGood, look: (*stage).lastGoodRuns,
			// job.c of systemd: a unit that is inactive, and not failed, has done its reload, whatever the command said.
			want: inPlace(want{exit: either, restarted: true, loses: true, why: carried + "; it is no failure to systemd, but Restart=always starts it again; " + secondStart}),
		},
		{
			name: "it is never healthy when it is executed", next: "never-ready-in-place",
			want: inPlace(want{restarted: true, loses: true, why: carried + "; it ends itself when StartTimeout is over; then systemd starts it, and so it is healthy; clients wait in the sockets that systemd has"}),
		},
		{
			name: "it hangs before New when it is executed", next: "hangs-in-place",
			setUp: (*stage).shortWatchdog, takeDown: (*stage).longWatchdog,
			want: inPlace(want{restarted: true, loses: true, why: carried + "; systemd's watchdog, which waits for StartTimeout and 5 s, ends it; then systemd starts it, and so it does not hang"}),
		},
		{
			name: "NOTIFY_SOCKET is gone before it is executed", setUp: (*stage).hideNotify, release: (*stage).showNotify,
			want: inPlace(want{restarted: true, loses: true, why: carried + "; it cannot speak to systemd, and says so by its end; systemd starts it until it can"}),
		},
		{
			name: "SIGUSR2 to main while it empties", line: lineEmpty, setUp: (*stage).occupy, takeDown: (*stage).leaveClients, strike: (*stage).signalMainAlone, look: (*stage).oneMain,
			want: inPlace(upgraded("the second request is held until the verdict; the next program may begin another upgrade")),
		},
	}
}

// signalAndWait asks main for an upgrade by a signal, and returns with the verdict.
func (s *stage) signalAndWait(ctx context.Context) error {
	all, err := s.processes()
	if err != nil || len(all) != 1 {
		return fmt.Errorf("%d processes (%v), want main alone", len(all), err)
	}
	if err := all[0].signal(unix.SIGUSR2); err != nil {
		return err
	}
	_, err = s.journal.wait(ctx, s.place, "msg=verdict outcome=")
	return err
}

// awaitGood waits until the version that runs is the last good one.
func (s *stage) awaitGood(ctx context.Context) error {
	for {
		status, err := s.status(ctx)
		if err != nil {
			return err
		}
		if good := status.LastGood; good != nil && good.Version == status.Version {
			return nil
		}
		if !pause(ctx, 5*time.Millisecond) {
			return fmt.Errorf("version %s does not become the last good one: %+v: %w", status.Version, status.LastGood, context.Cause(ctx))
		}
	}
}

// lastGoodRuns says that the version that was there before runs again, and that the status says why.
func (s *stage) lastGoodRuns(ctx context.Context) error {
	status, err := s.status(ctx)
	if err != nil {
		return err
	}
	if good := status.LastGood; good == nil || good.Fallback == "" || good.Version != status.Version {
		return fmt.Errorf("version %s runs, and not the last good one: %+v", status.Version, good)
	}
	return nil
}

// removeBinary leaves no file.
func (s *stage) removeBinary() error { return os.RemoveAll(s.path(binaryPath)) }

func (s *stage) putDirectory() error {
	return errors.Join(s.removeBinary(), os.Mkdir(s.path(binaryPath), 0o755))
}

// putForeign makes the file one for another architecture: the field e_machine of its ELF header.
func (s *stage) putForeign() error {
	content := append([]byte(nil), s.programs.victim...)
	const machine, riscv = 18, 243
	content[machine], content[machine+1] = riscv, 0
	return s.put(content, 0o755)
}

func (s *stage) mountNoexec(ctx context.Context) error {
	return s.Run(ctx, "mount", "-t", "tmpfs", "-o", "noexec,mode=0755", "tmpfs", path.Dir(binaryPath))
}

func (s *stage) unmountNoexec(ctx context.Context) error {
	return s.Run(ctx, "umount", "--lazy", path.Dir(binaryPath))
}

// removeWhenChecking removes the file while its pre-check runs.
func (s *stage) removeWhenChecking(ctx context.Context) error {
	begun := s.path("/run/" + name + "/checking")
	for {
		if _, err := os.Stat(begun); err == nil {
			return s.removeBinary()
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if !pause(ctx, time.Millisecond) {
			return fmt.Errorf("wait for %s: %w", begun, context.Cause(ctx))
		}
	}
}

// descriptors is how many main has, when no client comes.
func (s *stage) descriptors() (int, error) {
	all, err := s.processes()
	if err != nil || len(all) != 1 {
		return 0, fmt.Errorf("%d processes (%v), want main alone", len(all), err)
	}
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", all[0].host))
	return len(names), err
}

func (s *stage) noteDescriptors(context.Context) (err error) {
	s.noted, err = s.descriptors()
	return err
}

func (s *stage) sameDescriptors(context.Context) error {
	n, err := s.descriptors()
	// Clients come and go; what was sent are two thousand.
	if err == nil && n > s.noted+20 {
		err = fmt.Errorf("main has %d descriptors, and had %d before", n, s.noted)
	}
	return err
}

// fillRuntimeDirectory puts a small file system in the place of the runtime directory, and fills it.
func (s *stage) fillRuntimeDirectory(ctx context.Context) error {
	dir := "/run/" + name
	for _, argv := range [][]string{
		{"systemctl", "stop", socketName, unitName},
		{"mkdir", "-p", dir},
		{"mount", "-t", "tmpfs", "-o", "size=64k,mode=0755", "tmpfs", dir},
		{"systemctl", "start", socketName, unitName},
		// It fails when nothing more goes in.
		{"sh", "-c", "cat /dev/zero >" + dir + "/filler 2>/dev/null || true"},
	} {
		if err := s.Run(ctx, argv...); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) emptyRuntimeDirectory(ctx context.Context) error {
	dir := "/run/" + name
	return s.Run(ctx, "sh", "-c", "rm "+dir+"/filler && systemctl stop "+socketName+" "+unitName+" && umount "+dir+" && systemctl start "+socketName+" "+unitName)
}

// limit is LimitNOFILE= of a row; the pre-check's descriptors alone need numbers of 64 and more.
const limit = 100

const limitDropIn = "/run/systemd/system/" + unitName + ".d/limit.conf"

// reachLimit has so many clients connect that main can open nothing any more.
func (s *stage) reachLimit(ctx context.Context) error {
	if err := s.WriteFile(ctx, limitDropIn, []byte("[Service]\nLimitNOFILE="+strconv.Itoa(limit)+"\n"), 0o644); err != nil {
		return err
	}
	if err := s.Run(ctx, "sh", "-c", "systemctl daemon-reload && systemctl restart "+unitName); err != nil {
		return err
	}
	for range 2 * limit {
		conn, err := s.network.dial(ctx, "tcp", "127.0.0.1:8080")
		if err != nil {
			return err
		}
		s.idle = append(s.idle, conn)
	}
	for {
		n, err := s.descriptors()
		if err != nil {
			return err
		}
		if n >= limit {
			return nil
		}
		if !pause(ctx, 5*time.Millisecond) {
			return fmt.Errorf("main has %d descriptors with %d clients: %w", n, len(s.idle), context.Cause(ctx))
		}
	}
}

func (s *stage) leaveLimit(ctx context.Context) error {
	s.closeIdle()
	return s.Run(ctx, "sh", "-c", "rm "+limitDropIn+" && systemctl daemon-reload && systemctl restart "+unitName)
}

// storeLimit is FileDescriptorStoreMax= of a row; the service has three sockets of its own and a state.
const storeLimit, storeNeeds = 2, 4

const storeDropIn = "/run/systemd/system/" + unitName + ".d/store.conf"

// shrinkStore starts the service with an fd store that has not room for all.
func (s *stage) shrinkStore(ctx context.Context) error {
	if err := s.WriteFile(ctx, storeDropIn, []byte("[Service]\nFileDescriptorStoreMax="+strconv.Itoa(storeLimit)+"\n"), 0o644); err != nil {
		return err
	}
	return s.startAnew(ctx)
}

func (s *stage) restoreStore(ctx context.Context) error {
	if err := os.Remove(s.path(storeDropIn)); err != nil {
		return err
	}
	return s.startAnew(ctx)
}

// startAnew stops the service, which empties its fd store, and starts it as its unit is now.
func (s *stage) startAnew(ctx context.Context) error {
	if err := s.Run(ctx, "sh", "-c", "systemctl stop "+socketName+" "+unitName+" && systemctl daemon-reload && systemctl start "+socketName+" "+unitName); err != nil {
		return err
	}
	return s.atRest(ctx)
}

// saysWhatIsNotStored waits until the service says in its status, and systemd in that of the unit, that not all
// is stored. The service stores its sockets when it is main, and that takes a moment.
func (s *stage) saysWhatIsNotStored(ctx context.Context) error {
	remedy := fmt.Sprintf("set FileDescriptorStoreMax=%d or more in the .service unit", storeNeeds+1)
	var last string
	for {
		status, err := s.status(ctx)
		if err != nil {
			return err
		}
		props, err := s.Props(ctx, unitName, "StatusText", "NFileDescriptorStore")
		if err != nil {
			return err
		}
		var entries []string
		for _, e := range status.Store.Entries {
			entries = append(entries, e.Name)
		}
		stored := strconv.Itoa(len(entries))
		if strings.HasPrefix(status.Store.Warning, "a crash would lose ") && strings.HasSuffix(status.Store.Warning, remedy) &&
			stored == strconv.Itoa(storeLimit) && props["NFileDescriptorStore"] == stored &&
			strings.Contains(props["StatusText"], "the fd store does not keep all") {
			return nil
		}
		last = fmt.Sprintf("warning %q, entries %q; systemd: %v", status.Store.Warning, entries, props)
		if !pause(ctx, 5*time.Millisecond) {
			return fmt.Errorf("the status does not say what a crash would lose (%q): %s: %w", remedy, last, context.Cause(ctx))
		}
	}
}

// occupy makes a request that takes so long that a drain is waiting for it when something is to happen.
func (s *stage) occupy(ctx context.Context) error {
	conn, err := s.network.dial(ctx, "tcp", "127.0.0.1:8080")
	if err != nil {
		return err
	}
	s.idle = append(s.idle, conn)
	_, err = io.WriteString(conn, "GET /slow?for=3s HTTP/1.1\r\nHost: victim\r\n\r\n")
	return err
}

func (s *stage) leaveClients(context.Context) error {
	s.closeIdle()
	return nil
}

func (s *stage) closeIdle() {
	for _, conn := range s.idle {
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
	s.idle = nil
}

const notifyPath = "/run/systemd/notify"

func (s *stage) hideNotify(context.Context) error {
	return os.Rename(s.path(notifyPath), s.path(notifyPath+".hidden"))
}

func (s *stage) showNotify(context.Context) error {
	return os.Rename(s.path(notifyPath+".hidden"), s.path(notifyPath))
}

// storm has ten clients ask for an upgrade, five by systemd and five beside it.
func (s *stage) storm(ctx context.Context) error {
	var asking sync.WaitGroup
	for i := range 10 {
		asking.Go(func() {
			// What they are told depends on who comes first.
			if i%2 == 0 {
				_, _ = s.Systemctl(ctx, "reload", unitName)
			} else {
				_ = s.Run(ctx, "holdfast", "reload", "--socket=/run/"+name+"/"+control.SocketName, "--timeout=20s")
			}
		})
	}
	asking.Wait()
	return nil
}

func (s *stage) signalMain(context.Context) error { return s.signalNth(0) }

func (s *stage) signalSuccessor(context.Context) error { return s.signalNth(1) }

// signalMainAlone is for a mode in which there is no successor beside it.
func (s *stage) signalMainAlone(context.Context) error {
	all, err := s.processes()
	if err != nil || len(all) == 0 {
		return fmt.Errorf("%d processes (%v), want main", len(all), err)
	}
	return all[0].signal(unix.SIGUSR2)
}

func (s *stage) signalNth(n int) error {
	all, err := s.processes()
	if err != nil || len(all) != 2 {
		return fmt.Errorf("%d processes (%v), want main and its successor", len(all), err)
	}
	return all[n].signal(unix.SIGUSR2)
}

// twoUpgrades waits for the second one, which begins when the first is over.
func (s *stage) twoUpgrades(ctx context.Context) error {
	const verdict = "msg=verdict outcome=upgraded"
	after := s.place
	for _, l := range s.journal.since(s.place) {
		after++
		if strings.Contains(l.text, verdict) {
			break
		}
	}
	if _, err := s.journal.wait(ctx, after, verdict); err != nil {
		return err
	}
	return s.oneMain(ctx)
}

// oneMain says that no two versions take each other for a predecessor: that is what settle waits for. What is
// left to say is that the unit was not started again.
func (s *stage) oneMain(context.Context) error {
	for _, l := range s.journal.since(s.place) {
		if strings.Contains(l.text, `msg="booting -> serving"`) {
			return errors.New("the service was started again")
		}
	}
	return nil
}
