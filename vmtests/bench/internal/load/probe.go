// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"slices"
	"time"
)

// A First is the first answer of a process.
type First struct {
	At  int64  `json:"at"`
	PID string `json:"pid"` // as the process itself knows it
	// Version is that of the handler, also where a proxy has a PID of its own.
	Version string `json:"version"`
	// Failed counts the probes that nobody answered before.
	Failed int `json:"failed"`
}

// pauseOfProbe is between two probes.
const pauseOfProbe = 500 * time.Microsecond

// Probe asks over new connections, straight and without delay, until a process answers that is none of known.
func Probe(ctx context.Context, options Options, known []string) (First, error) {
	options.Delay = 0
	switch options.Mode {
	case UDP, Line:
	case Halves:
		options.Mode = Line
	default:
		options.Mode = New
	}
	g := &Generator{options: options, address: options.Address}
	if err := g.prepare(); err != nil {
		return First{}, err
	}
	first := First{}
	var last error // of a probe that had time to end
	for {
		by, err := g.probe(ctx)
		if err == nil && by.pid != "" && !slices.Contains(known, by.pid) {
			first.At, first.PID, first.Version = Now(), by.pid, by.version
			return first, nil
		}
		if err != nil {
			first.Failed++
		} else {
			err = fmt.Errorf("process %s answers, which is known", by.pid)
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return first, fmt.Errorf("wait for the answer of a new process: %w: %w", context.Cause(ctx), last)
		case <-time.After(pauseOfProbe):
		}
	}
}

func (g *Generator) probe(ctx context.Context) (by process, err error) {
	deadline := time.Now().Add(g.options.Timeout)
	if end, ok := ctx.Deadline(); ok && end.Before(deadline) {
		deadline = end
	}
	if g.options.Mode == UDP {
		// A datagram that nobody takes gets no error: ask again soon.
		return g.probeUDP(time.Now().Add(50 * time.Millisecond))
	}
	exchange := exchangeLastHTTP
	if g.options.Mode == Line {
		exchange = exchangeLine
	}
	c := &tcpClient{Generator: g}
	defer c.close()
	c.exchange = func(conn net.Conn, answers *bufio.Reader, body []byte) (process, bool, error) {
		var again bool
		var err error
		by, again, err = exchange(conn, answers, body)
		return by, again, err
	}
	err = c.ask(deadline)
	return by, err
}

func (g *Generator) probeUDP(deadline time.Time) (by process, err error) {
	conn, err := g.dialDatagrams()
	if err != nil {
		return by, err
	}
	c := &udpClient{Generator: g, conn: conn}
	defer c.close()
	if err := conn.SetDeadline(deadline); err != nil {
		return by, err
	}
	return c.exchange("1 probe")
}
