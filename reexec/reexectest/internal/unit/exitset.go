// SPDX-License-Identifier: Apache-2.0

package unit

import (
	"syscall"

	"github.com/holdfast-go/holdfast/units/unitfile"
)

// ExitSet is a set of exit codes and of signals.
type ExitSet struct {
	Codes   map[int]bool
	Signals map[syscall.Signal]bool
}

// Has reports whether a process that ended so is in the set.
func (s ExitSet) Has(status syscall.WaitStatus) bool {
	return status.Exited() && s.Codes[status.ExitStatus()] || status.Signaled() && s.Signals[status.Signal()]
}

// Empty reports whether there is nothing in the set.
func (s ExitSet) Empty() bool { return len(s.Codes) == 0 && len(s.Signals) == 0 }

func (c *context) exitSet(s *ExitSet) setter {
	return func(a unitfile.Assignment) error {
		if a.Value == "" {
			*s = ExitSet{}
			return nil
		}
		codes, signals, err := unitfile.ParseExitStatuses(a.Value, c.systemd)
		if err != nil {
			return err
		}
		if s.Codes == nil {
			*s = ExitSet{Codes: make(map[int]bool), Signals: make(map[syscall.Signal]bool)}
		}
		for _, code := range codes {
			s.Codes[code] = true
		}
		for _, sig := range signals {
			s.Signals[sig] = true
		}
		return nil
	}
}
