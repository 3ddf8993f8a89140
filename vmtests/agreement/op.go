// SPDX-License-Identifier: Apache-2.0

package agreement

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A Setup is a service to be played with: one service unit whose commands are puppets, and its sockets.
type Setup struct {
	Name  string // of the service without ".service"
	Files []File
	// Behave says what puppets do of their own accord: the key is a role, or a signal that main or an heir
	// traps; the value is a list of steps, as [Step] has them.
	Behave map[string]string `json:",omitempty"`
	// Sockets are where clients connect, by the name of the socket.
	Sockets map[string]Address `json:",omitempty"`
	// Unordered has descriptors compared as a set: systemd stores those of one message in an order of chance.
	Unordered bool `json:",omitempty"`
}

// Service returns the name of the service unit.
func (s *Setup) Service() string { return s.Name + ".service" }

// SocketUnits returns the names of the socket units.
func (s *Setup) SocketUnits() []string {
	var names []string
	for _, f := range s.Files {
		if strings.HasSuffix(f.Name, ".socket") {
			names = append(names, f.Name)
		}
	}
	return names
}

// A File is a unit file or drop-in. In its text "{hub}" stands for the address that puppets dial.
type File struct{ Name, Text string }

// An Address is where a socket listens under real systemd.
type Address struct{ Network, Address string }

// An Op is one thing that is done to the service, or that one of its processes does. [ParseOps] has its words.
type Op struct {
	Do Verb
	// Who is a process: "main" is the one that MainPID names, "control" the one that ControlPID names, "child"
	// and "heir" the one that was started last and lives, "main#2" a certain one. For Kill it is "main",
	// "control" or "all".
	Who string `json:",omitempty"`
	// Unit is the socket unit that a job is for, empty for the service.
	Unit   string   `json:",omitempty"`
	Name   string   `json:",omitempty"` // a socket, label, file, property, role, or key of Setup.Behave
	Kind   string   `json:",omitempty"` // of a descriptor
	Labels []string `json:",omitempty"` // descriptors to send
	Signal string   `json:",omitempty"` // "KILL"
	Code   int      `json:",omitempty"`
	Text   string   `json:",omitempty"` // a message, steps, options, a value, a duration
	// Blind has nothing waited for and nothing observed: the next op's observation covers this one, too.
	Blind bool `json:",omitempty"`
}

// Verb says what an Op does.
type Verb string

// Verbs. The jobs come first.
const (
	Start           Verb = "start"
	Stop            Verb = "stop"
	Restart         Verb = "restart"
	TryRestart      Verb = "try-restart"
	Reload          Verb = "reload"
	ReloadOrRestart Verb = "reload-or-restart"

	ResetFailed  Verb = "reset-failed"
	DaemonReload Verb = "daemon-reload"
	Kill         Verb = "kill"
	Clean        Verb = "clean"
	Connect      Verb = "connect"
	Wait         Verb = "wait"
	Finish       Verb = "finish"
	Pass         Verb = "pass"
	Read         Verb = "read"
	Behave       Verb = "behave"

	Notify    Verb = "notify"
	Make      Verb = "make"
	Adopt     Verb = "adopt"
	Close     Verb = "close"
	HangUp    Verb = "hang-up"
	Fork      Verb = "fork"
	Trap      Verb = "trap"
	WriteFile Verb = "write"
	Exit      Verb = "exit"
	Die       Verb = "die"
)

// IsJob reports whether v asks for a job of the manager.
func (v Verb) IsJob() bool {
	switch v {
	case Start, Stop, Restart, TryRestart, Reload, ReloadOrRestart:
		return true
	}
	return false
}

// ParseOps reads ops, one a line:
//
//	start [UNIT]            and stop, restart, try-restart, reload, reload-or-restart: asks for a job
//	reset-failed [UNIT]
//	daemon-reload [OPTION=VALUE|...]  these options are added to the service by a drop-in before
//	kill main|control|all SIGNAL
//	clean WHAT
//	connect SOCKET          says who answers
//	wait [UNIT:]PROPERTY=VALUE     "*" at both ends or the last one stands for anything
//	finish                  waits for the ends of all jobs
//	pass DURATION           lets time pass
//	read FILE               says what is in a file, or in a directory
//	behave KEY: STEP; ...   see [Setup.Behave]
//	notify WHO [[LABEL,...]] TEXT  sends a message, lines separated by "|", with these descriptors
//	push WHO KIND LABEL TEXT       makes a descriptor and sends it with FDSTORE=1 and the text
//	make WHO KIND LABEL
//	adopt WHO NUMBER LABEL  gives a label to a descriptor that came through execve
//	close WHO LABEL
//	hang-up WHO LABEL       closes the other end of a pipe or pair
//	fork WHO child|heir|corpse     of these a corpse is not reaped when it has ended
//	fork stage outsider     starts a process that does not belong to the service
//	trap WHO SIGNAL report|ignore|default|exit [CODE]
//	write WHO FILE TEXT     in the runtime directory
//	exit WHO CODE
//	die WHO SIGNAL
//
// After "~" an op is blind: see [Op.Blind]. In texts, names in braces are replaced: see [Stage.Perform].
func ParseOps(text string) ([]Op, error) {
	var ops []Op
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "//") {
			continue
		}
		more, err := parseOp(line)
		if err != nil {
			return nil, fmt.Errorf("op %q: %w", line, err)
		}
		ops = append(ops, more...)
	}
	return ops, nil
}

func parseOp(line string) ([]Op, error) {
	line, blind := strings.CutPrefix(line, "~")
	verb, rest, _ := strings.Cut(line, " ")
	op := Op{Do: Verb(verb), Blind: blind}
	words := strings.Fields(rest)
	// after returns what comes after the first n words.
	after := func(n int) string {
		text := rest
		for range n {
			_, text, _ = strings.Cut(text, " ")
		}
		return text
	}
	need := func(n int, what string) error {
		if len(words) < n {
			return fmt.Errorf("want %s", what)
		}
		return nil
	}
	var err error
	switch op.Do {
	case Start, Stop, Restart, TryRestart, Reload, ReloadOrRestart, ResetFailed:
		op.Unit = rest
	case DaemonReload, Pass:
		op.Text = rest
	case Finish:
	case Kill:
		if err = need(2, "whom and a signal"); err == nil {
			op.Who, op.Signal = words[0], words[1]
		}
	case Clean, Connect, Read:
		op.Name = rest
	case Wait:
		name, value, ok := strings.Cut(rest, "=")
		if !ok {
			return nil, errors.New("want PROPERTY=VALUE")
		}
		op.Name, op.Text = name, value
		if unit, name, ok := strings.Cut(name, ":"); ok {
			op.Unit, op.Name = unit, name
		}
	case Behave:
		key, steps, ok := strings.Cut(rest, ":")
		if !ok {
			return nil, errors.New("want KEY: STEPS")
		}
		op.Name, op.Text = key, strings.TrimSpace(steps)
	case Notify:
		if err = need(1, "who"); err != nil {
			return nil, err
		}
		op.Who, op.Text = words[0], after(1)
		if labels, ok := strings.CutPrefix(op.Text, "["); ok {
			labels, op.Text, _ = strings.Cut(labels, "]")
			op.Text = strings.TrimPrefix(op.Text, " ")
			op.Labels = strings.Split(labels, ",")
		}
	case "push":
		if err = need(3, "who, kind, label"); err != nil {
			return nil, err
		}
		text := "FDSTORE=1"
		if more := after(3); more != "" {
			text += "|" + more
		}
		return []Op{
			{Do: Make, Who: words[0], Kind: words[1], Name: words[2]},
			{Do: Notify, Who: words[0], Labels: []string{words[2]}, Text: text},
		}, nil
	case Make:
		if err = need(3, "who, kind, label"); err == nil {
			op.Who, op.Kind, op.Name = words[0], words[1], words[2]
		}
	case Adopt:
		if err = need(3, "who, number, label"); err == nil {
			op.Who, op.Name = words[0], words[2]
			op.Code, err = strconv.Atoi(words[1])
		}
	case Close, HangUp, Fork:
		if err = need(2, "who and what"); err == nil {
			op.Who, op.Name = words[0], words[1]
		}
	case Trap:
		if err = need(3, "who, signal, then"); err == nil {
			op.Who, op.Signal, op.Text = words[0], words[1], words[2]
			if len(words) > 3 {
				op.Code, err = strconv.Atoi(words[3])
			}
		}
	case WriteFile:
		if err = need(2, "who and file"); err == nil {
			op.Who, op.Name, op.Text = words[0], words[1], after(2)
		}
	case Exit:
		if err = need(2, "who and code"); err == nil {
			op.Who = words[0]
			op.Code, err = strconv.Atoi(words[1])
		}
	case Die:
		if err = need(2, "who and signal"); err == nil {
			op.Who, op.Signal = words[0], words[1]
		}
	default:
		err = errors.New("no such verb")
	}
	return []Op{op}, err
}

// String returns the op in the words of [ParseOps].
func (o Op) String() string {
	words := []string{string(o.Do)}
	add := func(more ...string) {
		for _, word := range more {
			if word != "" {
				words = append(words, word)
			}
		}
	}
	switch o.Do {
	case Wait:
		unit := o.Unit
		if unit != "" {
			unit += ":"
		}
		add(unit + o.Name + "=" + o.Text)
	case Behave:
		add(o.Name+":", o.Text)
	case Notify:
		add(o.Who)
		if len(o.Labels) > 0 {
			add("[" + strings.Join(o.Labels, ",") + "]")
		}
		add(o.Text)
	case Exit, Adopt:
		add(o.Who, strconv.Itoa(o.Code), o.Name)
	case Trap:
		add(o.Who, o.Signal, o.Text, strconv.Itoa(o.Code))
	default:
		add(o.Unit, o.Who, o.Kind, o.Name, o.Signal, o.Text)
	}
	text := strings.Join(words, " ")
	if o.Blind {
		text = "~" + text
	}
	return text
}
