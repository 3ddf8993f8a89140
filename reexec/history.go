// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/internal/machine"
	"github.com/holdfast-go/holdfast/reexec/internal/observe"
)

// history is the record of all attempts to upgrade. Main writes it: a verdict that
// makes another generation main is that one's to note.
type history struct {
	state *State

	mu sync.Mutex
	// verdicts are the last ones, the newest first. None is changed: others read them.
	verdicts []control.Verdict
	attempts map[control.Outcome]uint64
}

// historyState is the name of the state of the history.
const historyState = "holdfast.history"

// counted are the outcomes of attempts.
var counted = []control.Outcome{control.Upgraded, control.Refused, control.RolledBack, control.Stopped}

// Of each verdict less is kept than was said.
const (
	maxHistoryReason = 1000
	maxHistoryPhases = 16
)

// historyFrame is what is saved.
type historyFrame struct {
	Verdicts []control.Verdict          `json:"verdicts"`
	Attempts map[control.Outcome]uint64 `json:"attempts"`
}

// newHistory goes on with the history of the predecessor, or with the one that
// systemd keeps, if there is any.
func newHistory(ss *states) (_ *history, err error) {
	h := &history{attempts: map[control.Outcome]uint64{}}
	h.state, err = ss.register(historyState, Snapshot{Version: 1, Save: h.save, Load: h.load}.definition())
	if err != nil {
		return nil, err
	}
	h.state.hidden = h.empty
	h.state.spare = true
	return h, nil
}

func (h *history) save(w io.Writer) error {
	h.mu.Lock()
	frame := historyFrame{h.verdicts, maps.Clone(h.attempts)}
	h.mu.Unlock()
	return json.NewEncoder(w).Encode(frame)
}

// load takes over what another version has written, which is not believed more
// than it must be.
func (h *history) load(_ uint32, data []byte) error {
	var frame historyFrame
	if err := json.Unmarshal(data, &frame); err != nil {
		return fmt.Errorf("it is no history: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.verdicts = frame.Verdicts[:min(len(frame.Verdicts), control.MaxHistory)]
	for i, v := range h.verdicts {
		h.verdicts[i] = short(v)
	}
	for _, o := range counted {
		if n := frame.Attempts[o]; n > 0 {
			h.attempts[o] = n
		}
	}
	return nil
}

// short is a verdict as it is kept.
func short(v control.Verdict) control.Verdict {
	v.Reason = clip(v.Reason, maxHistoryReason)
	v.Outcome = control.Outcome(clip(string(v.Outcome), maxVersion))
	v.From = shortProcess(v.From)
	if v.To != nil {
		to := shortProcess(*v.To)
		v.To = &to
	}
	v.Phases = slices.Clone(v.Phases[:min(len(v.Phases), maxHistoryPhases)])
	for i := range v.Phases {
		v.Phases[i].Name = clip(v.Phases[i].Name, maxVersion)
	}
	return v
}

func shortProcess(p control.Process) control.Process {
	p.Version, p.Build = clip(p.Version, maxVersion), clip(p.Build, maxVersion)
	return p
}

func (h *history) empty() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.attempts) == 0
}

// list is for the status.
func (h *history) list() ([]control.Verdict, map[control.Outcome]uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.attempts) == 0 {
		return nil, nil
	}
	return slices.Clone(h.verdicts), maps.Clone(h.attempts)
}

// add notes a verdict.
func (h *history) add(v control.Verdict) {
	h.mu.Lock()
	h.verdicts = append([]control.Verdict{short(v)}, h.verdicts[:min(len(h.verdicts), control.MaxHistory-1)]...)
	h.attempts[v.Outcome]++
	h.mu.Unlock()
}

// drained notes how the old version of an upgrade has ended. It returns false if
// that is known, or if the verdict is not: main learns of the two in any order.
func (h *history) drained(d control.Drain) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.verdicts, func(v control.Verdict) bool {
		return v.Outcome == control.Upgraded && v.From.PID == d.PID && v.From.Generation == d.Generation
	})
	if i < 0 || h.verdicts[i].Drain != nil {
		return false
	}
	h.verdicts = slices.Clone(h.verdicts)
	h.verdicts[i].Drain = &control.DrainSum{Seconds: d.Seconds, Moved: d.Moved}
	return true
}

// commit has systemd keep it.
func (h *history) commit() {
	ctx, cancel := context.WithTimeout(context.Background(), barrierTimeout)
	defer cancel()
	// Without it a crash makes the history shorter, and nobody is the worse for it:
	// it goes with every upgrade all the same.
	if err := h.state.Commit(ctx); err != nil {
		h.state.states.log.Debug("the history of upgrades does not survive a crash", "error", err)
	}
}

// noteVerdict is for main: v is about who is main now.
func (s *Service) noteVerdict(v control.Verdict) {
	v.After = memoryNow()
	s.history.add(v)
	for _, o := range s.observing() {
		if o.Verdict != nil {
			o.Verdict(v)
		}
	}
	go s.history.commit()
}

// Observe is for package metrics: its argument is of an internal package. Call it
// before Run.
func (s *Service) Observe(o observe.Observer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.observers = append(s.observers, o)
}

// noteTakeover notes the attempt by which this generation has become main. A
// predecessor that died before its verdict has left none.
func (s *Service) noteTakeover() {
	if v := s.predecessor.hello.Last; s.run.on == machine.Promote && v != nil {
		s.noteVerdict(*v)
	} else {
		self := s.self()
		s.noteVerdict(control.Verdict{Outcome: control.Upgraded, From: s.predecessor.process, To: &self, Started: s.began})
	}
	s.mu.Lock()
	d := s.lastDrain
	s.mu.Unlock()
	if d != nil {
		s.historyDrained(*d) // it was over before
	}
}

// noteDrain is the predecessor's report.
func (s *Service) noteDrain(d control.Drain) {
	s.mu.Lock()
	s.lastDrain = &d
	s.mu.Unlock()
	s.historyDrained(d)
}

func (s *Service) observing() []observe.Observer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.observers
}

func (s *Service) historyDrained(d control.Drain) {
	if !s.history.drained(d) {
		return
	}
	for _, o := range s.observing() {
		if o.Drained != nil {
			o.Drained(d)
		}
	}
	go s.history.commit()
}
