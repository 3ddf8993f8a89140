// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// A state that cannot be handed over refuses the upgrade, by its name; the old
// version serves on, and the next upgrade works.
func TestStateRefusesTheUpgradeByName(t *testing.T) {
	for _, c := range []struct {
		name        string
		first, next func(*plan)
		want        string
	}{
		{"Save fails", func(p *plan) { p.Save = "exit: the disk is on fire" }, nil, "the disk is on fire"},
		{"Save hangs", func(p *plan) { p.Save, p.StartTimeout = "hang", 500*time.Millisecond }, nil, "Save has not returned"},
		{"Load fails", nil, func(p *plan) { p.Load = "exit: not to my taste" }, "not to my taste"},
		{"Load panics", nil, func(p *plan) { p.Load = "panic: not to my taste" }, "not to my taste"},
	} {
		t.Run(c.name, func(t *testing.T) {
			environments(t, func(t *testing.T, managed bool) {
				p := quick()
				p.State = true
				if c.first != nil {
					c.first(&p)
				}
				s := start(t, setup{plan: p, managed: managed})
				s.release("v2", c.next)
				v, _ := s.upgrade()
				if v.Outcome != control.Refused || !strings.Contains(v.Reason, c.want) ||
					!strings.Contains(c.name, "panics") && !strings.Contains(v.Reason, `state "text"`) {
					t.Errorf("verdict %q: %s; want it to name the state, and %q", v.Outcome, v.Reason, c.want)
				}
				s.mustServe(s.first)
				if c.next != nil {
					s.release("v3", nil)
					s.mustUpgrade()
				}
			})
		})
	}
}
