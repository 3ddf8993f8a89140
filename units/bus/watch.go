// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"time"

	"github.com/godbus/dbus/v5"
)

// watcher is a [Conn.Watch].
type watcher struct {
	path dbus.ObjectPath
	wake chan struct{} // has room for one
}

// Watch sends what the unit is now, and again whenever systemd says that it has
// changed, and after every interval, since some properties change without a word
// and signals are lost with the connection. What is not received is replaced by
// what is newer. The channel is closed when ctx ends or the Conn is closed.
func (c *Conn) Watch(ctx context.Context, name string, interval time.Duration) (<-chan Unit, error) {
	unit, err := c.Unit(ctx, name)
	if err != nil {
		return nil, err
	}
	w := &watcher{path: unit.path, wake: make(chan struct{}, 1)}
	c.mu.Lock()
	c.watchers[w] = struct{}{}
	c.mu.Unlock()
	news := make(chan Unit, 1)
	news <- unit
	go func() {
		defer close(news)
		defer func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.watchers, w)
		}()
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-c.ctx.Done():
				return
			case <-w.wake:
			case <-tick.C:
			}
			unit, err := c.Unit(ctx, name)
			if err != nil {
				continue // the next look may do better
			}
			select {
			case <-news:
			default:
			}
			news <- unit // nobody else sends
		}
	}()
	return news, nil
}

// changed wakes those who watch the unit of path, or all of them.
func (c *Conn) changed(path dbus.ObjectPath) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.watchers {
		if path != "" && w.path != path {
			continue
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}
