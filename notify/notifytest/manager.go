// SPDX-License-Identifier: Apache-2.0

package notifytest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// DefaultStoreMax is the size of a [Manager]'s fd store unless [StoreMax] says
// otherwise. A unit without FileDescriptorStoreMax= has none.
const DefaultStoreMax = 64

// wantTimeout bounds [Manager.Want]: a test that waits longer has failed.
const wantTimeout = 10 * time.Second

// Manager receives what a service sends, in order: it records each message,
// keeps the descriptors that are to be stored, and closes all others, a
// barrier's among them, once the message is recorded. So when the barrier of a
// service returns, everything that it sent before is in Messages.
//
// It is safe for concurrent use.
type Manager struct {
	address string
	handle  func(*Message)
	store   *FDStore

	lifetime sync.Mutex // Recreate and Close, one at a time
	socket   *Socket
	stop     context.CancelFunc
	done     chan struct{} // closed when the receiving goroutine has ended
	closed   bool

	mu       sync.Mutex
	messages []*Message
	waited   int           // messages before this one have been waited for
	arrived  chan struct{} // closed and replaced at each message
}

// Option changes how a [Manager] works.
type Option func(*options)

type options struct {
	storeMax int
	handle   func(*Message)
	abstract bool
}

// StoreMax sets the limit of the fd store; 0 means that there is none.
func StoreMax(limit int) Option {
	return func(o *options) { o.storeMax = limit }
}

// Handle has f called with each message that systemd would read, barriers
// excepted, before its descriptors are stored or closed. f may take files out
// of the message.
func Handle(f func(*Message)) Option {
	return func(o *options) { o.handle = f }
}

// Abstract makes [NewManager] listen in the abstract namespace instead of the
// file system.
func Abstract() Option {
	return func(o *options) { o.abstract = true }
}

// NewManager starts a Manager with a socket of its own and closes it when the
// test ends.
func NewManager(t testing.TB, opts ...Option) *Manager {
	t.Helper()
	o := apply(opts)
	address := "@holdfast-notifytest-" + rand.Text()
	if !o.abstract {
		// The name of a test may be longer than the address of a socket.
		dir, err := os.MkdirTemp("", "notifytest")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		address = filepath.Join(dir, "notify")
	}
	m, err := Start(address, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return m
}

// Start starts a Manager that listens on address; see [Listen]. The caller
// closes it.
func Start(address string, opts ...Option) (*Manager, error) {
	o := apply(opts)
	m := &Manager{
		address: address,
		handle:  o.handle,
		store:   NewFDStore(o.storeMax),
		arrived: make(chan struct{}),
	}
	if err := m.listen(); err != nil {
		return nil, err
	}
	return m, nil
}

func apply(opts []Option) options {
	o := options{storeMax: DefaultStoreMax, handle: func(*Message) {}}
	for _, option := range opts {
		option(&o)
	}
	return o
}

func (m *Manager) listen() error {
	socket, err := Listen(m.address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.socket, m.stop, m.done = socket, cancel, make(chan struct{})
	go m.receive(ctx, socket, m.done)
	return nil
}

// receive is the only goroutine that handles messages, so they are handled in
// the order of the queue.
func (m *Manager) receive(ctx context.Context, socket *Socket, done chan<- struct{}) {
	defer close(done)
	for {
		message, err := socket.Receive(ctx)
		if ctx.Err() != nil {
			if err == nil {
				_ = message.Close()
			}
			return
		}
		if err != nil {
			// Nothing more comes from this socket; a test that waits sees why.
			m.record(&Message{Err: err})
			return
		}
		if message.Err == nil && !message.IsBarrier() {
			m.handle(message)
			m.store.Handle(message)
		}
		files := Message{Files: message.Files}
		message.Files = nil
		m.record(message)
		_ = files.Close()
	}
}

func (m *Manager) record(message *Message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.messages = append(m.messages, message)
	close(m.arrived)
	m.arrived = make(chan struct{})
}

// Socket returns the address as NOTIFY_SOCKET takes it.
func (m *Manager) Socket() string { return m.address }

// Environ returns the assignment for the environment of a child process.
func (m *Manager) Environ() string { return "NOTIFY_SOCKET=" + m.address }

// Setenv sets NOTIFY_SOCKET for the rest of the test.
func (m *Manager) Setenv(t testing.TB) { t.Setenv("NOTIFY_SOCKET", m.address) }

// Messages returns all messages so far, also those that systemd would drop.
func (m *Manager) Messages() []*Message {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.messages)
}

// Store returns the fd store. The Manager closes it.
func (m *Manager) Store() *FDStore { return m.store }

// Wait returns the next message that has all of the given fields, written as
// for [Message.Has]. Next means after the one that the last Wait or Want
// returned; messages in between are passed over. The error, when ctx is done
// first, wraps its cause and lists what came instead.
func (m *Manager) Wait(ctx context.Context, fields ...string) (*Message, error) {
	seen := -1
	for {
		m.mu.Lock()
		for i := max(seen, m.waited); i < len(m.messages); i++ {
			if m.messages[i].Has(fields...) {
				m.waited = i + 1
				message := m.messages[i]
				m.mu.Unlock()
				return message, nil
			}
		}
		seen = len(m.messages)
		arrived := m.arrived
		rest := slices.Clone(m.messages[min(m.waited, seen):])
		m.mu.Unlock()
		select {
		case <-arrived:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %s: %w; came instead: %v", strings.Join(fields, " "), context.Cause(ctx), rest)
		}
	}
}

// Want is Wait for tests: it fails the test if the message does not come
// within ten seconds.
func (m *Manager) Want(t testing.TB, fields ...string) *Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wantTimeout)
	defer cancel()
	message, err := m.Wait(ctx, fields...)
	if err != nil {
		t.Fatal(err)
	}
	return message
}

// Recreate closes the socket, with what is in its queue, and makes a new one
// at the same address, as a service manager does that starts anew. The
// messages and the fd store stay.
func (m *Manager) Recreate() error {
	m.lifetime.Lock()
	defer m.lifetime.Unlock()
	if m.closed {
		return fmt.Errorf("recreate notify socket %q: %w", m.address, os.ErrClosed)
	}
	return errors.Join(m.hangUp(), m.listen())
}

// hangUp ends the receiving goroutine and closes its socket.
func (m *Manager) hangUp() error {
	m.stop()
	<-m.done
	return m.socket.Close()
}

// Close closes the socket and the fd store. Messages stay readable.
func (m *Manager) Close() error {
	m.lifetime.Lock()
	defer m.lifetime.Unlock()
	if m.closed {
		return fmt.Errorf("close notify socket %q: %w", m.address, os.ErrClosed)
	}
	m.closed = true
	return errors.Join(m.hangUp(), m.store.Close())
}
