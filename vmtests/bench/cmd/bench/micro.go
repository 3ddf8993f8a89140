// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/micro"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/stats"
)

// microEffort is over in some seconds.
var microEffort = micro.Effort{Rounds: 15, Messages: 2000, Listeners: 1000}

// printMicro prints how packages notify and activation compare.
func printMicro(out io.Writer, all []micro.Comparison) error {
	fmt.Fprintln(out, "\nmicro: packages notify and activation, and the libraries that do the same")
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\t\ttime\tto holdfast\tallocations\tbytes\t")
	for _, c := range all {
		for i, cost := range c.Costs {
			what := ""
			if i == 0 {
				what = c.What
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.0f\t%.0f\t\n", what, cost.Library, short(cost.Time),
				ratio(stats.Ratio(cost.Time, c.Costs[0].Time)), cost.Allocs, cost.Bytes)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(out, microLegend)
	return err
}

const microLegend = `
time         median of 15 rounds in which all have their turn: of one message into a socket that another process
             reads, or of all from the variables to the last net.Listener, in a process of its own
RELOADING=1  with MONOTONIC_USEC=, which mdlayher/sdnotify does not know
             go-systemd and okzk/sdnotify connect anew for each message, the other two keep a connection. holdfast
             looks at the kind, name and address of each descriptor and drops copies, which go-systemd does not.
`

// short is a time in the unit that suits it.
func short(d time.Duration) string {
	switch {
	case d < time.Microsecond:
		return fmt.Sprintf("%d ns", d.Nanoseconds())
	case d < time.Millisecond:
		return fmt.Sprintf("%.1f µs", float64(d)/1e3)
	}
	return ms(d)
}
