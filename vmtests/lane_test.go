// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
)

// testLane tests what a story counts on in every lane.
func testLane(t *testing.T, m *vmtests.Machine) {
	t.Run("exit status", func(t *testing.T) { testExitStatus(t, m) })
	t.Run("streams", func(t *testing.T) { testStreams(t, m) })
	t.Run("cancel", func(t *testing.T) { testCancel(t, m) })
	t.Run("signal", func(t *testing.T) { testSignal(t, m) })
	t.Run("files", func(t *testing.T) { testFiles(t, m) })
	t.Run("journal", func(t *testing.T) { testJournal(t, m) })
	t.Run("properties", func(t *testing.T) { testProperties(t, m) })
}

func TestContainerLane(t *testing.T) { everyVersion(t, testLane) }

func testExitStatus(t *testing.T, m *vmtests.Machine) {
	ctx := t.Context()
	if err := m.Run(ctx, "true"); err != nil {
		t.Error(err)
	}
	for _, test := range []struct {
		argv   []string
		code   int
		signal string
		text   string // in the error
	}{
		{[]string{"sh", "-c", "echo output; echo reason >&2; exit 42"}, 42, "", "exit status 42: reason"},
		{[]string{"sh", "-c", "kill -9 $$"}, -1, "KILL", "ended by KILL"},
		{[]string{"no-such-program"}, 127, "", "not found"},
		{[]string{"/etc/passwd"}, 126, "", "denied"},
	} {
		_, err := m.Output(ctx, test.argv...)
		var exit *vmtests.ExitError
		if !errors.As(err, &exit) {
			t.Errorf("%q: got error %v, want an ExitError", test.argv, err)
			continue
		}
		if exit.Code != test.code || exit.Signal != test.signal || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%q: got %d %q, %q; want %d %q, %q", test.argv, exit.Code, exit.Signal, err, test.code, test.signal, test.text)
		}
	}
	if _, err := m.Start(ctx, vmtests.Command{}); err == nil {
		t.Error("Start without a command: got no error")
	}
}

func testStreams(t *testing.T, m *vmtests.Machine) {
	ctx := t.Context()
	// More than fits into a pipe, in both directions at once.
	sent := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	var stdout, stderr bytes.Buffer
	p, err := m.Start(ctx, vmtests.Command{
		Args:   []string{"sh", "-c", `cat; echo "$GREETING from $(pwd)" >&2`},
		Env:    []string{"GREETING=hello world"},
		Stdin:  bytes.NewReader(sent),
		Stdout: &stdout,
		Stderr: &stderr,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(stdout.Bytes(), sent) {
		t.Errorf("got %d bytes back, want the %d sent", stdout.Len(), len(sent))
	}
	if got := stderr.String(); got != "hello world from /\n" {
		t.Errorf("standard error: got %q", got)
	}
	// Nothing of our environment comes along.
	env, err := m.Output(ctx, "env")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(env) {
		name, _, _ := strings.Cut(line, "=")
		switch name {
		case "PATH", "HOME", "LANG", "TERM", "PWD", "SYSTEMD_COLORS", "SYSTEMD_PAGER", "SYSTEMD_LESS":
		default:
			t.Errorf("environment: got %s", line)
		}
	}
	// A conversation: each answer comes while the command runs.
	in, command := io.Pipe()
	out, output := io.Pipe()
	p, err = m.Start(ctx, vmtests.Command{Args: []string{"sh", "-c", `while read -r word; do echo "<$word>"; done`}, Stdin: in, Stdout: output})
	if err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 64)
	for _, word := range []string{"one", "two"} {
		if _, err := io.WriteString(command, word+"\n"); err != nil {
			t.Fatal(err)
		}
		n, err := out.Read(answer)
		if want := "<" + word + ">\n"; err != nil || string(answer[:n]) != want {
			t.Errorf("answer: got %q (%v), want %q", answer[:n], err, want)
		}
	}
	command.Close()
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
}

func testCancel(t *testing.T, m *vmtests.Machine) {
	ctx, cancel := context.WithCancelCause(t.Context())
	out, output := io.Pipe()
	// The grandchild keeps standard output open: it must go too.
	p, err := m.Start(ctx, vmtests.Command{Args: []string{"sh", "-c", "sleep infinity & echo $!; wait"}, Stdout: output})
	if err != nil {
		t.Fatal(err)
	}
	var grandchild int
	if _, err := fmt.Fscanln(out, &grandchild); err != nil {
		t.Fatal(err)
	}
	cancel(errors.New("enough"))
	var exit *vmtests.ExitError
	if err := p.Wait(); !errors.As(err, &exit) || exit.Signal != "KILL" {
		t.Errorf("Wait after cancel: got %v, want an end by KILL", err)
	}
	if err := p.Wait(); exit == nil || err != error(exit) {
		t.Errorf("second Wait: got %v, want the same", err)
	}
	// Wait returned, so both were killed; a zombie may wait for PID 1 to notice.
	state, err := m.Output(t.Context(), "sh", "-c", `sed -n 's/^State:[[:space:]]*//p' "/proc/$1/status" 2>/dev/null || :`, "sh", fmt.Sprint(grandchild))
	if err != nil || state != "" && !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X") {
		t.Errorf("state of the grandchild: got %q (%v), want it gone", state, err)
	}
	if err := m.Run(ctx, "sleep", "infinity"); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("Run with an ended context: got %v, want its cause", err)
	}
}

func testSignal(t *testing.T, m *vmtests.Machine) {
	ctx := t.Context()
	out, output := io.Pipe()
	p, err := m.Start(ctx, vmtests.Command{
		Args:   []string{"sh", "-c", `trap 'echo caught; exit 3' TERM; echo $$; while :; do sleep 1000 & wait $!; done`},
		Stdout: output,
	})
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscanln(out, &pid); err != nil {
		t.Fatal(err)
	}
	if pid != p.PID {
		t.Errorf("PID: got %d, the command says %d", p.PID, pid)
	}
	if err := p.Signal(ctx, "TERM"); err != nil {
		t.Fatal(err)
	}
	var word string
	if _, err := fmt.Fscanln(out, &word); err != nil || word != "caught" {
		t.Errorf("after TERM: got %q (%v), want caught", word, err)
	}
	var exit *vmtests.ExitError
	if err := p.Wait(); !errors.As(err, &exit) || exit.Code != 3 {
		t.Errorf("Wait: got %v, want exit status 3", err)
	}
	if err := p.Kill(); err != nil {
		t.Errorf("Kill after the end: %v", err)
	}
}

func testFiles(t *testing.T, m *vmtests.Machine) {
	ctx := t.Context()
	const name = "/usr/lib/lane-test/new directory/program"
	if err := m.WriteFile(ctx, name, []byte("#!/bin/sh\necho old\nread -r line\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	in, command := io.Pipe()
	out, output := io.Pipe()
	p, err := m.Start(ctx, vmtests.Command{Args: []string{name}, Stdin: in, Stdout: output})
	if err != nil {
		t.Fatal(err)
	}
	var word string
	if _, err := fmt.Fscanln(out, &word); err != nil || word != "old" {
		t.Fatalf("the program says %q (%v), want old", word, err)
	}
	inode, err := m.Output(ctx, "stat", "--format=%i", name)
	if err != nil {
		t.Fatal(err)
	}
	// Replacing the file does not change the one that runs.
	from := filepath.Join(t.TempDir(), "new")
	if err := os.WriteFile(from, []byte("#!/bin/sh\necho new\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Copy(ctx, from, name, 0o700); err != nil {
		t.Fatal(err)
	}
	io.WriteString(command, "go\n")
	if err := p.Wait(); err != nil {
		t.Errorf("the old program: %v", err)
	}
	if got, err := m.Output(ctx, name); err != nil || got != "new" {
		t.Errorf("the new program says %q (%v), want new", got, err)
	}
	if got, err := m.Output(ctx, "stat", "--format=%a %U", name); err != nil || got != "700 root" {
		t.Errorf("stat: got %q (%v), want 700 root", got, err)
	}
	if got, err := m.Output(ctx, "stat", "--format=%i", name); err != nil || got == inode {
		t.Errorf("inode: got %s (%v), want another than before", got, err)
	}
	if got, err := m.Output(ctx, "ls", filepath.Dir(name)); err != nil || got != "program" {
		t.Errorf("the directory has %q (%v), want the program only", got, err)
	}
	if got, err := m.ReadFile(ctx, name); err != nil || string(got) != "#!/bin/sh\necho new\n" {
		t.Errorf("ReadFile: got %q (%v)", got, err)
	}
	if _, err := m.ReadFile(ctx, "/no/such/file"); err == nil || !strings.Contains(err.Error(), "No such file") {
		t.Errorf("ReadFile of nothing: got error %v", err)
	}
	if err := m.WriteFile(ctx, "relative", nil, 0o644); err == nil || !strings.Contains(err.Error(), "absolute") {
		t.Errorf("WriteFile to a relative name: got error %v", err)
	}
	if err := m.Copy(ctx, "/no/such/file", "/x", 0o644); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Copy of nothing: got error %v", err)
	}
}

func testJournal(t *testing.T, m *vmtests.Machine) {
	ctx := t.Context()
	// systemd-cat(1) takes its identifier and priority along; the long one has bytes that are no text.
	if err := m.Run(ctx, "systemd-cat", "--identifier=lane-test", "--priority=warning", "sh", "-c", `echo one; printf 'two\033[1m\n'; echo three`); err != nil {
		t.Fatal(err)
	}
	entries, err := m.Entries(ctx, "--identifier=lane-test")
	if err != nil {
		t.Fatal(err)
	}
	var messages []string
	for _, e := range entries {
		messages = append(messages, e.Message())
		if e.Get("PRIORITY") != "4" || e.PID() == 0 || e.Get("__MONOTONIC_TIMESTAMP") == "" {
			t.Errorf("entry: got %v", e.Fields)
		}
	}
	if got := strings.Join(messages, "|"); got != "one|two\x1b[1m|three" {
		t.Errorf("messages: got %q", got)
	}
	text, err := m.Journal(ctx, "--identifier=lane-test")
	if err != nil || strings.Count(text, "\n") != 2 || !strings.HasSuffix(text, "three") {
		t.Errorf("Journal: got %q (%v), want three lines", text, err)
	}
}

func testProperties(t *testing.T, m *vmtests.Machine) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// Type=exec: started means that it is sleep, and no longer "(sleep)".
	const unit = "[Service]\nType=exec\nExecStart=sleep infinity\n"
	if err := m.WriteFile(ctx, "/run/systemd/system/lane-test.service", []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Systemctl(ctx, "start", "lane-test"); err != nil {
		t.Fatal(err)
	}
	pid, err := m.MainPID(ctx, "lane-test.service")
	if err != nil {
		t.Fatal(err)
	}
	if comm, err := m.ReadFile(ctx, fmt.Sprintf("/proc/%d/comm", pid)); err != nil || string(comm) != "sleep\n" {
		t.Errorf("main process: got %q (%v), want sleep", comm, err)
	}
	if _, err := m.Prop(ctx, "lane-test.service", "NoSuchProperty"); err == nil || !strings.Contains(err.Error(), "NoSuchProperty") {
		t.Errorf("Prop of an unknown property: got error %v", err)
	}

	// A change that nobody waits for with a verb.
	var states []string
	seen := make(chan struct{})
	waited := make(chan error, 1)
	go func() {
		_, err := m.WaitProps(ctx, "lane-test.service", []string{"ActiveState", "SubState", "MainPID"}, func(p map[string]string) bool {
			states = append(states, p["ActiveState"]+"/"+p["SubState"]+"/"+p["MainPID"])
			if len(states) == 1 {
				close(seen)
			}
			return p["ActiveState"] == "failed"
		})
		waited <- err
	}()
	select {
	case <-seen:
	case err := <-waited:
		t.Fatal(err)
	}
	if err := m.Kill(ctx, pid, "KILL"); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
	if first, last := states[0], states[len(states)-1]; first != fmt.Sprintf("active/running/%d", pid) || last != "failed/failed/0" {
		t.Errorf("states: got %q", states)
	}
	if props, err := m.WaitProps(ctx, "lane-test.service", []string{"Result", "NRestarts"}, func(map[string]string) bool { return true }); err != nil || props["Result"] != "signal" || props["NRestarts"] != "0" {
		t.Errorf("WaitProps: got %v (%v), want Result=signal", props, err)
	}
	ended, end := context.WithCancel(ctx)
	end()
	if _, err := m.WaitProps(ended, "lane-test.service", []string{"Result"}, func(map[string]string) bool { return false }); !errors.Is(err, context.Canceled) {
		t.Errorf("WaitProps with an ended context: got error %v", err)
	}
}
