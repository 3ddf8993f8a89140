// SPDX-License-Identifier: Apache-2.0

package upgrade1

import (
	"context"
	"fmt"
	"os/user"
	"strconv"
	"strings"
	"sync"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/introspect"

	"github.com/holdfast-go/holdfast/packaging/holdfast"
)

const (
	maxCalls       = 256
	maxSenderCalls = 32
	// maxUserCalls is for all connections of a user that is not root: the bus gives each user
	// many, and who waits holds a call.
	maxUserCalls = 64

	busName = "org.freedesktop.DBus"
)

// session is one connection to the bus.
type session struct {
	*server
	conn *dbus.Conn
	lost chan struct{} // closed when somebody else has the name

	mu      sync.Mutex
	calls   int
	senders map[string]map[*call]struct{}
	users   map[uint32]int      // calls of each
	pending map[serial]struct{} // read, and not answered
}

// serial is what a call and its answer have in common.
type serial struct {
	sender string
	serial uint32
}

// connect has the name on return.
func (s *server) connect(ctx context.Context) (_ *session, err error) {
	c := &session{server: s, lost: make(chan struct{}), senders: make(map[string]map[*call]struct{}), users: make(map[uint32]int), pending: make(map[serial]struct{})}
	options := []dbus.ConnOption{
		// Calls are answered until it is closed, also those that are under way when ctx ends.
		dbus.WithContext(context.WithoutCancel(ctx)),
		dbus.WithIncomingInterceptor(c.arrived), dbus.WithOutgoingInterceptor(c.answered),
		dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()),
	}
	if s.Address == "" {
		c.conn, err = dbus.ConnectSystemBus(options...)
	} else {
		c.conn, err = dbus.Connect(s.Address, options...)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the bus: %w", err)
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	signals := make(chan *dbus.Signal, 64)
	c.conn.Signal(signals)
	go c.listen(signals)
	// Only who leaves matters: then there is no new owner.
	if err := c.conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(busName), dbus.WithMatchInterface(busName),
		dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(2, "")); err != nil {
		return nil, fmt.Errorf("ask the bus who leaves: %w", err)
	}
	for iface, object := range map[string]any{
		Interface:                             manager{c},
		"org.freedesktop.DBus.Properties":     properties{c},
		"org.freedesktop.DBus.Introspectable": introspect.Introspectable(holdfast.Interface),
	} {
		if err := c.conn.Export(object, Path, iface); err != nil {
			return nil, fmt.Errorf("export %s: %w", iface, err)
		}
	}
	s.mu.Lock()
	s.current = c
	s.mu.Unlock()
	reply, err := c.conn.RequestName(Name, dbus.NameFlagDoNotQueue)
	if err != nil {
		return nil, fmt.Errorf("ask for the name %s: %w", Name, err)
	}
	if reply != dbus.RequestNameReplyPrimaryOwner {
		return nil, fmt.Errorf("ask for the name %s: another process has it", Name)
	}
	return c, nil
}

// close ends the connection, and the calls on it.
func (c *session) close() {
	c.server.mu.Lock()
	if c.current == c {
		c.current = nil
	}
	c.server.mu.Unlock()
	_ = c.conn.Close() // which it may be
	c.mu.Lock()
	defer c.mu.Unlock()
	for sender := range c.senders {
		c.cancel(sender, errLost)
	}
	for key := range c.pending {
		delete(c.pending, key)
		c.idle.endCall()
	}
	c.pending = nil
}

// release gives the name back. On return everything was read that was sent to it before.
func (c *session) release(ctx context.Context) error {
	return c.conn.BusObject().CallWithContext(ctx, busName+".ReleaseName", 0, Name).Err
}

// arrived is called for every message, in the order of the bus.
func (c *session) arrived(m *dbus.Message) {
	if m.Type != dbus.TypeMethodCall || m.Flags&dbus.FlagNoReplyExpected != 0 {
		return
	}
	sender, _ := m.Headers[dbus.FieldSender].Value().(string)
	key := serial{sender, m.Serial()}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.pending[key]; !ok && c.pending != nil {
		c.pending[key] = struct{}{}
		c.idle.beginCall()
	}
}

func (c *session) answered(m *dbus.Message) {
	if m.Type != dbus.TypeMethodReply && m.Type != dbus.TypeError {
		return
	}
	to, _ := m.Headers[dbus.FieldDestination].Value().(string)
	of, _ := m.Headers[dbus.FieldReplySerial].Value().(uint32)
	key := serial{to, of}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.pending[key]; ok {
		delete(c.pending, key)
		c.idle.endCall()
	}
}

func (c *session) listen(signals <-chan *dbus.Signal) {
	for signal := range signals {
		if signal.Sender != busName {
			continue
		}
		switch signal.Name {
		case busName + ".NameOwnerChanged":
			var name, before, after string
			if dbus.Store(signal.Body, &name, &before, &after) == nil && after == "" && strings.HasPrefix(name, ":") {
				c.mu.Lock()
				c.cancel(name, errLeft)
				c.mu.Unlock()
			}
		case busName + ".NameLost":
			var name string
			if dbus.Store(signal.Body, &name) == nil && name == Name {
				select {
				case <-c.lost:
				default:
					close(c.lost)
				}
			}
		}
	}
}

var errLeft = fmt.Errorf("the caller has left the bus")

// cancel ends the calls of a sender. The caller holds mu.
func (c *session) cancel(sender string, cause error) {
	for call := range c.senders[sender] {
		call.stop(cause)
	}
}

// call is one call of a method.
type call struct {
	session *session
	sender  string
	uid     uint32
	by      string
	known   bool // uid is
	// interactive: the caller may be asked for a password.
	interactive bool
	// ctx ends when the caller leaves the bus, and with the service.
	ctx  context.Context
	stop context.CancelCauseFunc
}

// enter begins a call. The caller calls leave.
func (c *session) enter(m dbus.Message) (*call, *dbus.Error) {
	sender, _ := m.Headers[dbus.FieldSender].Value().(string)
	k := &call{session: c, sender: sender, interactive: m.Flags&dbus.FlagAllowInteractiveAuthorization != 0}
	k.ctx, k.stop = context.WithCancelCause(c.work)
	c.idle.beginCall()
	c.mu.Lock()
	all, mine := c.calls, len(c.senders[sender])
	c.calls++
	if c.senders[sender] == nil {
		c.senders[sender] = make(map[*call]struct{})
	}
	c.senders[sender][k] = struct{}{}
	c.mu.Unlock()
	if all >= maxCalls || mine >= maxSenderCalls {
		k.leave()
		return nil, fail(ErrorLimitsExceeded, "%d calls are under way, %d of this caller: wait for one", all, mine)
	}
	// It has not left before it could be noticed, or this is an error.
	uid, err := c.userOf(k.ctx, sender)
	if err != nil {
		k.leave()
		return nil, fail(ErrorPermissionDenied, "the bus does not say who the caller is: %v", err)
	}
	k.uid, k.by, k.known = uid, userName(uid), true
	c.mu.Lock()
	mine = c.users[uid]
	c.users[uid]++
	c.mu.Unlock()
	if uid != 0 && mine >= maxUserCalls {
		k.leave()
		return nil, fail(ErrorLimitsExceeded, "%d calls of %s are under way: wait for one", mine, k.by)
	}
	return k, nil
}

func (k *call) leave() {
	c := k.session
	k.stop(nil)
	c.mu.Lock()
	c.calls--
	if k.known {
		if c.users[k.uid]--; c.users[k.uid] == 0 {
			delete(c.users, k.uid)
		}
	}
	delete(c.senders[k.sender], k)
	if len(c.senders[k.sender]) == 0 {
		delete(c.senders, k.sender)
	}
	c.mu.Unlock()
	c.idle.endCall()
}

// userName is for people and for the journal. Not every user has a name here.
func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "uid " + id
}
