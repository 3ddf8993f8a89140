// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/svg"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/toy"
)

// printTable prints the recipes and one table for each workload.
func printTable(out io.Writer, r *run) error {
	recipes := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(recipes)
	for _, p := range r.Peers {
		fmt.Fprintf(recipes, "%s\t%s\n", p.Peer, p.Recipe)
	}
	if err := recipes.Flush(); err != nil {
		return err
	}
	for _, w := range r.workloads {
		fmt.Fprintf(out, "\n%s: %s\n", w.name, w.title)
		t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "\tupgrades\trequests\tfailed\treconnects\tcut\tresumed\tp50\tp99\tp99.9\tworst\tp99.9 to steady\tfirst answer\tto bare exec\tmemory\t")
		var remarks []string
		for _, c := range r.of(w.name) {
			if c.Skipped != "" {
				remarks = append(remarks, fmt.Sprintf("%s: not measured: %s", c.Peer, c.Skipped))
				continue
			}
			latency := fmt.Sprintf("%s\t%s\t%s\t%s", ms(c.Around.P50), ms(c.Around.P99), ms(c.Around.P999), ms(c.Around.Worst))
			resumed := "-"
			if w.protocol == toy.TLS {
				resumed = fmt.Sprintf("%d of %d", c.Connections.Resumed, c.Connections.Reconnects())
			}
			fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t\n", c.Peer, len(c.Upgrades), c.Requests, c.Failed,
				c.Connections.Reconnects(), c.Connections.Cut, resumed, latency, ratio(c.Ratio), ms(c.First), ratio(c.FirstOver), mib(c.Memory.PSS))
			if c.Error != "" {
				remarks = append(remarks, fmt.Sprintf("%s: %s", c.Peer, c.Error))
			}
			if took := c.phaseTexts(); took != "" {
				remarks = append(remarks, fmt.Sprintf("%s: %s; bare exec %s", c.Peer, took, ms(c.Exec)))
			}
			for i, text := range c.failureTexts() {
				if i == 3 {
					break
				}
				remarks = append(remarks, fmt.Sprintf("%s: %d × %s", c.Peer, c.Failures[text], text))
			}
			if n := c.Connections.Duplicates; n > 0 {
				remarks = append(remarks, fmt.Sprintf("%s: %d answers came twice or late", c.Peer, n))
			}
		}
		if err := t.Flush(); err != nil {
			return err
		}
		for _, remark := range remarks {
			fmt.Fprintf(out, "  %s\n", strings.ReplaceAll(remark, "\n", "\n    "))
		}
	}
	_, err := io.WriteString(out, legend)
	return err
}

// legend says what the columns mean, and what they cannot say.
const legend = `
failed       requests that were begun and not answered in full; none is sent again
reconnects   connections that clients opened again because the server had ended the one before between two
             requests; of these, cut: without "Connection: close" or GOAWAY; resumed: with their TLS session
p50 … worst  latency of the answered requests that were under way in the second around an upgrade, from 100 ms
             before the signal to 900 ms after it; to steady: its p99.9 against that between upgrades. Below
             1,000 requests the p99.9 is the worst. Clients wait for an answer before they ask again, so a
             standstill counts once for each of them.
first answer median from the signal to the first answer of a new process on a new connection; to bare exec:
             against executing the same binary with nothing around it and asking it once, under the same load
memory       peak of the PSS of all generations and their keepers between signal and the old one's end

What stands in the way of a ratio of 1:
- to bare exec: Holdfast executes a new binary twice, one after the other. The first time it judges its
  configuration and can harm nobody, the second time it serves; peers execute it once, and learn in service
  what it is worth. So 2 is about the least, and the rest is the handover and the clients' share of the
  processors. The phases stand below the rows.
- p99.9 to steady: each execution takes a processor from the clients for about as long as a bare exec, and the
  first requests of a new process find its code and its pools cold. A bare exec is made before each upgrade,
  too; that time counts for neither.
- the same over TLS: its connections cannot move, so each client connects once again, and its next request
  waits for the handshake. From 25 ms away that alone is more than the request itself.
`

func ms(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", float64(d)/1e6)
}

func ratio(r float64) string {
	if r == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", r)
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

// draw writes the drawings into dir.
func draw(dir string, r *run) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	drawings := make(map[string][]byte)
	if len(r.Cells) > 0 {
		r.drawCells(drawings)
	}
	if len(r.Crashes) > 0 {
		drawings["crash"] = drawCrashes(r.Crashes)
	}
	for _, c := range r.Costs {
		drawings["costs-"+c.Scale] = drawCosts(c)
	}
	for name, drawing := range drawings {
		if err := os.WriteFile(filepath.Join(dir, name+".svg"), drawing, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// drawCells draws what clients noticed.
func (r *run) drawCells(drawings map[string][]byte) {
	for name, drawing := range map[string][]byte{
		"failed": r.bars("Failed requests", "logarithmic scale", true,
			func(c *cell) (float64, string) {
				return float64(c.Failed), fmt.Sprintf("%d of %d", c.Failed, c.Requests)
			}),
		"reconnects": r.bars("Reconnects", "connections that clients had to open again; logarithmic scale", true,
			func(c *cell) (float64, string) {
				return float64(c.Connections.Reconnects()), fmt.Sprint(c.Connections.Reconnects())
			}),
		"latency": r.bars("p99.9 in the second around an upgrade, as a ratio to steady state", "logarithmic scale; - where latency is not measured", true,
			func(c *cell) (float64, string) { return c.Ratio, ratio(c.Ratio) + "  " + ms(c.Around.P999) }),
		"first-answer": r.bars("From the signal to the first answer of the new version", "milliseconds, and the ratio to a bare exec", false,
			func(c *cell) (float64, string) {
				return float64(c.First) / 1e6, ms(c.First) + "  " + ratio(c.FirstOver)
			}),
		"memory": r.bars("Peak of memory during an upgrade", "PSS of all generations and keepers", false,
			func(c *cell) (float64, string) { return float64(c.Memory.PSS), mib(c.Memory.PSS) }),
	} {
		drawings[name] = drawing
	}
	for _, w := range r.workloads {
		chart := svg.StripChart{
			Title: w.name + ": " + w.title, Note: "worst latency of requests by when they began, from the signal on; failed ones in red below",
			From: -timelineBefore.Seconds(), Step: timelineStep.Seconds(), Unit: "ms",
		}
		for _, c := range r.of(w.name) {
			if len(c.Timeline) == 0 {
				continue
			}
			strip := svg.Strip{Name: c.Peer}
			for _, m := range c.Timeline {
				strip.Values = append(strip.Values, float64(m.Worst)/1e6)
				strip.Marks = append(strip.Marks, m.Failed)
			}
			chart.Strips = append(chart.Strips, strip)
		}
		if len(chart.Strips) > 0 {
			drawings["timeline-"+w.name] = chart.SVG()
		}
	}
}

// bars draws one value of every cell.
func (r *run) bars(title, note string, log bool, value func(*cell) (float64, string)) []byte {
	chart := svg.BarChart{Title: title, Note: note, Log: log}
	for _, w := range r.workloads {
		group := svg.Group{Name: w.name + ": " + w.title}
		for _, c := range r.of(w.name) {
			bar := svg.Bar{Label: c.Peer, Text: "not measured"}
			if c.Skipped == "" {
				bar.Value, bar.Text = value(c)
			}
			group.Bars = append(group.Bars, bar)
		}
		chart.Groups = append(chart.Groups, group)
	}
	return chart.SVG()
}

// newProgress returns a function that shows one line in place on a terminal, and nothing elsewhere. Empty
// text removes the line.
func newProgress(out *os.File) func(text string) {
	if _, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS); err != nil || os.Getenv("TERM") == "dumb" {
		return func(string) {}
	}
	return func(text string) { fmt.Fprintf(out, "\r\x1b[K%s", text) }
}
