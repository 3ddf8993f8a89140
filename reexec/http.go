// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
)

// httpServer is a server that [Service.Serve] was given.
type httpServer struct {
	srv      *http.Server
	ln       net.Listener
	leading  atomic.Bool // clients are led away
	finished chan error  // what Serve returned

	keepAlives atomic.Pointer[keepAlives] // nil if nothing can move
}

// newHTTPServer wraps srv's handler, so that clients can be led away: an
// answer with Connection: close makes an HTTP/1 client open its next
// connection elsewhere, and net/http turns it into a graceful GOAWAY on
// HTTP/2. Shutdown alone closes idle connections while a request may be on
// its way, and that request is lost.
func newHTTPServer(srv *http.Server, ln net.Listener) *httpServer {
	h := &httpServer{srv: srv, ln: ln, finished: make(chan error, 1)}
	next := srv.Handler
	if next == nil {
		next = http.DefaultServeMux
	}
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.leading.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
	hook := srv.ConnState
	srv.ConnState = func(conn net.Conn, state http.ConnState) {
		// First the service's: it may set deadlines, and after ours these would
		// be taken for net/http's.
		if hook != nil {
			hook(conn, state)
		}
		connState(conn, state)
	}
	return h
}

// serve returns nil when the listener was closed by us.
func (h *httpServer) serve() error {
	var err error
	if t := h.srv.TLSConfig; t != nil && (len(t.Certificates) > 0 || t.GetCertificate != nil || t.GetConfigForClient != nil) {
		err = h.srv.ServeTLS(h.ln, "", "")
	} else {
		err = h.srv.Serve(h.movable())
	}
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// movable prepares connections to move if nothing but HTTP/1 can be on them,
// if nobody has wrapped the listener, whose connections we would not know, and
// if wrap knows what all of its sockets accept.
func (h *httpServer) movable() net.Listener {
	l, ok := h.ln.(*listener)
	if !ok || slices.ContainsFunc(l.lanes, (*lane).odd) || h.srv.Protocols != nil && h.srv.Protocols.UnencryptedHTTP2() {
		return h.ln
	}
	set := newKeepAlives(l, func() { h.leading.Store(true) })
	h.keepAlives.Store(set)
	l.adoptFor(set)
	return keepAliveListener{l, set}
}

// stop answers what was asked and closes idle connections at once. It returns
// when that is done or ctx ends.
func (h *httpServer) stop(ctx context.Context) error {
	h.leading.Store(true)
	return h.srv.Shutdown(ctx)
}
