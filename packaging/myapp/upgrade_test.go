// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/activation/activationtest"
	"github.com/holdfast-go/holdfast/reexec/reexectest"
	"github.com/holdfast-go/holdfast/units"
)

// The test binary stands in for myapp, in the version that was installed.
func TestMain(m *testing.M) {
	reexectest.RunService(func() {
		version = reexectest.InstalledVersion()
		main()
	})
	// Tests on the stand-in wait for processes more than they compute. The command line has the last word.
	if err := flag.Set("test.parallel", strconv.Itoa(8*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	activationtest.Main(m)
}

// onStandIn are the units that holdfast renders, and a drop-in.
func onStandIn(t *testing.T, systemd int) reexectest.Options {
	t.Helper()
	return onStandInBy(t, systemd, units.Overlap)
}

func onStandInBy(t *testing.T, systemd int, mode units.Mode) reexectest.Options {
	t.Helper()
	files, err := units.Render(units.Options{
		Name: "myapp", Exec: "/usr/bin/myapp", Systemd: systemd, Mode: mode,
		Sockets: []units.Socket{{Name: "http", Address: "127.0.0.1:8080"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	// The first sign of life ends a trial.
	o := reexectest.Options{Systemd: systemd, Files: dropIn("-probation=1us -mode=" + string(mode))}
	for _, f := range files {
		o.Files[f.Name] = f.Content
	}
	return o
}

func dropIn(args string) map[string]string {
	return map[string]string{
		"myapp.service.d/test.conf": "[Service]\nExecStart=\nExecStart=/usr/bin/holdfast launch --state=%S/myapp.holdfast -- /usr/bin/myapp " + args + "\nRestartSec=50ms\n",
	}
}

func TestUpgrade(t *testing.T) {
	t.Parallel()
	reexectest.TestUpgrade(t, reexectest.Service{
		Options: onStandIn(t, reexectest.DefaultSystemd),
		OnTrial: dropIn("-probation=800ms -beat=200ms"),
		Clients: reexectest.HTTP{Socket: "http", Path: "/echo"},
		// More in a row are in reexec and vmtests: TestTwentyUpgradesInARow, TestUpgradeUnderLoad.
		Upgrades: 3,
	})
}

// The other modes keep what they promise. What they do not, the suite skips with
// the reason.
func TestUpgradeModes(t *testing.T) {
	t.Parallel()
	for mode, has := range map[units.Mode][]reexectest.Capability{
		units.InPlace: {reexectest.InPlace},
		units.Restart: nil,
	} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			reexectest.TestUpgrade(t, reexectest.Service{
				Options:  onStandInBy(t, reexectest.DefaultSystemd, mode),
				Clients:  reexectest.HTTP{Socket: "http", Path: "/echo"},
				Has:      has,
				Upgrades: 3,
			})
		})
	}
	t.Run("in-place, notify-reload", func(t *testing.T) {
		t.Parallel()
		o := onStandInBy(t, reexectest.DefaultSystemd, units.InPlace)
		o.Files["myapp.service.d/signal.conf"] = "[Service]\nType=notify-reload\nReloadSignal=SIGUSR2\nExecReload=\n"
		reexectest.TestUpgrade(t, reexectest.Service{
			Options:  o,
			Clients:  reexectest.HTTP{Socket: "http", Path: "/echo"},
			Has:      []reexectest.Capability{reexectest.InPlace},
			Upgrades: 3,
		})
	})
}

// A version that hangs in the process of the old one, before it has any code of
// ours: systemd's watchdog ends it when its time to start is over, and the
// service is started again. The reload fails.
func TestInPlaceHangs(t *testing.T) {
	t.Parallel()
	o := onStandInBy(t, reexectest.DefaultSystemd, units.InPlace)
	o.Files["myapp.service.d/zz.conf"] = "[Service]\nExecStart=\nExecStart=/usr/bin/myapp -mode=in-place -start-timeout=1s\nWatchdogSec=1s\n"
	u := reexectest.Start(t, o)
	before := u.Show()
	if err := u.Install("/usr/bin/myapp", reexectest.Version("2").Slow(time.Hour)); err != nil {
		t.Fatal(err)
	}
	reload := make(chan error, 1)
	go func() { reload <- u.Reload(t.Context()) }()
	executed := reexectest.StatusText("executing: 1 (generation 1)")
	if err := u.WaitFor(t.Context(), executed); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := u.Install("/usr/bin/myapp", reexectest.Version("3")); err != nil {
		t.Fatal(err)
	}
	if err := <-reload; err == nil {
		t.Error("the reload succeeded")
	}
	t.Logf("the reload failed after %v", time.Since(began))
	restarted := reexectest.Condition{Text: "the service was started again", Holds: func(p reexectest.Properties) bool {
		return p.NRestarts == before.NRestarts+1 && p.SubState == "running"
	}}
	if err := u.WaitFor(t.Context(), restarted); err != nil {
		t.Fatal(err)
	}
	if err := u.WaitFor(t.Context(), reexectest.StatusText("running: 3 (generation 1)")); err != nil {
		t.Error(err)
	}
}

// An upgrade goes the same way with every systemd, and says what it is.
func TestUpgradeStatus(t *testing.T) {
	t.Parallel()
	for _, systemd := range []int{247, 252, 257, 262} {
		t.Run(fmt.Sprint(systemd), func(t *testing.T) {
			t.Parallel()
			u := reexectest.Start(t, onStandIn(t, systemd))
			mustSay := func(part string) {
				t.Helper()
				if err := u.WaitFor(t.Context(), reexectest.StatusText(part)); err != nil {
					t.Error(err)
				}
			}
			install := func(p reexectest.Program) {
				t.Helper()
				if err := u.Install("/usr/bin/myapp", p); err != nil {
					t.Fatal(err)
				}
			}
			mustSay("running: 1 (generation 1)")
			install(reexectest.Version("2"))
			if err := u.Reload(t.Context()); err != nil {
				t.Error(err)
			}
			mustSay("running: 2 (generation 2)")
			install(reexectest.Version("3").Crashing())
			if err := u.Reload(t.Context()); err == nil {
				t.Error("the reload succeeded with a version that crashes")
			}
			mustSay("running: 2 (generation 2); upgrade to 3 refused")
		})
	}
}

// Idle connections, which know nothing of it, are answered by the new version.
func TestIdleConnectionsMove(t *testing.T) {
	t.Parallel()
	u := reexectest.Start(t, onStandIn(t, reexectest.DefaultSystemd))
	clients := make([]*idleClient, 50)
	for i := range clients {
		conn, err := u.Dial(t.Context(), "http")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		clients[i] = &idleClient{conn, bufio.NewReader(conn)}
	}
	for version := 1; version <= 3 && !t.Failed(); version++ {
		if version > 1 {
			if err := u.Install("/usr/bin/myapp", reexectest.Version(strconv.Itoa(version))); err != nil {
				t.Fatal(err)
			}
			old := u.MainPID()
			if err := u.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
			// The old version ends when it has no connection left.
			for !slices.ContainsFunc(u.Deaths(), func(d reexectest.Death) bool { return d.PID == old }) {
				time.Sleep(time.Millisecond)
			}
		}
		for i, c := range clients {
			if got, err := c.ask(); got != strconv.Itoa(version) || err != nil {
				t.Errorf("client %d is answered by version %q, %v; want %d", i, got, err, version)
			}
		}
	}
}

// idleClient is one connection, without a second one to fall back on.
type idleClient struct {
	conn net.Conn
	in   *bufio.Reader
}

func (c *idleClient) ask() (version string, err error) {
	if _, err := io.WriteString(c.conn, "GET / HTTP/1.1\r\nHost: test\r\n\r\n"); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "", err
	}
	if resp.Close {
		return "", errors.New("the answer leads away")
	}
	return resp.Header.Get("X-Myapp-Version"), nil
}
