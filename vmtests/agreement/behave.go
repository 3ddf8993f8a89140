// SPDX-License-Identifier: Apache-2.0

package agreement

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests/agreement/hub"
)

// Steps of Setup.Behave, separated by ";":
//
//	ready                 sends READY=1 and a status
//	notify LINE|LINE...   sends a message
//	trap SIGNAL THEN      THEN is report, default, or exit N
//	serve                 answers connections
//	write NAME TEXT       writes a file in the runtime directory
//	fork ROLE             starts a puppet and waits until it has dialled in
//	exit N, die SIGNAL    ends
//	hold                  does nothing more
//
// A key of Setup.Behave is the role of a puppet, or "SIGNAL" for what main and heirs do on it. What is
// missing has these values:
var defaultBehave = map[string]string{
	"main": "trap TERM exit 0; ready",
	"heir": "trap TERM exit 0",
	"TERM": "hold",
}

// controlBehave is what the puppets of ExecReload= and the like do.
const controlBehave = "exit 0"

// Started implements hub.Director.
func (s *Stage) Started(p *hub.Puppet) {
	s.mu.Lock()
	steps, ok := s.behave[p.Role]
	s.mu.Unlock()
	if !ok {
		if steps, ok = defaultBehave[p.Role]; !ok {
			steps = controlBehave
			switch p.Role {
			case "child", "corpse", "outsider":
				steps = "hold"
			}
		}
	}
	s.act(p, steps)
}

// Signalled implements hub.Director.
func (s *Stage) Signalled(p *hub.Puppet, signal int) {
	name := strings.TrimPrefix(unix.SignalName(unix.Signal(signal)), "SIG")
	s.mu.Lock()
	steps := s.behave[name]
	s.mu.Unlock()
	if steps != "" && (p.Role == "main" || p.Role == "heir") {
		s.act(p, steps)
	}
}

// act has p take steps.
func (s *Stage) act(p *hub.Puppet, steps string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for step := range strings.SplitSeq(steps, ";") {
		words := strings.SplitN(strings.TrimSpace(step), " ", 2)
		rest := ""
		if len(words) == 2 {
			rest = words[1]
		}
		err := s.take(ctx, p, words[0], rest)
		if err != nil && !errors.Is(err, hub.ErrGone) {
			s.remark("%s: %s: %v", p.Label, step, err)
		}
	}
}

func (s *Stage) take(ctx context.Context, p *hub.Puppet, verb, rest string) error {
	words := strings.Fields(rest)
	var c hub.Command
	switch verb {
	case "hold", "":
		return nil
	case "ready", "notify":
		if verb == "ready" {
			rest = "READY=1|STATUS={label} is ready"
		}
		text, err := s.fill(ctx, p, rest)
		if err != nil {
			return err
		}
		c = hub.Command{Do: hub.Notify, Payload: []byte(text), Barrier: true}
	case "trap":
		if len(words) < 2 {
			return fmt.Errorf("trap %q: want a signal and what then", rest)
		}
		sig, err := signalNumber(words[0])
		if err != nil {
			return err
		}
		c = hub.Command{Do: hub.Trap, Signal: int(sig), Then: words[1]}
		if len(words) == 3 {
			if c.Code, err = strconv.Atoi(words[2]); err != nil {
				return err
			}
		}
	case "serve":
		c = hub.Command{Do: hub.Serve}
	case "fork":
		_, err := s.fork(ctx, p, Op{Do: Fork, Name: rest})
		return err
	case "write":
		name, text, _ := strings.Cut(rest, " ")
		text, err := s.fill(ctx, p, text)
		if err != nil {
			return err
		}
		c = hub.Command{Do: hub.WriteFile, Path: name, Text: text}
	case "exit":
		code, err := strconv.Atoi(rest)
		if err != nil {
			return err
		}
		c = hub.Command{Do: hub.Exit, Code: code}
	case "die":
		sig, err := signalNumber(rest)
		if err != nil {
			return err
		}
		c = hub.Command{Do: hub.Die, Signal: int(sig)}
	default:
		return fmt.Errorf("%q is no step", verb)
	}
	_, err := p.Do(ctx, c)
	return err
}
