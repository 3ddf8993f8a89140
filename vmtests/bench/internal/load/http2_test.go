// SPDX-License-Identifier: Apache-2.0

package load_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/prepare"
)

// leadAway answers every request on a connection, and announces its end at the beginning of the second one.
// It never ends a connection itself, so a server loses nothing that way.
func leadAway(conn net.Conn) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(conn, preface); err != nil {
		return
	}
	frames := http2.NewFramer(conn, conn)
	if frames.WriteSettings() != nil {
		return
	}
	bodies := make(map[uint32][]byte)
	for {
		frame, err := frames.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() && frames.WriteSettingsAck() != nil {
				return
			}
		case *http2.HeadersFrame:
			bodies[frame.StreamID] = nil
			if frame.StreamID == 3 && frames.WriteGoAway(1<<31-1, http2.ErrCodeNo, nil) != nil {
				return
			}
		case *http2.DataFrame:
			id := frame.StreamID
			bodies[id] = append(bodies[id], frame.Data()...)
			if !frame.StreamEnded() {
				continue
			}
			var head bytes.Buffer
			if err := hpack.NewEncoder(&head).WriteField(hpack.HeaderField{Name: ":status", Value: "200"}); err != nil {
				return
			}
			if frames.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head.Bytes(), EndHeaders: true}) != nil ||
				frames.WriteData(id, true, bodies[id]) != nil {
				return
			}
			delete(bodies, id)
		}
	}
}

// A client that learns of the end of a connection just before it sends a request uses another one: nothing
// is lost by that, and it is no failure.
func TestHTTP2EndThatComesBeforeARequest(t *testing.T) {
	cert, key, err := prepare.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}}
	address := listen(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
		over := tls.Server(conn, config)
		if over.Handshake() == nil {
			leadAway(over)
		}
	})
	report := until(t, load.Options{Mode: load.HTTP2, Address: address.String(), Clients: 4 * load.Streams, CA: cert}, 1200)
	n := report.Connections
	if report.Sum.Failed != 0 || n.Cut != 0 || n.Announced == 0 || n.Resumed != n.Announced {
		t.Errorf("failed %d, first %+v, %+v; want no failure, and all reconnects announced and resumed",
			report.Sum.Failed, report.Sum.Failures[:min(len(report.Sum.Failures), 3)], n)
	}
}
