// SPDX-License-Identifier: Apache-2.0

package campaign

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
)

// A line is one of the unit's in the journal, by the service or by systemd.
type line struct {
	at   int64 // of CLOCK_MONOTONIC, in nanoseconds
	pid  int   // in the machine
	text string
}

// A journal has all that the service has logged since it was opened. The service tells it by a socket, sooner
// than journald does.
type journal struct {
	conn  *net.UnixConn
	ended chan struct{}

	mu      sync.Mutex
	lines   []line
	dropped int           // before lines
	more    chan struct{} // closed when a line has come, or the end
	err     error         // the end
}

// keptLines bounds what a journal remembers.
const keptLines = 20_000

// logSocket is where the service finds the journal.
const logSocket = "/run/campaign.log"

// openJournal opens the socket by a name that this process finds. The caller closes the journal.
func openJournal(name string) (*journal, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chmod(name, 0o666), conn.SetReadBuffer(1<<20)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	j := &journal{conn: conn, ended: make(chan struct{}), more: make(chan struct{})}
	go func() {
		defer close(j.ended)
		err := j.read()
		j.mu.Lock()
		defer j.mu.Unlock()
		j.err = err
		close(j.more)
	}()
	return j, nil
}

func (j *journal) read() error {
	buf := make([]byte, 64<<10)
	for {
		n, err := j.conn.Read(buf)
		if err != nil {
			return err
		}
		// NANOSECONDS PID TEXT
		parts := strings.SplitN(strings.TrimSpace(string(buf[:n])), " ", 3)
		if len(parts) != 3 {
			continue
		}
		at, err1 := strconv.ParseInt(parts[0], 10, 64)
		pid, err2 := strconv.Atoi(parts[1])
		if err1 != nil || err2 != nil {
			continue
		}
		j.mu.Lock()
		j.lines = append(j.lines, line{at, pid, parts[2]})
		if drop := len(j.lines) - keptLines; drop > keptLines/10 {
			j.lines = append([]line(nil), j.lines[drop:]...)
			j.dropped += drop
		}
		close(j.more)
		j.more = make(chan struct{})
		j.mu.Unlock()
	}
}

// now is the place after the last line so far.
func (j *journal) now() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.dropped + len(j.lines)
}

// since returns the lines from a place on.
func (j *journal) since(place int) []line {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]line(nil), j.lines[min(max(place-j.dropped, 0), len(j.lines)):]...)
}

// wait waits for a line from a place on that has one of the texts.
func (j *journal) wait(ctx context.Context, place int, texts ...string) (line, error) {
	for {
		j.mu.Lock()
		lines, first, more, err := j.lines, j.dropped, j.more, j.err
		j.mu.Unlock()
		for i := max(place-first, 0); i < len(lines); i++ {
			for _, text := range texts {
				if strings.Contains(lines[i].text, text) {
					return lines[i], nil
				}
			}
		}
		place = first + len(lines)
		if err != nil {
			return line{}, err
		}
		select {
		case <-more:
		case <-ctx.Done():
			return line{}, fmt.Errorf("wait for %q in the journal: %w", texts, context.Cause(ctx))
		}
	}
}

func (j *journal) close() {
	_ = j.conn.Close()
	<-j.ended
}

// A transition is a change of state that a generation has logged.
type transition struct {
	at       int64
	pid      int
	from, to string
}

// transitions are those among the lines.
func transitions(lines []line) []transition {
	var all []transition
	for _, l := range lines {
		// level=INFO msg="serving -> checking" generation=1 on=upgrade
		_, message, ok := strings.Cut(l.text, `msg="`)
		if !ok {
			continue
		}
		message, _, _ = strings.Cut(message, `"`)
		if from, to, ok := strings.Cut(message, " -> "); ok {
			all = append(all, transition{l.at, l.pid, from, to})
		}
	}
	return all
}

func text(lines []line) string {
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "%12.6f [%d] %s\n", float64(l.at)/1e9, l.pid, l.text)
	}
	return b.String()
}
