// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/stats"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/svg"
)

// printCosts prints one table for each curve.
func printCosts(out io.Writer, curves []*curve) error {
	for _, c := range curves {
		fmt.Fprintf(out, "\ncost of an upgrade of Holdfast by %s: %s\n", c.Scale, c.Title)
		t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "\tupgrades\ttotal\tworst\tchecking\tstarting\tpromoting\tfirst answer\tworst\tto bare exec\told ends\tworst\tmemory\trequests\tfailed\treconnects\t")
		var remarks []string
		for _, p := range c.Points {
			if why := p.Skipped + p.Error; why != "" {
				remarks = append(remarks, fmt.Sprintf("%s: not measured: %s", p.Label, why))
				continue
			}
			m, w := p.Median, p.Worst
			fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t\n", p.Label, len(p.Upgrades),
				ms(m.Total), ms(w.Total), ms(m.Phases["checking"]), ms(m.Phases["starting"]), ms(m.Phases["promoting"]),
				ms(m.First), ms(w.First), ratio(stats.Ratio(m.First, m.Exec)), ms(m.End), ms(w.End), mib(m.Memory.PSS), p.Requests, p.Failed, p.Reconnects)
			for text, n := range p.Failures {
				remarks = append(remarks, fmt.Sprintf("%s: %d × %s", p.Label, n, text))
			}
		}
		if err := t.Flush(); err != nil {
			return err
		}
		for _, remark := range remarks {
			fmt.Fprintf(out, "  %s\n", strings.ReplaceAll(remark, "\n", "\n    "))
		}
	}
	_, err := io.WriteString(out, costLegend)
	return err
}

const costLegend = `
total        from the request to the verdict, less the probation, by the phases that the verdict names: checking
             (the new binary executes once and judges its configuration), starting (it executes again, takes the
             listeners and becomes ready) and promoting (systemd is told); medians, and the worst
first answer from the signal, before the probation; to bare exec: the service fills the same heap there
old ends     from the verdict until the old process has moved its connections and ended
memory       peak of the PSS of both generations

What grows, and why:
- listeners: the new version makes 24 system calls for each: it receives it, looks at what it is, and makes a
  net.Listener of it. The pre-check gets none.
- connections: they move after the verdict, 200 at a time, each batch once the one before was acknowledged.
  Nobody waits for it but a client whose connection is on its way.
- heap: an upgrade copies none of it and does not wait for the collector; starting is the time in which the
  new version makes its own, as in a bare exec. The old process has ended when the kernel has its memory back.
`

// drawCosts draws a curve.
func drawCosts(c *curve) []byte {
	chart := svg.LineChart{
		Title: "Cost of an upgrade by " + c.Scale, Note: c.Title + "; lines are medians, circles the worst; logarithmic scales",
	}
	series := func(name string, of func(costs) time.Duration) svg.Line {
		line := svg.Line{Name: name}
		for _, p := range c.Points {
			if p.Skipped+p.Error != "" {
				continue
			}
			line.Points = append(line.Points, svg.Point{X: float64(p.Value), Y: milliseconds(of(p.Median)), Worst: milliseconds(of(p.Worst))})
		}
		return line
	}
	for _, p := range c.Points {
		chart.Ticks = append(chart.Ticks, svg.Tick{X: float64(p.Value), Label: p.Label})
	}
	memory := svg.Line{Name: "peak of both generations"}
	for _, p := range c.Points {
		if p.Skipped+p.Error == "" {
			memory.Points = append(memory.Points, svg.Point{X: float64(p.Value), Y: float64(p.Median.Memory.PSS) / (1 << 20)})
		}
	}
	chart.Panels = []svg.Panel{
		{Unit: "ms", Lines: []svg.Line{
			series("total less probation", func(c costs) time.Duration { return c.Total }),
			series("signal to first answer", func(c costs) time.Duration { return c.First }),
			series("bare exec", func(c costs) time.Duration { return c.Exec }),
			series("verdict to old one's end", func(c costs) time.Duration { return c.End }),
		}},
		{Unit: "MiB", Lines: []svg.Line{memory}},
	}
	return chart.SVG()
}

func milliseconds(d time.Duration) float64 { return float64(d) / 1e6 }
