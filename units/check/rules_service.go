// SPDX-License-Identifier: Apache-2.0

package check

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/units/unitfile"
)

// The defaults of systemd-system.conf(5).
const (
	defaultStartLimitInterval = 10 * time.Second
	defaultStartLimitBurst    = 5
	defaultRestart            = 100 * time.Millisecond
	defaultTimeout            = 90 * time.Second
)

// startLimit: 5 starts in 10 seconds fail the service, and a service that failed
// so takes its sockets with it (socket.c, socket_trigger_notify).
func startLimit(s *subject) {
	// With Accept=yes each connection has a service of its own, and a limit of its own.
	if s.accepts() {
		return
	}
	sockets := len(s.sockets) > 0
	if s.is(other) {
		if sockets = slices.ContainsFunc(s.sockets, s.needs); !sockets {
			return
		}
	}
	at, set := s.service.last("Unit", "StartLimitIntervalSec")
	interval, ok := s.service.span("Unit", "StartLimitIntervalSec")
	if !ok {
		interval = defaultStartLimitInterval
	}
	burst := uint64(defaultStartLimitBurst)
	if n, err := unitfile.ParseUnsigned(s.service.value("Unit", "StartLimitBurst", ""), 32); err == nil {
		burst = n
	}
	if interval == 0 || burst == 0 {
		return
	}
	pause, ok := s.service.span("Service", "RestartSec")
	if !ok {
		pause = defaultRestart
	}
	// A restart that waits long enough never comes that far. Without Restart= it is the
	// next connection that starts the service, as fast as they come.
	restarts := s.service.value("Service", "Restart", "no") != "no"
	if restarts && float64(burst)*float64(pause) >= float64(interval) || !restarts && !sockets {
		return
	}
	how := "the default"
	if set {
		how = "the limit"
	}
	what := fmt.Sprintf("%s is %d starts in %s", how, burst, span(interval))
	level := Warning
	if s.is(other) {
		level = Note
	}
	why := what + ": a version that crashes at its start reaches it, and the service then stays down"
	if sockets {
		why = what + ": a version that crashes at its start reaches it, and systemd then closes the sockets, too: connections are refused instead of waiting for the next start"
	}
	s.report(level, at, why, "StartLimitIntervalSec=0")
}

func propagatesReload(s *subject) {
	if at, ok := s.service.last("Unit", "PropagatesReloadTo"); ok {
		s.report(Note, at, "a reload is an upgrade: each one reloads these units, too")
	}
}

func reloadPropagated(s *subject) {
	if at, ok := s.service.last("Unit", "ReloadPropagatedFrom"); ok {
		s.report(Warning, at, "a reload of one of these units upgrades this service, and nobody hears of the verdict: remove the line, and reload this service by itself")
	}
}

// requiresSockets: a service that is started without its sockets binds them itself, and
// the socket units cannot be started any more.
func requiresSockets(s *subject) {
	var wanted []string
	for _, key := range []string{"Requires", "Wants", "BindsTo", "Requisite"} {
		wanted = append(wanted, s.service.words("Unit", key)...)
	}
	wanted = append(wanted, s.service.words("Service", "Sockets")...) // implies Wants=
	var missing []string
	for _, u := range s.sockets {
		if !slices.Contains(wanted, u.name.String()) && !u.yes("Socket", "Accept", false) {
			missing = append(missing, nameIn(u.name, s.service.name))
		}
	}
	if len(missing) > 0 {
		all := strings.Join(missing, " ")
		s.report(Warning, setting{file: s.service.file()},
			"a start of the service does not start its sockets: it then binds the addresses itself, and systemd refuses to start the sockets while it runs",
			"Requires="+all, "After="+all)
	}
}

// nameIn is a name as lines of the service write it.
func nameIn(n, service unitfile.Name) string {
	if n.Template && n.Instance == service.Instance {
		n.Instance = "%i"
	}
	return n.String()
}

func serviceType(s *subject) {
	at, set := s.service.last("Service", "Type")
	kind := at.value
	if !set {
		kind = "simple"
	}
	if s.is(other) {
		switch {
		case s.accepts():
		case kind == "oneshot":
			s.report(Note, at, "nothing runs that could be upgraded: the commands of the unit end")
		case kind == "simple", kind == "idle":
			s.report(Note, at, "systemd takes a version for started when it is forked: a restart succeeds whether it comes up or not; Type=notify waits for it, if the service can tell systemd that it is ready")
		}
		return
	}
	switch kind {
	case "notify":
	case "notify-reload":
		if s.systemd < 253 {
			s.report(Error, at, fmt.Sprintf("systemd %d does not know it, and ignores the line", s.systemd), "Type=notify")
			return
		}
		if s.is(restart) {
			s.report(Error, at, "the mode restart has no reload", "Type=notify")
			return
		}
		if !isSignal(s.service.value("Service", "ReloadSignal", "SIGHUP"), "USR2") {
			s.report(Error, at, "a reload sends "+s.service.value("Service", "ReloadSignal", "SIGHUP")+", which asks for no upgrade", "ReloadSignal=SIGUSR2")
		}
		if len(s.service.commands("ExecReload")) > 0 {
			s.report(Warning, at, "there is ExecReload=, too, and systemd 253 to 258 sends the signal while that runs: two upgrades are asked for", "Type=notify")
		}
	case "forking":
		s.report(Error, at, "the service does not fork: systemd waits for that until TimeoutStartSec=, and kills it", "Type=notify")
	case "oneshot":
		s.report(Error, at, "the start ends only when the service does, so that no reload is possible", "Type=notify")
	default:
		s.report(Warning, at, "systemd takes a version for started when it is forked or executed, not when it is ready: a start succeeds whether it comes up or not", "Type=notify")
	}
}

func exitType(s *subject) {
	at, set := s.service.last("Service", "ExitType")
	if !set || at.value != "cgroup" {
		return
	}
	level := Error
	if s.is(inPlace) {
		level = Warning
	}
	s.report(level, at, "after the crash of a main process beside which another lives, the next reload stops the service: systemd keeps its result in mind", "ExitType=main")
}

func remainAfterExit(s *subject) {
	if s.service.value("Service", "Type", "") == "oneshot" || !s.service.yes("Service", "RemainAfterExit", false) {
		return
	}
	at, _ := s.service.last("Service", "RemainAfterExit")
	s.report(Warning, at, "a version that ends is active all the same: nothing restarts it, and a reload runs on nothing", "RemainAfterExit=no")
}

func guessMainPID(s *subject) {
	if at, set := s.service.last("Service", "GuessMainPID"); set {
		s.report(Note, at, "it is for Type=forking without PIDFile=, and has no effect here: remove the line")
	}
}

func pidFile(s *subject) {
	at, set := s.service.last("Service", "PIDFile")
	if s.is(other) {
		if set || s.service.value("Service", "Type", "") != "forking" {
			return
		}
		if !s.service.yes("Service", "GuessMainPID", true) {
			s.report(Note, at, "systemd knows no main process: the service is active as long as any process of it lives, and a crash of the one that matters starts nothing again")
			return
		}
		s.report(Note, at, "systemd guesses which process is the main one: if that forks another to follow it, as in a hot upgrade, and ends, the service has ended for systemd; PIDFile= with the file in which the service writes its PID shows it the next one")
		return
	}
	if s.is(restart) {
		return
	}
	dir := s.runtimeDirectory()
	if dir == "" {
		dir = s.stem()
	}
	want := "/run/" + dir + "/main.pid"
	write := "PIDFile=%t/" + s.inUnit(dir) + "/main.pid"
	switch {
	case !set && s.is(overlap):
		s.report(Error, at, "if the old version dies while the new one is in its probation, systemd stops the service with both: this file tells it that the new one is main", write)
	case !set && !s.sure:
		s.report(Note, at, "this is right in the mode in place, which is taken for granted without it; where versions overlap, the line is missing", write)
	case set && s.is(overlap) && path.Clean(s.absolute(at.value)) != want:
		s.report(Error, at, "the service writes main.pid in its first runtime directory: systemd reads another file, and stops the service if the old version dies in the probation of the new one", write)
	}
}

// inUnit writes the instance as %i.
func (s *subject) inUnit(text string) string {
	if i := s.service.name.Instance; i != "" {
		return strings.Replace(text, "@"+i, "@%i", 1)
	}
	return text
}

// absolute is a path with specifiers, relative ones to /run as PIDFile= has them.
func (s *subject) absolute(text string) string {
	p := s.service.expand(text)
	if !path.IsAbs(p) {
		p = "/run/" + p
	}
	return p
}

func notifyAccess(s *subject) {
	at, _ := s.service.last("Service", "NotifyAccess")
	switch access := s.notifyAccess(); access {
	case "main", "exec":
	case "none":
		s.report(Error, at, "systemd hears nothing of the service: neither that it is ready, nor which process is main after an upgrade", "NotifyAccess=main")
	default:
		s.report(Warning, at, "any process of the unit can speak for the service, a version that is on trial or undone, too; the main one is enough", "NotifyAccess=main")
	}
}

func execStart(s *subject) {
	start := s.service.commands("ExecStart")
	if len(start) == 0 {
		return
	}
	c := start[0]
	if s.launch != nil {
		if len(s.launch.operands) == 0 {
			s.report(Error, c.at, "holdfast launch has no program to start: name it after \"--\"")
		}
		return
	}
	switch base := c.base(); {
	case slices.Contains([]string{"sh", "bash", "dash", "env"}, base):
		s.report(Warning, c.at, "a shell or another program starts the service: the name by which it was started must be the absolute path of its file, or reexec.Options.Executable; and a shell that stays is main in its place",
			"ExecStart="+s.unnamed("/usr/bin/"))
	case !path.IsAbs(c.Args[0]) && !c.Has("@"):
		s.report(Warning, c.at, "the service is started by a bare name, and an upgrade needs the path of its file: write it, or set reexec.Options.Executable", "ExecStart="+s.unnamed("/usr/bin/"))
	case c.Has("@") && !path.IsAbs(c.Args[0]):
		s.report(Warning, c.at, "argv[0] is no absolute path, and an upgrade executes the file that it names: leave out the \"@\", or set reexec.Options.Executable", assignment("ExecStart", c.Path))
	}
}

func (s *subject) unnamed(dir string) string { return dir + s.service.name.Prefix }

func execReload(s *subject) {
	reload := s.service.commands("ExecReload")
	if s.is(other) {
		otherReload(s, reload)
		return
	}
	write := s.reloadLine()
	notifyReload := s.service.value("Service", "Type", "") == "notify-reload"
	if len(reload) == 0 {
		if s.is(hot) && !notifyReload {
			s.report(Error, setting{file: s.service.file()}, "systemctl reload, which upgrades the service, is refused", write)
		}
		return
	}
	if s.is(restart) {
		s.report(Warning, reload[0].at, "the mode restart has no reload: it is refused, or does nothing; upgrade by systemctl restart")
		return
	}
	for _, c := range reload {
		signal, kill := killsMain(c)
		switch {
		case kill && isSignal(signal, "USR2"):
			s.report(Warning, c.at, "it asks for an upgrade and does not wait: systemctl reload succeeds before anything has happened, and also if the upgrade fails", write)
		case kill:
			s.report(Error, c.at, "it sends "+signal+", which asks for no upgrade: the service goes on as it is, or ends by the signal, and systemctl reload does not wait for either", write)
		case s.program() != "" && c.Path == path.Clean(s.program()):
			s.report(Warning, c.at, "it runs the file that is to be proven first: one for another machine, or one that hangs, fails the reload before the old version can check it; and it must wait for the verdict", write)
		}
		if c.Has("-") {
			s.report(Warning, c.at, "the \"-\" in front has systemd ignore that it fails: a failed upgrade is a successful reload", write)
		}
	}
	r := s.reload
	if r == nil {
		return
	}
	if dir := s.runtimeDirectory(); r.socket != "" && dir != "" && path.Clean(r.socket) != "/run/"+dir+"/control.sock" {
		s.report(Error, r.at, "the control socket of the service is in its first runtime directory, /run/"+dir+": nobody serves the one that is named here", write)
	}
	if strings.HasSuffix(r.Args[len(r.Args)-1], "&") {
		s.report(Error, r.at, "systemd has no shell: the last argument is no operator", write)
	}
}

// reloadLine is ExecReload= as it is rendered.
func (s *subject) reloadLine() string {
	dir := s.runtimeDirectory()
	if dir == "" {
		dir = s.stem()
	}
	timeout := ""
	if s.phases > 0 {
		timeout = " --timeout=" + span(s.phases+clientMargin)
	}
	return "ExecReload=/usr/bin/holdfast reload --socket=%t/" + s.inUnit(dir) + "/control.sock" + timeout
}

// killsMain recognises "kill -HUP $MAINPID", with which signal, and what runs it by a shell.
func killsMain(c command) (signal string, ok bool) {
	args := c.Args
	if b := c.base(); (b == "sh" || b == "bash" || b == "dash") && len(args) == 3 && args[1] == "-c" {
		args = strings.Fields(args[2])
	}
	if len(args) < 2 || path.Base(args[0]) != "kill" || !slices.ContainsFunc(args, func(a string) bool { return strings.Contains(a, "MAINPID") }) {
		return "", false
	}
	signal = "SIGTERM"
	for i, a := range args[1:] {
		switch name, found := strings.CutPrefix(a, "-"); {
		case a == "-s" || a == "--signal" || a == "-n":
			if i+2 < len(args) {
				signal = args[i+2]
			}
		case found && name != "-" && name != "":
			signal = strings.TrimPrefix(name, "-signal=")
		}
	}
	switch n, err := strconv.Atoi(signal); {
	case err == nil && n == 1:
		signal = "HUP"
	case err == nil && n == 10:
		signal = "USR1"
	case err == nil && n == 12:
		signal = "USR2"
	}
	return "SIG" + strings.TrimPrefix(strings.ToUpper(signal), "SIG"), true
}

// otherReload says of what is no Holdfast service what a reload is.
func otherReload(s *subject, reload []command) {
	if s.service.value("Service", "Type", "") == "oneshot" {
		return
	}
	waits := "sockets that it opens itself are closed meanwhile"
	if s.accepts() {
		return // each connection is a process of its own
	}
	if len(s.sockets) > 0 {
		u := s.sockets[0]
		waits = "who connects meanwhile waits in the socket of " + u.name.String()
		if !s.needs(u) {
			waits += ", if that is active; else sockets that it opens itself are closed"
		}
	}
	if len(reload) == 0 {
		if s.service.value("Service", "Type", "") == "notify-reload" {
			at, _ := s.service.last("Service", "Type")
			s.report(Note, setting{file: at.file, line: at.line}, "this is no Holdfast service: a reload sends "+s.service.value("Service", "ReloadSignal", "SIGHUP")+", and what that does is its own matter; systemctl restart upgrades it: "+waits)
			return
		}
		s.report(Note, setting{file: s.service.file()}, "this is no Holdfast service, and has no reload: systemctl restart upgrades it: "+waits)
		return
	}
	at := reload[len(reload)-1].at
	for _, c := range reload {
		if signal, kill := killsMain(c); kill {
			s.report(Note, c.at, "this is no Holdfast service: a reload sends "+signal+" and does not wait, so that it succeeds whatever becomes of it; if that does not upgrade the service, systemctl restart does: "+waits)
			return
		}
	}
	s.report(Note, at, "this is no Holdfast service: what a reload does is its own matter; if it does not upgrade the service, systemctl restart does: "+waits)
}

// accepts says whether systemd starts a process for each connection.
func (s *subject) accepts() bool {
	return slices.ContainsFunc(s.sockets, func(u *unit) bool { return u.yes("Socket", "Accept", false) })
}

// needs says whether the service never runs without a socket unit: it asks for it, or nothing
// else starts it.
func (s *subject) needs(u *unit) bool {
	for _, key := range []string{"Requires", "BindsTo", "Requisite"} {
		if slices.Contains(s.service.words("Unit", key), u.name.String()) {
			return true
		}
	}
	for _, key := range []string{"WantedBy", "RequiredBy", "UpheldBy"} {
		if len(s.service.all("Install", key)) > 0 {
			return false
		}
	}
	return true
}

// timeoutStart bounds each phase of a reload, too.
func timeoutStart(s *subject) {
	at, set := s.service.last("Service", "TimeoutStartSec")
	timeout, ok := s.service.span("Service", "TimeoutStartSec")
	if set && !ok {
		return
	}
	if !set {
		timeout = defaultTimeout
	}
	if timeout == 0 || timeout == unitfile.Infinity {
		if s.service.value("Service", "Type", "") == "notify-reload" {
			s.report(Warning, at, "a reload that hangs never ends: there is no other bound", "TimeoutStartSec="+span(cmp.Or(s.phases, 45*time.Second)+45*time.Second))
		}
		return
	}
	phases, how := s.phases, "as long as check, start and probation may take"
	if s.is(inPlace) {
		how = "as long as check, drain and start may take"
	}
	if phases == 0 {
		phases, how = 45*time.Second, how+" with the defaults of package reexec"
		if s.is(inPlace) {
			phases = 70 * time.Second
		}
	}
	if s.reload != nil && s.phases > 0 {
		how += ", as --timeout= of ExecReload= shows"
	}
	write := "TimeoutStartSec=" + span(phases+45*time.Second)
	switch {
	case timeout < phases && s.phases > 0:
		s.report(Error, at, fmt.Sprintf("it bounds a reload, too, and must be more than %s: %s. systemd would end the reload while the upgrade goes on", span(phases), how), write)
	case timeout < phases:
		s.report(Warning, at, fmt.Sprintf("it bounds a reload, too, and should be more than %s: %s. systemd would end the reload while the upgrade goes on", span(phases), how), write)
	case s.reload != nil && s.reload.timeout >= timeout:
		s.report(Warning, at, fmt.Sprintf("holdfast reload waits up to %s, and systemd kills it before it can say how the upgrade ended", span(s.reload.timeout)), write)
	}
}

func timeoutStop(s *subject) {
	at, set := s.service.last("Service", "TimeoutStopSec")
	timeout, ok := s.service.span("Service", "TimeoutStopSec")
	if !set || !ok || timeout == 0 || timeout == unitfile.Infinity {
		return // 90 s is enough for the default drain
	}
	drain, how := s.drain, ""
	if drain == 0 {
		drain, how = 30*time.Second, ", if it is not set in the service"
	}
	if timeout < drain {
		s.report(Warning, at, fmt.Sprintf("a stop answers what is in flight for up to %s (DrainTimeout)%s: systemd kills it before", span(drain), how), "TimeoutStopSec="+span(drain+30*time.Second))
	}
}

// watchdog: the service pings at half of it. What is less than a second is missed on a
// machine that is busy, with an upgrade for example.
func watchdog(s *subject) {
	at, set := s.service.last("Service", "WatchdogSec")
	d, ok := s.service.span("Service", "WatchdogSec")
	if set && ok && d > 0 && d < 2*time.Second {
		s.report(Warning, at, "the service pings each half of it, and an upgrade runs a second version beside it: a busy machine is taken for a hang, and systemd kills the service", "WatchdogSec=30s")
	}
}

func restartOf(s *subject) {
	at, set := s.service.last("Service", "Restart")
	value := at.value
	if !set {
		value = "no"
	}
	level := Warning
	if s.is(other) {
		level = Note
		if s.service.value("Service", "Type", "") == "oneshot" || s.accepts() {
			return
		}
	}
	switch value {
	case "always", "on-failure":
	case "no", "on-success":
		s.report(level, at, "nothing starts the service again after a crash: a bad version that was taken for good leaves it down"+s.untilConnection(), "Restart=on-failure")
	default:
		s.report(level, at, "a version that ends by itself with an error, as a Go program does in a panic, is not started again"+s.untilConnection(), "Restart=on-failure")
	}
}

func (s *subject) untilConnection() string {
	if slices.ContainsFunc(s.sockets, s.needs) {
		return ", until the next connection"
	}
	return ""
}

func restartPrevent(s *subject) {
	for _, at := range s.service.all("Service", "RestartPreventExitStatus") {
		for _, w := range strings.Fields(at.value) {
			switch strings.ToUpper(w) {
			case "1", "2", "FAILURE", "INVALIDARGUMENT", "SIGKILL", "SIGABRT", "SIGSEGV", "KILL", "ABRT", "SEGV":
				s.report(Warning, at, w+" is how a Go program ends by an error, in a panic or a crash: the service stays down after that, instead of starting its last good version", "RestartPreventExitStatus=")
				return
			}
		}
	}
}

func oomPolicy(s *subject) {
	at, _ := s.service.last("Service", "OOMPolicy")
	if at.value != "continue" {
		what := "the default, unless DefaultOOMPolicy= says otherwise, is to stop"
		if at.value != "" {
			what = "it ends"
		}
		s.report(Warning, at, what+" the whole service when the kernel kills one process for want of memory: a new version that wants too much takes the old one along, which serves", "OOMPolicy=continue")
	}
}

func storeMax(s *subject) {
	at, _ := s.service.last("Service", "FileDescriptorStoreMax")
	n := s.storeMax()
	if r := s.running; r != nil && n > 0 && r.stored > 0 && uint64(r.stored) >= n {
		s.report(Warning, at, fmt.Sprintf("systemd keeps %d descriptors for the service and takes %d: the next one is dropped in silence, and what replaces another is there twice for a moment", r.stored, n),
			"FileDescriptorStoreMax="+strconv.FormatUint(max(64, 2*uint64(r.stored)), 10))
		return
	}
	if n > 0 {
		return
	}
	level, why := Warning, "systemd keeps nothing for the service: a crash loses the sockets that it has bound itself, and its committed state"
	if s.is(restart) {
		level, why = Error, "systemd keeps nothing for the service: each upgrade, which is a restart, loses the sockets that it has bound itself, and its state"
	}
	s.report(level, at, why, "FileDescriptorStoreMax=64")
}

func storePreserve(s *subject) {
	at, set := s.service.last("Service", "FileDescriptorStorePreserve")
	if set && at.value == "no" {
		s.report(Warning, at, "what is stored is closed when the service ends, also before it starts again: a crash or a restart loses sockets and state", "FileDescriptorStorePreserve=restart")
	}
}

func killMode(s *subject) {
	at, set := s.service.last("Service", "KillMode")
	if !set {
		return
	}
	switch value := at.value; {
	case value == "mixed" && s.is(overlap):
		s.report(Error, at, "when the main process dies, systemd kills the version that still drains at once: what it was answering is lost", "KillMode=control-group")
	case value == "mixed" && s.is(other):
		s.report(Note, at, "when the main process has ended, a stop kills the others at once: processes of the version before that still answer requests lose them")
	case (value == "process" || value == "none") && s.is(other):
		s.report(Note, at, "a stop or a restart leaves all processes but the main one running, as the version that they are: right for sessions that are to outlive it, and for nothing else")
	case value == "process" || value == "none":
		level := Error
		if s.is(inPlace | restart) {
			level = Warning
		}
		s.report(level, at, "a stop leaves processes of the service running, such as a version that drains, which then nobody supervises", "KillMode=control-group")
	}
}

func sendSIGKILL(s *subject) {
	at, set := s.service.last("Service", "SendSIGKILL")
	if !set || s.service.yes("Service", "SendSIGKILL", true) {
		return
	}
	why := "a version that hangs in a stop is never killed"
	if mode := s.service.value("Service", "KillMode", "control-group"); mode == "control-group" || mode == "mixed" {
		why += ", and systemd refuses to start the next one while it is there"
	}
	s.report(Warning, at, why, "SendSIGKILL=yes")
}

// span writes a time as systemd.time(7) has it.
func span(d time.Duration) string {
	switch {
	case d == unitfile.Infinity:
		return "infinity"
	case d%time.Second == 0:
		return strconv.FormatInt(int64(d/time.Second), 10) + "s"
	}
	return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
}
