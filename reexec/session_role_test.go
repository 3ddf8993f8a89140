// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/reexec"
)

// sessionState is what the role's sessions know: how many lines they had, and what
// they have read of the next one.
type sessionState struct {
	Lines   int
	Read    []byte
	Ballast []byte
}

// serveSessions answers each line of a session with its number, the PID and the
// line. Sessions move when the service drains, also in the middle of a line.
func serveSessions(service *reexec.Service, p plan, ln net.Listener, log *slog.Logger) {
	// A sync.WaitGroup must not be waited for while a session that another
	// generation has sent may begin.
	var mu sync.Mutex
	open, ended := 0, sync.NewCond(&mu)
	count := func(by int) {
		mu.Lock()
		defer mu.Unlock()
		open += by
		ended.Broadcast()
	}
	goodbye, bye := context.WithCancelCause(context.Background())
	serve := func(conn net.Conn, state []byte) {
		count(1)
		defer count(-1)
		s := sessionState{Ballast: make([]byte, p.Ballast)}
		if state != nil {
			if err := json.Unmarshal(state, &s); err != nil {
				log.Error("state of a session", "error", err)
			}
		}
		if err := serveSession(goodbye, service, conn, s); err != nil {
			log.Info("session ends", "error", err)
		}
	}
	if !p.NoSessions {
		service.HandleSession("lines", serve)
	}
	service.OnDrain("lines", func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { bye(context.Cause(ctx)) })
		defer stop()
		mu.Lock()
		defer mu.Unlock()
		for open > 0 {
			ended.Wait()
		}
		return context.Cause(ctx)
	})
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(conn, nil)
		}
	}()
}

func serveSession(goodbye context.Context, service *reexec.Service, conn net.Conn, s sessionState) error {
	defer conn.Close()
	interrupt := func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) }
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-service.Draining():
			interrupt()
		case <-over:
		}
	}()
	defer context.AfterFunc(goodbye, interrupt)()
	in := bufio.NewReader(conn)
	for {
		rest, err := in.ReadString('\n')
		s.Read = append(s.Read, rest...)
		switch {
		case goodbye.Err() != nil:
			_, err := fmt.Fprintf(conn, "goodbye: %v\n", context.Cause(goodbye))
			return err
		case errors.Is(err, os.ErrDeadlineExceeded):
			state, err := json.Marshal(s)
			if err != nil {
				return err
			}
			if err = service.MoveSession("lines", conn, state); err == nil {
				return nil
			}
			if !errors.Is(err, reexec.ErrSessionRefused) && !errors.Is(err, reexec.ErrNoSuccessor) {
				return err
			}
			// It goes on here.
			if err := conn.SetReadDeadline(time.Time{}); err != nil {
				return err
			}
			if goodbye.Err() != nil {
				interrupt()
			}
			continue
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		s.Lines++
		if _, err := fmt.Fprintf(conn, "%d %d %s\n", s.Lines, os.Getpid(), strings.TrimSuffix(string(s.Read), "\n")); err != nil {
			return err
		}
		s.Read = s.Read[:0]
	}
}
