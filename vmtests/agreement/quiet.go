// SPDX-License-Identifier: Apache-2.0

package agreement

import (
	"context"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests/agreement/hub"
)

// How long nothing may have moved before a look counts.
const (
	// calm is for a unit that is where it stays.
	calm = 6 * time.Millisecond
	// wary is for one that may be about to move: a job waits, or it is on the way to a state.
	wary = 50 * time.Millisecond
	// stubborn bounds the wait for what ought to come, such as the death of a process that gets SIGTERM.
	stubborn = time.Second
)

// A view is a look at everything, with PIDs as they are.
type view struct {
	props   map[string]string
	sockets map[string]map[string]string
	procs   []process // sorted by PID, without zombies
}

func (s *Stage) look(ctx context.Context) (*view, error) {
	v := &view{sockets: make(map[string]map[string]string)}
	var err error
	if v.props, err = s.manager.Properties(ctx, s.setup.Service()); err != nil {
		return nil, err
	}
	for _, name := range s.setup.SocketUnits() {
		if v.sockets[name], err = s.manager.Properties(ctx, name); err != nil {
			return nil, err
		}
	}
	pids, err := s.manager.Processes(ctx)
	if err != nil {
		return nil, err
	}
	slices.Sort(pids)
	for _, pid := range pids {
		if p, err := readProcess(pid); err == nil && !p.dead() {
			v.procs = append(v.procs, p)
		}
	}
	return v, nil
}

func (v *view) pid(property string) int {
	n, _ := strconv.Atoi(v.props[property]) // 0 where it is missing
	return n
}

func (v *view) process(pid int) (process, bool) {
	i := slices.IndexFunc(v.procs, func(p process) bool { return p.pid == pid })
	if i < 0 {
		return process{}, false
	}
	return v.procs[i], true
}

// quiet waits until nothing moves any more, and returns the last look.
func (s *Stage) quiet(ctx context.Context) (*view, error) {
	begin := time.Now()
	var last *view
	var since time.Time   // the last time that anything moved or was to move
	var lag time.Duration // how long one has to wait for a busy machine
	for {
		now := time.Now()
		v, err := s.look(ctx)
		if err != nil {
			return nil, err
		}
		took := time.Since(now)
		lag = max(lag, took)
		if last == nil || !reflect.DeepEqual(last, v) {
			last, since = v, time.Now()
		}
		moved, idle := s.hub.Quiet()
		since = latest(since, moved)
		must, bound := "a puppet is busy", patience
		if idle {
			must, bound = s.underWay(v), patience
		}
		if must == "" {
			must, bound = s.expected(v), stubborn
			if s.unfounded[expectation(v, must)] {
				must = ""
			}
		}
		if must != "" && now.Sub(begin) < bound {
			since = time.Now()
		}
		need := calm
		if s.suspicious(v) {
			need = wary
		}
		need += min(5*lag, time.Second)
		// The look began when nothing had moved for long enough.
		if now.Sub(since) >= need {
			if must != "" {
				s.remark("did not settle: %s", must)
				s.unfounded[expectation(v, must)] = true
			}
			return v, nil
		}
		if now.Sub(begin) > 2*patience {
			s.remark("never came to rest")
			return v, nil
		}
		// systemd runs jobs only when nobody asks anything of it. And a look costs a small machine much.
		rest := max(2*time.Millisecond, 2*took, need/3)
		before := time.Now()
		if err := pause(ctx, rest); err != nil {
			return nil, err
		}
		lag = max(lag, time.Since(before)-rest)
	}
}

// expectation is what one waited for in vain: it is not waited for again as long as the state is the same.
func expectation(v *view, must string) string { return v.props["SubState"] + ": " + must }

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// underWay says what has begun and comes for certain, "" if nothing.
func (s *Stage) underWay(v *view) string {
	connected := s.hub.Puppets()
	for pid := range connected {
		if p, err := readProcess(pid); err != nil || p.dead() {
			return fmt.Sprintf("process %d has ended, its connection has not", pid)
		}
	}
	for _, p := range v.procs {
		if p.dying {
			return fmt.Sprintf("process %d dies", p.pid)
		}
	}
	manager, err := readProcess(s.manager.PID())
	if err != nil {
		return "" // the caller finds out
	}
	for _, p := range s.hub.All() {
		if connected[p.PID] != nil {
			continue
		}
		if z, err := readProcess(p.PID); err == nil && z.dead() && z.parent == manager.pid {
			return p.Label + " is not reaped"
		}
	}
	for _, p := range v.procs {
		if connected[p.pid] != nil {
			continue
		}
		switch base := path.Base(strings.TrimSuffix(p.exe, " (deleted)")); {
		case base == "puppet", base == "systemd-executor", p.exe == manager.exe, p.exe == "":
			return fmt.Sprintf("process %d (%s) has not dialled in", p.pid, p.exe)
		}
	}
	for _, key := range []string{"MainPID", "ControlPID"} {
		pid := v.pid(key)
		if _, ok := v.process(pid); pid != 0 && !ok && connected[pid] == nil {
			if p, err := readProcess(pid); err == nil && p.parent == manager.pid {
				return key + " is on its way"
			}
		}
	}
	return ""
}

// expected says what ought to come, "" if nothing. One cannot be certain: a unit may wait for longer.
func (s *Stage) expected(v *view) string {
	connected := s.hub.Puppets()
	sub := v.props["SubState"]
	switch sub {
	case "auto-restart", "auto-restart-queued", "dead-before-auto-restart", "failed-before-auto-restart":
		return "it is to be restarted"
	case "cleaning":
		return "it is being cleaned"
	case "stop-sigterm", "final-sigterm", "stop-sigkill", "final-sigkill":
		if len(v.procs) == 0 {
			return "no process is left"
		}
		for pid, p := range connected {
			if !s.signalled(sub, pid == v.pid("MainPID") || pid == v.pid("ControlPID")) {
				continue
			}
			switch then := p.Trap(int(unix.SIGTERM)); {
			case strings.HasSuffix(sub, "sigkill"), then != hub.ThenReport && then != hub.ThenIgnore:
				return p.Label + " is to end"
			case then == hub.ThenReport && sub != s.sub && p.Heard(int(unix.SIGTERM)) == s.heard[p][0]:
				return p.Label + " is to get SIGTERM"
			}
		}
	case "reload-signal":
		p := connected[v.pid("MainPID")]
		if p != nil && sub != s.sub && p.Trap(int(unix.SIGHUP)) == hub.ThenReport && p.Heard(int(unix.SIGHUP)) == s.heard[p][1] {
			return p.Label + " is to get SIGHUP"
		}
	}
	control := v.pid("ControlPID")
	if control != 0 && connected[control] == nil {
		return "a command runs"
	}
	for pid, p := range connected {
		// What systemd gives up it has killed.
		if pid != control && pid != v.pid("MainPID") && isCommand(p.Role) && p.Parent == s.manager.PID() {
			return p.Label + " is to end"
		}
	}
	return ""
}

// isCommand reports whether puppets of a role are commands of a service other than ExecStart=.
func isCommand(role string) bool {
	switch role {
	case "condition", "start-pre", "start-post", "reload", "reload-post", "stop", "stop-post":
		return true
	}
	return false
}

// signalled reports whether systemd sends a signal in this state to a process of the service.
func (s *Stage) signalled(sub string, isMain bool) bool {
	mode := "control-group"
	for _, f := range s.setup.Files {
		if _, rest, ok := strings.Cut(f.Text, "\nKillMode="); ok {
			mode, _, _ = strings.Cut(rest, "\n")
		}
	}
	switch mode {
	case "none":
		return false
	case "process":
		return isMain
	case "mixed":
		return isMain || strings.HasSuffix(sub, "sigkill")
	}
	return true
}

// suspicious reports whether the unit may be about to move.
func (s *Stage) suspicious(v *view) bool {
	if len(s.pending()) > 0 {
		return true
	}
	switch v.props["ActiveState"] {
	case "activating", "deactivating", "reloading", "refreshing":
		return true
	case "active":
		return len(v.procs) == 0 && v.props["SubState"] == "running"
	}
	return false
}

// pending are the jobs that have not ended.
func (s *Stage) pending() []*job {
	var waiting []*job
	for _, j := range s.jobs {
		if len(j.ended) == 0 {
			waiting = append(waiting, j)
		}
	}
	return waiting
}
