// SPDX-License-Identifier: Apache-2.0

package upgrade1

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/godbus/dbus/v5"

	"github.com/holdfast-go/holdfast/notify"
)

// server is what outlives a connection.
type server struct {
	Options
	idle     *idle
	rollouts rollouts
	// work is the context of what is under way, calls that of the calls.
	work     context.Context
	stopWork context.CancelCauseFunc
	resuming sync.WaitGroup

	mu      sync.Mutex
	current *session
	told    string // STATUS=
}

func newServer(ctx context.Context, o Options) *server {
	s := &server{Options: o, idle: newIdle(o.Idle), rollouts: rollouts{byID: make(map[string]*rolloutJob)}}
	s.work, s.stopWork = context.WithCancelCause(context.WithoutCancel(ctx))
	return s
}

// end is called last, also when the bus did not come back.
func (s *server) end() { s.interrupt() }

// emit sends a signal to all. Nobody hears it while the bus is away.
func (s *server) emit(name string, values ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return
	}
	if err := s.current.conn.Emit(Path, name, values...); err != nil {
		s.Logger.Debug("signal", "name", name, "error", err)
	}
}

// announce says what is under way, to the bus and to systemd.
func (s *server) announce() {
	ids := s.rollouts.ids()
	s.emit("org.freedesktop.DBus.Properties.PropertiesChanged", Interface, map[string]dbus.Variant{"Active": dbus.MakeVariant(ids)}, []string{})
	text := "idle"
	if len(ids) > 0 {
		const shown = 4
		text = fmt.Sprintf("%d under way: %s", len(ids), strings.Join(ids[:min(len(ids), shown)], ", "))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told != text {
		s.told = text
		s.notify(notify.Status(text))
	}
}
