// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// startCat starts a process that ends when its standard input does.
func startCat(t *testing.T) (*exec.Cmd, io.Closer) {
	t.Helper()
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return cmd, in
}

func TestProcess(t *testing.T) {
	cmd, in := startCat(t)
	p := newProcess(cmd.Process.Pid, -1)
	defer p.close()
	if !p.alive() || p.reaped() {
		t.Errorf("alive %t, reaped %t; want a living process", p.alive(), p.reaped())
	}
	ended := make(chan struct{})
	go func() { p.wait(); close(ended) }()
	_ = in.Close()
	<-ended
	// A zombie does not run, and is not gone.
	if p.alive() || p.reaped() {
		t.Errorf("alive %t, reaped %t; want a zombie", p.alive(), p.reaped())
	}
	_ = cmd.Wait()
	if p.alive() || !p.reaped() {
		t.Errorf("alive %t, reaped %t; want neither", p.alive(), p.reaped())
	}
	if err := p.signal(unix.SIGTERM); !errors.Is(err, unix.ESRCH) {
		t.Errorf("signal: %v", err)
	}
}

// Once closed, the PID may be a stranger's.
func TestClosedProcessSignalsNobody(t *testing.T) {
	cmd, _ := startCat(t)
	p := newProcess(cmd.Process.Pid, -1)
	second := p.copy()
	defer second.close()
	p.close()
	if err := p.signal(unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
		t.Errorf("signal: %v", err)
	}
	if p.alive() {
		t.Error("a closed handle says that it lives")
	}
	if !second.alive() {
		t.Error("a copy is closed with the first handle")
	}
	p.close()
	if third := p.copy(); third.alive() {
		t.Error("a copy of a closed handle says that it lives")
	}
}

// A process that was gone before it was looked for must not be taken for
// whoever has its PID then.
func TestProcessThatIsGone(t *testing.T) {
	cmd, in := startCat(t)
	_ = in.Close()
	_ = cmd.Wait()
	p := newProcess(cmd.Process.Pid, -1)
	defer p.close()
	p.pid = os.Getpid() // whose PID it is now
	if p.alive() || !p.reaped() {
		t.Errorf("alive %t, reaped %t", p.alive(), p.reaped())
	}
	p.wait()
}
