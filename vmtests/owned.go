// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"os/exec"
	"runtime"
	"syscall"
)

// An owned process is killed by the kernel when this process dies, however it dies.
type owned struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once the process was waited for; then err holds what Wait returned
	err  error
}

// startOwned starts cmd so that it gets SIGKILL when this process dies. For what cmd starts in turn see [confined].
func startOwned(cmd *exec.Cmd) (*owned, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL

	o := &owned{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// PR_SET_PDEATHSIG(2const): the signal comes when the thread that created the child ends, so
		// that thread must stay until the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		o.err = cmd.Wait()
		close(o.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return o, nil
}

// confined returns the command line that runs argv with mount and PID namespaces of its own. When argv
// ends or unshare is killed, the kernel kills every process below and drops every mount made there.
func confined(argv ...string) []string {
	return append([]string{
		"unshare", "--mount", "--propagation=private",
		"--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--",
	}, argv...)
}
