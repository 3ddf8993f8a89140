// SPDX-License-Identifier: Apache-2.0

// Package commandtest is for tests of commands: what a run of one wrote, and
// with which code it ended.
package commandtest

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// Output is what a run of a command left.
type Output struct {
	Code           int
	Stdout, Stderr string
}

// Run runs a command, which returns its exit code.
func Run(command func(stdout, stderr io.Writer) int) Output {
	var stdout, stderr bytes.Buffer
	code := command(&stdout, &stderr)
	return Output{code, stdout.String(), stderr.String()}
}

// Want checks an output: the code, and text in the two streams; "" means that
// the stream is empty.
func (o Output) Want(t testing.TB, code int, stdout, stderr string) {
	t.Helper()
	if o.Code != code {
		t.Errorf("exit code %d, want %d", o.Code, code)
	}
	for _, s := range []struct{ name, got, want string }{{"stdout", o.Stdout, stdout}, {"stderr", o.Stderr, stderr}} {
		if !strings.Contains(s.got, s.want) || (s.want == "" && s.got != "") {
			t.Errorf("%s is %q, want %q", s.name, s.got, s.want)
		}
	}
	if t.Failed() {
		t.Logf("exit code %d\nstdout:\n%s\nstderr:\n%s", o.Code, o.Stdout, o.Stderr)
	}
}

// LastLine is the last line of stderr.
func (o Output) LastLine() string {
	lines := strings.Split(strings.TrimSpace(o.Stderr), "\n")
	return lines[len(lines)-1]
}
