// SPDX-License-Identifier: Apache-2.0

// Package micro compares packages notify and activation with the libraries that do the same, a call at a
// time. Programs that use it call [Child] first in main: what is compared runs in processes of its own.
package micro

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	coreos "github.com/coreos/go-systemd/v22/daemon"
	mdlayher "github.com/mdlayher/sdnotify"
	okzk "github.com/okzk/sdnotify"

	"github.com/holdfast-go/holdfast/notify"
)

// The libraries that are compared, ours first.
const (
	Holdfast = "holdfast"
	GoSystem = "go-systemd"
	Okzk     = "okzk/sdnotify"
	Mdlayher = "mdlayher/sdnotify"
)

// Messages are those that are compared. A status is made anew for each message, as services do.
var Messages = []string{"READY=1", "STATUS=", "WATCHDOG=1", "RELOADING=1"}

const status = "serving 1234 connections, generation 7"

// A Sender sends one message with one library.
type Sender struct {
	Library string
	Message string // one of Messages
	Send    func() error
}

// A Socket is a notify socket, and who sends to it.
type Socket struct {
	Senders []Sender
	conn    *net.UnixConn // the receiving end
	reader  *os.Process   // has it instead, after Drain
	dir     string
	close   []func() error
}

// Open makes a socket as systemd has one and sets $NOTIFY_SOCKET to it. Those libraries that keep a
// connection have it open before the first message. Nobody reads yet: call Drain. The caller closes it.
func Open() (_ *Socket, err error) {
	s := &Socket{}
	if s.dir, err = os.MkdirTemp("", "holdfast-micro-"); err != nil {
		return nil, err
	}
	s.close = append(s.close, func() error { return os.RemoveAll(s.dir) })
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	path := filepath.Join(s.dir, "notify")
	if s.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}); err != nil {
		return nil, err
	}
	s.close = append(s.close, func() error {
		if err := s.conn.Close(); !errors.Is(err, net.ErrClosed) { // by Drain
			return err
		}
		return nil
	})
	if err := s.setVariable(path); err != nil {
		return nil, err
	}
	ours, err := notify.FromEnv()
	if err != nil {
		return nil, err
	}
	s.close = append(s.close, ours.Close)
	kept, err := mdlayher.New()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Mdlayher, err)
	}
	s.close = append(s.close, kept.Close)
	s.Senders = senders(ours, kept)
	return s, nil
}

const variable = "NOTIFY_SOCKET"

// setVariable sets it until Close: what else this process starts must not send anything here.
func (s *Socket) setVariable(path string) error {
	before, ok := os.LookupEnv(variable)
	s.close = append(s.close, func() error {
		if !ok {
			return os.Unsetenv(variable)
		}
		return os.Setenv(variable, before)
	})
	return os.Setenv(variable, path)
}

// Close ends all that Open and Drain began.
func (s *Socket) Close() error {
	var errs []error
	for i := len(s.close) - 1; i >= 0; i-- {
		errs = append(errs, s.close[i]())
	}
	return errors.Join(errs...)
}

func senders(ours *notify.Notifier, kept *mdlayher.Notifier) []Sender {
	ready, watchdog, reloading := notify.Ready(), notify.WatchdogPing(), notify.Reloading()
	dialling := func(state func() string) func() error {
		return func() error {
			sent, err := coreos.SdNotify(false, state())
			if err == nil && !sent {
				return errors.New("nothing was sent")
			}
			return err
		}
	}
	text := func(state string) func() string { return func() string { return state } }
	return []Sender{
		{Holdfast, "READY=1", func() error { return ours.Notify(ready) }},
		{GoSystem, "READY=1", dialling(text(coreos.SdNotifyReady))},
		{Okzk, "READY=1", okzk.Ready},
		{Mdlayher, "READY=1", func() error { return kept.Notify(mdlayher.Ready) }},

		{Holdfast, "STATUS=", func() error { return ours.Notify(notify.Status(status)) }},
		{GoSystem, "STATUS=", dialling(func() string { return "STATUS=" + status })},
		{Okzk, "STATUS=", func() error { return okzk.Status(status) }},
		{Mdlayher, "STATUS=", func() error { return kept.Notify(mdlayher.Statusf(status)) }},

		{Holdfast, "WATCHDOG=1", func() error { return ours.Notify(watchdog) }},
		{GoSystem, "WATCHDOG=1", dialling(text(coreos.SdNotifyWatchdog))},
		{Okzk, "WATCHDOG=1", okzk.Watchdog},
		{Mdlayher, "WATCHDOG=1", func() error { return kept.Notify("WATCHDOG=1") }},

		// With MONOTONIC_USEC=, which Type=notify-reload demands and mdlayher/sdnotify does not know.
		{Holdfast, "RELOADING=1", func() error { return ours.Notify(reloading) }},
		{GoSystem, "RELOADING=1", dialling(func() string {
			return coreos.SdNotifyReloading + "\n" + coreos.SdNotifyMonotonicUsec()
		})},
		{Okzk, "RELOADING=1", okzk.Reloading},
	}
}

// Benchmark sends b.N messages.
func (s Sender) Benchmark(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Send(); err != nil {
			b.Fatalf("%s: send %s: %v", s.Library, s.Message, err)
		}
	}
}
