// SPDX-License-Identifier: Apache-2.0

package micro

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	coreos "github.com/coreos/go-systemd/v22/activation"

	"github.com/holdfast-go/holdfast/activation"
)

// takeRole is followed by a way to take listeners.
const takeRole = "take "

// A Taker is a way to take listeners: from the variables to a net.Listener for each.
type Taker struct {
	Library string
	ByName  bool // each has a name of its own, by which it is asked for; otherwise all have the same
}

// Takers are those that are compared.
var Takers = []Taker{{Holdfast, false}, {GoSystem, false}, {Holdfast, true}, {GoSystem, true}}

func (t Taker) String() string { return fmt.Sprintf("%s %v", t.Library, t.ByName) }

func (t Taker) names(count int) []string {
	names := make([]string, count)
	for i := range names {
		names[i] = "http"
		if t.ByName {
			names[i] = "listener-" + strconv.Itoa(i)
		}
	}
	return names
}

// Passed are listeners for processes that take them.
type Passed struct{ files []*os.File }

// Listen makes count listeners. The caller closes them.
func Listen(count int) (_ *Passed, err error) {
	p := &Passed{}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	for range count {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		file, err := ln.(*net.TCPListener).File()
		_ = ln.Close() // file is a copy
		if err != nil {
			return nil, err
		}
		p.files = append(p.files, file)
	}
	return p, nil
}

// Close closes the listeners.
func (p *Passed) Close() {
	for _, file := range p.files {
		_ = file.Close() // nothing was written
	}
}

// Take starts a process that takes all listeners, and returns what that cost it.
func (p *Passed) Take(taker Taker) (Cost, error) {
	names := strings.Join(taker.names(len(p.files)), ":")
	cmd := child(takeRole+taker.String(), p.files...)
	cmd.Env = append(cmd.Env, "LISTEN_FDS="+strconv.Itoa(len(p.files)), "LISTEN_FDNAMES="+names)
	cmd.Stderr = nil // for the error
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return Cost{}, fmt.Errorf("take listeners by %v: %w: %s", taker, err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return Cost{}, fmt.Errorf("take listeners by %v: %w", taker, err)
	}
	var c Cost
	if err := json.Unmarshal(out, &c); err != nil {
		return Cost{}, fmt.Errorf("take listeners by %v: answer %q: %w", taker, out, err)
	}
	return c, nil
}

// takeChild takes what was passed to this process and says what it cost.
func takeChild(role string, out io.Writer) error {
	at := slices.IndexFunc(Takers, func(t Taker) bool { return t.String() == role })
	if at < 0 {
		return fmt.Errorf("nobody takes listeners by %q", role)
	}
	taker := Takers[at]
	// It has no manager that knows its PID beforehand.
	if err := os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid())); err != nil {
		return err
	}
	count, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil {
		return err
	}
	names := taker.names(count)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	got, err := taker.take(names)
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	if err != nil {
		return err
	}
	if len(got) != count || slices.Contains(got, nil) {
		return fmt.Errorf("%d listeners are %v: want %d", len(got), got, count)
	}
	return json.NewEncoder(out).Encode(Cost{
		taker.Library, took, float64(after.Mallocs - before.Mallocs), float64(after.TotalAlloc - before.TotalAlloc),
	})
}

func (t Taker) take(names []string) ([]net.Listener, error) {
	switch {
	case t.Library == GoSystem && t.ByName:
		return takeGoSystemByName(names)
	case t.Library == GoSystem:
		return coreos.Listeners()
	}
	set, err := activation.FromEnv()
	if err != nil {
		return nil, err
	}
	if !t.ByName {
		return set.Listeners(names[0])
	}
	var got []net.Listener
	for _, name := range names {
		ln, err := set.Listener(name)
		if err != nil {
			return nil, err
		}
		got = append(got, ln)
	}
	return got, nil
}

func takeGoSystemByName(names []string) (got []net.Listener, err error) {
	named, err := coreos.ListenersWithNames()
	for _, name := range names {
		got = append(got, named[name]...)
	}
	return got, err
}
