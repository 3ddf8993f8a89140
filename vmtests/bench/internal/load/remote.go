// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// A Request is what the load generator, a process of its own, is told on its standard input. The first one
// starts the load; the answer comes when the service has answered.
type Request struct {
	Start *Options      `json:"start,omitempty"`
	Probe []string      `json:"probe,omitempty"` // PIDs that are known
	Limit time.Duration `json:"limit,omitempty"` // of a start or a probe
	Sweep bool          `json:"sweep,omitempty"`
	Look  bool          `json:"look,omitempty"`
	Stop  bool          `json:"stop,omitempty"`
}

// An Answer is what it tells of each request.
type Answer struct {
	First  *First  `json:"first,omitempty"`  // of a start or a probe
	Report *Report `json:"report,omitempty"` // of a look or a stop
	Error  string  `json:"error,omitempty"`
}

// Serve is the load generator: it does what it reads, and ends with the input or a stop.
func Serve(in io.Reader, out io.Writer) error {
	requests, answers := json.NewDecoder(in), json.NewEncoder(out)
	var g *Generator
	for {
		var r Request
		if err := requests.Decode(&r); err != nil {
			if g != nil {
				_, stopErr := g.Stop()
				err = errors.Join(err, stopErr)
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("load: read request: %w", err)
		}
		var a Answer
		var err error
		switch {
		case g == nil && r.Start == nil:
			err = errors.New("load: the first request must start the load")
		case g == nil:
			if a.First, err = probe(*r.Start, nil, r.Limit); err == nil {
				g, err = Start(*r.Start)
			}
		case r.Probe != nil:
			a.First, err = probe(g.options, r.Probe, r.Limit)
		case r.Sweep:
			err = g.Sweep()
		case r.Look:
			report := g.Look()
			a.Report = &report
		case r.Stop:
			var report Report
			report, err = g.Stop()
			a.Report = &report
		default:
			err = fmt.Errorf("load: request %+v asks for nothing", r)
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := answers.Encode(a); err != nil {
			return fmt.Errorf("load: write answer: %w", err)
		}
		if r.Stop {
			return nil
		}
	}
}

func probe(options Options, known []string, limit time.Duration) (*First, error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), limit, fmt.Errorf("none within %v", limit))
	defer cancel()
	first, err := Probe(ctx, options, known)
	return &first, err
}

// A Remote is a load generator in another process. One goroutine at a time may use it.
type Remote struct {
	requests *json.Encoder
	answers  *json.Decoder
}

// NewRemote speaks to the generator behind in and out, its standard input and output.
func NewRemote(in io.Writer, out io.Reader) *Remote {
	return &Remote{json.NewEncoder(in), json.NewDecoder(bufio.NewReader(out))}
}

func (r *Remote) call(request Request) (Answer, error) {
	var a Answer
	if err := r.requests.Encode(request); err != nil {
		return a, fmt.Errorf("tell the load generator: %w", err)
	}
	if err := r.answers.Decode(&a); err != nil {
		return a, fmt.Errorf("hear the load generator: %w", err)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// Start starts the load once the service answers, and returns who answered first.
func (r *Remote) Start(options Options, limit time.Duration) (First, error) {
	a, err := r.call(Request{Start: &options, Limit: limit})
	if err != nil {
		return First{}, err
	}
	return *a.First, nil
}

// Probe is [Probe], no longer than limit.
func (r *Remote) Probe(known []string, limit time.Duration) (First, error) {
	a, err := r.call(Request{Probe: known, Limit: limit})
	if err != nil {
		return First{}, err
	}
	return *a.First, nil
}

// Sweep is [Generator.Sweep].
func (r *Remote) Sweep() error {
	_, err := r.call(Request{Sweep: true})
	return err
}

// Look is [Generator.Look].
func (r *Remote) Look() (Report, error) {
	a, err := r.call(Request{Look: true})
	if err != nil {
		return Report{}, err
	}
	return *a.Report, nil
}

// Stop is [Generator.Stop]; the process ends after it.
func (r *Remote) Stop() (Report, error) {
	a, err := r.call(Request{Stop: true})
	if err != nil {
		return Report{}, err
	}
	return *a.Report, nil
}
