// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
)

const serverUnit = `[Service]
Type=notify
ExecStart=/usr/bin/server
DynamicUser=yes
`

// smoke is the story that shows that a lane works: a service under systemd, load on it, and the load
// generator finds what the service breaks, no less and no more.
func smoke(t *testing.T, m *vmtests.Machine) {
	ctx := t.Context()
	server, err := vmtests.Build(ctx, t.TempDir(), "./testdata/server")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Copy(ctx, server, "/usr/bin/server", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := m.WriteFile(ctx, "/etc/systemd/system/server.service", []byte(serverUnit), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := m.Run(ctx, "systemctl", "start", "server"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		// The next story in the same machine needs the port.
		if err := m.Run(ctx, "systemctl", "stop", "server"); err != nil {
			t.Error(err)
		}
	}()
	pid, err := m.MainPID(ctx, "server.service")
	if err != nil {
		t.Fatal(err)
	}
	const keepAlive = 3
	l, err := m.StartLoad(ctx, vmtests.LoadOptions{
		URL: "http://127.0.0.1:8080/", New: 1, KeepAlive: keepAlive, Transport: 1, Connect: 1, Think: 5 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.WaitVersion(ctx, "1", 100); err != nil {
		t.Fatal(err)
	}
	calm, err := l.Mark(ctx, "calm")
	if err != nil {
		t.Fatal(err)
	}
	if calm.Failed != 0 || calm.OK < 100 {
		t.Errorf("mark: got %d ok, %d failed, want 100 or more and none", calm.OK, calm.Failed)
	}
	if err := m.Kill(ctx, pid, "USR2"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.WaitOK(ctx, 100); err != nil {
		t.Fatal(err)
	}
	s, err := l.Stop(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// Every worker that keeps a connection has lost it once; the others may have lost one.
	if s.Failed < keepAlive || s.Failed > keepAlive+2 {
		t.Errorf("got %d failures, want %d to %d: %s", s.Failed, keepAlive, keepAlive+2, s.FailureText(10))
	}
	for _, f := range s.Failures {
		if f.Start < s.Marks[0].At-int64(time.Second) {
			t.Errorf("failure before the connections were closed: %+v", f)
		}
	}
	if len(s.Served) != 1 || s.Served[0].PID != pid || s.Served[0].Version != "1" {
		t.Errorf("served by %+v, want PID %d of version 1", s.Served, pid)
	}
	entries, err := m.Entries(ctx, "--unit=server.service", "_PID="+strconv.Itoa(pid))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].PID() != pid || entries[0].Unit() != "server.service" {
		t.Errorf("journal of the server: got %+v, want one entry of PID %d", entries, pid)
	}
}

func TestSmokeInContainers(t *testing.T) { everyVersion(t, smoke) }

// The load generator also serves outside of machines, and needs no root there.
func TestLoadOutsideOfMachines(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body) // an error is the client's
	}))
	defer server.Close()
	options := vmtests.LoadOptions{URL: server.URL, New: 1, KeepAlive: 1, Think: time.Millisecond, Results: true}
	l, err := vmtests.StartLoad(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.WaitOK(t.Context(), 50); err != nil {
		t.Fatal(err)
	}
	mark, err := l.Mark(t.Context(), "half")
	if err != nil || mark.OK < 50 || mark.Failed != 0 || len(l.Results(0)) < mark.OK {
		t.Errorf("mark: got %+v (%v) and %d results, want 50 or more and none failed", mark, err, len(l.Results(0)))
	}
	summary, err := l.Stop(t.Context())
	if err != nil || summary.OK < mark.OK || summary.Failed != 0 || len(l.Results(0)) != summary.OK {
		t.Errorf("summary: got %d ok, %d failed (%v) and %d results", summary.OK, summary.Failed, err, len(l.Results(0)))
	}

	// The end of the context ends the load.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l, err = vmtests.StartLoad(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := l.WaitOK(t.Context(), 1<<30); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("wait on a load that was ended: got %v, want to hear that it has ended", err)
	}
}
