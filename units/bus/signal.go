// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"

	"github.com/godbus/dbus/v5"
)

// listen takes in the signals of l up to its end.
func (c *Conn) listen(l *link, signals <-chan *dbus.Signal) {
	for signal := range signals {
		if signal.Name == busName+".NameOwnerChanged" {
			c.ownerChanged(l, signal)
			continue
		}
		if !c.fromSystemd(l, signal) {
			continue
		}
		switch signal.Name {
		case managerIface + ".JobRemoved":
			var id uint32
			var path dbus.ObjectPath
			var unit, result string
			if dbus.Store(signal.Body, &id, &path, &unit, &result) == nil {
				c.jobRemoved(path, result)
			}
		case properties + ".PropertiesChanged":
			c.changed(signal.Path)
		}
	}
	c.changed("") // what was missed may be anything
}

// fromSystemd: anybody on a bus can send a signal of any name to anybody.
func (c *Conn) fromSystemd(l *link, signal *dbus.Signal) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return l.private || l.owner != "" && signal.Sender == l.owner
}

// ownerChanged follows systemd through daemon-reexec: it has another connection
// then, and has to be asked for signals again.
func (c *Conn) ownerChanged(l *link, signal *dbus.Signal) {
	var name, before, now string
	if signal.Sender != busName || dbus.Store(signal.Body, &name, &before, &now) != nil || name != destination {
		return
	}
	c.mu.Lock()
	l.owner = now
	c.mu.Unlock()
	if now == "" {
		return
	}
	// Not here: the answer comes the way that signals come.
	go func() {
		ctx, cancel := context.WithTimeoutCause(c.ctx, callTimeout, errNoAnswer)
		defer cancel()
		if err := l.subscribe(ctx); err != nil && c.ctx.Err() == nil {
			c.options.Logger.Warn("systemd sends no signals: asking instead", "error", err)
		}
		c.changed("")
	}()
}
