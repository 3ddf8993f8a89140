// SPDX-License-Identifier: Apache-2.0

// Command limiter is an HTTP service with a limit for each of its clients, which is
// the same limit across upgrades, rollbacks, crashes and restarts: see limiter.go for the
// state, and upgrade_test.go for what is promised.
//
// A client says who it is in the header Client. Beyond its limit the answer is 429, with
// Retry-After.
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log"
	"net/http"
	"strconv"
	"time"

	"github.com/holdfast-go/holdfast/reexec"
)

// commitInterval is how much a crash may forget.
const commitInterval = time.Second

func main() {
	burst := flag.Int("burst", 10, "how many requests a client may make at once")
	interval := flag.Duration("interval", 100*time.Millisecond, "after which time it may make one more")
	probation := flag.Duration("probation", 5*time.Second, "how long a new version is on trial")
	flag.Parse()

	service, err := reexec.New(reexec.Options{Name: "limiter", Probation: *probation})
	if err != nil {
		log.Fatal(err)
	}
	limits := newLimiter(*burst, *interval)
	state, err := service.State("limits", limits.state())
	if err != nil {
		log.Fatal(err)
	}
	service.Go("commits", func(ctx context.Context) error { return commit(ctx, state) })
	listener, err := service.Listen("http", "tcp", "127.0.0.1:8080")
	if err != nil {
		log.Fatal(err)
	}
	service.Serve(&http.Server{Handler: limits}, listener)
	if err := service.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

// commit has systemd keep the limits while this version is main. When the service stops,
// they are committed once more.
func commit(ctx context.Context, state *reexec.State) error {
	ticker := time.NewTicker(commitInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		switch err := state.Commit(ctx); {
		case errors.Is(err, reexec.ErrNoManager), errors.Is(err, reexec.ErrNotMain):
			return nil
		case err != nil && ctx.Err() == nil:
			log.Print(err)
		}
	}
}

func (l *limiter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	wait, ok := l.allow(r.Header.Get("Client"))
	if !ok {
		w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
		http.Error(w, "over the limit", http.StatusTooManyRequests)
		return
	}
	_, _ = io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, 1<<20))
	_, _ = io.WriteString(w, "yes\n")
}
