// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/svg"
)

// printCrashes prints one table for each version of systemd.
func printCrashes(out io.Writer, all []*crashes) error {
	for _, c := range all {
		fmt.Fprintf(out, "\nto the first answer after the end of a service, systemd %d\n", c.Systemd)
		t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "\trounds\tp25\tmedian\tp75\tworst\tRestartSec\trest p25\tmedian\tp75\tuntil exec\tto answer\tto restart\trest to it\tfailed\t")
		for _, s := range c.Subjects {
			fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t\n", s.Subject, len(s.Rounds),
				ms(s.Total.P25), ms(s.Total.P50), ms(s.Total.P75), ms(s.Total.Worst), ms(s.Pause),
				ms(s.Work.P25), ms(s.Work.P50), ms(s.Work.P75), ms(s.Exec.P50), ms(s.Start.P50), ratio(s.TotalRatio), ratio(s.WorkRatio), s.Failed)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	fmt.Fprintln(out)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, s := range crashSubjects {
		fmt.Fprintf(t, "%s\t%s\n", s.name, s.title)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(out, crashLegend)
	return err
}

const crashLegend = `
median …     from SIGKILL to the main process, or the execution of systemctl, to the first answer of the next
             process on a new connection; meanwhile connections wait in the socket that systemd holds
RestartSec   of it systemd waits on purpose, so that a crash loop leaves the machine alone; rest: without that
until exec   median of the rest up to where systemd executes the next process; to answer: from there on
to restart   ratio of the medians to that of "restart"; rest to it: of those without RestartSec
failed       probes, one every millisecond, that got an error: a process that ends at once cuts what it has accepted
`

// drawCrashes draws the medians.
func drawCrashes(all []*crashes) []byte {
	chart := svg.BarChart{
		Title: "To the first answer after the end of a service",
		Note:  "median milliseconds less RestartSec=, with quartiles, and the ratio to systemctl restart of an empty Go service",
	}
	for _, c := range all {
		group := svg.Group{Name: fmt.Sprintf("systemd %d", c.Systemd)}
		for _, s := range c.Subjects {
			group.Bars = append(group.Bars, svg.Bar{
				Label: s.Subject, Value: milliseconds(s.Work.P50),
				Text: fmt.Sprintf("%.1f (%.1f to %.1f) ms, %s", milliseconds(s.Work.P50), milliseconds(s.Work.P25), milliseconds(s.Work.P75), ratio(s.WorkRatio)),
			})
		}
		chart.Groups = append(chart.Groups, group)
	}
	return chart.SVG()
}
