// SPDX-License-Identifier: Apache-2.0

package agreement

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// A Sequence is a service and what happens to it.
type Sequence struct {
	Setup *Setup
	Ops   []Op
	// Chance are facts that systemd itself leaves to chance: they are not compared.
	Chance []string
}

// Generate makes sequence number seed for a systemd version. Sequences of one seed are the same for all
// versions but for what a version does not know.
func Generate(seed uint64, systemd int) *Sequence {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0)), systemd: systemd}
	g.sequence.Setup = g.setup(fmt.Sprintf("agreement-%d", seed))
	g.ops()
	return &g.sequence
}

type generator struct {
	*rand.Rand
	systemd  int
	sequence Sequence

	// What is known of the unit, and what is believed of it: no more than a hint for what may make sense next.
	kind     string
	reloads  bool // has ExecReload=, or Type=notify-reload
	pidFile  bool
	storeMax int
	sockets  []string // stream sockets
	up       bool
	labels   []string
	messages int
	children int
}

// chance is true in so many of a hundred cases.
func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

func (g *generator) pick(from ...string) string { return from[g.IntN(len(from))] }

// setup writes the unit files. Everything is drawn in the same order for every version.
func (g *generator) setup(name string) *Setup {
	s := &Setup{Name: name, Behave: make(map[string]string), Sockets: make(map[string]Address)}
	var unit, service []string
	option := func(since int, text string) {
		if g.systemd >= since {
			service = append(service, text)
		}
	}
	g.kind = g.pick("notify", "notify", "notify", "notify", "notify-reload", "notify-reload", "simple", "exec")
	if g.kind == "notify-reload" && g.systemd < 253 {
		g.kind = "notify"
	}
	option(0, "Type="+g.kind)
	if access := g.pick("", "main", "main", "exec", "all", "all", "none"); access != "" {
		option(0, "NotifyAccess="+access)
	}
	if restart := g.pick("", "", "on-failure", "on-failure", "always", "on-abnormal", "on-success", "on-abort"); restart != "" {
		option(0, "Restart="+restart)
		option(0, "RestartSec="+g.pick("0", "20ms", "30ms"))
		if g.chance(20) {
			option(254, "RestartMode=direct")
		}
	}
	if g.chance(70) {
		g.storeMax = []int{1, 2, 3, 8}[g.IntN(4)]
		option(0, fmt.Sprintf("FileDescriptorStoreMax=%d", g.storeMax))
		if g.chance(25) {
			option(254, "FileDescriptorStorePreserve="+g.pick("yes", "no", "restart"))
		}
	}
	if g.chance(50) {
		option(0, "KillMode="+g.pick("control-group", "mixed", "process"))
	}
	if g.chance(10) {
		option(0, "RemainAfterExit=yes")
	}
	if g.chance(6) {
		option(250, "ExitType=cgroup")
	}
	if g.chance(15) {
		option(0, "SuccessExitStatus=3 USR1")
	}
	if g.chance(10) {
		option(0, "RestartPreventExitStatus=4")
	}
	if g.chance(10) {
		option(0, "RestartForceExitStatus=5 HUP")
	}
	if g.chance(10) {
		option(0, "KillSignal=INT")
		s.Behave["main"] = "trap INT exit 0; "
	}
	if g.chance(10) {
		option(0, "RestartKillSignal=USR2")
	}
	if g.chance(10) {
		option(0, "NonBlocking=yes")
	}
	if g.chance(10) {
		option(0, "UMask="+g.pick("0077", "0002"))
		option(0, "WorkingDirectory=/usr")
		option(0, "Environment=ONE=1 \"TWO=t w o\" PATH=/bin")
		option(0, "Environment=ONE=one")
	}
	exec := func(percent int, key, role string) bool {
		there := g.chance(percent)
		if there {
			option(0, fmt.Sprintf("%s=%s/usr/bin/puppet %s {hub}", key, g.pick("", "", "-"), role))
		}
		return there
	}
	exec(12, "ExecCondition", "condition")
	exec(20, "ExecStartPre", "start-pre")
	exec(20, "ExecStartPost", "start-post")
	percent := 75
	if g.kind == "notify-reload" {
		percent = 20
	}
	g.reloads = exec(percent, "ExecReload", "reload") || g.kind == "notify-reload"
	exec(20, "ExecStop", "stop")
	exec(20, "ExecStopPost", "stop-post")
	option(0, "RuntimeDirectory="+name)
	if g.chance(15) {
		g.pidFile = true
		option(0, "PIDFile=%t/"+name+"/pid")
	}
	// Long enough for the sequence, so that only the number of starts counts.
	unit = append(unit, "StartLimitIntervalSec=1h", fmt.Sprintf("StartLimitBurst=%d", 3+g.IntN(5)))
	option(0, "TimeoutStartSec=60")
	option(0, "TimeoutStopSec=60")

	g.addSockets(s)

	s.Behave["main"] += "trap TERM exit 0; "
	if g.kind == "notify-reload" {
		// Complete, half, or no answer to ReloadSignal=.
		s.Behave["main"] += "trap HUP report; "
		s.Behave["heir"] = "trap TERM exit 0; trap HUP report"
		s.Behave["HUP"] = g.pick(reloadWhole, reloadWhole, reloadWhole, "notify RELOADING=1|MONOTONIC_USEC={now}", "hold")
	}
	if len(g.sockets) > 0 {
		s.Behave["main"] += "serve; "
	}
	if g.pidFile && g.chance(80) {
		s.Behave["main"] += "write pid {self}; "
	}
	s.Behave["main"] += "ready"
	text := "[Unit]\n" + strings.Join(unit, "\n") + "\n\n[Service]\n" + strings.Join(service, "\n") + "\nExecStart=/usr/bin/puppet main {hub}\n"
	s.Files = append([]File{{s.Service(), text}}, s.Files...)
	return s
}

const reloadWhole = "notify RELOADING=1|MONOTONIC_USEC={now}; ready"

// addSockets gives the service none, one or two socket units. Of several units for one service the order in
// which their descriptors are passed is undefined, so that the second has one only where there is no first.
func (g *generator) addSockets(s *Setup) {
	with := g.chance(40)
	named, datagram, remove, second := g.chance(50), g.chance(30), g.chance(30), g.chance(30)
	if !with {
		return
	}
	path := "/run/" + s.Name + ".sock"
	lines := []string{"ListenStream=" + path}
	name := s.Name + ".socket"
	if named {
		name = "web"
		lines = append(lines, "FileDescriptorName=web")
	}
	if second {
		lines = append(lines, "ListenStream="+path+"2")
	}
	if datagram {
		lines = append(lines, "ListenDatagram="+path+"3")
	}
	if remove {
		lines = append(lines, "RemoveOnStop=yes")
	}
	g.sockets = append(g.sockets, name)
	s.Sockets[name] = Address{"unix", path}
	// A limit on triggers counts by time.
	s.Files = append(s.Files, File{s.Name + ".socket", "[Socket]\nTriggerLimitIntervalSec=0\n" + strings.Join(lines, "\n") + "\n"})
}

func (g *generator) add(ops ...Op) { g.sequence.Ops = append(g.sequence.Ops, ops...) }

// ops makes what happens: about a dozen steps, and a stop at the end.
func (g *generator) ops() {
	n := 8 + g.IntN(8)
	if len(g.sockets) > 0 && g.chance(85) {
		g.add(Op{Do: Start, Unit: g.sequence.Setup.Name + ".socket"})
	}
	if g.chance(90) {
		g.start()
	}
	for len(g.sequence.Ops) < n {
		g.next()
	}
	g.add(Op{Do: Stop})
}

func (g *generator) start() {
	g.add(Op{Do: Start})
	g.up = true
}

// next adds one step, or two that belong together.
func (g *generator) next() {
	if !g.up && g.chance(60) {
		g.start()
		return
	}
	switch n := g.IntN(100); {
	case n < 24:
		g.message()
	case n < 38:
		g.push()
	case n < 46:
		g.fork()
	case n < 56:
		g.kill()
	case n < 64:
		g.end()
	case n < 74:
		g.job()
	case n < 79:
		g.add(Op{Do: DaemonReload})
	case n < 86:
		g.behave()
	case n < 90:
		g.release()
	case n < 92:
		g.add(Op{Do: ResetFailed})
	case n < 93:
		g.add(Op{Do: Clean, Name: g.pick("runtime", "fdstore")})
	case n < 96 && g.pidFile:
		g.add(Op{Do: WriteFile, Who: "main", Name: "pid", Text: g.pick("{self}", "{child}", "{heir}", "{gone}", "nonsense")})
	default:
		if len(g.sockets) > 0 {
			g.add(Op{Do: Connect, Name: g.sockets[0]})
			g.up = true
		} else {
			g.message()
		}
	}
}

// who picks a process that may send a message.
func (g *generator) who() string {
	return g.pick("main", "main", "main", "main", "main", "child", "child", "heir", "heir", "control")
}

// message has a process send something: well-formed, malformed, or what it may not.
func (g *generator) message() {
	text := g.pick(
		"READY=1", "READY=1", "READY=1", "READY=0", "READY=1{space}", "READY", "=1", "X_OTHER=1", "",
		"RELOADING=1", "RELOADING=1|MONOTONIC_USEC={now}", "RELOADING=1|MONOTONIC_USEC={past}", "RELOADING=1|MONOTONIC_USEC=x",
		"RELOADING=1|MONOTONIC_USEC={now}|READY=1", "READY=1|RELOADING=1|MONOTONIC_USEC={now}",
		"STOPPING=1", "STOPPING=1|READY=1",
		"MAINPID={child}", "MAINPID={child}", "MAINPID={heir}", "MAINPID={heir}", "MAINPID={heir}|READY=1", "MAINPID={self}", "MAINPID={main#1}",
		"MAINPID={gone}", "MAINPID={manager}", "MAINPID=0", "MAINPID=-1", "MAINPID=x", "MAINPID=",
		"ERRNO=2", "ERRNO=0", "ERRNO=-1", "ERRNO=99999", "ERRNO=x",
		"BUSERROR=org.example.Error", "WATCHDOG=1", "WATCHDOG_USEC=x", "EXTEND_TIMEOUT_USEC=1000000", "RESTART_RESET=1",
		"NOTIFYACCESS=all", "NOTIFYACCESS=main", "NOTIFYACCESS=none", "NOTIFYACCESS=exec", "NOTIFYACCESS=x",
		"FDSTOREREMOVE=1", "FDSTOREREMOVE=1|FDNAME=a", "FDSTOREREMOVE=1|FDNAME=b", "FDSTOREREMOVE=1|FDNAME=:",
		"STATUS=", "STATUS=one|STATUS=two", "STATUS={ff}", "STATUS={long}", "READY=1|STATUS=x{nul}y",
	)
	// A status says whether the message was accepted.
	if !strings.Contains(text, "STATUS") && g.chance(75) {
		g.messages++
		text += fmt.Sprintf("|STATUS=message %d", g.messages)
	}
	who := g.who()
	if strings.Contains(text, "{child}") && g.children == 0 || who == "child" && g.children == 0 {
		g.children++
		g.add(Op{Do: Fork, Who: "main", Name: "child"})
	}
	if strings.Contains(text, "{heir}") || who == "heir" {
		g.add(Op{Do: Fork, Who: "main", Name: "heir"})
	}
	g.add(Op{Do: Notify, Who: who, Text: text})
}

// push has a process store a descriptor, or do something to one that is stored.
func (g *generator) push() {
	who := g.pick("main", "main", "main", "main", "child", "heir")
	if len(g.labels) > 0 && g.chance(25) {
		label := g.labels[g.IntN(len(g.labels))]
		if g.chance(40) {
			g.add(Op{Do: HangUp, Who: who, Name: label})
			return
		}
		// A second time, by another name.
		g.add(Op{Do: Notify, Who: who, Text: "FDSTORE=1|FDNAME=again", Labels: []string{label}})
		return
	}
	kind := g.pick(
		"memfd", "memfd", "memfd", "tcp-listening", "unix-listening", "tcp-bound", "tcp-shutdown", "unix-bound",
		"unix-datagram", "udp", "udp-refused", "pipe", "pipe-full", "socketpair", "eventfd", "null",
	)
	label := fmt.Sprintf("%s%d", kind, len(g.labels)+1)
	g.labels = append(g.labels, label)
	text := "FDSTORE=1"
	if name := g.pick("", "a", "a", "b", "b", "c", "with:colon", "with space", "{ff}", "{empty}"); name != "" {
		text += "|FDNAME=" + strings.TrimPrefix(name, "{empty}")
	}
	if g.chance(20) {
		text += "|FDPOLL=0"
	}
	if g.chance(5) {
		text = "FDSTOREREMOVE=1|FDSTORE=1|FDNAME=a"
	}
	if g.chance(60) {
		g.messages++
		text += fmt.Sprintf("|STATUS=message %d", g.messages)
	}
	g.add(Op{Do: Make, Who: who, Kind: kind, Name: label}, Op{Do: Notify, Who: who, Text: text, Labels: []string{label}})
}

func (g *generator) fork() {
	kind := g.pick("child", "child", "heir")
	g.children++
	g.add(Op{Do: Fork, Who: g.pick("main", "main", "main", "heir", "child"), Name: kind})
}

func (g *generator) kill() {
	whom := g.pick("main", "main", "main", "all", "control")
	signal := g.pick("TERM", "TERM", "KILL", "KILL", "HUP", "USR1", "INT", "USR2")
	if whom == "all" && signal == "KILL" {
		// systemd writes cgroup.kill then. Kernels from 6.14 on also kill what is put into that control group
		// later by CLONE_INTO_CGROUP, as systemd 257 does with ExecStopPost=.
		signal = "TERM"
	}
	g.add(Op{Do: Kill, Who: whom, Signal: signal})
}

// end has a process end by itself.
func (g *generator) end() {
	who := g.pick("main", "main", "main", "child", "heir", "control")
	if g.chance(60) {
		g.add(Op{Do: Exit, Who: who, Code: []int{0, 0, 1, 1, 3, 4, 5, 77, 255}[g.IntN(9)]})
	} else {
		g.add(Op{Do: Die, Who: who, Signal: g.pick("KILL", "SEGV", "TERM", "ABRT", "HUP", "USR1")})
	}
}

func (g *generator) job() {
	verbs := []Verb{Restart, Restart, TryRestart, Stop, Start, ReloadOrRestart}
	if g.reloads {
		verbs = append(verbs, Reload, Reload, Reload, Reload, Reload)
	} else {
		verbs = append(verbs, Reload)
	}
	op := Op{Do: verbs[g.IntN(len(verbs))]}
	if len(g.sockets) > 0 && g.chance(15) {
		op.Unit = g.sequence.Setup.Name + ".socket"
		op.Do = []Verb{Start, Stop, Restart}[g.IntN(3)]
	}
	g.up = op.Do != Stop
	g.add(op)
}

// behave changes what the next process of a role does.
func (g *generator) behave() {
	main := g.sequence.Setup.Behave["main"]
	switch g.IntN(5) {
	case 0:
		g.add(Op{Do: Behave, Name: "main", Text: g.pick(main, "exit 1", "hold", "die SEGV", "trap TERM exit 0; hold", "trap TERM exit 1; ready", "ready; exit 0")})
	case 1:
		g.add(Op{Do: Behave, Name: "reload", Text: g.pick("exit 1", "hold", "exit 0", "die KILL")}, Op{Do: Reload})
	case 2:
		role := g.pick("start-pre", "start-post", "stop", "stop-post", "condition")
		g.add(Op{Do: Behave, Name: role, Text: g.pick("exit 1", "hold", "exit 255", "die TERM")})
	case 3:
		if g.kind == "notify-reload" {
			g.add(Op{Do: Behave, Name: "HUP", Text: g.pick(reloadWhole, "hold", "notify RELOADING=1|MONOTONIC_USEC={now}", "notify RELOADING=1", "exit 1", "notify RELOADING=1|MONOTONIC_USEC={now}|READY=1")})
		} else {
			g.add(Op{Do: Behave, Name: "main", Text: main})
		}
	case 4:
		g.add(Op{Do: Trap, Who: g.pick("main", "main", "child", "heir"), Signal: g.pick("TERM", "HUP", "USR1"), Text: g.pick("report", "report", "exit", "default")})
	}
}

// release lets what waits go on.
func (g *generator) release() {
	if g.chance(50) {
		g.add(Op{Do: Exit, Who: "control", Code: g.IntN(2)})
		return
	}
	g.add(Op{Do: Notify, Who: "main", Text: "READY=1"})
}
