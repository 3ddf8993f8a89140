// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/reexectest"
)

func TestMain(m *testing.M) {
	reexectest.Main(m, func() {
		if v := reexectest.InstalledVersion(); v != "" {
			version = v
		}
		main()
	})
}

const (
	program  = "/usr/bin/ledger"
	patience = 30 * time.Second
)

// service is the ledger in a test, and what its clients know.
type service struct {
	*reexectest.Unit
	t        *testing.T
	told     []string // entries that were confirmed
	requests uint64
}

func start(t *testing.T, systemd int, probation time.Duration) *service {
	t.Helper()
	return &service{t: t, Unit: reexectest.Start(t, reexectest.Options{
		Units: "systemd", Systemd: systemd,
		Programs: map[string]reexectest.Program{program: reexectest.Version("1.0")},
		Files: map[string]string{"ledger.service.d/test.conf": fmt.Sprintf(
			"[Service]\nExecStart=\nExecStart=%s -probation=%v\nRestartSec=10ms\n", program, probation)},
	})}
}

// ask makes a request on a connection of its own.
func (s *service) ask(method, body string) []byte {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.Addr("http"), strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		s.t.Fatalf("%s: %s %q, %v", method, response.Status, text, err)
	}
	s.requests++
	return text
}

// add has an entry confirmed.
func (s *service) add() {
	s.t.Helper()
	text := fmt.Sprintf("entry %d", len(s.told))
	s.ask(http.MethodPost, text)
	s.told = append(s.told, text)
}

// check sees whether this version has all that was confirmed, and returns who
// answered.
func (s *service) check(version string, crashed bool) answer {
	s.t.Helper()
	var a answer
	if err := json.Unmarshal(s.ask(http.MethodGet, ""), &a); err != nil {
		s.t.Fatal(err)
	}
	if a.Version != version {
		s.t.Errorf("version %q answers, want %q", a.Version, version)
	}
	for i, want := range s.told {
		if i >= len(a.Entries) || a.Entries[i].Text != want {
			s.t.Errorf("version %s has %q; %q were confirmed", version, a.Entries, s.told)
			break
		}
	}
	if !crashed && a.Requests != s.requests {
		s.t.Errorf("version %s has counted %d requests, there were %d", version, a.Requests, s.requests)
	}
	s.requests = a.Requests
	return a
}

// to upgrades, and fails the test if that does not end as it should.
func (s *service) to(version string, ok bool) {
	s.t.Helper()
	if err := s.Install(program, reexectest.Version(version)); err != nil {
		s.t.Fatal(err)
	}
	old, began := s.MainPID(), time.Now()
	err := s.Reload(s.t.Context())
	if (err == nil) != ok {
		s.t.Fatalf("upgrade to %s: %v", version, err)
	}
	if ok {
		// What is counted at its end has arrived then.
		for !slices.ContainsFunc(s.Deaths(), func(d reexectest.Death) bool { return d.PID == old }) {
			if time.Since(began) > patience {
				s.t.Fatalf("PID %d does not end", old)
			}
			time.Sleep(time.Millisecond)
		}
	}
}

func (s *service) waitFor(text string, holds func(reexectest.Properties) bool) {
	s.t.Helper()
	if err := s.WaitFor(s.t.Context(), reexectest.Condition{Text: text, Holds: holds}); err != nil {
		s.t.Fatal(err)
	}
}

// crash kills main and returns when the service is up again.
func (s *service) crash() {
	s.t.Helper()
	old := s.MainPID()
	if err := s.Signal(old, syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	s.waitFor("another main process", func(p reexectest.Properties) bool {
		return p.ActiveState == "active" && p.MainPID != 0 && p.MainPID != old
	})
}

func TestNothingThatWasConfirmedIsLost(t *testing.T) {
	t.Parallel()
	for _, systemd := range []int{252, 257, 262} {
		t.Run(fmt.Sprint(systemd), func(t *testing.T) {
			t.Parallel()
			s := start(t, systemd, 50*time.Millisecond)
			s.add()
			s.check("1.0", false)
			s.crash()
			s.check("1.0", true)
			s.to("1.1", true)
			s.check("1.1", false)
			s.add()
			s.to("1.2-ill", false)
			s.check("1.1", false)
			s.add()
			// Another format, and back by a crash: each version has its own frame.
			s.to("2.0", true)
			old := s.told
			s.check("2.0", false)
			s.add()
			s.crash()
			if a := s.check("2.0", true); a.Entries[len(old)].By != "2.0" {
				t.Errorf("format 2 has lost who it was by: %q", a.Entries)
			}
			if err := s.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.check("2.0", false) // a stop commits all states
			if err := s.Install(program, reexectest.Version("1.1")); err != nil {
				t.Fatal(err)
			}
			s.crash()
			all := s.told
			s.told = old
			if a := s.check("1.1", true); len(a.Entries) != len(old) {
				t.Errorf("format 1 has %q, its own last ones are %q", a.Entries, old)
			}
			if err := s.Install(program, reexectest.Version("2.0")); err != nil {
				t.Fatal(err)
			}
			s.crash()
			s.told = all
			s.check("2.0", true)
		})
	}
}

// The predecessor is killed while its successor is on trial: that has all.
func TestOrphanHasAllThatWasConfirmed(t *testing.T) {
	t.Parallel()
	s := start(t, 257, 20*time.Second)
	s.add()
	// On this connection the old version still answers, and confirms.
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Timeout: patience, Transport: transport}
	confirm := func() {
		t.Helper()
		text := fmt.Sprintf("entry %d", len(s.told))
		response, err := client.Post("http://"+s.Addr("http"), "text/plain", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		if err := response.Body.Close(); err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("%s, %v", response.Status, err)
		}
		s.told = append(s.told, text)
	}
	confirm()
	if err := s.Install(program, reexectest.Version("1.1")); err != nil {
		t.Fatal(err)
	}
	old := s.MainPID()
	reloaded := make(chan error, 1)
	go func() { reloaded <- s.Reload(t.Context()) }()
	if _, err := s.WaitForJournal(t.Context(), "starting -> probation"); err != nil {
		t.Fatal(err)
	}
	confirm()
	confirm()
	if err := s.Signal(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-reloaded; err != nil {
		t.Errorf("reload: %v", err)
	}
	s.waitFor("the successor to be main", func(p reexectest.Properties) bool { return p.MainPID != old && p.MainPID != 0 })
	// Main may read what it got at the handover until it has loaded the last word of
	// its predecessor. Whoever writes waits for that.
	s.add()
	s.check("1.1", true)
	s.crash()
	s.check("1.1", true)
}

// A rollback after the verdict takes the older format back to its own last frame, and
// the way forth again begins with what that has written since.
func TestRollbackToAnOlderFormat(t *testing.T) {
	t.Parallel()
	s := &service{t: t, Unit: reexectest.Start(t, reexectest.Options{
		Units: "systemd", Programs: map[string]reexectest.Program{program: reexectest.Version("1.0")},
		Files: map[string]string{"ledger.service.d/test.conf": "[Service]\nStateDirectory=ledger.holdfast\nExecStart=\n" +
			"ExecStart=/usr/bin/holdfast launch --state=%S/ledger.holdfast -- " + program + " -probation=50ms\nRestartSec=10ms\n"},
	})}
	good := func(version string) {
		t.Helper()
		if _, err := s.WaitForJournal(t.Context(), "this version is the last good one version="+version+" "); err != nil {
			t.Fatal(err)
		}
	}
	client := control.NewClient(s.Path("/run/ledger/control.sock"))
	rollBack := func() {
		t.Helper()
		v, err := client.Rollback(t.Context(), "format 2 is slow", nil)
		if err != nil || v.Outcome != control.Upgraded {
			t.Fatalf("%+v, %v", v, err)
		}
	}
	good("1.0")
	s.add()
	s.to("2.0", true)
	good("2.0")
	old := s.told
	s.add()
	if a := s.check("2.0", false); a.Entries[len(old)].By != "2.0" {
		t.Errorf("format 2 does not say who it was by: %q", a.Entries)
	}
	rollBack()
	s.told = old
	if a := s.check("1.0", true); len(a.Entries) != len(old) {
		t.Errorf("format 1 has %q, its own last ones are %q", a.Entries, old)
	}
	s.add()
	s.crash()
	s.check("1.0", true)
	s.add()
	rollBack()
	s.check("2.0", true)
}
