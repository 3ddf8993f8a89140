// SPDX-License-Identifier: Apache-2.0

package agreement

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests/agreement/hub"
)

// observe puts a look, and what happened since the last one, into words that mean the same on both sides.
func (s *Stage) observe(ctx context.Context, v *view) (*Observation, error) {
	o := &Observation{Facts: make(map[string]string)}
	s.observeEvents(o)
	s.observeJobs(o)
	for name, value := range v.props {
		o.Facts[name] = s.plain(name, value)
	}
	for unit, props := range v.sockets {
		for name, value := range props {
			o.Facts[unit+" "+name] = value
		}
	}
	var procs []string
	for _, p := range v.procs {
		procs = append(procs, s.who(p.pid)+" of "+s.who(p.parent))
	}
	slices.Sort(procs)
	o.Facts["processes"] = strings.Join(procs, ", ")
	stored, told, err := s.manager.Store(ctx)
	if err != nil {
		return nil, err
	}
	if told {
		var names []string
		for _, f := range stored {
			names = append(names, fmt.Sprintf("%q:%s", f.Name, s.labelOf(f.Dev, f.Ino)))
		}
		if s.setup.Unordered {
			slices.Sort(names)
		}
		o.Facts["store"] = strings.Join(names, " ")
	}
	s.mu.Lock()
	o.Remarks, s.remarks = s.remarks, nil
	s.mu.Unlock()
	return o, nil
}

// plain replaces what differs from one run to the next.
func (s *Stage) plain(name, value string) string {
	switch name {
	case "MainPID", "ControlPID", "ExecMainPID":
		pid, err := strconv.Atoi(value)
		if err != nil || pid == 0 {
			return value
		}
		return s.who(pid)
	case "InvocationID":
		if strings.Trim(value, "0") == "" {
			return "none"
		}
		i := slices.Index(s.invocations, value)
		if i < 0 {
			i = len(s.invocations)
			s.invocations = append(s.invocations, value)
		}
		return fmt.Sprintf("invocation %d", i+1)
	}
	return value
}

func (s *Stage) labelOf(dev, ino uint64) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.labels[[2]uint64{dev, ino}]
}

func (s *Stage) observeJobs(o *Observation) {
	var ended, waiting []string
	left := s.jobs[:0]
	for _, j := range s.jobs {
		name := fmt.Sprintf("%s of step %d", j.verb, j.step+1)
		if j.unit != s.setup.Service() {
			name += " for " + j.unit
		}
		select {
		case result := <-j.ended:
			ended = append(ended, fmt.Sprintf("%s: %s, exit status %d", name, result, ExitStatus(result)))
		default:
			waiting = append(waiting, name)
			left = append(left, j)
		}
	}
	s.jobs = left
	o.Facts["jobs ended"] = strings.Join(ended, "; ")
	o.Facts["jobs waiting"] = strings.Join(waiting, "; ")
}

func (s *Stage) observeEvents(o *Observation) {
	var born, died, served []string
	signals := make(map[string]bool) // two of a kind may come as one
	for _, e := range s.hub.Take() {
		switch p := e.Puppet; e.Kind {
		case hub.Birth:
			born = append(born, p.Label)
			if p.Parent == s.manager.PID() && p.Role != "heir" {
				s.observeStart(o, p)
			}
		case hub.Death:
			died = append(died, p.Label)
		case hub.Signal:
			signals[p.Label+" "+unix.SignalName(unix.Signal(e.Signal))] = true
		case hub.Served:
			served = append(served, p.Label+" on "+e.Served)
		}
	}
	heard := make([]string, 0, len(signals))
	for text := range signals {
		heard = append(heard, text)
	}
	for key, list := range map[string][]string{"born": born, "died": died, "signals": heard, "served": served} {
		slices.Sort(list)
		o.Facts[key] = strings.Join(list, ", ")
	}
}

// observeStart tells what a process of the manager's got.
func (s *Stage) observeStart(o *Observation, p *hub.Puppet) {
	fact := func(key, format string, args ...any) {
		o.Facts[p.Label+" "+key] = fmt.Sprintf(format, args...)
	}
	env := make(map[string]string)
	for _, variable := range p.Env {
		name, value, _ := strings.Cut(variable, "=")
		env[name] = value
	}
	for name, value := range env {
		fact("$"+name, "%s", s.variable(p, name, value))
	}
	fact("parent", "%s", s.who(p.Parent))
	args := slices.Clone(p.Args)
	for i, arg := range args {
		args[i] = s.unrooted(arg)
	}
	fact("arguments", "%q", args)
	fact("directory", "%s", s.unrooted(p.Dir))
	fact("umask", "%s", p.Umask)
	names := strings.Split(env["LISTEN_FDNAMES"], ":")
	var passed []string
	for _, f := range p.Files {
		text := f.Kind
		if label := s.labelOf(f.Dev, f.Ino); label != "" {
			text += " " + label
		}
		if f.Content != "" {
			text += fmt.Sprintf(" with %q", f.Content)
		}
		if f.NonBlock {
			text += ", not blocking"
		}
		if i := f.Number - 3; i >= 0 && i < len(names) {
			text = fmt.Sprintf("%q: %s", names[i], text)
		}
		if s.setup.Unordered && f.Number >= 3 {
			passed = append(passed, text)
			continue
		}
		fact(fmt.Sprintf("descriptor %d", f.Number), "%s", text)
	}
	if s.setup.Unordered {
		slices.Sort(passed)
		slices.Sort(names)
		fact("descriptors", "%s", strings.Join(passed, ", "))
		fact("$LISTEN_FDNAMES", "%s", strings.Join(names, ":"))
	}
}

// variable puts the value of an environment variable into words that mean the same on both sides.
func (s *Stage) variable(p *hub.Puppet, name, value string) string {
	switch name {
	case "LISTEN_PID", "SYSTEMD_EXEC_PID", "WATCHDOG_PID", "MAINPID":
		pid, err := strconv.Atoi(value)
		switch {
		case err != nil:
			return value
		case pid == p.PID:
			return "itself"
		}
		return s.who(pid)
	case "INVOCATION_ID":
		return s.plain("InvocationID", value)
	case "JOURNAL_STREAM":
		for _, f := range p.Files {
			if f.Number == 2 && value == fmt.Sprintf("%d:%d", f.Dev, f.Ino) {
				return "standard error"
			}
		}
		return "something else than standard error"
	case "NOTIFY_SOCKET", "LISTEN_PIDFDID", "MAINPIDFDID", "MONITOR_INVOCATION_ID":
		return "set"
	}
	return s.unrooted(value)
}

// unrooted takes the manager's root directory from a path, and the hub's address.
func (s *Stage) unrooted(text string) string {
	text = strings.ReplaceAll(text, s.hub.Address, "{hub}")
	if root := s.manager.Root(); root != "/" {
		text = strings.ReplaceAll(text, root+"/", "/")
	}
	return text
}
