// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/reexectest"
)

func TestMain(m *testing.M) { reexectest.Main(m, main) }

// patience bounds what has no other end.
const patience = 30 * time.Second

// paper is a running service with its configuration.
type paper struct {
	*reexectest.Unit
	t      *testing.T
	config string
	client *control.Client
	orders [2]string
}

func files(t *testing.T, config, probation string) map[string]string {
	t.Helper()
	return map[string]string{
		"press.service.d/test.conf": "[Service]\nExecStart=\nExecStart=/usr/bin/press -config=" + config + " -probation=" + probation + "\nRestartSec=50ms\n",
	}
}

func options(t *testing.T, probation string) (reexectest.Options, *paper) {
	dir := t.TempDir()
	p := &paper{t: t, config: filepath.Join(dir, "press.json"), orders: [2]string{filepath.Join(dir, "even"), filepath.Join(dir, "odd")}}
	p.print(1)
	return reexectest.Options{Units: "systemd", Files: files(t, p.config, probation)}, p
}

func start(t *testing.T, probation string) *paper {
	t.Helper()
	o, p := options(t, probation)
	p.Unit = reexectest.Start(t, o)
	p.client = control.NewClient(p.Path("/run/press/control.sock"))
	return p
}

// print puts a good configuration in place, whose parts can be told from those of
// any other.
func (p *paper) print(edition int) {
	p.t.Helper()
	text, err := json.Marshal(settings{Edition: edition, Page: fmt.Sprintf("%d {{.Edition}} %d", edition, edition), Orders: p.orders[edition%2]})
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(string(text))
}

func (p *paper) write(text string) {
	p.t.Helper()
	next := p.config + ".new"
	if err := os.WriteFile(next, []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(next, p.config); err != nil {
		p.t.Fatal(err)
	}
}

var bad = []string{
	`{"edition": 0}`,
	`{"edition": 1, "pge": "x"}`,
	`{"edition": 1, "page": "{{"}`,
	`{"edition": 1, "orders": "/no/such/directory/log"}`,
	"",
}

func (p *paper) status() control.Status {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	st, err := p.client.Status(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	return st
}

// hangUp sends SIGHUP to main, and returns when what comes of it is known.
func (p *paper) hangUp() control.Reload {
	p.t.Helper()
	count := func() (n uint64, last *control.Reload) {
		r := p.status().Reloads
		return r.Done + r.Refused, r.Last
	}
	before, _ := count()
	if err := p.Kill(reexectest.MainProcess, unix.SIGHUP); err != nil {
		p.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if n, last := count(); n > before {
			return *last
		}
		if time.Now().After(deadline) {
			p.t.Fatal("SIGHUP has no effect")
		}
	}
}

// readers ask all the time; each answer must be from one edition.
func (p *paper) readers() (answers *atomic.Int64, stop func()) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	answers = new(atomic.Int64)
	for i := range 4 {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: i == 0}}
		all.Go(func() {
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				if err := p.read(&client); err != nil {
					p.t.Error(err)
					return
				}
				answers.Add(1)
			}
		})
	}
	stop = sync.OnceFunc(func() {
		cancel()
		all.Wait()
	})
	p.t.Cleanup(stop)
	return answers, stop
}

func (p *paper) read(client *http.Client) error {
	response, err := client.Post("http://"+p.Addr("http")+"/", "text/plain", strings.NewReader("x"))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	edition := response.Header.Get("Edition")
	if want := edition + " " + edition + " " + edition; response.StatusCode != http.StatusOK || edition == "" || string(body) != want {
		return fmt.Errorf("%s: edition %q, page %q: half a configuration", response.Status, edition, body)
	}
	return nil
}

// edition asks which one is in use.
func (p *paper) edition() int {
	p.t.Helper()
	response, err := http.Get("http://" + p.Addr("http") + "/")
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	n, err := strconv.Atoi(response.Header.Get("Edition"))
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

// descriptors counts those of main.
func (p *paper) descriptors() int {
	p.t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.MainPID()))
	if err != nil {
		p.t.Fatal(err)
	}
	return len(all)
}

// The signal, a hundred times under load, each second time for a bad configuration:
// every answer is from one edition, and nothing is left open.
func TestHangUpUnderLoad(t *testing.T) {
	t.Parallel()
	p := start(t, "1us")
	answers, stop := p.readers()
	first, descriptors := p.MainPID(), p.descriptors()
	for i := 2; i <= 101; i++ {
		before := answers.Load()
		if i%2 == 0 {
			p.print(i)
			if v := p.hangUp(); v.Outcome != control.Reloaded {
				t.Fatalf("edition %d: %+v", i, v)
			}
		} else {
			p.write(bad[i/2%len(bad)])
			if v := p.hangUp(); v.Outcome != control.Refused || !strings.HasPrefix(v.Reason, "configuration: ") {
				t.Fatalf("a bad configuration: %+v", v)
			}
		}
		if got, want := p.edition(), i/2*2; got != want {
			t.Fatalf("edition %d, want %d", got, want)
		}
		for answers.Load() < before+4 && !t.Failed() {
			time.Sleep(time.Millisecond)
		}
	}
	stop()
	if pid := p.MainPID(); pid != first {
		t.Errorf("MainPID was %d and is %d", first, pid)
	}
	if text := p.Show().StatusText; !strings.Contains(text, "; the configuration was refused at ") {
		t.Errorf("the status text is %q", text)
	}
	// All connections are gone, and so is what was replaced.
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		now := p.descriptors()
		if now <= descriptors {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("main has %d descriptors, and had %d under load", now, descriptors)
		}
	}
	t.Logf("%d answers", answers.Load())
}

// systemctl reload reads the configuration, and fails if that is refused, in a unit
// whose reload is not the upgrade.
func TestReloadOfTheUnit(t *testing.T) {
	t.Parallel()
	o, p := options(t, "1us")
	o.Files["press.service.d/reload.conf"] = "[Service]\nExecReload=\nExecReload=/usr/bin/holdfast reload --config --socket=%t/press/control.sock --timeout=60s\n"
	p.Unit = reexectest.Start(t, o)
	p.client = control.NewClient(p.Path("/run/press/control.sock"))
	p.print(2)
	if err := p.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := p.edition(); got != 2 {
		t.Errorf("edition %d", got)
	}
	p.write(bad[0])
	if err := p.Reload(t.Context()); err == nil {
		t.Error("a bad configuration is a good reload")
	}
	if _, err := p.WaitForJournal(t.Context(), "edition=0: must be 1 or more"); err != nil {
		t.Error(err)
	}
	if got := p.edition(); got != 2 || p.Show().SubState != "running" {
		t.Errorf("edition %d, %+v", got, p.Show())
	}
	// The upgrade is asked for on the control socket.
	p.print(3)
	r, err := p.client.UpgradeAndFollow(t.Context(), control.FollowOptions{})
	if err != nil || r.Verdict.Outcome != control.Upgraded {
		t.Fatalf("%+v, %v", r, err)
	}
	if got := p.edition(); got != 3 {
		t.Errorf("edition %d after the upgrade", got)
	}
}

// With Type=notify-reload systemd sends the signal itself.
func TestNotifyReload(t *testing.T) {
	t.Parallel()
	o, p := options(t, "1us")
	o.Files["press.service.d/reload.conf"] = "[Service]\nType=notify-reload\nReloadSignal=SIGHUP\nExecReload=\n"
	p.Unit = reexectest.Start(t, o)
	p.client = control.NewClient(p.Path("/run/press/control.sock"))
	for _, c := range []struct {
		text    string
		edition int
	}{{"", 2}, {bad[1], 2}, {"", 3}} {
		if c.text != "" {
			p.write(c.text)
		} else {
			p.print(c.edition)
		}
		if err := p.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := p.edition(); got != c.edition {
			t.Errorf("edition %d, want %d", got, c.edition)
		}
		if refused := strings.Contains(p.Show().StatusText, "refused"); refused != (c.text != "") {
			t.Errorf("the status text is %q", p.Show().StatusText)
		}
	}
}

// An upgrade keeps the rules, and a version that cannot read the configuration is
// refused before it runs.
func TestUpgrade(t *testing.T) {
	o, p := options(t, "1us")
	reexectest.TestUpgrade(t, reexectest.Service{
		Options: o,
		OnTrial: files(t, p.config, "1s"),
		Clients: reexectest.HTTP{Socket: "http"},
	})
}

func TestUpgradeWithABadConfiguration(t *testing.T) {
	t.Parallel()
	p := start(t, "1us")
	answers, stop := p.readers()
	for answers.Load() < 10 && !t.Failed() {
		time.Sleep(time.Millisecond)
	}
	p.write(bad[2])
	if err := p.Install("/usr/bin/press", reexectest.Version("2")); err != nil {
		t.Fatal(err)
	}
	if err := p.Reload(t.Context()); err == nil {
		t.Error("the upgrade is not refused")
	}
	if st := p.status(); st.Last == nil || st.Last.Outcome != control.Refused || !strings.Contains(st.Last.Reason, "build page: ") {
		t.Errorf("the last upgrade is %+v", st.Last)
	}
	p.print(2)
	if err := p.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := p.edition(); got != 2 {
		t.Errorf("edition %d", got)
	}
	stop()
}
