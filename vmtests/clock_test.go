// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/vmtests"
)

// testClockJumps sets the clock an hour ahead and back again, in each phase of an upgrade. No deadline is of the
// wall clock: nothing comes too early, nothing is waited for an hour, and nothing is lost. It sets the clock of
// its machine, so it runs in virtual ones.
func testClockJumps(t *testing.T, on *vmtests.Machine) {
	t.Run("overlap", func(t *testing.T) {
		m := installMyapp(t, on, patient, nil)
		defer m.uninstall()
		m.systemctl("start", myappSocket, myappUnit)
		l := m.load()
		clock := m.startJumping()
		m.put(v2)
		m.mustReload()
		m.waitAnswers(l, "2.0.0", 20)
		m.waitLine("draining -> gone")
		m.nothingLost(l)
		clock.mustHaveJumped("serving -> checking", "starting -> probation", "probation -> promoting")

		// A version that hangs is found by the beats that do not come, and undone.
		l = m.load()
		m.put(build{version: "3.0.0", damage: "hang-in-probation"})
		m.mustRefuse("hangs: no beat for")
		m.cutAtMost(l, 7) // workers of the load
		clock.stop()
		if n := m.prop("NRestarts"); n != "0" {
			t.Errorf("NRestarts=%s", n)
		}
	})
	t.Run("in place", func(t *testing.T) {
		m := installMyapp(t, on, patient, func(o *units.Options) {
			o.Mode = units.InPlace
			o.Args = append(o.Args, "-mode="+string(units.InPlace))
		})
		defer m.uninstall()
		m.systemctl("start", myappSocket, myappUnit)
		l := m.load()
		clock := m.startJumping()
		defer clock.stop()
		m.put(v2)
		m.mustReload()
		if st := m.status(); st.Version != "2.0.0" || st.Generation != 2 {
			t.Errorf("after the upgrade: %+v", st)
		}
		m.nothingLost(l)
		clock.mustHaveJumped("serving -> checking", "renewed -> serving")
	})
}

// jumper sets the clock until it is stopped.
type jumper struct {
	m      *myapp
	offset string // of the clock to the time since the boot, in seconds
}

const (
	jumperUnit = "jumper.service"
	jumps      = "/run/jumps"
)

// startJumping sets the clock ahead and back, over and over: more often than there are phases to meet, and not so
// often that an emulated processor does nothing else.
func (m *myapp) startJumping() *jumper {
	m.t.Helper()
	j := &jumper{m, m.run("sh", "-c", "echo $(($(date +%s) - $(cut -d. -f1 /proc/uptime)))")}
	m.run("systemd-run", "--quiet", "--unit="+jumperUnit, "sh", "-c", `while :; do
		for by in "+1 hour" "-1 hour"; do
			date --set="$by" >/dev/null || exit
			cut -d" " -f1 /proc/uptime >>`+jumps+`
			sleep 0.5
		done
	done`)
	m.run("timeout", "60", "sh", "-c", "until [ $(cat "+jumps+" 2>/dev/null | wc -l) -ge 2 ]; do sleep 0.1; done")
	return j
}

// stop ends it, and sets the clock right.
func (j *jumper) stop() {
	j.m.t.Helper()
	j.m.systemctl("stop", jumperUnit)
	j.m.run("sh", "-c", "date --set=@$(("+j.offset+" + $(cut -d. -f1 /proc/uptime))); rm -f "+jumps)
}

// mustHaveJumped says that the clock has jumped between each of these lines of the service and the next.
func (j *jumper) mustHaveJumped(lines ...string) {
	j.m.t.Helper()
	var all []time.Duration
	for text := range strings.FieldsSeq(j.m.run("cat", jumps)) {
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil {
			j.m.t.Fatal(err)
		}
		all = append(all, time.Duration(seconds*float64(time.Second)))
	}
	for i := range lines[1:] {
		from, to := j.m.moment(lines[i], all[0]), j.m.moment(lines[i+1], all[0])
		n := 0
		for _, at := range all {
			if from <= at && at <= to {
				n++
			}
		}
		if n == 0 {
			j.m.t.Errorf("the clock did not jump between %q and %q, in %v", lines[i], lines[i+1], to-from)
		}
		j.m.t.Logf("the clock was set %d times between %q and %q", n, lines[i], lines[i+1])
	}
}
