// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// stored are the names in the store.
func (r *running) stored() []string {
	r.t.Helper()
	var names []string
	for _, e := range r.call(wire.Request{Verb: wire.FDStore}).Store {
		names = append(names, e.Name)
	}
	return names
}

const storingUnit = `
[Service]
Type=notify
NotifyAccess=all
FileDescriptorStoreMax=8
ExecStart=/usr/bin/tool env:%t/env links:%t/links print:started notify:READY=1 hangup store:a store:b store:c barrier print:stored wait
`

func TestStoreAcrossStarts(t *testing.T) {
	r := runUnits(t, wire.Config{}, "a.service", storingUnit, "a.socket", "[Socket]\nListenStream=@a\nListenDatagram=@b\nFileDescriptorName=sock\n")
	r.socketJob(wire.Start, "a.socket", wire.Done)
	r.job(wire.Start, wire.Done)
	if env := r.environ("run/env"); env["LISTEN_FDS"] != "2" || env["LISTEN_FDNAMES"] != "sock:sock" {
		t.Errorf("environment is %v", env)
	}
	r.call(wire.Request{Verb: wire.Kill, Whom: wire.MainProcess, Signal: unix.SIGHUP})
	r.untilLine("stored")
	if got := r.stored(); !slices.Equal(got, []string{"c", "b", "a"}) {
		t.Errorf("stored are %q", got)
	}
	if e := r.call(wire.Request{Verb: wire.FDStore}).Store[0]; e.Inode == 0 || e.Mode&unix.S_IFMT != unix.S_IFREG || !strings.HasPrefix(e.Path, "/memfd:c") {
		t.Errorf("the entry is %+v", e)
	}

	// A restart passes them after the sockets, newest first.
	r.job(wire.Restart, wire.Done)
	if env := r.environ("run/env"); env["LISTEN_FDS"] != "5" || env["LISTEN_FDNAMES"] != "sock:sock:c:b:a" {
		t.Errorf("environment is %v", env)
	}
	links := strings.Split(r.file("run/links"), "\n")
	if len(links) < 8 || !strings.Contains(links[3], "socket:") || !strings.Contains(links[5], "/memfd:c") || !strings.Contains(links[7], "/memfd:a") {
		t.Errorf("descriptors are\n%s", strings.Join(links, "\n"))
	}

	// Each daemon-reload turns them round; one that lowers the limit keeps the newest.
	for _, want := range [][]string{{"a", "b", "c"}, {"c", "b", "a"}} {
		r.call(wire.Request{Verb: wire.DaemonReload})
		if got := r.stored(); !slices.Equal(got, want) {
			t.Errorf("stored are %q, want %q", got, want)
		}
	}
	lower := strings.Replace(storingUnit, "Max=8", "Max=1", 1)
	r.call(wire.Request{Verb: wire.DaemonReload, Files: []wire.File{
		{Name: "a.service", Text: lower}, {Name: "a.socket", Text: "[Socket]\nListenStream=@a\nListenDatagram=@b\nFileDescriptorName=sock\n"},
	}})
	if got := r.stored(); !slices.Equal(got, []string{"c"}) {
		t.Errorf("stored are %q, want the newest", got)
	}
	if p := r.show(); p.NFileDescriptorStore != 1 || p.FileDescriptorStoreMax != 1 {
		t.Errorf("properties are %+v", p)
	}

	// A stop drops all.
	r.job(wire.Stop, wire.Done)
	if got := r.stored(); got != nil {
		t.Errorf("stored are %q", got)
	}
}

// A hang-up is noticed when it happens.
func TestStoreDropsAtHangUp(t *testing.T) {
	r := runUnits(t, wire.Config{}, "a.service", `
[Service]
Type=notify
FileDescriptorStoreMax=8
ExecStart=/usr/bin/tool pipe:p store:m notify:READY=1 hangup
Restart=always
`)
	r.job(wire.Start, wire.Done)
	if got := r.stored(); !slices.Equal(got, []string{"m", "p"}) {
		t.Errorf("stored are %q", got)
	}
	// The writing end of the pipe ends with the process.
	r.call(wire.Request{Verb: wire.Kill, Whom: wire.MainProcess, Signal: unix.SIGKILL})
	r.until("the hang-up", func(e *wire.Event) bool {
		return e.Kind == wire.PropertiesChanged && e.Properties.NFileDescriptorStore == 1
	})
	r.untilLine(`"p" reports an error or a hang-up`)
	if got := r.stored(); !slices.Contains(got, "m") || len(got) > 3 {
		t.Errorf("stored are %q", got)
	}
}

func TestStoreIsPinned(t *testing.T) {
	r := runUnits(t, wire.Config{}, "a.service", `
[Service]
Type=notify
FileDescriptorStoreMax=8
FileDescriptorStorePreserve=yes
ExecStart=/usr/bin/tool env:%t/env store:m notify:READY=1 wait
`)
	r.job(wire.Start, wire.Done)
	var refused *wire.Error
	if _, err := r.client.Call(t.Context(), wire.Request{Verb: wire.Clean, What: []string{"fdstore"}}); !errors.As(err, &refused) || refused.Name != wire.ErrUnitBusy {
		t.Errorf("clean while it runs: %v", err)
	}
	r.job(wire.Stop, wire.Done)
	if p := r.show(); p.ActiveState != "inactive" || p.SubState != "dead-resources-pinned" || p.NFileDescriptorStore != 1 {
		t.Errorf("properties are %+v", p)
	}
	r.job(wire.Start, wire.Done)
	if env := r.environ("run/env"); env["LISTEN_FDNAMES"] != "m" {
		t.Errorf("environment is %v", env)
	}
	r.job(wire.Stop, wire.Done)
	r.call(wire.Request{Verb: wire.Clean, What: []string{"fdstore"}})
	if p := r.show(); p.SubState != "dead" || p.NFileDescriptorStore != 0 {
		t.Errorf("properties are %+v", p)
	}
}

func TestNoStore(t *testing.T) {
	r := runUnits(t, wire.Config{}, "a.service", "[Service]\nType=notify\nExecStart=/usr/bin/tool store:m notify:READY=1 wait\n")
	r.job(wire.Start, wire.Done)
	var refused *wire.Error
	if _, err := r.client.Call(t.Context(), wire.Request{Verb: wire.FDStore}); !errors.As(err, &refused) || refused.Name != wire.ErrFDStoreDisabled {
		t.Errorf("got %v", err)
	}
}
