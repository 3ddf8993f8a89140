// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// A row is what the table at the end says about a step.
type row struct {
	Title   string
	Reload  time.Duration // of systemctl reload; 0 where there was none
	Gap     time.Duration // longest between two answers
	NewGap  time.Duration // longest between two answers on new connections
	Verdict verdict
	Problem string // why the step failed; empty when it went as it must
}

// writeTable writes rows, and below them the notes and what went wrong.
func writeTable(out io.Writer, rows []row, notes []string, problems []string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "step\tverdict\treload\tlongest gap\tnew connections")
	for _, r := range rows {
		outcome := r.Verdict.Outcome
		if r.Problem != "" {
			outcome = "FAILED"
		}
		reload := "-"
		if r.Reload != 0 {
			reload = seconds(r.Reload)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Title, outcome, reload, milliseconds(r.Gap), milliseconds(r.NewGap))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, note := range notes {
		fmt.Fprintln(out, note)
	}
	for _, r := range rows {
		if r.Problem != "" {
			fmt.Fprintf(out, "FAILED  %s: %s\n", r.Title, r.Problem)
		}
	}
	for _, problem := range problems {
		fmt.Fprintf(out, "FAILED  %s\n", problem)
	}
	return nil
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

// count writes a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
