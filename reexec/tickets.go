// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Keys of TLS session tickets live as long as those that crypto/tls makes.
const (
	ticketKeyRotation = 24 * time.Hour
	ticketKeyLifetime = 7 * 24 * time.Hour
	ticketKeySize     = 32
)

// ticketKey is secret: it must not be logged.
type ticketKey struct {
	Key  []byte    `json:"key"`
	Made time.Time `json:"made"`
}

// String hides the key, also from %v of all around it.
func (k ticketKey) String() string { return "key of " + k.Made.Format(time.RFC3339) }

// GoString does so from %#v.
func (k ticketKey) GoString() string { return k.String() }

// LogValue does so from logs in JSON.
func (k ticketKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// ticketKeys are the keys of all generations, the newest first. It makes the
// tickets, the others are good for those of earlier days.
type ticketKeys struct {
	state *State

	mu     sync.Mutex
	list   []ticketKey
	shared map[string]*tls.Config // by name; with keys that are made of ours
	unkept bool                   // systemd does not have the newest one
}

// ticketState is the name of the state of the keys.
const ticketState = "holdfast.tickets"

// newTicketKeys makes a first key.
func newTicketKeys(now time.Time) *ticketKeys {
	return &ticketKeys{shared: map[string]*tls.Config{}, list: rotated(nil, now), unkept: true}
}

// newTicketState goes on with the keys of the predecessor, or with those that
// systemd keeps, if there are any.
func newTicketState(ss *states, now time.Time) (_ *ticketKeys, err error) {
	k := newTicketKeys(now)
	k.state, err = ss.register(ticketState, Snapshot{Version: 1, Save: k.save, Load: k.load}.definition())
	if err != nil {
		return nil, err
	}
	k.state.hidden = func() bool { return !k.used() }
	if _, ok := k.state.Loaded(); ok {
		k.unkept = !k.state.isCommitted()
	}
	return k, nil
}

func (k *ticketKeys) save(w io.Writer) error { return json.NewEncoder(w).Encode(k.keys()) }

// load takes keys over. What is in data gets into no error, and so into no log.
func (k *ticketKeys) load(_ uint32, data []byte) error {
	var list []ticketKey
	if json.Unmarshal(data, &list) != nil {
		return errors.New("it is no list of keys")
	}
	list = slices.DeleteFunc(list, func(key ticketKey) bool { return len(key.Key) != ticketKeySize })
	if len(list) == 0 {
		return fmt.Errorf("it has no key of %d bytes", ticketKeySize)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.list = list
	return nil
}

// keep has systemd keep the keys, so that sessions go on after a crash. It does
// not wait for it. Only main's are kept.
func (k *ticketKeys) keep() {
	k.mu.Lock()
	due := k.unkept && len(k.shared) > 0 && k.state != nil
	k.mu.Unlock()
	if due {
		go k.commit()
	}
}

func (k *ticketKeys) commit() {
	k.mu.Lock()
	newest := k.list[0]
	k.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), barrierTimeout)
	defer cancel()
	err := k.state.Commit(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case err == nil:
		k.unkept = !newest.Made.Equal(k.list[0].Made)
	case errors.Is(err, ErrNoManager), errors.Is(err, ErrNotMain):
	default:
		k.state.states.log.Warn("a crash ends all TLS sessions", "error", err)
	}
}

// rotated returns the keys for now. The clock may have been set back: a key
// from the future would never be old.
func rotated(keys []ticketKey, now time.Time) []ticketKey {
	if len(keys) > 0 && now.Sub(keys[0].Made).Abs() < ticketKeyRotation {
		return keys
	}
	fresh := ticketKey{Key: make([]byte, ticketKeySize), Made: now}
	_, _ = rand.Read(fresh.Key) // never fails, see crypto/rand
	list := []ticketKey{fresh}
	for _, key := range keys {
		if now.Sub(key.Made).Abs() < ticketKeyLifetime {
			list = append(list, key)
		}
	}
	return list
}

// rotate makes a new key when it is time. Only main may call it, and not while
// a successor has the keys and is not main.
func (k *ticketKeys) rotate(now time.Time) {
	if k.rotateOnce(now) {
		k.keep()
	}
}

func (k *ticketKeys) rotateOnce(now time.Time) (changed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	list := rotated(k.list, now)
	if list[0].Made.Equal(k.list[0].Made) {
		return false
	}
	k.list, k.unkept = list, true
	for name, config := range k.shared {
		config.SetSessionTicketKeys(derived(list, name))
	}
	return true
}

func (k *ticketKeys) keys() []ticketKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.list)
}

// used says whether the service has TLS.
func (k *ticketKeys) used() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.shared) > 0
}

// named returns a configuration for nothing but the tickets of that name.
func (k *ticketKeys) named(name string) *tls.Config {
	k.mu.Lock()
	defer k.mu.Unlock()
	config := k.shared[name]
	if config == nil {
		config = new(tls.Config)
		config.SetSessionTicketKeys(derived(k.list, name))
		k.shared[name] = config
	}
	return config
}

// derived makes keys for one name, so that a session does not go on where
// another one would have been refused.
func derived(list []ticketKey, name string) [][ticketKeySize]byte {
	keys := make([][ticketKeySize]byte, len(list))
	for i, key := range list {
		b, err := hkdf.Key(sha256.New, key.Key, nil, "holdfast session tickets: "+name, ticketKeySize)
		if err != nil {
			panic("reexec: " + err.Error()) // the lengths are fixed
		}
		keys[i] = [ticketKeySize]byte(b)
	}
	return keys
}

// ShareTicketKeys makes clients of config resume their TLS sessions in every
// generation, whichever they have come from: its session tickets are made with
// keys that go from version to version, and that main renews every 24 hours.
// What has been told to whom is not lost when the service is upgraded or an
// upgrade is undone. The keys are also in the fd store, so that sessions go on
// after a crash and after a restart; where the unit has none
// (FileDescriptorStoreMax=), those end all sessions.
//
// [Service.Serve] does this by itself, under the name of the listener. It is for
// services that serve TLS in other ways. Sessions of one name are not resumed
// under another: use different names for configurations that do not let in the
// same clients.
//
// Call it before config is used or cloned; clones have the keys, too. It sets
// WrapSession and UnwrapSession, and does nothing if the service has set one of
// them or SessionTicketKey. Configurations that GetConfigForClient returns are
// cloned and get the same, unless they have theirs. Keys that were set by
// SetSessionTicketKeys are not used.
func (s *Service) ShareTicketKeys(name string, config *tls.Config) {
	s.tickets.share(name, config)
}

func (k *ticketKeys) share(name string, config *tls.Config) {
	if ownTickets(config) {
		return
	}
	keys := k.named(name)
	k.keep() // if this generation is main already
	// Fields of the configuration, unlike its keys, survive the clones that
	// net/http and others make of it.
	config.WrapSession, config.UnwrapSession = keys.EncryptTicket, keys.DecryptTicket
	choose := config.GetConfigForClient
	if choose == nil {
		return
	}
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		chosen, err := choose(hello)
		if err != nil || chosen == nil {
			return chosen, err
		}
		// It may be in use elsewhere.
		clone := chosen.Clone()
		if ownTickets(clone) {
			return chosen, nil
		}
		clone.WrapSession, clone.UnwrapSession = keys.EncryptTicket, keys.DecryptTicket
		return clone, nil
	}
}

// ownTickets says that the service makes the tickets itself, as far as that can
// be seen. crypto/tls fills SessionTicketKey, which is deprecated, with something
// that says so.
func ownTickets(config *tls.Config) bool {
	key := config.SessionTicketKey //lint:ignore SA1019 who has set it wants it
	return config.WrapSession != nil || config.UnwrapSession != nil ||
		key != [ticketKeySize]byte{} && !bytes.HasPrefix(key[:], []byte("DEPRECATED"))
}
