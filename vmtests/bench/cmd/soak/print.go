// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/svg"
)

// print writes the report as people read it.
func (r *result) print(out io.Writer) error {
	fmt.Fprintf(out, "Linux %s, %d CPUs, %s; %s\n", r.Kernel, r.CPUs, r.Go, r.Systemd)
	fmt.Fprintf(out, "%s: %v of load, a change every %v or so, seed %d, probation %v, drain %v\n\n",
		r.Began.Format(time.DateTime), r.Length, r.Every, r.Seed, r.Probation, r.Drain)

	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "clients\t\trequests\tfailed\tconnections\tmoved\tled away\tresumed\tcut\tp50\tp99\tp99.9\tworst\t")
	for _, k := range r.Kinds {
		n, resumed := k.Connections, "-"
		if k.kind.tls() {
			resumed = fmt.Sprint(n.Resumed)
		}
		l := k.Sum.Latency
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%d\t%s\t%s\t%s\t%s\t\n", k.Kind, k.Clients, k.Sum.Requests, k.Sum.Failed,
			n.Opened, n.Moved, n.Announced, resumed, n.Cut, ms(l.P50), ms(l.P99), ms(l.P999), ms(l.Worst))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	titles := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(titles)
	for _, k := range r.Kinds {
		fmt.Fprintf(titles, "%s\t%s\n", k.Kind, k.Title)
	}
	if err := titles.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	t = tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "changes\tcount\toutcome\tp50\tworst\t")
	for _, c := range r.Changes {
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t\n", c.Change, c.Count, c.Outcome, ms(c.Took.P50), ms(c.Took.Worst))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	t = tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "of %d generations\tfirst\tmedian\tlast\tgrowth\tz\t\n", len(r.Generations))
	for _, g := range r.Growth {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%+.1f\t\n", g.Name, g.text(g.First), g.text(g.Median), g.text(g.Last), g.text(g.Total), g.Z)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, k := range r.Kinds {
		for i, loss := range k.Losses {
			if i == maxLosses {
				fmt.Fprintf(out, "\n%s: %d more", k.Kind, k.Sum.Failed-i)
				break
			}
			fmt.Fprintf(out, "\n%s: %s", k.Kind, loss)
		}
		if len(k.Losses) > 0 {
			fmt.Fprintln(out)
		}
	}
	_, err := fmt.Fprintf(out, "%s\n%s\n", legend, r.verdict())
	return err
}

// maxLosses is how many of each kind are printed; the JSON file has more.
const maxLosses = 5

// verdict is the last line, and all that has gone wrong before it.
func (r *result) verdict() string {
	requests, failed := 0, 0
	for _, k := range r.Kinds {
		requests += k.Sum.Requests
		failed += k.Sum.Failed
	}
	result := "passed"
	if len(r.Problems) > 0 {
		result = "FAILED"
	}
	var text strings.Builder
	for _, p := range r.Problems {
		fmt.Fprintf(&text, "soak: %s\n", strings.ReplaceAll(p, "\n", "\n  "))
	}
	fmt.Fprintf(&text, "soak: %s after %v: requests=%d failed=%d upgrades=%d rollbacks=%d refused=%d busy=%d problems=%d",
		result, r.Length, requests, failed, r.count(control.Upgraded), r.count(control.RolledBack), r.count(control.Refused), r.count(control.Busy), len(r.Problems))
	return text.String()
}

// legend says what the columns mean.
const legend = `
failed    requests that were begun and not answered in full; none is sent again
moved     how often another process went on with a connection or a socket of datagrams
led away  connections that the server ended between two requests by "Connection: close" or GOAWAY, so that
          the client opened another; resumed: with its TLS session; cut: ended without a word. Connections
          without TLS move instead, but for those whose answer takes longer than the next version is main
changes   count, and how long "systemctl reload" took. No version dies while it serves: what such a one was
          answering is lost, as promised, and would hide other losses. Busy: too many older generations
          drained; the same change is tried again
growth    of what main has in use: the median slope from the second generation on, times the generations; z is
          its distance from chance in standard deviations. Something grows, and the soak fails, if z is above 4
          and the growth above 5 % of the median (20 % for memory) and a small constant. Other descriptors:
          those that are no connections. Heap: after a collection
`

func ms(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", float64(d)/1e6)
}

// draw draws what each generation had in use.
func (r *result) draw() []byte {
	chart := svg.TrendChart{
		Title: fmt.Sprintf("%d generations in %v", len(r.Generations), r.Length),
		Note:  "what main had in use a while after it became main, under the same load",
		Steps: "generation",
	}
	for _, g := range r.Growth {
		chart.Trends = append(chart.Trends, svg.Trend{
			Name: g.Name, Values: g.values, Label: g.text,
			Text: fmt.Sprintf("first %s, median %s, last %s; growth %s, z %+.1f", g.text(g.First), g.text(g.Median), g.text(g.Last), g.text(g.Total), g.Z),
		})
	}
	return chart.SVG()
}
