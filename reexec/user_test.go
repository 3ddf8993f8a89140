// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// An ordinary user: limits on descriptors in flight, on files and on other
// processes do not apply to root. The promise is that no privilege is needed.
func TestAsOrdinaryUser(t *testing.T) {
	const uid = 47113
	if os.Geteuid() != 0 {
		t.Skip("the other tests ran as an ordinary user already: only root may become one")
	}
	environments(t, func(t *testing.T, managed bool) {
		p := quick()
		p.Probation = patience / 30
		for i := range 600 {
			p.Listeners = append(p.Listeners, planSocket{fmt.Sprintf("extra-%d", i), "tcp", "127.0.0.1:0"})
		}
		s := start(t, setup{plan: p, managed: managed, user: uid})
		var st syscall.Stat_t
		if err := syscall.Stat(fmt.Sprintf("/proc/%d", s.first), &st); err != nil || st.Uid != uid {
			t.Fatalf("the service runs as %d, %v", st.Uid, err)
		}
		before := listeners(s.status())
		clients := startLoad(t, s.url("/echo"), 2)
		successor, verdict := s.onTrial(nil)
		s.signal(successor, syscall.SIGSTOP)
		if v, _ := verdict(); v.Outcome != control.RolledBack {
			t.Errorf("verdict %q: %s", v.Outcome, v.Reason)
		}
		// What the dead one had accepted is lost; nothing else is.
		clients.end()
		s.mustServe(s.first)
		clients = startLoad(t, s.url("/echo"), 2)
		for i := range 2 {
			s.release(fmt.Sprintf("v%d", i+2), nil)
			if got := listeners(s.mustUpgrade()); got != before {
				t.Errorf("%s became %s", before, got)
			}
		}
		clients.mustBeWhole()
	})
}
