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
	http2      *http2Conns                // nil if net/http ends HTTP/2 by itself
}

// newHTTPServer wraps srv's handler, so that clients can be led away: an
// answer with Connection: close makes an HTTP/1 client open its next
// connection elsewhere. Shutdown alone closes idle connections while a request
// may be on its way, and that request is lost. On HTTP/2 net/http makes a GOAWAY
// of that header, and loses one, too, so this is left to the http2Conns. Others
// may serve the same srv on another listener.
func newHTTPServer(srv *http.Server, ln net.Listener, others []*httpServer) *httpServer {
	h := &httpServer{srv: srv, ln: ln, finished: make(chan error, 1)}
	next := srv.Handler
	if next == nil {
		next = http.DefaultServeMux
	}
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.leading.Load() && (h.http2 == nil || r.ProtoMajor < 2) {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
	hook := srv.ConnState
	srv.ConnState = func(conn net.Conn, state http.ConnState) {
		conn = withoutFrames(conn)
		// First the service's: it may set deadlines, and after ours these would
		// be taken for net/http's.
		if hook != nil {
			hook(conn, state)
		}
		connState(conn, state)
	}
	if i := slices.IndexFunc(others, func(o *httpServer) bool { return o.srv == srv }); i >= 0 {
		h.http2 = others[i].http2
	} else {
		h.http2 = interpose(srv)
	}
	return h
}

// prepare returns the listener for serve. After it, connections can be adopted.
func (h *httpServer) prepare() net.Listener {
	if servesTLS(h.srv) {
		return h.ln
	}
	return h.movable()
}

// serve returns nil when the listener was closed by us.
func (h *httpServer) serve(ln net.Listener) error {
	var err error
	if servesTLS(h.srv) {
		err = h.srv.ServeTLS(ln, "", "")
	} else {
		err = h.srv.Serve(ln)
		if set := h.keepAlives.Load(); set != nil {
			close(set.over)
		}
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
	set := newKeepAlives(l, h.lead)
	h.keepAlives.Store(set)
	l.adoptFor(set)
	return keepAliveListener{l, set}
}

// nameOf is the name by which a listener is known to all generations; of one that
// the service has wrapped that is its address.
func nameOf(ln net.Listener) string {
	if l, ok := ln.(*listener); ok {
		return l.name
	}
	return ln.Addr().Network() + " " + ln.Addr().String()
}

// lead leads clients away from now on.
func (h *httpServer) lead() {
	h.leading.Store(true)
	if h.http2 != nil {
		h.http2.lead()
	}
}

// stop answers what was asked, also what is on its way where that can be seen
// (HTTP/1 without TLS), and closes idle connections at once; those of HTTP/1 only
// when HTTP/2 has come to its end, since Shutdown is for both. It returns when
// that is done or ctx ends.
func (h *httpServer) stop(ctx context.Context) error {
	h.lead()
	if h.http2 != nil {
		h.http2.hasten()
		h.http2.wait(ctx)
	}
	if set := h.keepAlives.Load(); set != nil {
		set.answered(ctx)
	}
	return h.srv.Shutdown(ctx)
}
