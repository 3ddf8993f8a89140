// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"context"
	"errors"
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

// Probes begin in this interval, the same for a bare exec and an upgrade. What is asked during an upgrade is an
// old version that answers: asked more often, it would take from the new one the time to start.
const probeInterval = time.Millisecond

// maxProbes may be under way at once: a slow answer of an old process must not keep the next probe back.
const maxProbes = 8

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
	results := make(chan probed, maxProbes)
	under := 0 // way
	defer func() {
		for ; under > 0; under-- {
			<-results
		}
	}()
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()
	var first First
	last := errors.New("no probe has ended") // of those that had time to
	var heard bool
	for {
		if under < maxProbes {
			under++
			go func() { results <- g.probe(ctx) }()
		}
		for waiting := true; waiting; {
			select {
			case p := <-results:
				under--
				if p.err == nil && p.by.pid != "" && !slices.Contains(known, p.by.pid) {
					first.At, first.PID, first.Version = p.at, p.by.pid, p.by.version
					return first, nil
				}
				if p.err != nil {
					first.Failed++
				} else {
					p.err = fmt.Errorf("process %s answers, which is known", p.by.pid)
				}
				if !heard || ctx.Err() == nil {
					last, heard = p.err, true
				}
			case <-ticker.C:
				waiting = false
			case <-ctx.Done():
				return first, fmt.Errorf("wait for the answer of a new process: %w: %w", context.Cause(ctx), last)
			}
		}
	}
}

// probed is what became of a probe.
type probed struct {
	by  process
	at  int64 // when it ended
	err error
}

func (g *Generator) probe(ctx context.Context) probed {
	by, err := g.askOnce(ctx)
	return probed{by, Now(), err}
}

func (g *Generator) askOnce(ctx context.Context) (by process, err error) {
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
