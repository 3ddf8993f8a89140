// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/internal/machine"
)

// openControl takes the predecessor's control socket over, or binds one. It is
// served once this generation is main.
func (s *Service) openControl(inherited *os.File) error {
	if s.opts.RuntimeDirectory != "" {
		if err := checkRuntimeDirectory(s.opts.RuntimeDirectory); err != nil {
			if inherited != nil {
				_ = inherited.Close()
			}
			return err
		}
	}
	if inherited != nil {
		ln, err := net.FileListener(inherited)
		if err := errors.Join(err, inherited.Close()); err != nil {
			return fmt.Errorf("reexec: take over the control socket: %w", err)
		}
		u, ok := ln.(*net.UnixListener)
		if !ok {
			return errors.Join(fmt.Errorf("reexec: take over the control socket: %s is no Unix socket", ln.Addr()), ln.Close())
		}
		s.controlListener = u
		return nil
	}
	if s.opts.RuntimeDirectory == "" {
		return nil
	}
	path := filepath.Join(s.opts.RuntimeDirectory, control.SocketName)
	switch inUse, err := removeStale("unix", path); {
	case err != nil:
		return fmt.Errorf("reexec: control socket: %w", err)
	case inUse:
		return fmt.Errorf("reexec: control socket %s: another process serves it: give every service a RuntimeDirectory= of its own", path)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("reexec: control socket: %w: set RuntimeDirectory= in the unit", err)
	}
	// The successor goes on using the path; the directory goes with the unit.
	ln.SetUnlinkOnClose(false)
	s.controlListener = ln
	return nil
}

// controlServer serves the control socket while this generation is main, and
// after that those who had connected until the process ends.
type controlServer struct {
	srv *http.Server
	ln  net.Listener

	mu      sync.Mutex
	closed  bool
	active  int           // requests being answered
	settled chan struct{} // closed when closed and none is active
}

// ServeHTTP answers one request. Once the next main answers on this socket, it
// ends the connection with the answer: http.Server.Shutdown would drop what it
// has read by then.
func (c *controlServer) ServeHTTP(w http.ResponseWriter, r *http.Request, next http.Handler) {
	c.mu.Lock()
	c.active++
	if c.closed {
		w.Header().Set("Connection", "close")
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.active--
		c.settleLocked()
	}()
	next.ServeHTTP(w, r)
}

func (c *controlServer) settleLocked() {
	if !c.closed || c.active > 0 {
		return
	}
	select {
	case <-c.settled:
	default:
		close(c.settled)
	}
}

// probeTimeout bounds the answer to a probe of the control socket.
const probeTimeout = 10 * time.Second

func (s *Service) serveControl() *controlServer {
	if s.controlListener == nil {
		return nil
	}
	c := &controlServer{
		settled: make(chan struct{}),
		srv:     control.NewServer(backend{s}, s.log),
		ln:      control.NewPeerListener(s.controlListener, uint32(os.Geteuid()), s.log),
	}
	protocol, probes := c.srv.Handler, s.Handler()
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if control.IsProbe(r.URL.Path) {
			// A client that does not read must not stay for ever.
			rc := http.NewResponseController(w)
			_ = rc.SetWriteDeadline(time.Now().Add(probeTimeout))
			probes.ServeHTTP(w, r)
			_ = rc.SetWriteDeadline(time.Time{}) // net/http does not, with WriteTimeout zero
		} else {
			protocol.ServeHTTP(w, r)
		}
	})
	c.srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.ServeHTTP(w, r, next) })
	go func() {
		if err := c.srv.Serve(c.ln); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			s.log.Error("control socket", "error", err)
		}
	}()
	return c
}

// close stops accepting. From then on whoever connects waits for the next main.
func (c *controlServer) close() {
	if c == nil {
		return
	}
	_ = c.ln.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.settleLocked()
}

// end lets those who wait for an answer read it, and closes what is left.
func (c *controlServer) end(ctx context.Context) {
	if c == nil {
		return
	}
	c.close()
	select {
	case <-c.settled:
	case <-ctx.Done():
	}
	_ = c.srv.Close()
}

// backend is the service as its control socket shows it.
type backend struct{ *Service }

// Upgrade asks for an upgrade and waits for the verdict. A request that comes
// while one is under way is answered with busy when that is over.
func (b backend) Upgrade(ctx context.Context, progress func(control.Status)) control.Verdict {
	return b.attempt(ctx, request{}, progress)
}

// Rollback is Upgrade to the version before.
func (b backend) Rollback(ctx context.Context, reason string, progress func(control.Status)) control.Verdict {
	return b.attempt(ctx, request{back: &rollback{reason: reason}}, progress)
}

func (b backend) attempt(ctx context.Context, req request, progress func(control.Status)) control.Verdict {
	s := b.Service
	if progress != nil {
		defer s.watch(progress)()
	}
	answer := make(chan control.Verdict, 1)
	req.answer = answer
	select {
	case s.events <- event{kind: machine.Upgrade, reason: req.back.text(), request: &req}:
	case <-s.done:
		return s.stoppedVerdict()
	}
	select {
	case v := <-answer:
		return v
	case <-ctx.Done():
	case <-s.done:
		select {
		case v := <-answer:
			return v
		default:
		}
	}
	return s.stoppedVerdict()
}

// Upgrade starts the binary behind Options.Executable as the next generation,
// as SIGUSR2 and the control socket do, and waits for the verdict. ctx bounds
// the wait only; the upgrade goes on without the caller.
func (s *Service) Upgrade(ctx context.Context) (control.Verdict, error) {
	return s.attempt(ctx, request{})
}

// Rollback is [Service.Upgrade] to the version before, which Status.Previous names.
// It is that of "holdfast launch", which keeps a copy of it, else that of the link
// "previous" beside a link "current" in the path of Options.Executable, else the
// program of the predecessor while that drains. All that is true of an upgrade is
// true of it: the version before is checked, is on trial, and is undone if it does
// not do well. With the launcher its record has that version start next, until a
// newer file is installed; without it a restart starts what Options.Executable names.
//
// The reason is for people. In the probation of an upgrade a rollback undoes that, and
// this version is the one before. While another attempt is under way otherwise, the
// answer is busy.
func (s *Service) Rollback(ctx context.Context, reason string) (control.Verdict, error) {
	return s.attempt(ctx, request{back: &rollback{reason: reason}})
}

func (s *Service) attempt(ctx context.Context, req request) (control.Verdict, error) {
	v := backend{s}.attempt(ctx, req, nil)
	if v.Outcome == "" {
		return v, errors.New("reexec: this process executes the next version, which has the verdict")
	}
	return v, ctx.Err()
}

func (s *Service) stoppedVerdict() control.Verdict {
	return control.Verdict{Outcome: control.Stopped, Reason: "the service is stopping", From: s.self()}
}

// watch calls f at every change of state until the returned function is called.
func (s *Service) watch(f func(control.Status)) (unwatch func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &watcher{f}
	s.watchers[w] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, w)
	}
}

type watcher struct{ changed func(control.Status) }
