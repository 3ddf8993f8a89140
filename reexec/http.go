// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
)

// httpServer is a server that [Service.Serve] was given.
type httpServer struct {
	srv      *http.Server
	ln       net.Listener
	leading  atomic.Bool // clients are led away
	finished chan error  // what Serve returned
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
	return h
}

// serve returns nil when the listener was closed by us.
func (h *httpServer) serve() error {
	var err error
	if t := h.srv.TLSConfig; t != nil && (len(t.Certificates) > 0 || t.GetCertificate != nil || t.GetConfigForClient != nil) {
		err = h.srv.ServeTLS(h.ln, "", "")
	} else {
		err = h.srv.Serve(h.ln)
	}
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// stop answers what was asked and closes idle connections at once. It returns
// when that is done or ctx ends.
func (h *httpServer) stop(ctx context.Context) error {
	h.leading.Store(true)
	return h.srv.Shutdown(ctx)
}
