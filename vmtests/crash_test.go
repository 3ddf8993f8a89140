// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/vmtests"
)

const memoUnit = "memo.service"

// memo is the example of a service without a socket unit, in one machine. It
// binds its sockets itself.
type memo struct{ *myapp }

// startMemo starts it; more is added to the section [Service].
func startMemo(t *testing.T, v vmtests.Version, more string) *memo {
	t.Helper()
	m := &memo{&myapp{Machine: vmtests.BootTest(t, v), t: t, ctx: t.Context()}}
	m.copy(program(t, "github.com/holdfast-go/holdfast/reexec/reexectest/examples/crash", build{}), "/usr/bin/memo", 0o755)
	unit, err := os.ReadFile("../reexec/reexectest/examples/crash/systemd/memo.service")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.WriteFile(m.ctx, "/etc/systemd/system/memo.service", unit, 0o644); err != nil {
		t.Fatal(err)
	}
	m.configure("7080", more)
	m.systemctl("start", memoUnit)
	return m
}

// configure says on which port it listens.
func (m *memo) configure(port, more string) {
	m.t.Helper()
	text := fmt.Sprintf("[Service]\nExecStart=\nExecStart=/usr/bin/memo -http=127.0.0.1:%s -talk=tcp:127.0.0.1:7070\n%s\n", port, more)
	if err := m.WriteFile(m.ctx, "/etc/systemd/system/memo.service.d/test.conf", []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
	m.systemctl("daemon-reload")
}

// ask makes a request and returns the body.
func (m *memo) ask(port, method, path, body string) string {
	m.t.Helper()
	return m.run("bash", "-c", fmt.Sprintf(
		`exec 3<>/dev/tcp/127.0.0.1/%s; printf '%s %s HTTP/1.0\r\nHost: test\r\nContent-Length: %d\r\n\r\n%s' >&3; cat <&3 | sed '1,/^\r$/d'`,
		port, method, path, len(body), body))
}

func (m *memo) memoStatus(port string) (st control.Status) {
	m.t.Helper()
	text := m.ask(port, "GET", "/status", "")
	if err := json.Unmarshal([]byte(text), &st); err != nil {
		m.t.Fatalf("%v: %q", err, text)
	}
	return st
}

func (m *memo) memoProp(name string) string {
	m.t.Helper()
	value, err := m.Prop(m.ctx, memoUnit, name)
	if err != nil {
		m.t.Fatal(err)
	}
	return value
}

// stored waits until the fd store has this many entries: systemd does not say when
// that changes.
func (m *memo) stored(n int) {
	m.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		got := m.memoProp("NFileDescriptorStore")
		if got == fmt.Sprint(n) {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("NFileDescriptorStore=%s, want %d", got, n)
		}
	}
}

// crash kills the service and returns when it runs again.
func (m *memo) crash() {
	m.t.Helper()
	before := m.memoProp("NRestarts")
	m.systemctl("kill", "-s", "KILL", memoUnit)
	_, err := m.WaitProps(m.ctx, memoUnit, []string{"ActiveState", "SubState", "NRestarts"}, func(p map[string]string) bool {
		return p["SubState"] == "running" && p["NRestarts"] != before
	})
	if err != nil {
		m.t.Fatal(err)
	}
}

func memoOrigins(st control.Status) string {
	var all []string
	for _, l := range st.Listeners {
		all = append(all, l.Name+" "+l.Origin)
	}
	return strings.Join(all, ", ")
}

// Promise 4 without a socket unit: kill -9 loses no socket that the service has
// bound, nothing that it keeps, and no connection that it has chosen. The order of
// the store, which each daemon-reload reverses, is of no account.
func TestCrashLosesNothing(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startMemo(t, v, "")
		m.stored(3)
		m.ask("7080", "PUT", "/memo/a", "first")
		m.ask("7080", "PUT", "/memo/a", "second")
		m.ask("7080", "PUT", "/memo/b", "other")
		m.ask("7080", "DELETE", "/memo/b", "")
		m.stored(4)
		questions, in := io.Pipe()
		out, answers := io.Pipe()
		p, err := m.Start(m.ctx, vmtests.Command{
			Args:  []string{"bash", "-c", `exec 3<>/dev/tcp/127.0.0.1/7070; cat <&3 & exec cat >&3`},
			Stdin: questions, Stdout: answers,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _, _ = in.Close(), out.Close(), p.Wait() })
		lines := bufio.NewScanner(out)
		say := func(text string) string {
			t.Helper()
			if _, err := fmt.Fprintln(in, text); err != nil || !lines.Scan() {
				t.Fatalf("%q: %v, %v", text, err, lines.Err())
			}
			return lines.Text()
		}
		say("zero")
		m.stored(5)
		for i := range 4 {
			if i%2 == 1 {
				m.systemctl("daemon-reload")
			}
			m.crash()
			st := m.memoStatus("7080")
			if got := memoOrigins(st); got != "http fd store, talk fd store, echo fd store" {
				t.Errorf("crash %d: %s", i, got)
			}
			if got := m.ask("7080", "GET", "/memo/a", ""); got != "second" {
				t.Errorf("crash %d: memo %q", i, got)
			}
			if got, want := say(fmt.Sprint("line ", i)), fmt.Sprintf("line %d %d", i, st.PID); got != want {
				t.Errorf("crash %d: %q, want %q", i, got, want)
			}
			if st.Store.Warning != "" {
				t.Errorf("crash %d: %s", i, st.Store.Warning)
			}
			m.stored(5)
		}
		// The connection is the service's to close, and systemd's copy goes with it.
		m.systemctl("restart", memoUnit)
		m.stored(5)
		if got := memoOrigins(m.memoStatus("7080")); got != "http fd store, talk fd store, echo fd store" {
			t.Errorf("after a restart: %s", got)
		}
		m.systemctl("stop", memoUnit)
		m.stored(0)
	})
}

// An address that is no longer wanted is closed and removed, a new one is bound
// and stored.
func TestChangedAddressAfterCrash(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startMemo(t, v, "")
		m.stored(3)
		m.configure("7081", "")
		m.crash()
		m.stored(3)
		st := m.memoStatus("7081")
		if got := memoOrigins(st); got != "http bound, talk fd store, echo fd store" {
			t.Error(got)
		}
		if !slices.ContainsFunc(st.Store.Entries, func(e control.StoreEntry) bool {
			return strings.HasPrefix(e.Name, "bound/http/tcp/127.0.0.1%3A7081@")
		}) {
			t.Errorf("entries %+v", st.Store.Entries)
		}
		if m.Run(m.ctx, "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/7080") == nil {
			t.Error("the old address is still listened on")
		}
	})
}

// systemd never says that the store is full. The service knows each time: what it
// says is stored is stored, and what it says is not is not.
func TestFullStore(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startMemo(t, v, "FileDescriptorStoreMax=5")
		m.stored(3)
		for i := range 2 {
			if got := m.ask("7080", "PUT", fmt.Sprintf("/memo/%d", i), "text"); got != "" {
				t.Errorf("memo %d: %s", i, got)
			}
		}
		const tries = 300
		out := m.run("bash", "-c", fmt.Sprintf(`for i in {1..%d}; do
			exec 3<>/dev/tcp/127.0.0.1/7080
			printf "PUT /memo/more-$i HTTP/1.0\r\nHost: test\r\nContent-Length: 1\r\n\r\nx" >&3
			head -1 <&3
		done | sort | uniq -c`, tries))
		if got := strings.Join(strings.Fields(out), " "); got != fmt.Sprint(tries, " HTTP/1.0 507 Insufficient Storage") {
			t.Errorf("answers: %s", got)
		}
		m.stored(5)
		st := m.memoStatus("7080")
		if want := fmt.Sprintf("set FileDescriptorStoreMax=%d or more", 5+tries+1); !strings.Contains(st.Store.Warning, want) {
			t.Errorf("warning %q, want %q", st.Store.Warning, want)
		}
		// What is replaced needs room for both; the old one stays.
		if got := m.ask("7080", "PUT", "/memo/0", "new"); !strings.Contains(got, "the fd store has no room") {
			t.Errorf("a memo that has no room: %q", got)
		}
		m.crash()
		if got := m.ask("7080", "GET", "/memo/0", ""); got != "text" {
			t.Errorf("memo %q", got)
		}
		// With one free place it can be replaced.
		m.ask("7080", "DELETE", "/memo/1", "")
		for i := range 20 {
			if got := m.ask("7080", "PUT", "/memo/0", fmt.Sprint("new ", i)); got != "" {
				t.Errorf("memo replaced: %s", got)
			}
		}
		m.stored(4)
		m.crash()
		if got := m.ask("7080", "GET", "/memo/0", ""); got != "new 19" {
			t.Errorf("memo %q", got)
		}
	})
}

// Without a store the service runs, and says what a crash would lose.
func TestNoStore(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startMemo(t, v, "FileDescriptorStoreMax=0")
		const want = "a crash would lose 3 of 3 descriptors, for which systemd's fd store has no room: set FileDescriptorStoreMax=4 or more in the .service unit"
		_, err := m.WaitProps(m.ctx, memoUnit, []string{"StatusText"}, func(p map[string]string) bool {
			return strings.HasSuffix(p["StatusText"], "the fd store does not keep all: see holdfast status")
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := m.memoStatus("7080").Store.Warning; got != want {
			t.Errorf("warning %q, want %q", got, want)
		}
		if journal, err := m.Journal(m.ctx, "-u", memoUnit); err != nil || !strings.Contains(journal, want) {
			t.Errorf("no warning in the journal: %v\n%s", err, journal)
		}
		m.crash()
		if got := memoOrigins(m.memoStatus("7080")); got != "http bound, talk bound, echo bound" {
			t.Error(got)
		}
	})
}

// A limit that was lowered closes what is beyond it. The service binds again what is
// missing, and says that there is no room.
func TestLimitLowered(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startMemo(t, v, "")
		m.stored(3)
		m.configure("7080", "FileDescriptorStoreMax=2")
		m.stored(2)
		m.crash()
		m.stored(2)
		st := m.memoStatus("7080")
		if got := strings.Count(memoOrigins(st), "fd store"); got != 2 {
			t.Error(memoOrigins(st))
		}
		for deadline := time.Now().Add(30 * time.Second); st.Store.Warning == "" && time.Now().Before(deadline); {
			st = m.memoStatus("7080")
		}
		if want := "a crash would lose 1 of 3 descriptors, for which systemd's fd store has no room: set FileDescriptorStoreMax=4 or more in the .service unit"; st.Store.Warning != want {
			t.Errorf("warning %q, want %q", st.Store.Warning, want)
		}
	})
}
