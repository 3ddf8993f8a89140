// SPDX-License-Identifier: Apache-2.0

package fleet_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/packages"
)

const unit = "myapp.service"

// A state is all of a host that an upgrade changes, and that nothing else does.
type state struct {
	Package  string // version and status, as dpkg has them
	Serves   string // the version that answers
	PID      int    // of the main process
	Restarts int    // that systemd had to make
	DpkgLog  string // all that dpkg did
}

func (f *fleet) state(h *host) (s state, err error) {
	text, err := h.Output(f.ctx, "dpkg-query", "-W", "-f", "${Version} ${Status}", "myapp")
	if err != nil {
		return s, err
	}
	s.Package = text
	props, err := h.Props(f.ctx, unit, "MainPID", "NRestarts", "ActiveState")
	if err != nil {
		return s, err
	}
	if props["ActiveState"] != "active" {
		return s, fmt.Errorf("%s is %s", unit, props["ActiveState"])
	}
	s.PID, _ = strconv.Atoi(props["MainPID"])
	s.Restarts, _ = strconv.Atoi(props["NRestarts"])
	text, err = h.Output(f.ctx, "holdfast", "status", "--json=short", "--timeout=1m", unit)
	if err != nil {
		return s, err
	}
	var status control.Status
	if err := json.Unmarshal([]byte(text), &status); err != nil {
		return s, fmt.Errorf("holdfast status: %w: %s", err, text)
	}
	if status.PID != s.PID {
		return s, fmt.Errorf("systemd has main process %d, and %d answers", s.PID, status.PID)
	}
	s.Serves = status.Version
	text, err = h.Output(f.ctx, "cat", "/var/log/dpkg.log")
	s.DpkgLog = text
	return s, err
}

// states returns the state of every host by its name.
func (f *fleet) states() map[string]state {
	f.t.Helper()
	all := make([]state, len(f.hosts))
	f.each("state", func(h *host) (err error) {
		all[f.index(h)], err = f.state(h)
		return err
	})
	states := make(map[string]state, len(all))
	for i, h := range f.hosts {
		states[h.name] = all[i]
	}
	return states
}

func (f *fleet) index(h *host) int {
	for i := range f.hosts {
		if f.hosts[i] == h {
			return i
		}
	}
	panic(h.name + " is not in the fleet")
}

// mustServe says that a host has this version, as a package and as a process, that it came to it without a restart,
// and that dpkg has nothing left to do.
func (f *fleet) mustServe(h *host, r packages.Release) {
	f.t.Helper()
	s, err := f.state(h)
	if err != nil {
		f.t.Errorf("%s: %v", h.name, err)
		return
	}
	installed, status, _ := strings.Cut(s.Package, " ")
	if installed != r.Version || status != "install ok installed" || s.Serves != r.Version || s.Restarts != 0 {
		f.t.Errorf("%s: package %s, %s serves, %d restarts; want %s everywhere", h.name, s.Package, s.Serves, s.Restarts, r.Version)
	}
	if audit, err := h.Output(f.ctx, "dpkg", "--audit"); err != nil || audit != "" {
		f.t.Errorf("%s: dpkg --audit: %q (%v)", h.name, audit, err)
	}
}

// A traffic is requests through the load balancer and straight to each host, of every kind.
type traffic struct {
	f        *fleet
	balanced *vmtests.Load
	straight map[string]*vmtests.Load // by host
}

// startTraffic starts the requests, and returns once each kind is answered.
func (f *fleet) startTraffic() *traffic {
	f.t.Helper()
	start := func(url string, workers int) *vmtests.Load {
		f.t.Helper()
		l, err := f.controller.StartLoad(f.ctx, vmtests.LoadOptions{
			URL: url + "/echo", New: workers, KeepAlive: workers, Transport: workers, Think: 100 * time.Millisecond, Timeout: 15 * time.Second,
		})
		if err != nil {
			f.t.Fatal(err)
		}
		return l
	}
	tr := &traffic{f: f, straight: make(map[string]*vmtests.Load)}
	tr.balanced = start("http://"+controllerAddress+":80", 2)
	for _, h := range f.hosts {
		tr.straight[h.name] = start(h.url(), 1)
	}
	return tr
}

// stop ends the requests and fails for each that failed.
func (tr *traffic) stop() {
	tr.f.t.Helper()
	stop := func(name string, l *vmtests.Load) vmtests.LoadSummary {
		tr.f.t.Helper()
		s, err := l.Stop(tr.f.ctx)
		if err != nil {
			tr.f.t.Fatal(err)
		}
		tr.f.t.Logf("clients of %s: %d requests, %d failed, longest gap %v", name, s.OK+s.Failed, s.Failed, s.LongestGap.Duration.Round(time.Millisecond))
		return s
	}
	s := stop("the load balancer", tr.balanced)
	if text := s.FailureText(10); text != "" {
		tr.f.t.Errorf("through the load balancer: %s", text)
	}
	for _, h := range tr.f.hosts {
		s := stop(h.name, tr.straight[h.name])
		if text := s.FailureText(10); text != "" {
			tr.f.t.Errorf("straight to %s: %s", h.name, text)
		}
	}
}

// mustBalance says that the load balancer sends requests to every host.
func (f *fleet) mustBalance() {
	f.t.Helper()
	// The second column is the server, the 18th its status.
	table := f.run("sh", "-c", "echo show stat fleet 4 -1 | socat - /run/haproxy/admin.sock")
	for _, h := range f.hosts {
		if !regexp.MustCompile(`(?m)^fleet,` + h.name + `,(?:[^,]*,){15}UP,`).MatchString(table) {
			f.t.Errorf("haproxy sends no requests to %s:\n%s", h.name, table)
		}
	}
}
