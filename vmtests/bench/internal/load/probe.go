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
	// Failed counts the probes that nobody answered before.
	Failed int `json:"failed"`
}

// pauseOfProbe is between two probes.
const pauseOfProbe = 500 * time.Microsecond

// Probe asks over new connections, straight and without delay, until a process answers that is none of known.
func Probe(ctx context.Context, options Options, known []string) (First, error) {
	options.Delay = 0
	if options.Mode != Line && options.Mode != UDP {
		options.Mode = New
	}
	g := &Generator{options: options, address: options.Address}
	if err := g.prepare(); err != nil {
		return First{}, err
	}
	first := First{}
	for {
		pid, err := g.probe(ctx)
		if err == nil && pid != "" && !slices.Contains(known, pid) {
			first.At, first.PID = Now(), pid
			return first, nil
		}
		if err != nil {
			first.Failed++
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("process %s answers, which is known", pid)
			}
			return first, fmt.Errorf("wait for the answer of a new process: %w: %w", context.Cause(ctx), err)
		case <-time.After(pauseOfProbe):
		}
	}
}

func (g *Generator) probe(ctx context.Context) (pid string, err error) {
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
	c.exchange = func(conn net.Conn, answers *bufio.Reader, body []byte) (string, bool, error) {
		var again bool
		var err error
		pid, again, err = exchange(conn, answers, body)
		return pid, again, err
	}
	err = c.ask(deadline)
	return pid, err
}

func (g *Generator) probeUDP(deadline time.Time) (pid string, err error) {
	conn, err := net.Dial("udp", g.address)
	if err != nil {
		return "", err
	}
	c := &udpClient{Generator: g, conn: conn}
	defer c.close()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	return c.exchange("1 probe")
}
