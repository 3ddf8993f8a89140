// SPDX-License-Identifier: Apache-2.0

// Command ledger is an HTTP service with states: entries that one version at a
// time writes, and a count of requests to which all versions add. Neither an
// upgrade nor a rollback, a crash or a restart loses what was confirmed.
//
// A version on trial answers GET with the entries that it got at the handover, and
// POST when it is main.
//
//	GET /            version, PID, entries and the count, in JSON
//	POST /           adds the body as an entry, and answers when systemd keeps it
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast/reexec"
)

// version is set by the linker. The number that it begins with is that of the
// format of the entries; one that ends with "ill" finds itself ill on trial.
var version = "1.0"

func main() {
	probation := flag.Duration("probation", 5*time.Second, "how long a new version is on trial")
	flag.Parse()
	if err := run(context.Background(), *probation); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, probation time.Duration) error {
	var looks atomic.Int32
	svc, err := reexec.New(reexec.Options{
		Name: "ledger", Version: version, Probation: probation, Beat: max(20*time.Millisecond, probation/10),
		Health: func(context.Context) error {
			if strings.HasSuffix(version, "ill") && looks.Add(1) > 1 {
				return errors.New("this version is ill")
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	l := &ledger{svc: svc}
	format, err := strconv.ParseUint(version[:1], 10, 32)
	if err != nil {
		return err
	}
	l.format = uint32(format)
	if l.state, err = svc.State("ledger", reexec.Exclusive{Version: l.format, Save: l.save, Load: l.load}); err != nil {
		return err
	}
	if _, err = svc.State("requests", l.requests.merged()); err != nil {
		return err
	}
	ln, err := svc.Listen("http", "tcp", "127.0.0.1:8080")
	if err != nil {
		return err
	}
	svc.Serve(&http.Server{Handler: l}, ln)
	return svc.Run(ctx)
}

// ledger is a list of entries.
type ledger struct {
	svc      *reexec.Service
	format   uint32
	state    *reexec.State
	requests counter

	mu      sync.Mutex
	entries []entry
}

// entry is a string in format 1, and has more in format 2.
type entry struct {
	Text string
	By   string `json:",omitempty"`
}

func (l *ledger) save(w io.Writer) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.format >= 2 {
		return json.NewEncoder(w).Encode(l.entries)
	}
	texts := make([]string, len(l.entries))
	for i, e := range l.entries {
		texts[i] = e.Text
	}
	return json.NewEncoder(w).Encode(texts)
}

func (l *ledger) load(format uint32, data []byte) error {
	var entries []entry
	var err error
	if format >= 2 {
		err = json.Unmarshal(data, &entries)
	} else {
		var texts []string
		err = json.Unmarshal(data, &texts)
		for _, text := range texts {
			entries = append(entries, entry{Text: text})
		}
	}
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = entries
	return nil
}

// add adds an entry and returns when it cannot be lost any more.
func (l *ledger) add(ctx context.Context, text string) error {
	// A version on trial must not write. It waits for the verdict.
	select {
	case <-l.svc.Main():
	case <-l.svc.Draining():
		return reexec.ErrNotMain
	case <-ctx.Done():
		return ctx.Err()
	}
	l.mu.Lock()
	l.entries = append(l.entries, entry{text, version})
	l.mu.Unlock()
	return l.state.Commit(ctx)
}

func (l *ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.requests.add(1)
	if r.Method == http.MethodPost {
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<10))
		if err == nil {
			err = l.add(r.Context(), string(text))
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
		return
	}
	l.mu.Lock()
	entries := slices.Clone(l.entries)
	l.mu.Unlock()
	_ = json.NewEncoder(w).Encode(answer{version, os.Getpid(), entries, l.requests.total()})
}

// answer is that to GET /.
type answer struct {
	Version  string
	PID      int
	Entries  []entry
	Requests uint64
}

// counter is counted by all generations.
type counter struct{ n atomic.Uint64 }

func (c *counter) add(n uint64)  { c.n.Add(n) }
func (c *counter) total() uint64 { return c.n.Load() }

func (c *counter) merged() reexec.Merged {
	parse := func(b []byte) (uint64, error) { return strconv.ParseUint(string(b), 10, 64) }
	return reexec.Merged{
		Version: 1,
		Save:    func(w io.Writer) error { _, err := io.WriteString(w, strconv.FormatUint(c.total(), 10)); return err },
		Load: func(_ uint32, data []byte) error {
			n, err := parse(data)
			c.n.Store(n)
			return err
		},
		Subtract: func(total, since []byte) ([]byte, error) {
			now, err := parse(total)
			if err != nil || since == nil {
				return total, err
			}
			before, err := parse(since)
			if now == before {
				return nil, err // nothing to merge
			}
			return strconv.AppendUint(nil, now-before, 10), err
		},
		Merge: func(_ uint32, added []byte) error {
			n, err := parse(added)
			c.add(n)
			return err
		},
	}
}
