// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/notify/notifytest"
	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// A driver makes events of bytes: the first three choose a version and a unit,
// and then every two are an event and its argument. What must always hold, it
// checks after each of them.
type driver struct {
	*fakeWorld
	version int
	data    []byte
	units   []*unit.Service
	asked   []int // IDs of jobs
	story   []string
	control int // the last control process
	// replaced is set when daemon-reload brought another unit: then processes of
	// the old one may be forgotten.
	replaced bool
}

// variants are the units that a driver chooses from. All timeouts are finite.
var variants = [][]string{
	{"Type=notify", "NotifyAccess=all", "Restart=on-failure", "FileDescriptorStoreMax=4"},
	{"Type=notify", "ExecReload=/bin/a", "ExecReload=/bin/b", "PIDFile=/run/app.pid", "Restart=always", "RestartSec=3s"},
	{"Type=simple", "ExecStartPre=/bin/a", "ExecStartPost=/bin/b", "ExecStop=/bin/c", "ExecStopPost=/bin/d", "Restart=on-abnormal"},
	{"Type=forking", "PIDFile=/run/app.pid", "ExecStartPost=/bin/a", "TimeoutStartSec=20s"},
	{"Type=forking", "ExecStopPost=/bin/a", "KillMode=mixed", "Restart=always", "TimeoutStartSec=20s"},
	{"Type=oneshot", "ExecStart=/bin/a", "ExecStart=-/bin/b", "RemainAfterExit=yes", "ExecReload=/bin/c", "TimeoutStartSec=20s"},
	{"Type=notify", "NotifyAccess=all", "KillMode=process", "WatchdogSec=5s", "Restart=on-watchdog", "ExecReload=/bin/a"},
	{"Type=notify", "NotifyAccess=exec", "KillMode=mixed", "SendSIGKILL=no", "ExecStop=/bin/a", "ExecReload=/bin/b"},
	{"Type=exec", "KillMode=none", "ExecStop=/bin/a", "ExecStopPost=/bin/b"},
	{"Type=notify-reload", "NotifyAccess=all", "Restart=always", "RestartSec=0", "FileDescriptorStorePreserve=yes", "FileDescriptorStoreMax=4"},
	{"Type=notify-reload", "ExecReload=/bin/a", "ExecStartPost=/bin/b", "RuntimeMaxSec=100s", "TimeoutStopFailureMode=abort"},
	{"Type=simple", "ExitType=cgroup", "ExecReload=/bin/a", "Restart=on-failure", "RestartSteps=3", "RestartMaxDelaySec=9s", "RestartMode=direct"},
	{"Type=notify-reload", "NotifyAccess=all", "ExecReloadPost=/bin/a", "ExecCondition=/bin/b", "TimeoutStartFailureMode=abort"},
}

// newer are the versions of options that not every version has.
var newer = []struct {
	option string
	since  int
}{
	{"Type=exec", 240},
	{"Type=notify-reload", 253},
	{"FileDescriptorStorePreserve", 254},
	{"ExecReloadPost", 259},
	{"ExecCondition", 243},
	{"TimeoutStopFailureMode", 246},
	{"TimeoutStartFailureMode", 246},
	{"RestartSteps", 254},
	{"RestartMaxDelaySec", 254},
	{"RestartMode", 254},
	{"ExitType", 250},
}

func newDriver(t testing.TB, data []byte) *driver {
	d := &driver{data: data}
	d.version = versions[int(d.next())%len(versions)]
	d.fakeWorld = newFake(t, d.version, "Type=notify")
	for _, lines := range variants {
		lines = slices.DeleteFunc(slices.Clone(lines), func(line string) bool {
			for _, n := range newer {
				if d.version < n.since && len(line) >= len(n.option) && line[:len(n.option)] == n.option {
					return true
				}
			}
			return false
		})
		d.units = append(d.units, d.load(d.version, append(lines, "StartLimitBurst=100")...))
	}
	d.service = newService(d.fakeWorld, d.units[int(d.next())%len(d.units)], d.version)
	return d
}

func (d *driver) next() byte {
	if len(d.data) == 0 {
		return 0
	}
	b := d.data[0]
	d.data = d.data[1:]
	return b
}

// checkSpawns checks that no control process is started beside another one that was
// not even told to end.
func (d *driver) checkSpawns(from int) {
	for _, order := range d.spawned[from:] {
		if order.kind == execStart {
			continue
		}
		if old := d.table[d.control]; old != nil && !old.foreign && !slices.Contains(d.signaled, d.control) && d.service.unit.KillMode != "none" && !d.replaced {
			d.fail("%s is started while control process %d runs", order.kind, d.control)
		}
	}
	if d.service.controlPID != 0 {
		d.control = d.service.controlPID
	}
}

func (d *driver) fail(format string, args ...any) {
	d.t.Helper()
	d.t.Fatalf("version %d: %s\nstate %s, main %d, control %d, job %+v\n%v", d.version, fmt.Sprintf(format, args...),
		d.service.state, d.service.mainPID, d.service.controlPID, d.service.job, d.story)
}

func (d *driver) run() {
	for len(d.data) > 0 {
		spawned := len(d.spawned)
		d.event(d.next(), d.next())
		d.flush()
		d.checkSpawns(spawned)
		d.check()
	}
	d.finish()
}

// messages are what processes say.
var messages = [][]notifytest.Field{
	{"READY=1"},
	{"RELOADING=1"},
	{"STOPPING=1"},
	{"RELOADING=1", "MONOTONIC_USEC=9999999999999"},
	{"RELOADING=1", "MONOTONIC_USEC=9999999999999", "READY=1"},
	{"READY=1", "STATUS=up"},
	{"WATCHDOG=1"},
	{"WATCHDOG=trigger"},
	{"WATCHDOG_USEC=3000000"},
	{"EXTEND_TIMEOUT_USEC=30000000"},
	{"NOTIFYACCESS=all"},
	{"NOTIFYACCESS=none"},
	{"STATUS=\xff", "ERRNO=x", "MAINPID=x"},
	{"RESTART_RESET=1"},
	{"MAINPID=1"},
}

// event is one thing that happens.
func (d *driver) event(kind, arg byte) {
	verbs := []wire.Verb{wire.Start, wire.Stop, wire.Restart, wire.TryRestart, wire.Reload, wire.ReloadOrRestart}
	others := d.processes()
	pick := func() int {
		if len(others) == 0 {
			return 0
		}
		return others[int(arg)%len(others)]
	}
	status := syscall.WaitStatus(0)
	switch arg % 5 {
	case 1:
		status = syscall.WaitStatus(int(arg) << 8)
	case 2:
		status = syscall.WaitStatus(syscall.SIGKILL)
	case 3:
		status = syscall.WaitStatus(int(syscall.SIGSEGV) | 0x80)
	case 4:
		status = syscall.WaitStatus(syscall.SIGTERM)
	}
	ends := func(pid int) {
		if d.table[pid] != nil && pid != 0 {
			d.dies(pid, status)
		}
	}
	speaks := func(pid int) {
		if d.table[pid] == nil || pid == 0 {
			return
		}
		fields := slices.Clone(messages[int(arg)%len(messages)])
		if arg >= 200 {
			fields = append(fields, mainPID(pick()))
		}
		d.sends(pid, fields...)
	}
	const kinds = 24
	n := int(kind) % kinds
	d.story = append(d.story, fmt.Sprintf("%d/%d:%s", n, arg, d.service.state))
	switch n {
	case 0, 1, 2, 3:
		id := d.nextID
		d.nextID++
		if d.service.request(id, verbs[int(arg)%len(verbs)]) == nil {
			d.asked = append(d.asked, id)
		}
	case 4:
		d.service.triggered()
	case 5:
		d.service.resetFailed()
	case 6:
		d.service.reloaded(d.service.unit)
	case 7:
		d.service.reloaded(d.units[int(arg)%len(d.units)])
		d.replaced = true
	case 8:
		ends(d.service.mainPID)
	case 9, 10:
		ends(d.service.controlPID)
	case 11:
		ends(pick())
	case 12:
		if main := d.service.mainPID; d.table[main] != nil && main != 0 {
			d.born(main, "child")
		}
	case 13:
		if len(others) > 0 {
			d.born(fakeManager, "sibling")
		}
	case 14, 15, 16:
		speaks(d.service.mainPID)
	case 17:
		speaks(pick())
	case 18:
		speaks(d.service.controlPID)
	case 19:
		d.pass(time.Duration(arg) * time.Duration(arg) * time.Millisecond * 3)
	case 20:
		d.service.execed(d.service.mainPID)
		d.pidFile = fmt.Sprint(pick())
		d.service.pidFileChanged()
	case 21:
		switch {
		case d.service.state.is(serviceDead, serviceDeadResourcesPinned):
			d.stored = 0
			d.service.cleaned()
		case d.stored > 0 && arg%2 == 0:
			d.stored = 0
			d.service.storeEmptied()
		default:
			d.stored++
		}
	case 22:
		d.spawnErr = nil
		if arg%8 == 0 {
			d.spawnErr = errFake
		}
	case 23:
		d.obey()
	}
}

// check is what holds after every event.
func (d *driver) check() {
	d.t.Helper()
	s := d.service
	rules, ok := stateTable[s.state]
	if !ok || rules.since > d.version {
		d.fail("there is no state %q", s.state)
	}
	if s.state.is(serviceDeadBeforeAutoRestart, serviceFailedBeforeAutoRestart) {
		d.fail("it stays in a state of passage")
	}
	if s.mainPID != 0 && !rules.main {
		d.fail("a main process")
	}
	if s.controlPID != 0 && !rules.control {
		d.fail("a control process")
	}
	if s.controlPID != 0 && d.table[s.controlPID] == nil {
		d.fail("the control process died unseen")
	}
	if _, armed := d.timers[stateTimer]; armed && !rules.timed {
		d.fail("the state timer is armed")
	}
	if len(d.timers) != len(s.timers) {
		d.fail("timers are %v, should be %v", d.timers, s.timers)
	}
	if d.watches != s.awaitsPIDFile || d.watches && !s.state.is(serviceStart, serviceStartPost) {
		d.fail("PIDFile= is watched: %t", d.watches)
	}
	if s.state == serviceDeadResourcesPinned && d.stored == 0 && d.version >= 258 {
		d.fail("nothing is stored")
	}
	if p := s.properties(); p.ActiveState == "" || p.SubState == "" || p.Result == "" {
		d.fail("properties %+v", p)
	}
	waits := 0
	for _, id := range d.asked {
		if _, ended := d.ended[id]; !ended {
			waits++
		}
	}
	if s.job == nil && waits > 0 || s.job != nil && waits != len(s.job.ids) {
		d.fail("%d requests wait", waits)
	}
}

// finish stops the service and ends what is left: then every job has ended.
func (d *driver) finish() {
	d.spawnErr = nil
	d.story = append(d.story, "finish")
	d.service.request(d.nextID, wire.Stop)
	d.asked = append(d.asked, d.nextID)
	d.flush()
	for range 20 {
		d.check()
		for len(d.processes()) > 0 {
			d.killed(d.processes()[0], syscall.SIGKILL)
		}
		d.pass(200 * time.Second)
	}
	if d.service.job != nil || !d.service.state.active().down() {
		d.fail("it does not end")
	}
	d.check()
}

// TestRandomEvents drives services of all versions with what comes.
func TestRandomEvents(t *testing.T) {
	rounds := 500
	if testing.Short() {
		rounds = 100
	}
	for seed := range uint64(rounds) {
		random := rand.New(rand.NewPCG(seed, 7))
		data := make([]byte, 400)
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		data[0], data[1] = byte(seed), byte(seed/uint64(len(versions)))
		newDriver(t, data).run()
	}
}

// FuzzEvents is the same with chosen events.
func FuzzEvents(f *testing.F) {
	for v := range byte(len(versions)) {
		// A start, READY=1, a reload, its end, a crash and the restart, a stop.
		f.Add([]byte{v, v, 0, 0, 14, 0, 0, 4, 9, 0, 14, 4, 8, 2, 19, 200, 14, 0, 0, 1, 23, 0})
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1000 {
			return
		}
		newDriver(t, data).run()
	})
}
