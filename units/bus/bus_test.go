// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

func TestFault(t *testing.T) {
	as := func(name string) error { return dbus.Error{Name: name, Body: []any{"text of systemd"}} }
	for _, tt := range []struct {
		err  error
		want any
		text string
	}{
		{as("org.freedesktop.systemd1.NoSuchUnit"), new(*NoUnitError), `unit "a.service": there is none`},
		{as("org.freedesktop.DBus.Error.AccessDenied"), new(*PermissionError), "reload a.service: this user may not: text of systemd"},
		{as("System.Error.EACCES"), new(*PermissionError), "this user may not"},
		{as("org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"), new(*PermissionError), "has to give a password first"},
		{&AwayError{Err: io.EOF}, new(*AwayError), "reload a.service: systemd cannot be asked over D-Bus: EOF"},
		{&AwayError{MaybeSent: true, Err: io.EOF}, new(*AwayError), "reload a.service: the connection to systemd ended before its answer: EOF"},
		{as("org.freedesktop.systemd1.TransactionIsDestructive"), new(dbus.Error), "reload a.service: text of systemd (org.freedesktop.systemd1.TransactionIsDestructive)"},
		{errors.New("odd"), nil, "reload a.service: odd"},
	} {
		got := fault(t.Context(), "reload", "a.service", tt.err)
		if tt.want != nil && !errors.As(got, tt.want) || !strings.Contains(got.Error(), tt.text) {
			t.Errorf("%v: %q (%T), want %q", tt.err, got, got, tt.text)
		}
	}
	if err := fault(t.Context(), "reload", "a.service", nil); err != nil {
		t.Errorf("no error became %v", err)
	}
	cause := errors.New("a key was pressed")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if err := fault(ctx, "reload", "a.service", io.EOF); !errors.Is(err, cause) {
		t.Errorf("error %v, want the cause of the context's end", err)
	}
}

// An answer that is an error is no lost connection, and the other way round.
func TestIsAway(t *testing.T) {
	for _, err := range []error{
		io.EOF, io.ErrUnexpectedEOF, dbus.ErrClosed, errNoAnswer, fmt.Errorf("x: %w", syscallError()),
		dbus.Error{Name: "org.freedesktop.DBus.Error.NoReply"},
		dbus.Error{Name: "org.freedesktop.DBus.Error.ServiceUnknown"},
		dbus.Error{Name: "org.freedesktop.DBus.Error.Spawn.ChildExited"},
	} {
		if !isAway(err) {
			t.Errorf("%v (%T) is not taken for a lost connection", err, err)
		}
	}
	for _, err := range []error{
		dbus.Error{Name: "org.freedesktop.systemd1.NoSuchUnit"},
		dbus.Error{Name: "org.freedesktop.DBus.Error.AccessDenied"},
		dbus.Error{Name: "org.freedesktop.DBus.Error.UnknownMethod"},
		errors.New("odd"),
	} {
		if isAway(err) {
			t.Errorf("%v is taken for a lost connection", err)
		}
	}
}

func syscallError() error { return &net.OpError{Op: "read", Err: syscall.ECONNRESET} }

func newConn() *Conn {
	c := &Conn{
		options: Options{Logger: slog.New(slog.DiscardHandler)},
		jobs:    make(map[dbus.ObjectPath]*Job), unasked: make(map[dbus.ObjectPath]string), watchers: make(map[*watcher]struct{}),
	}
	c.ctx, c.close = context.WithCancel(context.Background())
	return c
}

// removed is a signal that a job has ended.
func removed(sender string, path dbus.ObjectPath, result string) *dbus.Signal {
	return &dbus.Signal{Sender: sender, Path: managerPath, Name: managerIface + ".JobRemoved", Body: []any{uint32(1), path, "a.service", result}}
}

// hear has c take in signals of a link.
func hear(c *Conn, l *link, list ...*dbus.Signal) {
	signals := make(chan *dbus.Signal, len(list))
	for _, s := range list {
		signals <- s
	}
	close(signals)
	c.listen(l, signals)
}

func owner(sender, now string) *dbus.Signal {
	return &dbus.Signal{Sender: sender, Name: busName + ".NameOwnerChanged", Body: []any{destination, ":1.1", now}}
}

// Anybody on a bus can send a signal of any name: only systemd's counts.
func TestForgedSignals(t *testing.T) {
	const path = dbus.ObjectPath("/org/freedesktop/systemd1/job/1")
	for _, tt := range []struct {
		name    string
		link    link
		signals []*dbus.Signal
		want    string
	}{
		{"of systemd", link{owner: ":1.1"}, []*dbus.Signal{removed(":1.1", path, "done")}, "done"},
		{"of somebody else", link{owner: ":1.1"}, []*dbus.Signal{removed(":1.9", path, "failed")}, ""},
		{"by the well-known name", link{owner: ":1.1"}, []*dbus.Signal{removed(destination, path, "failed")}, ""},
		{"without a sender", link{owner: ":1.1"}, []*dbus.Signal{removed("", path, "failed")}, ""},
		{"while systemd is away", link{owner: ""}, []*dbus.Signal{removed("", path, "failed")}, ""},
		{"of systemd itself", link{private: true}, []*dbus.Signal{removed("", path, "failed")}, "failed"},
		{"of another job", link{owner: ":1.1"}, []*dbus.Signal{removed(":1.1", path+"2", "failed")}, ""},
		{"malformed", link{owner: ":1.1"}, []*dbus.Signal{{Sender: ":1.1", Name: managerIface + ".JobRemoved", Body: []any{"x"}}}, ""},
		{"the owner, forged", link{owner: ":1.1"}, []*dbus.Signal{owner(":1.9", ":1.9"), removed(":1.9", path, "failed")}, ""},
		{"the owner, gone", link{owner: ":1.1"}, []*dbus.Signal{owner(busName, ""), removed(":1.1", path, "failed")}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newConn()
			defer c.Close()
			job := &Job{Unit: "a.service", conn: c, path: path, ended: make(chan string, 1)}
			c.jobs[path] = job
			hear(c, &tt.link, tt.signals...)
			got := ""
			select {
			case got = <-job.ended:
			default:
			}
			if got != tt.want {
				t.Errorf("result %q, want %q", got, tt.want)
			}
		})
	}
}

// The end of a job that nobody has asked for is not kept, and that of one whose caller
// does not know it yet is.
func TestJobEndsBeforeItIsKnown(t *testing.T) {
	c := newConn()
	defer c.Close()
	l := &link{owner: ":1.1"}
	hear(c, l, removed(":1.1", "/job/1", "done"))
	if len(c.unasked) != 0 {
		t.Errorf("kept: %v", c.unasked)
	}
	c.asking = 1
	hear(c, l, removed(":1.1", "/job/1", "done"))
	if c.unasked["/job/1"] != "done" {
		t.Errorf("not kept: %v", c.unasked)
	}
}

func TestResult(t *testing.T) {
	job := &Job{Unit: "a.service"}
	for _, known := range []string{"done", "failed", "timeout", "canceled", "frozen"} {
		if got, err := job.result(known); err != nil || string(got) != known {
			t.Errorf("%s: %q, %v", known, got, err)
		}
	}
	var strange *ResultError
	if got, err := job.result("evaporated"); !errors.As(err, &strange) || got != "" || strange.Result != "evaporated" {
		t.Errorf("%q, %v; want a ResultError", got, err)
	}
}

// A property that is not there, or of another type, is none.
func TestProperties(t *testing.T) {
	p := map[string]dbus.Variant{
		"text": dbus.MakeVariant("x"), "number": dbus.MakeVariant(uint64(1_000_000)), "never": dbus.MakeVariant(uint64(0)),
		"infinity": dbus.MakeVariant(uint64(math.MaxUint64)),
	}
	if get[string](p, "text") != "x" || get[string](p, "number") != "" || get[uint32](p, "nosuch") != 0 {
		t.Error("get")
	}
	if got := moment(p, "number"); !got.Equal(time.Unix(1, 0)) {
		t.Errorf("moment %v", got)
	}
	for _, name := range []string{"never", "infinity", "nosuch", "text"} {
		if got := moment(p, name); !got.IsZero() {
			t.Errorf("%s: moment %v", name, got)
		}
	}
	for usec, want := range map[uint64]time.Duration{0: 0, 5: 5 * time.Microsecond, math.MaxUint64: -1, math.MaxInt64: -1} {
		if got := span(usec); got != want {
			t.Errorf("span(%d) = %v, want %v", usec, got, want)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, tt := range []struct {
		name     string
		dir, bus string
		want     []string
	}{
		{"both", "/run/user/7", "unix:path=/x", []string{"unix:path=/x", "unix:path=/run/user/7/systemd/private"}},
		{"directory", "/run/user/7", "", []string{"unix:path=/run/user/7/bus", "unix:path=/run/user/7/systemd/private"}},
		{"bus", "", "unix:path=/x", []string{"unix:path=/x"}},
		{"escaped", "/run/a b", "", []string{"unix:path=/run/a%20b/bus", "unix:path=/run/a%20b/systemd/private"}},
		{"none", "", "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("XDG_RUNTIME_DIR", tt.dir)
			t.Setenv("DBUS_SESSION_BUS_ADDRESS", tt.bus)
			got, err := Options{User: true}.addresses()
			if !slices.Equal(got, tt.want) || (err != nil) != (tt.want == nil) {
				t.Errorf("%q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

// Without a bus, Connect says so at once.
func TestConnectWithoutBus(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "nosuch"))
	conn, err := Connect(t.Context(), Options{User: true})
	var away *AwayError
	if !errors.As(err, &away) || away.MaybeSent {
		t.Fatalf("%v, %v; want an AwayError", conn, err)
	}
}

// A bus that accepts and says nothing does not hold up a caller whose context ends.
func TestConnectToSilence(t *testing.T) {
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "bus"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path="+ln.Addr().String())
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := Connect(ctx, Options{User: true})
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			t.Error("connected to silence")
		}
	case <-time.After(time.Minute):
		t.Error("Connect does not end with its context")
	}
}
