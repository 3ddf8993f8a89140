// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"

	"github.com/holdfast-go/holdfast/vmtests/internal/load"
)

// What the load generator is told and what it tells.
type (
	LoadOptions  = load.Options
	LoadSummary  = load.Summary
	LoadProgress = load.Progress
	LoadMark     = load.Mark
	LoadResult   = load.Result
)

// loadPath is where the load generator is inside machines.
const loadPath = "/run/holdfast-vmtests/load"

// A Load is a load generator that runs beside what the story does. It makes each request once, whatever
// becomes of it.
type Load struct {
	commands *io.PipeWriter

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced whenever something below changes
	progress LoadProgress
	marks    []LoadMark
	results  []LoadResult // in the order in which they were told
	summary  LoadSummary
	done     bool  // no more changes; err says how it ended
	err      error // nil when there is a summary
}

// StartLoad starts the load generator in the machine and returns once a first request succeeded. It goes on
// until [Load.Stop] or until ctx ends. The program is compiled first, which needs the go command.
func (m *Machine) StartLoad(ctx context.Context, options LoadOptions) (*Load, error) {
	if _, err := load.New(options); err != nil {
		return nil, err
	}
	if err := m.install(ctx, "github.com/holdfast-go/holdfast/vmtests/cmd/load", loadPath); err != nil {
		return nil, err
	}
	args := []string{
		loadPath,
		"-new=" + strconv.Itoa(options.New), "-keepalive=" + strconv.Itoa(options.KeepAlive),
		"-transport=" + strconv.Itoa(options.Transport), "-connect=" + strconv.Itoa(options.Connect),
		"-think=" + options.Think.String(),
		"-redial=" + strconv.FormatBool(options.Redial), "-results=" + strconv.FormatBool(options.Results),
	}
	if options.Timeout != 0 {
		args = append(args, "-timeout="+options.Timeout.String())
	}
	if options.BodySize != 0 {
		args = append(args, "-body="+strconv.Itoa(options.BodySize))
	}
	return startLoad(ctx, func(ctx context.Context, commands io.Reader, out io.Writer) error {
		return m.run(ctx, Command{Args: append(args, options.URL), Stdin: commands, Stdout: out})
	})
}

// StartLoad is [Machine.StartLoad] for a server outside of machines. The load generator runs in this process.
func StartLoad(ctx context.Context, options LoadOptions) (*Load, error) {
	generator, err := load.New(options)
	if err != nil {
		return nil, err
	}
	return startLoad(ctx, func(ctx context.Context, commands io.Reader, out io.Writer) error {
		return load.Stream(ctx, generator, commands, out)
	})
}

// startLoad starts the generator that run is: it returns when the commands are over, and soon when ctx ends.
func startLoad(ctx context.Context, run func(ctx context.Context, commands io.Reader, out io.Writer) error) (*Load, error) {
	generatorCtx, end := context.WithCancel(ctx)
	stdin, commands := io.Pipe()
	stdout, output := io.Pipe()
	l := &Load{commands: commands, changed: make(chan struct{})}
	read := make(chan error, 1)
	go func() { read <- l.read(stdout) }()
	go func() {
		defer end()
		err := run(generatorCtx, stdin, output)
		// Nobody reads commands any more, and no more output comes.
		stdin.CloseWithError(errors.New("the load generator has ended"))
		output.Close()
		l.end(errors.Join(err, <-read))
	}()
	if _, err := l.WaitOK(ctx, 1); err != nil {
		end()
		return nil, err
	}
	return l, nil
}

// read takes in what the generator tells.
func (l *Load) read(stdout *io.PipeReader) error {
	lines := json.NewDecoder(stdout)
	for {
		var line load.Line
		if err := lines.Decode(&line); err != nil {
			// Also when the lines make no sense, the generator must be able to end.
			_, _ = io.Copy(io.Discard, stdout)
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read from the load generator: %w", err)
		}
		l.mu.Lock()
		switch {
		case line.Progress != nil:
			l.progress = *line.Progress
		case line.Mark != nil:
			l.marks = append(l.marks, *line.Mark)
		case line.Results != nil:
			l.results = append(l.results, line.Results...)
		case line.Summary != nil:
			l.summary = *line.Summary
		}
		l.notifyLocked()
		l.mu.Unlock()
	}
}

func (l *Load) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && l.summary.End == 0 {
		err = errors.New("the load generator ended without a summary")
	}
	l.done, l.err = true, err
	l.notifyLocked()
}

// notifyLocked wakes those who wait. It needs mu.
func (l *Load) notifyLocked() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// wait waits until enough, which is called with mu held, reports true.
func (l *Load) wait(ctx context.Context, what string, enough func() bool) error {
	for {
		l.mu.Lock()
		ok, done, err, changed := enough(), l.done, l.err, l.changed
		progress := l.progress
		l.mu.Unlock()
		switch {
		case ok:
			return nil
		case done && err == nil:
			return fmt.Errorf("wait for %s: the load has ended", what)
		case done:
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s at %d ok, %d failed: %w", what, progress.OK, progress.Failed, context.Cause(ctx))
		}
	}
}

// Progress returns the counts of less than about a tenth of a second ago.
func (l *Load) Progress() LoadProgress {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.progress
}

// Results returns every result of less than about a tenth of a second ago, from the one numbered from,
// in the order in which the requests ended, or nearly; all up to a [Load.Mark] after it. It needs
// [LoadOptions.Results]. The caller must not change them.
func (l *Load) Results(from int) []LoadResult {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.results[from:len(l.results):len(l.results)]
}

// WaitOK waits until n more requests than at the call have succeeded, and returns the counts.
func (l *Load) WaitOK(ctx context.Context, n int) (LoadProgress, error) {
	want := l.Progress().OK + n
	err := l.wait(ctx, fmt.Sprintf("%d more requests", n), func() bool { return l.progress.OK >= want })
	return l.Progress(), err
}

// WaitVersion waits until n requests were answered by the given version of the server, and returns the counts.
func (l *Load) WaitVersion(ctx context.Context, version string, n int) (LoadProgress, error) {
	err := l.wait(ctx, fmt.Sprintf("%d answers of version %q", n, version), func() bool { return l.progress.Versions[version] >= n })
	return l.Progress(), err
}

// Mark gives the present moment a name and returns it with the exact counts. The summary lists it too.
func (l *Load) Mark(ctx context.Context, name string) (LoadMark, error) {
	l.mu.Lock()
	before := len(l.marks)
	l.mu.Unlock()
	if _, err := fmt.Fprintf(l.commands, "mark %s\n", name); err != nil {
		return LoadMark{}, fmt.Errorf("mark %q: %w", name, err)
	}
	var mark LoadMark
	err := l.wait(ctx, fmt.Sprintf("mark %q", name), func() bool {
		for _, m := range l.marks[before:] {
			if m.Name == name {
				mark = m
				return true
			}
		}
		return false
	})
	return mark, err
}

// Stop lets the requests under way finish, ends the load and returns what became of all requests.
func (l *Load) Stop(ctx context.Context) (LoadSummary, error) {
	// If it does not listen any more, the wait says why.
	_, _ = io.WriteString(l.commands, "stop\n")
	_ = l.commands.Close() // never fails
	if err := l.wait(ctx, "the summary", func() bool { return l.done && l.err == nil }); err != nil {
		return LoadSummary{}, err
	}
	return l.summary, nil // nothing changes it any more
}
