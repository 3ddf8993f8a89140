// SPDX-License-Identifier: Apache-2.0

package check_test

import (
	"context"
	"errors"
	"maps"
	"math"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/units/check"
)

// manager is systemd with the units of a test.
type manager map[string]map[string]any // "myapp.service Unit"

var errNone = errors.New("no such unit")

func (manager) Version(context.Context) (int, error) { return 257, nil }

func (m manager) Properties(_ context.Context, unit, iface string) (map[string]any, error) {
	p, ok := m[unit+" "+iface]
	if !ok {
		return nil, errNone
	}
	return p, nil
}

// started is a manager that runs the rendered myapp.
func started(t *testing.T) (manager, fstest.MapFS) {
	t.Helper()
	root := rendered(t, kinds()["257 overlap"], nil).(fstest.MapFS)
	for _, f := range root {
		f.ModTime = time.Unix(1000, 0)
	}
	return manager{
		"myapp.service Unit": {
			"Id": "myapp.service", "LoadState": "loaded", "ActiveState": "active", "SubState": "running",
			"FragmentPath": "/" + unitDir + "myapp.service", "DropInPaths": []string{}, "TriggeredBy": []string{"myapp.socket", "myapp.timer"},
			"NeedDaemonReload": false, "InactiveExitTimestamp": uint64(2000 * 1e6),
			"StartLimitIntervalUSec": uint64(0), "StartLimitBurst": uint32(5),
		},
		"myapp.service Service": {
			"Type": "notify", "NotifyAccess": "main", "KillMode": "control-group", "SendSIGKILL": true, "OOMPolicy": "continue",
			"PIDFile": "/run/myapp/main.pid", "FileDescriptorStoreMax": uint32(64), "NFileDescriptorStore": uint32(3),
			"TimeoutStartUSec": uint64(90 * 1e6), "TimeoutStopUSec": uint64(60 * 1e6), "WatchdogUSec": uint64(30 * 1e6),
			"Restart": "on-failure", "RestartUSec": uint64(500 * 1e3), "RuntimeDirectory": []string{"myapp"}, "RuntimeDirectoryMode": uint32(0o755),
			"RuntimeDirectoryPreserve": "no", "DynamicUser": true, "User": "myapp", "NoNewPrivileges": true, "Delegate": false, "PrivatePIDs": "no",
			"TasksMax": uint64(4915), "TasksCurrent": uint64(9), "MemoryMax": uint64(math.MaxUint64), "MemoryHigh": uint64(math.MaxUint64), "MemoryCurrent": uint64(20 << 20),
			"LimitNPROCSoft": uint64(62000), "MainPID": uint32(77), "FileDescriptorStorePreserve": "restart", "ExitType": "main", "RemainAfterExit": false,
		},
		"myapp.socket Unit": {
			"Id": "myapp.socket", "LoadState": "loaded", "ActiveState": "active", "SubState": "running",
			"FragmentPath": "/" + unitDir + "myapp.socket", "NeedDaemonReload": false,
		},
		"myapp.socket Socket": {
			"Accept": false, "ReusePort": false, "FlushPending": false, "RemoveOnStop": false,
			"TriggerLimitIntervalUSec": uint64(0), "TriggerLimitBurst": uint32(20),
		},
	}, root
}

// TestRunning: what systemd has in force counts, with the place in the files where there is one.
func TestRunning(t *testing.T) {
	for name, c := range map[string]struct {
		change func(m manager, root fstest.MapFS)
		want   string // level option file:line found; empty for nothing
		why    string // is part of the reason
	}{
		"as rendered": {},
		"set elsewhere": {
			change: func(m manager, _ fstest.MapFS) { m["myapp.service Service"]["KillMode"] = "mixed" },
			want:   "error KillMode /" + unitDir + "myapp.service KillMode=mixed",
		},
		"a default of system.conf": {
			change: func(m manager, root fstest.MapFS) {
				unset(root, "TimeoutStartSec=")
				m["myapp.service Service"]["TimeoutStartUSec"] = uint64(20 * 1e6)
			},
			want: "error TimeoutStartSec /" + unitDir + "myapp.service TimeoutStartSec=20s",
		},
		"too many tasks": {
			change: func(m manager, _ fstest.MapFS) {
				m["myapp.service Service"]["TasksMax"], m["myapp.service Service"]["TasksCurrent"] = uint64(100), uint64(60)
			},
			want: "error TasksMax /" + unitDir + "myapp.service TasksMax=100", why: "60 tasks run",
		},
		"enough for those that run": {
			change: func(m manager, root fstest.MapFS) { m["myapp.service Service"]["TasksMax"] = uint64(40) },
		},
		"memory for one": {
			change: func(m manager, _ fstest.MapFS) { m["myapp.service Service"]["MemoryMax"] = uint64(30 << 20) },
			want:   "warning MemoryMax /" + unitDir + "myapp.service MemoryMax=31457280", why: "has 20 MiB",
		},
		"a full store": {
			change: func(m manager, _ fstest.MapFS) { m["myapp.service Service"]["NFileDescriptorStore"] = uint32(64) },
			want:   "warning FileDescriptorStoreMax /" + unitDir + "myapp.service FileDescriptorStoreMax=64", why: "keeps 64",
		},
		"many descriptors": {
			change: func(_ manager, root fstest.MapFS) {
				for _, fd := range strings.Fields("0 1 2 3 4 5 6 7 8 9") {
					root["proc/77/fd/"+fd] = &fstest.MapFile{}
				}
				root["proc/77/limits"] = &fstest.MapFile{Data: []byte("Max processes 1 1 processes\nMax open files            16                 20          files\n")}
			},
			want: "warning LimitNOFILE /" + unitDir + "myapp.service ", why: "10 descriptors are open and 16 allowed",
		},
		"files that systemd has not read": {
			change: func(m manager, _ fstest.MapFS) { m["myapp.socket Unit"]["NeedDaemonReload"] = true },
			want:   "warning NeedDaemonReload  ", why: "myapp.socket",
		},
		"a file newer than the service": {
			change: func(_ manager, root fstest.MapFS) { root[unitDir+"myapp.service"].ModTime = time.Unix(3000, 0) },
			want:   "note RestartPending /" + unitDir + "myapp.service ",
		},
		"not running": {
			change: func(m manager, _ fstest.MapFS) {
				m["myapp.service Unit"]["ActiveState"], m["myapp.service Unit"]["SubState"] = "failed", "failed"
			},
			want: "note ActiveState  ActiveState=failed (failed)",
		},
		"a drop-in": {
			change: func(m manager, root fstest.MapFS) {
				root["etc/systemd/system/myapp.service.d/a.conf"] = &fstest.MapFile{Data: []byte("[Service]\n\nSendSIGKILL=no\n"), ModTime: time.Unix(1000, 0)}
				m["myapp.service Unit"]["DropInPaths"] = []string{"/etc/systemd/system/myapp.service.d/a.conf"}
				m["myapp.service Service"]["SendSIGKILL"] = false
			},
			want: "warning SendSIGKILL /etc/systemd/system/myapp.service.d/a.conf SendSIGKILL=no",
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, root := started(t)
			if c.change != nil {
				c.change(m, root)
			}
			r, err := check.Running(t.Context(), m, root, "myapp", check.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if !r.Running || r.Mode != units.Overlap || r.Systemd != 257 {
				t.Errorf("running %v, mode %q, systemd %d; want true, overlap, 257", r.Running, r.Mode, r.Systemd)
			}
			var got, why string
			for _, f := range r.Findings {
				got += string(f.Level) + " " + f.Option + " " + f.File + " " + f.Found
				why = f.Why
			}
			if got != c.want || !strings.Contains(why, c.why) {
				t.Errorf("got %q, want %q because %q\n%s", got, c.want, c.why, text(r))
			}
		})
	}
}

func unset(root fstest.MapFS, prefix string) {
	f := root[unitDir+"myapp.service"]
	var kept strings.Builder
	for line := range strings.Lines(string(f.Data)) {
		if !strings.HasPrefix(line, prefix) {
			kept.WriteString(line)
		}
	}
	f.Data = []byte(kept.String())
}

func TestRunningFaults(t *testing.T) {
	m, root := started(t)
	if _, err := check.Running(t.Context(), m, root, "other", check.Options{}); !errors.Is(err, errNone) {
		t.Errorf("another unit: got %v, want the error of systemd", err)
	}
	for state, masked := range map[string]string{"not-found": "", "masked": "/" + unitDir + "myapp.service"} {
		m := maps.Clone(m)
		m["myapp.service Unit"] = maps.Clone(m["myapp.service Unit"])
		m["myapp.service Unit"]["LoadState"] = state
		var none *check.NotFoundError
		if _, err := check.Running(t.Context(), m, root, "myapp", check.Options{}); !errors.As(err, &none) || none.Masked != masked {
			t.Errorf("LoadState=%s: got %v, want a NotFoundError", state, err)
		}
	}
	delete(root, unitDir+"myapp.service")
	var file *check.FileError
	if _, err := check.Running(t.Context(), m, root, "myapp", check.Options{}); !errors.As(err, &file) {
		t.Errorf("without its file: got %v, want a FileError", err)
	}
}
