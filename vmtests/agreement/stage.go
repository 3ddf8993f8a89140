// SPDX-License-Identifier: Apache-2.0

package agreement

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests/agreement/hub"
)

// A Stage is where one service is played with, on one side. Its methods are for one goroutine.
type Stage struct {
	setup   *Setup
	manager Manager
	hub     *hub.Hub

	jobs        []*job
	step        int
	invocations []string
	unfounded   map[string]bool        // see expectation
	sub         string                 // SubState after the last op
	heard       map[*hub.Puppet][2]int // how often it had heard SIGTERM and SIGHUP by then
	outsiders   sync.WaitGroup
	strangers   map[int]string // names of processes that are no puppets, by PID

	mu      sync.Mutex
	behave  map[string]string
	labels  map[[2]uint64]string // of descriptors, by device and inode
	remarks []string
}

type job struct {
	step  int
	verb  Verb
	unit  string
	ended <-chan string
}

// PuppetPath is where unit files find the puppet.
const PuppetPath = "/usr/bin/puppet"

// patience bounds the wait for what must come.
const patience = 5 * time.Second

// Open makes the setup known to the manager.
func Open(ctx context.Context, manager Manager, setup *Setup) (*Stage, error) {
	s := &Stage{
		setup: setup, manager: manager,
		unfounded: make(map[string]bool), heard: make(map[*hub.Puppet][2]int), strangers: make(map[int]string),
		behave: make(map[string]string), labels: make(map[[2]uint64]string),
	}
	for key, steps := range setup.Behave {
		s.behave[key] = steps
	}
	var err error
	if s.hub, err = hub.Listen(s); err != nil {
		return nil, err
	}
	if err := manager.Load(ctx, setup, s.hub.Address); err != nil {
		return nil, errors.Join(err, s.hub.Close())
	}
	return s, nil
}

// Close ends the service and every puppet.
func (s *Stage) Close(ctx context.Context) error {
	err := errors.Join(s.manager.Unload(ctx), s.hub.Close())
	s.outsiders.Wait()
	return err
}

// Perform does op, waits until nothing moves any more, and looks.
func (s *Stage) Perform(ctx context.Context, op Op) (*Observation, error) {
	result, err := s.do(ctx, op)
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		result = refusal.Name
		s.remark("%s: %s", op.Do, refusal.Message)
	case err != nil:
		return nil, fmt.Errorf("%v: %w", op, err)
	}
	if op.Blind {
		s.step++
		return &Observation{Op: result}, nil
	}
	v, err := s.quiet(ctx)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", op, err)
	}
	o, err := s.observe(ctx, v)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", op, err)
	}
	o.Op = result
	s.step++
	s.sub = v.props["SubState"]
	for _, p := range s.hub.Puppets() {
		s.heard[p] = [2]int{p.Heard(int(unix.SIGTERM)), p.Heard(int(unix.SIGHUP))}
	}
	return o, nil
}

func (s *Stage) remark(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remarks = append(s.remarks, fmt.Sprintf(format, args...))
}

// ok is what an op comes to that has no other outcome.
const ok = "ok"

func (s *Stage) do(ctx context.Context, op Op) (string, error) {
	unit := s.setup.Service()
	if op.Unit != "" {
		unit = op.Unit
	}
	if op.Do.IsJob() {
		ended, err := s.manager.Job(ctx, unit, op.Do)
		if err != nil {
			return "", err
		}
		s.jobs = append(s.jobs, &job{step: s.step, verb: op.Do, unit: unit, ended: ended})
		return ok, nil
	}
	switch op.Do {
	case ResetFailed:
		return ok, s.manager.ResetFailed(ctx, unit)
	case DaemonReload:
		var files []File
		if op.Text != "" {
			files = []File{{s.setup.Service() + ".d/50-changed.conf", "[Service]\n" + strings.ReplaceAll(op.Text, "|", "\n") + "\n"}}
		}
		return ok, s.manager.DaemonReload(ctx, files)
	case Clean:
		return ok, s.manager.Clean(ctx, op.Name)
	case Kill:
		return s.kill(ctx, op)
	case Connect:
		return s.connect(ctx, op.Name)
	case Wait:
		return s.wait(ctx, unit, op)
	case Finish:
		return s.finish(ctx)
	case Read:
		return s.read(op.Name), nil
	case Fork:
		if op.Who == "stage" {
			return s.startOutsider(ctx, op.Name)
		}
	case Pass:
		d, err := time.ParseDuration(op.Text)
		if err != nil {
			return "", err
		}
		return ok, pause(ctx, d)
	case Behave:
		s.mu.Lock()
		s.behave[op.Name] = op.Text
		s.mu.Unlock()
		return ok, nil
	}
	p, err := s.puppet(ctx, op.Who)
	if err != nil {
		return "", err
	}
	if p == nil {
		return "nobody is " + op.Who, nil
	}
	return s.command(ctx, p, op)
}

// puppet returns who is meant, nil if there is nobody.
func (s *Stage) puppet(ctx context.Context, who string) (*hub.Puppet, error) {
	connected := s.hub.Puppets()
	property := map[string]string{"main": "MainPID", "control": "ControlPID"}[who]
	if property != "" {
		props, err := s.manager.Properties(ctx, s.setup.Service())
		if err != nil {
			return nil, err
		}
		pid, err := strconv.Atoi(props[property])
		if err != nil {
			return nil, fmt.Errorf("%s=%q: %w", property, props[property], err)
		}
		return connected[pid], nil
	}
	var found *hub.Puppet
	for _, p := range s.hub.All() {
		if connected[p.PID] == p && (p.Label == who || p.Role == who) {
			found = p
		}
	}
	return found, nil
}

// command has p do op.
func (s *Stage) command(ctx context.Context, p *hub.Puppet, op Op) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("the puppet does not answer"))
	defer cancel()
	c := hub.Command{Label: op.Name, Kind: op.Kind, Code: op.Code, Text: op.Text}
	if op.Signal != "" {
		sig, err := signalNumber(op.Signal)
		if err != nil {
			return "", err
		}
		c.Signal = int(sig)
	}
	switch op.Do {
	case Notify:
		c.Do, c.Barrier, c.Labels = hub.Notify, true, op.Labels
		for _, label := range op.Labels {
			if err := s.adopt(ctx, p, label); err != nil {
				return "", err
			}
		}
		text, err := s.fill(ctx, p, op.Text)
		if err != nil {
			return err.Error(), nil
		}
		c.Payload = []byte(text)
	case Make:
		c.Do = hub.Make
	case Adopt:
		c.Do, c.Number = hub.Adopt, op.Code
	case Close:
		c.Do = hub.Close
	case HangUp:
		c.Do = hub.HangUp
	case Fork:
		return s.fork(ctx, p, op)
	case Trap:
		c.Do, c.Then = hub.Trap, op.Text
	case WriteFile:
		c.Do, c.Path = hub.WriteFile, op.Name
		text, err := s.fill(ctx, p, op.Text)
		if err != nil {
			return err.Error(), nil
		}
		c.Text = text
	case Exit, Die:
		c.Do = hub.Exit
		if op.Do == Die {
			c.Do = hub.Die
		}
		if _, err := p.Do(ctx, c); !errors.Is(err, hub.ErrGone) {
			return "", fmt.Errorf("%s did not end: %v", p.Label, err)
		}
		return ok, nil
	default:
		return "", fmt.Errorf("%q is no verb", op.Do)
	}
	answer, err := p.Do(ctx, c)
	if answer.Made != nil {
		s.label(answer.Made, op.Name)
	}
	if err != nil && ctx.Err() == nil {
		return err.Error(), nil // the puppet says so
	}
	return ok, err
}

func (s *Stage) label(f *hub.File, label string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.labels[[2]uint64{f.Dev, f.Ino}] = label
}

// adopt has p keep a descriptor under its label that it was passed.
func (s *Stage) adopt(ctx context.Context, p *hub.Puppet, label string) error {
	for _, f := range p.Files {
		s.mu.Lock()
		known := s.labels[[2]uint64{f.Dev, f.Ino}]
		s.mu.Unlock()
		if f.Number >= 3 && known == label {
			_, err := p.Do(ctx, hub.Command{Do: hub.Adopt, Label: label, Number: f.Number})
			return err
		}
	}
	return nil
}

// fork has p start a puppet and waits until that has dialled in.
func (s *Stage) fork(ctx context.Context, p *hub.Puppet, op Op) (string, error) {
	answer, err := p.Do(ctx, hub.Command{Do: hub.Fork, Kind: op.Name})
	if err != nil {
		return err.Error(), nil
	}
	for s.hub.Puppets()[answer.PID] == nil {
		if _, err := readProcess(answer.PID); err != nil {
			return "the new process ended", nil
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return "", fmt.Errorf("process %d does not dial in: %w", answer.PID, err)
		}
	}
	return ok, nil
}

// fill replaces "|" by newline, and names in braces: a process by its PID, {now} and {past} by times of
// CLOCK_MONOTONIC in microseconds, {gone} by a PID that no process has, {long} by 4096 bytes, {nul}, {ff} and
// {space} by these bytes.
func (s *Stage) fill(ctx context.Context, p *hub.Puppet, text string) (string, error) {
	text = strings.ReplaceAll(text, "|", "\n")
	for {
		before, rest, ok := strings.Cut(text, "{")
		if !ok {
			return text, nil
		}
		name, after, ok := strings.Cut(rest, "}")
		if !ok {
			return "", fmt.Errorf("no closing brace in %q", text)
		}
		value := ""
		switch name {
		case "self":
			value = strconv.Itoa(p.PID)
		case "label":
			value = p.Label
		case "manager":
			value = strconv.Itoa(s.manager.PID())
		case "gone":
			value = "4194303"
		case "space":
			value = " "
		case "nul":
			value = "\x00"
		case "ff":
			value = "\xff"
		case "long":
			value = strings.Repeat("x", 4096)
		case "now", "past":
			var now unix.Timespec
			if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
				return "", err
			}
			usec := now.Nano() / 1000
			if name == "past" {
				usec = 1
			}
			value = strconv.FormatInt(usec, 10)
		default:
			other, err := s.puppet(ctx, name)
			if err != nil {
				return "", err
			}
			for _, p := range s.hub.All() {
				if other == nil && p.Label == name {
					other = p // that has ended
				}
			}
			if other == nil {
				return "", fmt.Errorf("nobody is %s", name)
			}
			value = strconv.Itoa(other.PID)
		}
		text = before + value + after
	}
}

func signalNumber(name string) (syscall.Signal, error) {
	if sig := unix.SignalNum("SIG" + name); sig != 0 {
		return sig, nil
	}
	return 0, fmt.Errorf("no signal is called SIG%s", name)
}

// kill sends a signal by the manager and waits until it has arrived.
func (s *Stage) kill(ctx context.Context, op Op) (string, error) {
	sig, err := signalNumber(op.Signal)
	if err != nil {
		return "", err
	}
	targets := make(map[*hub.Puppet]int)
	for _, p := range s.hub.Puppets() {
		targets[p] = p.Heard(int(sig))
	}
	if op.Who != "all" {
		p, err := s.puppet(ctx, op.Who)
		if err != nil {
			return "", err
		}
		targets = map[*hub.Puppet]int{}
		if p != nil {
			targets[p] = p.Heard(int(sig))
		}
	}
	if err := s.manager.Kill(ctx, op.Who, int(sig)); err != nil {
		return "", err
	}
	for p, before := range targets {
		deadline := time.Now().Add(patience)
		for s.hub.Puppets()[p.PID] == p && time.Now().Before(deadline) {
			then := p.Trap(int(sig))
			if sig != unix.SIGKILL && (then == hub.ThenIgnore || then == hub.ThenReport && p.Heard(int(sig)) > before) {
				break
			}
			if err := pause(ctx, time.Millisecond/2); err != nil {
				return "", err
			}
		}
	}
	return ok, nil
}

// connect says who answers at a socket.
func (s *Stage) connect(ctx context.Context, name string) (string, error) {
	conn, err := s.manager.Dial(ctx, name)
	if err != nil {
		var errno syscall.Errno
		if errors.As(err, &errno) {
			return errno.Error(), nil
		}
		return "", err
	}
	defer conn.Close()
	type answer struct {
		line string
		err  error
	}
	answers := make(chan answer, 1)
	go func() { // ends at the latest with the connection
		line, err := bufio.NewReader(conn).ReadString('\n')
		answers <- answer{line, err}
	}()
	var got answer
	var last *view
	for begin := time.Now(); got == (answer{}); {
		select {
		case got = <-answers:
			continue
		case <-time.After(connectPause):
		}
		v, err := s.quiet(ctx)
		if err != nil {
			return "", err
		}
		moved, _ := s.hub.Quiet()
		rests := reflect.DeepEqual(last, v) && time.Since(moved) > connectPause
		if len(answers) == 0 && (rests || time.Since(begin) > 4*patience) {
			return "no answer", nil
		}
		last = v
	}
	line, err := got.line, got.err
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
		return "closed without an answer", nil
	}
	if err != nil {
		return "", err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return "", fmt.Errorf("answer %q: %w", line, err)
	}
	return "answered by " + s.who(pid), nil
}

// connectPause is how long nothing may have moved before a client gives up waiting for an answer.
const connectPause = 200 * time.Millisecond

// wait waits for a property.
func (s *Stage) wait(ctx context.Context, unit string, op Op) (string, error) {
	deadline := time.Now().Add(4 * patience)
	for {
		props, err := s.manager.Properties(ctx, unit)
		if err != nil {
			return "", err
		}
		if matches(props[op.Name], op.Text) {
			return ok, nil
		}
		if time.Now().After(deadline) {
			return fmt.Sprintf("waited in vain: %s is %q", op.Name, props[op.Name]), nil
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return "", err
		}
	}
}

// matches reports whether value is pattern, in which "*" at both ends or at the last one stands for anything.
func matches(value, pattern string) bool {
	begin, open := strings.CutSuffix(pattern, "*")
	if part, ok := strings.CutPrefix(begin, "*"); ok && open {
		return strings.Contains(value, part)
	}
	return value == pattern || open && strings.HasPrefix(value, begin)
}

// finish waits for the ends of all jobs.
func (s *Stage) finish(ctx context.Context) (string, error) {
	const bound = time.Minute
	for begin := time.Now(); len(s.pending()) > 0; {
		if time.Since(begin) > bound {
			return "there are still jobs", nil
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return "", err
		}
	}
	return ok, nil
}

// read says what is in a file or directory of the service.
func (s *Stage) read(name string) string {
	host := name
	if root := s.manager.Root(); root != "/" {
		host = root + name
	}
	info, err := os.Lstat(host)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no such file"
	case err != nil:
		return err.Error()
	case info.IsDir():
		entries, err := os.ReadDir(host)
		if err != nil {
			return err.Error()
		}
		text := info.Mode().String()
		for _, e := range entries {
			text += " " + e.Name()
		}
		return text
	case !info.Mode().IsRegular():
		return info.Mode().String()
	}
	text, err := os.ReadFile(host)
	if err != nil {
		return err.Error()
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
		return "PID of " + s.who(pid)
	}
	return s.unrooted(strings.TrimSpace(string(text)))
}

// startOutsider starts a puppet that the manager knows nothing of. It ends with the stage.
func (s *Stage) startOutsider(ctx context.Context, role string) (string, error) {
	cmd := exec.Command(s.manager.Puppet(), role, s.hub.Address)
	if err := cmd.Start(); err != nil {
		return "", err
	}
	s.outsiders.Go(func() { _ = cmd.Wait() })
	for s.hub.Puppets()[cmd.Process.Pid] == nil {
		if err := pause(ctx, time.Millisecond); err != nil {
			return "", err
		}
	}
	return ok, nil
}

// who names a process.
func (s *Stage) who(pid int) string {
	if pid == s.manager.PID() {
		return "manager"
	}
	name := ""
	for _, p := range s.hub.All() {
		if p.PID == pid {
			name = p.Label
		}
	}
	if name != "" {
		return name
	}
	if s.strangers[pid] == "" {
		p, err := readProcess(pid)
		if err != nil {
			return "another"
		}
		n := 1
		for _, other := range s.strangers {
			if strings.HasPrefix(other, p.name+"#") {
				n++
			}
		}
		s.strangers[pid] = fmt.Sprintf("%s#%d", p.name, n)
	}
	return s.strangers[pid]
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
