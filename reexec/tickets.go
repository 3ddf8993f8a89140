// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// Keys of TLS session tickets live as long as those that crypto/tls makes.
const (
	ticketKeyRotation = 24 * time.Hour
	ticketKeyLifetime = 7 * 24 * time.Hour
	ticketKeySize     = 32
)

// ticketKeys are the keys of all generations, the newest first. It makes the
// tickets, the others are good for those of earlier days.
type ticketKeys struct {
	mu     sync.Mutex
	list   []handover.TicketKey
	shared map[string]*tls.Config // by name; with keys that are made of ours
}

// newTicketKeys goes on with the keys of the predecessor, if there are any.
func newTicketKeys(inherited []handover.TicketKey, now time.Time) *ticketKeys {
	k := &ticketKeys{shared: map[string]*tls.Config{}}
	k.list = slices.DeleteFunc(slices.Clone(inherited), func(key handover.TicketKey) bool { return len(key.Key) != ticketKeySize })
	if len(k.list) == 0 {
		k.list = rotated(nil, now)
	}
	return k
}

// rotated returns the keys for now. The clock may have been set back: a key
// from the future would never be old.
func rotated(keys []handover.TicketKey, now time.Time) []handover.TicketKey {
	if len(keys) > 0 && now.Sub(keys[0].Made).Abs() < ticketKeyRotation {
		return keys
	}
	fresh := handover.TicketKey{Key: make([]byte, ticketKeySize), Made: now}
	_, _ = rand.Read(fresh.Key) // never fails, see crypto/rand
	list := []handover.TicketKey{fresh}
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
	k.mu.Lock()
	defer k.mu.Unlock()
	list := rotated(k.list, now)
	if list[0].Made.Equal(k.list[0].Made) {
		return
	}
	k.list = list
	for name, config := range k.shared {
		config.SetSessionTicketKeys(derived(list, name))
	}
}

// handOver returns the keys for the successor.
func (k *ticketKeys) handOver() []handover.TicketKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.list)
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
func derived(list []handover.TicketKey, name string) [][ticketKeySize]byte {
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
// upgrade is undone; a crash or a restart of the service ends all sessions.
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
