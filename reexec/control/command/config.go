// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"fmt"
	"os"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// configResult is what --json= prints with --config. Exit is the exit code.
type configResult struct {
	Exit   int             `json:"exit"`
	Error  string          `json:"error,omitempty"`
	Reload *control.Reload `json:"reload,omitempty"`
}

// reloadConfig is "holdfast reload --config": the service reads its configuration
// again, and stays the version that it is.
func reloadConfig(ctx context.Context, c *Flags, q question, quiet bool) int {
	ctx, cancel := WithTimeout(ctx, q.timeout)
	defer cancel()
	name := q.displayName(q.operands, q.socket, "")
	v, err := control.NewClient(q.socket).Reload(ctx)
	if v.Outcome != control.Reloaded && os.Getenv("MAINPID") != "" && stoppedWithUnit(ctx, q.socket, control.Result{Verdict: control.Verdict{Outcome: v.Outcome}}, err) {
		c.Say("The reload of the configuration of %s was ended by a stop.", name)
		return ExitOK
	}
	var out configResult
	switch {
	case err != nil:
		out = configResult{Exit: ExitCode(err), Error: err.Error()}
		c.Say("%s: %v", c.Name(), err)
	default:
		out = configResult{Reload: &v}
		switch v.Outcome {
		case control.Reloaded:
			if !quiet && !q.asJSON.On() {
				fmt.Fprintln(c.stdout, printable(fmt.Sprintf("%s has read its configuration again in %.1fs.", name, v.Seconds)))
			}
		case control.Stopped:
			out.Exit = ExitDown
			c.Say("%s is stopping: its configuration is not read again.", name)
		default:
			out.Exit = ExitFailed
			c.Say("The configuration of %s was refused: %s", name, v.Reason)
			c.Say("%s is served as before.", name)
		}
	}
	if q.asJSON.On() {
		if err := q.asJSON.Write(c.stdout, out); err != nil {
			c.Say("%s: write the result: %v", c.Name(), err)
		}
	}
	return out.Exit
}
