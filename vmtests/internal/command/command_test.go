// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"bytes"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/internal/command"
)

func start(t *testing.T, script string, s command.Streams) *command.Running {
	t.Helper()
	r, err := command.Start(exec.CommandContext(t.Context(), "/bin/sh", "-c", script), s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestStatus(t *testing.T) {
	for script, want := range map[string]command.Status{
		"exit 0":        {},
		"exit 7":        {Code: 7},
		"kill -TERM $$": {Code: -1, Signal: "TERM"},
		"kill -KILL $$": {Code: -1, Signal: "KILL"},
	} {
		if got, err := start(t, script, command.Streams{}).Wait(); err != nil || got != want {
			t.Errorf("%s: got %+v (%v), want %+v", script, got, err, want)
		}
	}
	if _, err := command.Start(exec.Command("/no/such/program"), command.Streams{Stdin: strings.NewReader("x"), Stdout: new(bytes.Buffer)}); err == nil {
		t.Error("Start of nothing: got no error")
	}
}

// slowWriter takes longer for its first bytes than output is waited for.
type slowWriter struct {
	bytes.Buffer
	slept bool
}

func (w *slowWriter) Write(p []byte) (int, error) {
	if !w.slept {
		w.slept = true
		time.Sleep(1500 * time.Millisecond) // this is what is tested
	}
	return w.Buffer.Write(p)
}

func TestLateReaderGetsAll(t *testing.T) {
	t.Parallel()
	var w slowWriter
	// Less than a pipe holds, so that the program ends long before it is read.
	r := start(t, `i=0; while [ $i -lt 5000 ]; do echo "line $i"; i=$((i+1)); done`, command.Streams{Stdout: &w})
	if _, err := r.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := w.String(); strings.Count(got, "\n") != 5000 || !strings.HasSuffix(got, "line 4999\n") {
		t.Errorf("got %d bytes, ending with %q; want 5000 lines", len(got), got[max(0, len(got)-20):])
	}
}

func TestBackgroundIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	r := start(t, "sleep 60 & echo $!", command.Streams{Stdout: &out})
	began := time.Now()
	if _, err := r.Wait(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("Wait took %v", took)
	}
	if err := exec.Command("kill", strings.TrimSpace(out.String())).Run(); err != nil {
		t.Errorf("the program printed %q: %v", out.String(), err)
	}
}

func TestStdinIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	stdin, feed := io.Pipe()
	defer feed.Close()
	var out bytes.Buffer
	r := start(t, "read -r line; echo got $line; echo and done >&2", command.Streams{Stdin: stdin, Stdout: &out, Stderr: &out})
	if _, err := io.WriteString(feed, "one\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Wait(); err != nil || out.String() != "got one\nand done\n" {
		t.Errorf("got %q (%v)", out.String(), err)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// A program whose output nobody takes runs to its end.
func TestOutputThatNobodyTakes(t *testing.T) {
	t.Parallel()
	got, err := start(t, "head -c 1000000 /dev/zero; exit 3", command.Streams{Stdout: failingWriter{}}).Wait()
	if err != nil || got.Code != 3 {
		t.Errorf("got %+v (%v), want code 3", got, err)
	}
}
