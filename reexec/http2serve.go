// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"reflect"
	"time"
)

// How net/http is made to speak HTTP/2 on a connection of ours. Its HTTP/2 has
// no API; golang.org/x/net/http2 has it from net/http in two ways, which both
// sides have to keep, and so do we:
//
//   - http.Server.TLSNextProto["unencrypted_http2"] is for a connection without
//     TLS, whose preface has been read. It comes as the UnencryptedNetConn of a
//     tls.Conn's NetConn. net/http has it up to Go 1.26, and
//     ConfigureServer sets it.
//   - Since Go 1.27 Serve returns nil for a listener that has the methods of
//     externalConfig, and gives it a function for connections.

const (
	protoHTTP2            = "h2"
	protoUnencryptedHTTP2 = "unencrypted_http2"

	clientPreface  = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	prefaceTimeout = 10 * time.Second // as in net/http
)

type nextProto = func(*http.Server, *tls.Conn, http.Handler)

// interpose makes all that srv will speak of HTTP/2 go through http2Conns. It
// returns nil if srv speaks none, or if it is spoken by something else.
func interpose(srv *http.Server) *http2Conns {
	serve := http2Of(srv)
	if serve == nil {
		return nil
	}
	set := newHTTP2Conns()
	if srv.TLSNextProto = maps.Clone(srv.TLSNextProto); srv.TLSNextProto == nil {
		srv.TLSNextProto = map[string]nextProto{}
	}
	srv.TLSNextProto[protoHTTP2] = func(hs *http.Server, conn *tls.Conn, handler http.Handler) {
		if !readPreface(hs, conn) {
			return
		}
		c := set.add(conn)
		defer set.remove(c)
		serve(hs, http2TLSConn{c, conn}, handler)
	}
	srv.TLSNextProto[protoUnencryptedHTTP2] = func(hs *http.Server, conn *tls.Conn, handler http.Handler) {
		c := set.add(conn.NetConn().(interface{ UnencryptedNetConn() net.Conn }).UnencryptedNetConn())
		defer set.remove(c)
		serve(hs, c, handler)
	}
	srv.RegisterOnShutdown(set.hasten)
	return set
}

// connServer speaks HTTP/2 on a connection whose preface has been read, and
// returns when the connection is over.
type connServer func(hs *http.Server, conn net.Conn, handler http.Handler)

// http2Of returns what speaks HTTP/2 for srv; nil if nothing does, or it cannot
// be had. Copies of srv are configured for that, and srv stays what it is.
func http2Of(srv *http.Server) connServer {
	configured := copyOf(srv)
	if err := configureHTTP2(configured); err != nil || configured.TLSNextProto[protoHTTP2] == nil {
		return nil
	}
	if next := configured.TLSNextProto[protoUnencryptedHTTP2]; next != nil {
		return func(hs *http.Server, conn net.Conn, handler http.Handler) {
			next(hs, tls.Client(unencrypted{conn: conn}, nil), handler)
		}
	}
	if srv.TLSNextProto[protoHTTP2] != nil {
		return nil // the service's
	}
	external := &externalConfig{srv: srv}
	if err := copyOf(srv).Serve(external); err != nil || external.serve == nil {
		return nil
	}
	return func(_ *http.Server, conn net.Conn, handler http.Handler) {
		ctx := context.Background()
		if h, ok := handler.(interface{ BaseContext() context.Context }); ok {
			ctx = h.BaseContext()
		}
		external.serve(ctx, conn, handler, true, nil, nil)
	}
}

// copyOf returns a server with the same settings that does not serve yet.
func copyOf(srv *http.Server) *http.Server {
	other := new(http.Server)
	from, to := reflect.ValueOf(srv).Elem(), reflect.ValueOf(other).Elem()
	for i := range from.NumField() {
		if from.Type().Field(i).IsExported() {
			to.Field(i).Set(from.Field(i))
		}
	}
	other.TLSConfig, other.TLSNextProto = srv.TLSConfig.Clone(), maps.Clone(srv.TLSNextProto)
	other.BaseContext = nil // is for real listeners
	return other
}

// configureHTTP2 makes net/http fill srv.TLSNextProto, as it does when it begins
// to serve. It begins, and the listener ends it.
func configureHTTP2(srv *http.Server) error {
	var err error
	if servesTLS(srv) {
		err = srv.ServeTLS(noListener{}, "", "")
	} else {
		err = srv.Serve(noListener{})
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err // about srv.TLSConfig
}

func servesTLS(srv *http.Server) bool {
	t := srv.TLSConfig
	return t != nil && (len(t.Certificates) > 0 || t.GetCertificate != nil || t.GetConfigForClient != nil)
}

type noListener struct{}

func (noListener) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (noListener) Close() error              { return nil }
func (noListener) Addr() net.Addr            { return &net.TCPAddr{} }

// unencrypted is in a tls.Conn that is none.
type unencrypted struct {
	net.Conn // nil: nothing of it is called
	conn     net.Conn
}

func (u unencrypted) UnencryptedNetConn() net.Conn { return u.conn }

// externalConfig is how HTTP/2 that is not net/http's own asks for it.
type externalConfig struct {
	noListener
	srv   *http.Server
	serve func(ctx context.Context, conn net.Conn, h http.Handler, sawClientPreface bool, upgrade *http.Request, settings []byte)
}

func (c *externalConfig) ServeConnFunc(f func(context.Context, net.Conn, http.Handler, bool, *http.Request, []byte)) {
	c.serve = f
}

// HTTP2Config has nothing to add to that of the server.
func (c *externalConfig) HTTP2Config() http.HTTP2Config { return http.HTTP2Config{} }

// IdleTimeout is what net/http takes.
func (c *externalConfig) IdleTimeout() time.Duration {
	if c.srv.IdleTimeout != 0 {
		return c.srv.IdleTimeout
	}
	return c.srv.ReadTimeout
}

// readPreface reads what a client says first.
func readPreface(hs *http.Server, conn net.Conn) bool {
	_ = conn.SetReadDeadline(time.Now().Add(prefaceTimeout))
	preface := make([]byte, len(clientPreface))
	if _, err := io.ReadFull(conn, preface); err != nil {
		return false
	}
	if !bytes.Equal(preface, []byte(clientPreface)) {
		logf := log.Printf
		if hs.ErrorLog != nil {
			logf = hs.ErrorLog.Printf
		}
		logf("http2: %v does not begin with the preface of HTTP/2 but with %q", conn.RemoteAddr(), preface)
		return false
	}
	return conn.SetReadDeadline(time.Time{}) == nil
}
