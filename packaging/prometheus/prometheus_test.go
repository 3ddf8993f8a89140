// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	prom "github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/metrics"
)

// described keeps the names of all metrics that are registered, also of those that have no
// series yet.
type described struct {
	prom.Registerer
	names []string
}

var inDesc = regexp.MustCompile(`fqName: "([^"]+)"`)

func (d *described) Register(c prom.Collector) error {
	descs := make(chan *prom.Desc, 100)
	c.Describe(descs)
	close(descs)
	for desc := range descs {
		d.names = append(d.names, inDesc.FindStringSubmatch(desc.String())[1])
	}
	return d.Registerer.Register(c)
}

// service is the one that this process may have, and what it registers.
func service(t *testing.T) (*reexec.Service, *prom.Registry, []string) {
	t.Helper()
	svc, err := reexec.New(reexec.Options{Name: "myapp", Version: "1.0"})
	if err != nil {
		t.Fatal(err)
	}
	registry := prom.NewRegistry()
	names := &described{Registerer: prom.NewRegistry()}
	if err := metrics.Register(svc, names); err != nil {
		t.Fatal(err)
	}
	if err := metrics.Serve(svc, registry); err != nil {
		t.Fatal(err)
	}
	return svc, registry, names.names
}

func promtool(t *testing.T, stdin []byte, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "promtool", args...)
	cmd.Stdin = bytes.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// mustHavePromtool skips where it cannot be installed: packaging/prometheus/install does
// that for root.
func mustHavePromtool(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("promtool"); err != nil {
		if os.Getuid() == 0 {
			t.Fatalf("%v: run packaging/prometheus/install", err)
		}
		t.Skipf("%v: sudo packaging/prometheus/install", err)
	}
}

func TestAlertRules(t *testing.T) {
	mustHavePromtool(t)
	promtool(t, nil, "check", "rules", "alerts.yml")
	promtool(t, nil, "test", "rules", "alerts_test.yml")
}

var metricName = regexp.MustCompile(`\bhot_update_[a-z_]+`)

// What the alerts and the dashboard ask for is there, each metric is asked for, and
// promtool has nothing against any.
func TestMetricsAreThoseOfTheService(t *testing.T) {
	svc, _, names := service(t)
	answer := httptest.NewRecorder()
	svc.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, control.MetricsPath, nil))
	text := answer.Body.Bytes()
	if answer.Code != http.StatusOK || !bytes.Contains(text, []byte("hot_update_build_info{")) {
		t.Fatalf("%d %s", answer.Code, text)
	}
	if len(names) < 10 {
		t.Fatalf("the service registers %q", names)
	}
	exists := map[string]bool{}
	for _, name := range names {
		exists[name] = true
	}
	for line := range strings.Lines(string(text)) {
		name := strings.FieldsFunc(line, func(r rune) bool { return r == '{' || r == ' ' })[0]
		if strings.HasPrefix(name, "hot_update_") {
			exists[name] = true // also the parts of histograms
		}
	}
	asked := map[string]bool{}
	for _, file := range []string{"alerts.yml", "alerts_test.yml", "dashboard.json"} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := metricName.FindAllString(string(content), -1)
		if len(found) < 5 {
			t.Errorf("%s asks for %q", file, found)
		}
		for _, name := range found {
			if !exists[name] {
				t.Errorf("%s asks for %s: no service has it", file, name)
			}
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if whole := strings.TrimSuffix(name, suffix); slices.Contains(names, whole) {
					name = whole
				}
			}
			asked[name] = true
		}
	}
	for _, name := range names {
		if !asked[name] {
			t.Errorf("neither an alert nor the dashboard asks for %s", name)
		}
	}
	t.Run("promtool", func(t *testing.T) {
		mustHavePromtool(t)
		promtool(t, text, "check", "metrics")
	})
}

// expressions are all queries of the dashboard.
func expressions(t *testing.T) (list []string) {
	t.Helper()
	content, err := os.ReadFile("dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
		Annotations struct{ List []struct{ Expr string } }
	}
	if err := json.Unmarshal(content, &dashboard); err != nil {
		t.Fatal(err)
	}
	ids := map[int]bool{}
	for i, p := range dashboard.Panels {
		if ids[p.ID] || p.Title == "" || len(p.Targets) == 0 {
			t.Errorf("panel %d: %+v", i, p)
		}
		ids[p.ID] = true
		for _, q := range dashboard.Panels[:i] {
			a, b := p.GridPos, q.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("panels %q and %q overlap", p.Title, q.Title)
			}
		}
		for _, target := range p.Targets {
			list = append(list, target.Expr)
		}
	}
	for _, a := range dashboard.Annotations.List {
		list = append(list, a.Expr)
	}
	return list
}

// Prometheus understands every query of the dashboard.
func TestDashboardQueries(t *testing.T) {
	list := expressions(t)
	if len(list) < 10 {
		t.Fatalf("the dashboard asks %q", list)
	}
	mustHavePromtool(t)
	var rules strings.Builder
	rules.WriteString("groups:\n  - name: dashboard\n    rules:\n")
	for _, expr := range list {
		// Grafana puts these in.
		expr = strings.NewReplacer("$__rate_interval", "5m", "$__range", "1d", "$service", ".*", "$instance", ".*").Replace(expr)
		if strings.Contains(expr, "$") {
			t.Errorf("%q has a variable that nobody sets", expr)
		}
		rules.WriteString("      - record: dashboard:query\n        expr: '" + expr + "'\n        labels: {query: '" + strings.ReplaceAll(expr, "'", "") + "'}\n")
	}
	file := t.TempDir() + "/rules.yml"
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, nil, "check", "rules", file)
}
