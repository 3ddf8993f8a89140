// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/reexectest"
)

func TestMain(m *testing.M) { reexectest.Main(m, main) }

const patience = 30 * time.Second

// memo is the service in a test.
type memo struct {
	*reexectest.Unit
	t         *testing.T
	web, echo string // addresses
	talk      string // path
}

// start starts it; more is added to the section [Service].
func start(t *testing.T, systemd int, more string) *memo {
	t.Helper()
	dir, err := os.MkdirTemp("", "memo") // short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m := &memo{t: t, web: reexectest.FreeAddress(), echo: reexectest.FreeAddress(), talk: filepath.Join(dir, "talk.sock")}
	m.Unit = reexectest.Start(t, reexectest.Options{
		Units: "systemd", Systemd: systemd,
		Files: map[string]string{"memo.service.d/test.conf": m.config(more)},
	})
	return m
}

func (m *memo) config(more string) string {
	return fmt.Sprintf("[Service]\nExecStart=\nExecStart=/usr/bin/memo -probation=100ms -http=%s -echo=%s -talk=unix:%s\nRestartSec=10ms\n%s\n", m.web, m.echo, m.talk, more)
}

// ask makes a request and returns the status code and the body.
func (m *memo) ask(method, path, body string) (int, string) {
	m.t.Helper()
	request, err := http.NewRequestWithContext(m.t.Context(), method, "http://"+m.web+path, strings.NewReader(body))
	if err != nil {
		m.t.Fatal(err)
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		m.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	return response.StatusCode, strings.TrimSpace(string(text))
}

func (m *memo) mustAsk(method, path, body, want string) {
	m.t.Helper()
	if code, text := m.ask(method, path, body); code != http.StatusOK || text != want {
		m.t.Errorf("%s %s: %d %q, want %q", method, path, code, text, want)
	}
}

func (m *memo) status() (st control.Status) {
	m.t.Helper()
	_, text := m.ask("GET", "/status", "")
	if err := json.Unmarshal([]byte(text), &st); err != nil {
		m.t.Fatal(err)
	}
	return st
}

// keys are what the fd store has, without sequence numbers.
func (m *memo) keys() (keys []string) {
	for _, e := range m.FDStore() {
		key, _, _ := strings.Cut(e.Name, "@")
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// settled waits until the fd store has exactly this many entries.
func (m *memo) settled(n int) {
	m.t.Helper()
	condition := reexectest.Condition{
		Text:  fmt.Sprintf("%d entries in the fd store", n),
		Holds: func(p reexectest.Properties) bool { return p.NFileDescriptorStore == n },
	}
	// What is only being stored, or is there to find out whether there is room, counts
	// for systemd and not for the service.
	for deadline := time.Now().Add(patience); ; {
		if err := m.WaitFor(m.t.Context(), condition); err != nil {
			m.t.Fatalf("%v; there are %q", err, m.keys())
		}
		if st := m.status(); st.Store != nil && len(st.Store.Entries) == n {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("the service does not know of %d entries: %+v", n, m.status().Store)
		}
	}
}

// crash kills the service and returns when systemd has started it again.
func (m *memo) crash() {
	m.t.Helper()
	before := m.MainPID()
	if err := m.Signal(before, syscall.SIGKILL); err != nil {
		m.t.Fatal(err)
	}
	m.again(before)
}

func (m *memo) again(before int) {
	m.t.Helper()
	condition := reexectest.Condition{
		Text: "another main process",
		Holds: func(p reexectest.Properties) bool {
			return p.ActiveState == "active" && p.MainPID != before && p.MainPID != 0
		},
	}
	if err := m.WaitFor(m.t.Context(), condition); err != nil {
		m.t.Fatal(err)
	}
}

// origins is where each listener comes from.
func origins(st control.Status) string {
	var all []string
	for _, l := range st.Listeners {
		all = append(all, l.Name+" "+l.Origin)
	}
	return strings.Join(all, ", ")
}

// line is one side of the conversation.
type line struct {
	net.Conn
	in *bufio.Scanner
}

func (m *memo) dial() *line {
	m.t.Helper()
	conn, err := net.Dial("unix", m.talk)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &line{conn, bufio.NewScanner(conn)}
}

// say returns what is answered.
func (m *memo) say(l *line, text string) string {
	m.t.Helper()
	if _, err := fmt.Fprintln(l, text); err != nil {
		m.t.Fatal(err)
	}
	if !l.in.Scan() {
		m.t.Fatalf("no answer to %q: %v", text, l.in.Err())
	}
	return l.in.Text()
}

// Everything is there after kill -9: what waits in the sockets, the memos, and
// the conversation.
func TestNothingIsLostToACrash(t *testing.T) {
	t.Parallel()
	for _, systemd := range []int{247, 252, 257, 262} {
		t.Run(fmt.Sprint(systemd), func(t *testing.T) {
			t.Parallel()
			m := start(t, systemd, "RestartSec=300ms")
			m.settled(3)
			if got := origins(m.status()); got != "http bound, talk bound, echo bound" {
				t.Errorf("at first: %s", got)
			}
			m.mustAsk("PUT", "/memo/a", "first", "")
			m.mustAsk("PUT", "/memo/a", "second", "")
			m.mustAsk("PUT", "/memo/b", "other", "")
			m.mustAsk("DELETE", "/memo/b", "", "")
			talk := m.dial()
			before := m.MainPID()
			if got := m.say(talk, "one"); got != fmt.Sprint("one ", before) {
				t.Errorf("answer %q", got)
			}
			m.settled(5)

			if err := m.Signal(before, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if err := m.WaitFor(t.Context(), reexectest.Condition{Text: "the death", Holds: func(p reexectest.Properties) bool { return p.MainPID != before }}); err != nil {
				t.Fatal(err)
			}
			// Nobody is there; the sockets are.
			echo, err := net.Dial("udp", m.echo)
			if err != nil {
				t.Fatal(err)
			}
			defer echo.Close()
			_ = echo.SetDeadline(time.Now().Add(patience))
			if _, err := echo.Write([]byte("while you were out")); err != nil {
				t.Fatal(err)
			}
			if got := m.say(talk, "two"); got != fmt.Sprint("two ", m.MainPID()) || m.MainPID() == before {
				t.Errorf("answer %q", got)
			}
			answer := make([]byte, 100)
			if n, err := echo.Read(answer); err != nil || string(answer[:n]) != "while you were out" {
				t.Errorf("datagram: %q, %v", answer[:n], err)
			}
			st := m.status()
			if got := origins(st); got != "http fd store, talk fd store, echo fd store" {
				t.Errorf("after the crash: %s", got)
			}
			if st.Store == nil || st.Store.Warning != "" || len(st.Store.Entries) != 5 {
				t.Errorf("status of the store: %+v", st.Store)
			}
			m.mustAsk("GET", "/memo/a", "", "second")
			if code, text := m.ask("GET", "/memo/b", ""); code != http.StatusNotFound {
				t.Errorf("a memo that was released: %d %s", code, text)
			}
			m.settled(5)

			// An upgrade hands on what was found, and a second crash finds it.
			if err := m.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
			m.settled(6) // the history of upgrades is new
			if st := m.status(); st.Generation != 2 || origins(st) != "http fd store, talk fd store, echo fd store" || len(st.Store.Entries) != 6 {
				t.Errorf("after the upgrade: %+v", st)
			}
			m.mustAsk("GET", "/memo/a", "", "second")
			m.mustAsk("PUT", "/memo/a", "third", "")
			m.settled(6)
			m.crash()
			if got := origins(m.status()); got != "http fd store, talk fd store, echo fd store" {
				t.Errorf("after the upgrade and a crash: %s", got)
			}
			m.mustAsk("GET", "/memo/a", "", "third")
			if again := m.dial(); !strings.HasPrefix(m.say(again, "three"), "three ") {
				t.Error("the conversation cannot begin anew")
			}
		})
	}
}
