// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// progressInterval is how often [Stream] tells its progress.
const progressInterval = 100 * time.Millisecond

// A Line is one line of what [Stream] writes: exactly one field is set.
type Line struct {
	Progress *Progress `json:"progress,omitempty"`
	Mark     *Mark     `json:"mark,omitempty"`    // the answer to the command of that name
	Results  []Result  `json:"results,omitempty"` // since the last such line; see [Options.Results]
	Error    string    `json:"error,omitempty"`   // the answer to a command that is none
	Summary  *Summary  `json:"summary,omitempty"` // the last line
}

// Stream runs g and writes a [Line] of JSON for its progress ten times a second, for each mark, and at
// the end for the summary. What came to pass before a mark is told before the mark. From commands it reads lines: "mark NAME", and "stop", which ends the load
// as the end of ctx does. The end of commands means nothing to it.
func Stream(ctx context.Context, g *Generator, commands io.Reader, out io.Writer) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	w := &lineWriter{encoder: json.NewEncoder(out), failed: stop}
	if g.options.Results {
		g.options.OnResult = w.addResult
	}
	go func() { // until the end of commands, which may be that of the process
		lines := bufio.NewScanner(commands)
		for lines.Scan() {
			command, argument, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
			switch {
			case command == "mark" && argument != "":
				mark := g.Mark(argument)
				w.writeResults()
				w.write(Line{Mark: &mark})
			case command == "stop" && argument == "":
				stop()
			default:
				w.write(Line{Error: fmt.Sprintf("command %q: must be \"mark NAME\" or \"stop\"", lines.Text())})
			}
		}
	}()

	var progress sync.WaitGroup
	done := make(chan struct{})
	progress.Go(func() {
		tick := time.NewTicker(progressInterval)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				p := g.Progress()
				w.writeResults()
				w.write(Line{Progress: &p})
			}
		}
	})
	summary := g.Run(ctx)
	close(done)
	progress.Wait()
	w.writeResults()
	w.write(Line{Summary: &summary})
	return w.close()
}

// A lineWriter writes whole lines from several goroutines, none after close.
type lineWriter struct {
	encoder *json.Encoder
	failed  func() // called when nobody reads any more

	mu     sync.Mutex
	closed bool
	err    error

	resultsMu sync.Mutex // held by workers, who do not wait for the reader
	results   []Result
}

func (w *lineWriter) addResult(r Result) {
	w.resultsMu.Lock()
	defer w.resultsMu.Unlock()
	w.results = append(w.results, r)
}

// writeResults writes what was added since the last call.
func (w *lineWriter) writeResults() {
	w.resultsMu.Lock()
	results := w.results
	w.results = nil
	w.resultsMu.Unlock()
	if len(results) > 0 {
		w.write(Line{Results: results})
	}
}

func (w *lineWriter) write(line Line) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.err != nil {
		return
	}
	if w.err = w.encoder.Encode(line); w.err != nil {
		w.failed()
	}
}

func (w *lineWriter) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	return w.err
}
