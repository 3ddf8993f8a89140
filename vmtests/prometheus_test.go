// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests"
)

// prometheus is one of the host that scrapes myapp in the network of a machine.
type prometheus struct {
	*myapp
	enter []string // runs a command of the host in that network
}

const prometheusAddress = "127.0.0.1:9090"

// startPrometheus scrapes myapp ten times a second from now on, until the test ends.
func startPrometheus(m *myapp) *prometheus {
	m.t.Helper()
	for _, program := range []string{"prometheus", "promtool", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			m.t.Fatalf("%v: run packaging/prometheus/install", err)
		}
	}
	host, err := m.HostPID(1)
	if err != nil {
		m.t.Fatal(err)
	}
	p := &prometheus{m, []string{"nsenter", "--target=" + strconv.Itoa(host), "--net", "--"}}
	dir := m.t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(config, []byte(`
scrape_configs:
  - job_name: myapp
    scrape_interval: 100ms
    scrape_timeout: 100ms
    static_configs:
      - targets: ["127.0.0.1:8080"]
`), 0o600); err != nil {
		m.t.Fatal(err)
	}
	argv := append(p.enter, "prometheus", "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+prometheusAddress, "--log.level=warn")
	cmd := exec.Command(argv[0], argv[1:]...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	m.t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM) // nsenter has become Prometheus
		select {
		case <-ended:
		case <-time.After(time.Minute):
			_ = cmd.Process.Kill()
			<-ended
		}
		if m.t.Failed() {
			m.t.Logf("Prometheus says:\n%s", log.String())
		}
	})
	for deadline := time.Now().Add(time.Minute); ; {
		if _, err := p.query(`up{job="myapp"} == 1`); err == nil {
			return p
		}
		select {
		case <-ended:
			m.t.Fatalf("Prometheus has ended: %s", log.String())
		default:
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("Prometheus does not see myapp: %s", log.String())
		}
	}
}

// answered is one series of an answer of promtool.
var answered = regexp.MustCompile(`(?m)^(.*) => (\S+) @\[.*\]$`)

// query returns the values by their labels. No series is an error.
func (p *prometheus) query(expr string) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	argv := append(p.enter, "promtool", "query", "instant", "http://"+prometheusAddress, expr)
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("query %q: %w: %s", expr, err, out)
	}
	values := map[string]float64{}
	for _, match := range answered.FindAllStringSubmatch(string(out), -1) {
		if values[match[1]], err = strconv.ParseFloat(match[2], 64); err != nil {
			return nil, fmt.Errorf("query %q: %w", expr, err)
		}
	}
	if len(values) == 0 {
		return nil, fmt.Errorf("query %q: no series in %q", expr, out)
	}
	return values, nil
}

// value is that of an expression which has one.
func (p *prometheus) value(expr string) float64 {
	p.t.Helper()
	values, err := p.query(expr)
	if err != nil {
		p.t.Fatal(err)
	}
	if len(values) != 1 {
		p.t.Fatalf("query %q: %v", expr, values)
	}
	for _, v := range values {
		return v
	}
	return 0
}

// reaches waits until Prometheus has scraped that much.
func (p *prometheus) reaches(expr string, want float64) {
	p.t.Helper()
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		var values map[string]float64
		if values, err = p.query(expr); err == nil {
			for _, v := range values {
				if v == want {
					return
				}
				err = fmt.Errorf("query %q: %v, want %v", expr, v, want)
			}
		}
	}
	p.t.Fatal(err)
}

// A real Prometheus that scrapes ten times a second sees no counter of upgrades or of the
// service begin anew: across twenty upgrades, a version that is undone, one that is
// refused, and a crash.
func TestPrometheusSeesNoReset(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startMyapp(t, v, timing{probation: time.Second, start: 20 * time.Second, drain: 20 * time.Second})
		p := startPrometheus(m)
		attempts := func(result string) string {
			return fmt.Sprintf("hot_update_attempts_total{service=\"myapp\",result=%q}", result)
		}
		for i := range 20 {
			m.put([]build{v2, v1}[i%2])
			m.systemctl("reload", myappUnit)
		}
		p.reaches(attempts("upgraded"), 20)
		m.put(build{version: "3.0.0", damage: "ill-in-probation", after: "1ms"})
		// Prometheus stays with the old version in the trial, by its connection, and this
		// one is ill from its first request on.
		if err := m.Run(m.ctx, "bash", "-c", `
			while sleep 0.05; do (exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && cat <&3 >/dev/null); done &
			trap "kill $!" EXIT
			systemctl reload "$0"`, myappUnit); err == nil {
			t.Error("a version that is ill was accepted")
		}
		p.reaches(attempts("rolled back"), 1)
		m.put(build{version: "4.0.0", damage: "crash-at-start"})
		if err := m.Run(m.ctx, "systemctl", "reload", myappUnit); err == nil {
			t.Error("a version that crashes was accepted")
		}
		p.reaches(attempts("refused"), 1)

		m.put(v2)
		before := p.value("count_over_time(up[1h])")
		old, err := m.MainPID(m.ctx, myappUnit)
		if err != nil {
			t.Fatal(err)
		}
		m.systemctl("kill", "--signal=KILL", myappUnit)
		if _, err := m.WaitProps(m.ctx, myappUnit, []string{"ActiveState", "MainPID"}, func(p map[string]string) bool {
			return p["ActiveState"] == "active" && p["MainPID"] != "0" && p["MainPID"] != fmt.Sprint(old)
		}); err != nil {
			t.Fatal(err)
		}
		p.reaches(`hot_update_generation{service="myapp"}`, 1)
		for result, n := range map[string]float64{"upgraded": 20, "rolled back": 1, "refused": 1, "stopped": 0} {
			p.reaches(attempts(result), n)
		}

		// The names of all that may not fall. Histograms have three each.
		names, err := p.query(`count by (__name__) ({__name__=~"(hot_update|myapp)_.*_(total|bucket|sum|count)",job="myapp"})`)
		if err != nil {
			t.Fatal(err)
		}
		if len(names) != 9 {
			t.Errorf("%d names: %v", len(names), names)
		}
		for labels := range names {
			name := strings.TrimSuffix(strings.TrimPrefix(labels, `{__name__="`), `"}`)
			if n := p.value("max(resets(" + name + "[1h]))"); n != 0 {
				t.Errorf("%s began anew %v times", name, n)
			}
		}
		// It would have been seen: what describes a process begins anew with each.
		if n := p.value("resets(process_cpu_seconds_total[1h])"); n < 1 {
			t.Errorf("process_cpu_seconds_total of 22 processes began anew %v times", n)
		}
		t.Logf("%v scrapes, %v of them before the crash, %v without an answer", p.value("count_over_time(up[1h])"), before, p.value("count_over_time(up[1h]) - sum_over_time(up[1h])"))
	})
}
