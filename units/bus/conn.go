// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
)

// Names of org.freedesktop.systemd1(5) and of the bus.
const (
	destination  = "org.freedesktop.systemd1"
	managerPath  = dbus.ObjectPath("/org/freedesktop/systemd1")
	managerIface = destination + ".Manager"
	properties   = "org.freedesktop.DBus.Properties"
	busName      = "org.freedesktop.DBus"
)

const (
	// DefaultPatience is the default of Options.Patience: systemd on a loaded
	// machine is back from daemon-reexec in less.
	DefaultPatience = 30 * time.Second
	// callTimeout is that of sd-bus.
	callTimeout = 25 * time.Second
	// retryPause grows up to maxRetryPause between two attempts to connect.
	retryPause    = 50 * time.Millisecond
	maxRetryPause = time.Second

	systemBus     = "unix:path=/run/dbus/system_bus_socket"
	systemPrivate = "unix:path=/run/systemd/private"
)

// Options are the options of [Connect].
type Options struct {
	// User: the service manager of the user, not that of the system.
	User bool
	// Patience is how long systemd may be away before a call fails.
	// Default: [DefaultPatience].
	Patience time.Duration
	// Interactive: polkit may ask the user for a password.
	Interactive bool
	// Logger gets a line when the connection is lost and when it is there again.
	// Default: none.
	Logger *slog.Logger
}

// Conn is a connection to systemd. It may be used by several goroutines.
type Conn struct {
	options Options
	ctx     context.Context // ends with Close
	close   context.CancelFunc
	dialing sync.Mutex // one at a time makes a connection

	mu       sync.Mutex
	link     *link
	jobs     map[dbus.ObjectPath]*Job
	unasked  map[dbus.ObjectPath]string // ended before its caller knew it
	asking   int                        // callers that do not know their job yet
	watchers map[*watcher]struct{}
}

// link is one connection, up to its end.
type link struct {
	conn    *dbus.Conn
	private bool
	// owner is the unique name of systemd; a restart of it has another. It needs Conn.mu.
	owner string
}

// Connect connects to systemd. It does not wait for a bus that is away: then the
// error is an [*AwayError].
func Connect(ctx context.Context, options Options) (*Conn, error) {
	if options.Patience <= 0 {
		options.Patience = DefaultPatience
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Conn{
		options: options,
		jobs:    make(map[dbus.ObjectPath]*Job), unasked: make(map[dbus.ObjectPath]string),
		watchers: make(map[*watcher]struct{}),
	}
	c.ctx, c.close = context.WithCancel(context.Background())
	if _, err := c.connected(ctx); err != nil {
		c.close()
		return nil, &AwayError{Op: "connect", Err: err}
	}
	return c, nil
}

// Close ends the connection. Calls under way end with an error.
func (c *Conn) Close() error {
	c.close() // ends the link, too
	return nil
}

// addresses are those of systemd, the one to be tried first being the first.
func (o Options) addresses() ([]string, error) {
	if !o.User {
		bus := os.Getenv("DBUS_SYSTEM_BUS_ADDRESS")
		if bus == "" {
			bus = systemBus
		}
		if os.Geteuid() == 0 {
			return []string{bus, systemPrivate}, nil
		}
		return []string{bus}, nil
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	var list []string
	if bus := os.Getenv("DBUS_SESSION_BUS_ADDRESS"); bus != "" {
		list = append(list, bus)
	} else if dir != "" {
		list = append(list, "unix:path="+dbus.EscapeBusAddressValue(filepath.Join(dir, "bus")))
	}
	if dir != "" {
		list = append(list, "unix:path="+dbus.EscapeBusAddressValue(filepath.Join(dir, "systemd", "private")))
	}
	if len(list) == 0 {
		return nil, errors.New("$XDG_RUNTIME_DIR and $DBUS_SESSION_BUS_ADDRESS are not set: log in, or set XDG_RUNTIME_DIR=/run/user/UID")
	}
	return list, nil
}

// connected returns the link, and makes one if there is none.
func (c *Conn) connected(ctx context.Context) (*link, error) {
	c.dialing.Lock()
	defer c.dialing.Unlock()
	if l := c.current(); l != nil {
		return l, nil
	}
	addresses, err := c.options.addresses()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, address := range addresses {
		l, err := c.dial(ctx, address)
		if err == nil {
			return l, nil
		}
		// Whoever may not use the private socket has no interest in that.
		if len(errs) == 0 || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.EACCES) {
			errs = append(errs, fmt.Errorf("%s: %w", strings.TrimPrefix(address, "unix:path="), err))
		}
	}
	return nil, errors.Join(errs...)
}

func (c *Conn) current() *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != nil && c.link.conn.Connected() {
		return c.link
	}
	return nil
}

// dial makes a connection that hears how jobs end before anybody asks for one.
func (c *Conn) dial(ctx context.Context, address string) (_ *link, err error) {
	conn, err := dbus.Dial(address, dbus.WithContext(c.ctx), dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	// What follows has no context of its own.
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, errNoAnswer)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()

	l := &link{conn: conn, private: strings.HasSuffix(address, "/private")}
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err != nil {
		return nil, err
	}
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	if l.private {
		err = greet(ctx, conn)
	} else {
		err = l.match(ctx)
	}
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.link = l
	c.mu.Unlock()
	go c.listen(l, signals)
	if err := l.subscribe(ctx); err != nil {
		return nil, err
	}
	return l, nil
}

// greet has the first message answered. systemd overlooks a message that it reads
// together with the end of the authentication, until the next one comes.
func greet(ctx context.Context, conn *dbus.Conn) error {
	const attempts = 50
	answers := make(chan *dbus.Call, attempts)
	for range attempts {
		conn.Object(destination, managerPath).GoWithContext(ctx, "org.freedesktop.DBus.Peer.Ping", 0, answers)
		select {
		case answer := <-answers:
			return answer.Err
		case <-time.After(100 * time.Millisecond):
		}
	}
	return errNoAnswer
}

// match asks the bus for the signals that matter, and for the owner of systemd's name.
func (l *link) match(ctx context.Context) error {
	if err := l.conn.Hello(); err != nil {
		return err
	}
	for _, rule := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(busName), dbus.WithMatchInterface(busName), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, destination)},
		{dbus.WithMatchSender(destination), dbus.WithMatchInterface(managerIface), dbus.WithMatchMember("JobRemoved")},
		{
			dbus.WithMatchSender(destination), dbus.WithMatchInterface(properties), dbus.WithMatchMember("PropertiesChanged"),
			dbus.WithMatchPathNamespace(managerPath + "/unit"),
		},
	} {
		if err := l.conn.AddMatchSignalContext(ctx, rule...); err != nil {
			return err
		}
	}
	return l.conn.BusObject().CallWithContext(ctx, busName+".GetNameOwner", 0, destination).Store(&l.owner)
}

// subscribe has systemd emit its signals. It knows each client once.
func (l *link) subscribe(ctx context.Context) error {
	err := l.conn.Object(destination, managerPath).CallWithContext(ctx, managerIface+".Subscribe", 0).Err
	var e dbus.Error
	if errors.As(err, &e) && e.Name == destination+".AlreadySubscribed" {
		return nil
	}
	return err
}

// call makes a call. What changes something is sent once; a question is repeated
// until systemd has answered or Options.Patience is over.
func (c *Conn) call(ctx context.Context, once bool, path dbus.ObjectPath, method string, args ...any) (*dbus.Call, error) {
	end := time.Now().Add(c.options.Patience)
	pause := retryPause
	for lost := false; ; {
		call, sent, err := c.try(ctx, path, method, args...)
		if err == nil {
			if lost {
				c.options.Logger.Info("systemd answers again")
			}
			return call, nil
		}
		switch {
		case ctx.Err() != nil, sent && !isAway(err):
			return nil, err
		case once && sent:
			return nil, &AwayError{MaybeSent: true, Err: err}
		case c.ctx.Err() != nil, time.Now().After(end):
			return nil, &AwayError{Err: err}
		}
		if !lost {
			c.options.Logger.Warn("systemd cannot be asked: trying again", "error", err)
			lost = true
		}
		select {
		case <-ctx.Done():
		case <-c.ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, maxRetryPause)
	}
}

// try makes a call once; sent says whether it may have been heard.
func (c *Conn) try(ctx context.Context, path dbus.ObjectPath, method string, args ...any) (call *dbus.Call, sent bool, err error) {
	l, err := c.connected(ctx)
	if err != nil {
		return nil, false, err
	}
	callCtx, cancel := context.WithTimeoutCause(ctx, callTimeout, errNoAnswer)
	defer cancel()
	if c.options.Interactive {
		callCtx = ctx // nobody types that fast
		call = CallInteractive(callCtx, l.conn, destination, path, method, args...)
	} else {
		call = l.conn.Object(destination, path).CallWithContext(callCtx, method, 0, args...)
	}
	switch {
	case call.Err == nil:
		return call, true, nil
	case callCtx.Err() != nil:
		return nil, true, context.Cause(callCtx)
	case notDelivered(call.Err):
		return nil, false, call.Err
	default:
		return nil, true, call.Err
	}
}

// notDelivered: the bus says so itself.
func notDelivered(err error) bool {
	var e dbus.Error
	return errors.As(err, &e) && (e.Name == "org.freedesktop.DBus.Error.ServiceUnknown" || e.Name == "org.freedesktop.DBus.Error.NameHasNoOwner" ||
		strings.HasPrefix(e.Name, "org.freedesktop.DBus.Error.Spawn."))
}
