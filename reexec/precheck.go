// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/fingerprint"
	"github.com/holdfast-go/holdfast/reexec/internal/handover"
	"github.com/holdfast-go/holdfast/reexec/internal/lastgood"
)

// checkVariable tells a process that it is a pre-check. Its value is the
// descriptor for the answer.
const checkVariable = "HOLDFAST_CHECK"

// checkAnswer is what the new binary says of itself.
type checkAnswer struct {
	Name     string         `json:"name"`
	Version  string         `json:"version"`
	Versions handover.Range `json:"versions"`
	Error    string         `json:"error,omitempty"`
	// Fingerprint has what is embedded, too. A release before it leaves it out.
	Fingerprint *fingerprint.Fingerprint `json:"fingerprint,omitempty"`
}

// complete adds what the file says for a release that does not say it itself.
func (a *checkAnswer) complete(file fingerprint.Fingerprint) {
	if a.Fingerprint == nil {
		file.Version = a.Version
		a.Fingerprint = &file
	}
}

// process is what the checked program will be as generation.
func (a checkAnswer) process(generation int) control.Process {
	p := control.Process{Generation: generation, Version: a.Version}
	if a.Fingerprint != nil {
		p.Build = a.Fingerprint.Build()
	}
	return p
}

// precheck opens the new binary, or for a rollback the one before, checks it, and
// lets it check itself. The caller closes the binary, which is there also with an
// error if the file could be opened.
func (s *Service) precheck(ctx context.Context, back *rollback) (c checked, err error) {
	if back != nil {
		c.binary, err = s.openPrevious(ctx, back)
	} else {
		c.binary, err = openFile(s.opts.Executable)
	}
	if err != nil {
		return c, err
	}
	if before, failed := s.lastGood.failedBefore(c.binary.file); failed {
		c.before = before
		s.log.Info("a file is tried again", "path", c.binary.path, "before", before)
	}
	if err := c.binary.check(); err != nil {
		return c, err
	}
	if c.answer, err = s.selfCheck(ctx, c.binary); err != nil {
		return c, err
	}
	c.answer.complete(c.binary.fingerprint)
	s.log.Info("pre-check passed", "path", c.binary.path, "version", c.answer.Fingerprint.String())
	if back != nil {
		// Who asks for the version before wants an older one.
		s.lastGood.prepare(ctx, back, s.opts.Executable, c)
		return c, nil
	}
	return c, s.checkDowngrade(c.binary.path, *c.answer.Fingerprint)
}

// checkDowngrade refuses an older version where Options.Downgrade says so. There
// is nothing wrong with the file: it is no [faultError].
func (s *Service) checkDowngrade(path string, next fingerprint.Fingerprint) error {
	order, known := fingerprint.Compare(next.Version, s.fingerprint.Version)
	switch {
	case s.opts.Downgrade == AllowDowngrade:
	case !known:
		s.log.Warn("it is not known whether this is a downgrade", "path", path, "from", s.fingerprint.String(), "to", next.String())
	case order < 0:
		return fmt.Errorf("%s is version %s, the running one is %s, and Options.Downgrade refuses an older one: install a newer version, or change over with systemctl restart", path, next, s.fingerprint)
	}
	return nil
}

// selfCheck runs the new binary in check mode: no sockets, no NOTIFY_SOCKET,
// and a bound on its time, so that a binary that ignores the mode cannot
// serve, or be heard by systemd.
func (s *Service) selfCheck(ctx context.Context, b *binary) (checkAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.CheckTimeout)
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		return checkAnswer{}, fmt.Errorf("self-check of %s: %w", b.path, err)
	}
	defer r.Close()
	high, err := b.above(w, 0)
	_ = w.Close()
	if err != nil {
		return checkAnswer{}, fmt.Errorf("self-check of %s: %w", b.path, err)
	}
	said := &tail{limit: 4 << 10}
	cmd := exec.CommandContext(ctx, b.execPath())
	cmd.Args = argv
	cmd.Env = childEnv(environ, "NOTIFY_SOCKET", "WATCHDOG_USEC")
	cmd.Env = append(cmd.Env, checkVariable+"=3")
	cmd.Stdout, cmd.Stderr = said, said
	cmd.ExtraFiles = []*os.File{high}
	// Its own process group, so that what it starts goes with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Start()
	_ = high.Close()
	if err != nil {
		return checkAnswer{}, fmt.Errorf("start %s: %w", b.path, err)
	}
	written := readWritten(r, 64<<10)
	err = cmd.Wait()
	line := written()

	var answer checkAnswer
	decodeErr := json.Unmarshal(bytes.TrimSpace(line), &answer)
	answer.Version, answer.Error = clip(answer.Version, maxVersion), clip(answer.Error, maxReason)
	switch {
	case ctx.Err() != nil:
		return answer, faultError{fmt.Errorf("self-check of %s did not end within %v%s", b.path, s.opts.CheckTimeout, said.quote())}
	case errors.Is(err, exec.ErrWaitDelay):
		return answer, faultError{fmt.Errorf("self-check of %s left a process behind that holds its output%s", b.path, said.quote())}
	case decodeErr == nil && answer.Error != "":
		return answer, faultError{fmt.Errorf("self-check of %s: %s", b.path, answer.Error)}
	case err != nil:
		return answer, faultError{fmt.Errorf("self-check of %s: %w%s", b.path, err, said.quote())}
	case decodeErr != nil:
		return answer, faultError{fmt.Errorf("self-check of %s gave no answer: call reexec.New in its main%s", b.path, said.quote())}
	case answer.Name != s.opts.Name:
		return answer, faultError{fmt.Errorf("%s is the service %q, this is %q", b.path, answer.Name, s.opts.Name)}
	}
	if _, err := handover.Negotiate(handover.Ours, answer.Versions); err != nil {
		return answer, fmt.Errorf("%s: %w", b.path, err)
	}
	return answer, nil
}

// What another version says of itself goes into logs, into the status, and to
// every later version with the hello, where it must not fill the frame.
const (
	maxReason  = 4 << 10
	maxVersion = 256
)

// clip cuts text to limit bytes and a mark.
func clip(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "…"
}

// readWritten reads from a pipe in the background, up to limit. The function that
// it returns ends that, and returns all that has been written so far. It does
// not wait for the end of the pipe, which a process left behind may hold.
func readWritten(r *os.File, limit int) func() []byte {
	read := make(chan []byte, 1)
	go func() {
		data, _ := io.ReadAll(io.LimitReader(r, int64(limit))) // the error is the deadline below
		read <- data
	}()
	return func() []byte {
		_ = r.SetReadDeadline(time.Now())
		data := <-read
		// A deadline comes before data: what was written just now may not have been read.
		raw, err := r.SyscallConn()
		if err != nil {
			return data
		}
		rest := make([]byte, limit)
		_ = raw.Control(func(fd uintptr) { // does not block, as every pipe of package os
			for len(data) < limit {
				n, err := unix.Read(int(fd), rest[:limit-len(data)])
				if err == unix.EINTR {
					continue
				}
				if err != nil || n == 0 {
					return
				}
				data = append(data, rest[:n]...)
			}
		})
		return data
	}
}

// inCheckMode says whether this process is a pre-check, and where the answer
// goes. A value that it does not understand is an error: whoever was started to
// check must not serve.
func inCheckMode(opts Options) (io.Writer, bool, error) {
	if value, ok := os.LookupEnv(checkVariable); ok {
		fd, err := strconv.ParseUint(value, 10, 31)
		if err != nil || fd < 3 {
			return nil, false, fmt.Errorf("reexec: %s=%q: must be a descriptor from 3 on", checkVariable, value)
		}
		return os.NewFile(uintptr(fd), "check answer"), true, nil
	}
	if opts.CheckOnly {
		return os.Stdout, true, nil
	}
	return nil, false, nil
}

// runCheck answers the pre-check and returns the exit status.
func runCheck(w io.Writer, opts Options, build fingerprint.Fingerprint) int {
	answer := checkAnswer{Name: opts.Name, Version: opts.Version, Versions: handover.Ours, Fingerprint: &build}
	if opts.Check != nil {
		ctx, cancel := context.WithTimeout(context.Background(), opts.CheckTimeout)
		defer cancel()
		if err := opts.Check(ctx); err != nil {
			answer.Error = err.Error()
		}
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		fmt.Fprintf(os.Stderr, "%s: answer the check: %v\n", opts.Name, err)
		return 1
	}
	if answer.Error != "" {
		return 1
	}
	return 0
}

// childEnv is the environment of a child: ours, less what is about this very
// process. WATCHDOG_PID goes, since without it WATCHDOG_USEC is for whoever
// reads it (sd_watchdog_enabled(3)).
func childEnv(environ []string, without ...string) []string {
	drop := map[string]bool{
		"LISTEN_PID": true, "LISTEN_PIDFDID": true, "LISTEN_FDS": true, "LISTEN_FDNAMES": true,
		"WATCHDOG_PID": true, "SYSTEMD_EXEC_PID": true, "MAINPID": true, "MAINPIDFDID": true,
		handoverVariable: true, inPlaceVariable: true, checkVariable: true, executableVariable: true,
	}
	for _, name := range without {
		drop[name] = true
	}
	out := make([]string, 0, len(environ))
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if name == lastgood.Variable {
			kv = name + "=" + lastgood.ForSuccessor(value)
		}
		if !drop[name] {
			out = append(out, kv)
		}
	}
	return out
}

// tail keeps the last bytes that were written to it, and from the cause of a
// crash on also the first ones: a crash says its reason before its stacks.
type tail struct {
	limit int
	buf   []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if len(t.buf) <= t.limit {
		return len(p), nil
	}
	keep := 0
	if i := causeIndex(t.buf); i >= 0 {
		// What came before the cause goes first.
		t.buf = append(t.buf[:0], t.buf[min(i, len(t.buf)-t.limit):]...)
		if i = causeIndex(t.buf); i == 0 {
			keep = t.limit / 2
		}
	}
	over := len(t.buf) - t.limit
	t.buf = append(t.buf[:keep], t.buf[keep+over:]...)
	return len(p), nil
}

// quote returns what says most, for the end of an error.
func (t *tail) quote() string { return quoteOutput(t.buf) }

// causeIndex is where a Go crash names its cause, at the beginning of a line.
func causeIndex(b []byte) int {
	for start := 0; start < len(b); {
		line := b[start:]
		if bytes.HasPrefix(line, []byte("panic: ")) || bytes.HasPrefix(line, []byte("fatal error: ")) {
			return start
		}
		end := bytes.IndexByte(line, '\n')
		if end < 0 {
			break
		}
		start += end + 1
	}
	return -1
}

func quoteOutput(b []byte) string {
	if i := causeIndex(b); i >= 0 {
		b, _, _ = bytes.Cut(b[i:], []byte("\n"))
	} else if bytes.HasPrefix(bytes.TrimSpace(b), []byte("goroutine ")) {
		// The runtime copies the stacks of a fatal error, not its first line
		// (debug.SetCrashOutput).
		return ": a fatal error of the Go runtime, see its lines in the journal"
	}
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(string(b), "?")), "\n")
	text := strings.Join(lines[max(0, len(lines)-3):], "; ")
	if text == "" {
		return ""
	}
	return ": " + text
}
