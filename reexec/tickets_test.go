// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTicketKeyRotation(t *testing.T) {
	start := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	keys := func(ages ...time.Duration) (list []ticketKey) {
		for i, age := range ages {
			list = append(list, ticketKey{Key: []byte{byte(i)}, Made: start.Add(-age)})
		}
		return list
	}
	for _, c := range []struct {
		name  string
		keys  []ticketKey
		fresh bool
		kept  int
	}{
		{"the first", nil, true, 0},
		{"young", keys(day-1, 2*day-1), false, 2},
		{"a day old", keys(day, 2*day), true, 2},
		{"some too old", keys(day, 2*day, 7*day-1, 7*day, 8*day), true, 3},
		{"all too old", keys(30*day, 31*day), true, 0},
		{"the clock was set back a little", keys(-day+1, 0), false, 2},
		{"the clock was set back", keys(-2*day, -day), true, 2},
		{"the clock was wrong by years", keys(-1000 * day), true, 0},
	} {
		got := rotated(c.keys, start)
		if c.fresh {
			if len(got) == 0 || !got[0].Made.Equal(start) || len(got[0].Key) != ticketKeySize {
				t.Errorf("%s: no new key in %v", c.name, got)
				continue
			}
			got = got[1:]
		}
		if len(got) != c.kept {
			t.Errorf("%s: %d keys are kept, want %d", c.name, len(got), c.kept)
		}
		for i, key := range got {
			if !bytes.Equal(key.Key, c.keys[i].Key) {
				t.Errorf("%s: key %d is another one", c.name, i)
			}
		}
	}
	// Over a year there are never more than a week's.
	k := newTicketKeys(start)
	for hour := range 365 * 24 {
		before := k.keys()
		k.rotate(start.Add(time.Duration(hour) * time.Hour))
		after := k.keys()
		if changed := !bytes.Equal(after[0].Key, before[0].Key); changed != (hour > 0 && hour%24 == 0) {
			t.Fatalf("hour %d: changed %t", hour, changed)
		}
		if len(after) > 7 {
			t.Fatalf("hour %d: %d keys", hour, len(after))
		}
	}
}

// restored are keys that a next generation has from these.
func restored(t *testing.T, keys *ticketKeys, now time.Time) *ticketKeys {
	t.Helper()
	var saved bytes.Buffer
	if err := keys.save(&saved); err != nil {
		t.Fatal(err)
	}
	next := newTicketKeys(now)
	if err := next.load(1, saved.Bytes()); err != nil {
		t.Fatal(err)
	}
	return next
}

// What a predecessor has saved is used as it is; what is no key is not.
func TestTicketKeysAreHandedOver(t *testing.T) {
	now := time.Now()
	first := newTicketKeys(now)
	first.rotate(now.Add(25 * time.Hour))
	equal := func(a, b ticketKey) bool { return bytes.Equal(a.Key, b.Key) && a.Made.Equal(b.Made) }
	if second := restored(t, first, now); len(second.list) != 2 || !slices.EqualFunc(second.list, first.list, equal) {
		t.Errorf("%v became %v", first.list, second.list)
	}
	k := newTicketKeys(now)
	made := k.keys()[0]
	for _, bad := range []string{
		"", "{}", "null", "[]", `[{"key":"c2hvcnQ="}]`, `["secret"]`,
		`[{"key":"` + strings.Repeat("A", 44) + `"}]`, // 33 bytes
	} {
		err := k.load(1, []byte(bad))
		if err == nil {
			t.Errorf("%q is taken for keys", bad)
		} else if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "c2h") {
			t.Errorf("the error shows what was saved: %v", err)
		}
	}
	if got := k.keys(); len(got) != 1 || !equal(got[0], made) {
		t.Errorf("what is no key became %v", got)
	}
	// Keys must not get into a log with something around them.
	key := ticketKey{Key: []byte("secret secret secret secret sec!"), Made: now}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(format, struct{ Keys []ticketKey }{[]ticketKey{key}}); strings.Contains(s, "secret") || strings.Contains(s, "115, 101") || strings.Contains(s, "0x73, 0x65") {
			t.Errorf("%s shows the key: %s", format, s)
		}
	}
}

// handshake says whether a session was resumed.
func handshake(t *testing.T, server, client *tls.Config) bool {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			served <- err
			return
		}
		// A client gets its ticket with the first bytes.
		_, err = tls.Server(conn, server).Write([]byte("x"))
		served <- errors.Join(err, conn.Close())
	}()
	conn, err := tls.Dial("tcp", ln.Addr().String(), client)
	if err != nil {
		t.Fatalf("%v; server: %v", err, <-served)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	return conn.ConnectionState().DidResume
}

// tlsVersions runs f with clients of each version of TLS, which remember their
// sessions.
func tlsVersions(t *testing.T, f func(t *testing.T, server, client *tls.Config)) {
	t.Helper()
	server, client := tlsForTests(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			client := client.Clone()
			client.MinVersion, client.MaxVersion = version, version
			client.ClientSessionCache = tls.NewLRUClientSessionCache(0)
			f(t, server.Clone(), client)
		})
	}
}

// A session of one generation goes on in the next, however the service
// configures TLS.
func TestSessionsAreResumed(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		configure func(base *tls.Config) *tls.Config
		want      bool
	}{
		"certificates": {func(base *tls.Config) *tls.Config { return base }, true},
		"GetCertificate": {func(base *tls.Config) *tls.Config {
			return &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &base.Certificates[0], nil }}
		}, true},
		"GetConfigForClient": {func(base *tls.Config) *tls.Config {
			return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return base, nil }}
		}, true},
		"GetConfigForClient, which leaves it": {func(base *tls.Config) *tls.Config {
			base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, nil }
			return base
		}, true},
		"tickets disabled": {func(base *tls.Config) *tls.Config {
			base.SessionTicketsDisabled = true
			return base
		}, false},
		"tickets disabled for this client": {func(base *tls.Config) *tls.Config {
			chosen := base.Clone()
			chosen.SessionTicketsDisabled = true
			return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return chosen, nil }}
		}, false},
		"no sessions at all by the service": {func(base *tls.Config) *tls.Config {
			base.UnwrapSession = func([]byte, tls.ConnectionState) (*tls.SessionState, error) { return nil, nil }
			return base
		}, false},
		"nor for this client": {func(base *tls.Config) *tls.Config {
			chosen := base.Clone()
			chosen.UnwrapSession = func([]byte, tls.ConnectionState) (*tls.SessionState, error) { return nil, nil }
			return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return chosen, nil }}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			tlsVersions(t, func(t *testing.T, server, client *tls.Config) {
				keys := newTicketKeys(now)
				for generation := range 4 {
					config := c.configure(server.Clone())
					keys.share("https", config)
					config = config.Clone() // as net/http does
					if got, want := handshake(t, config, client), c.want && generation > 0; got != want {
						t.Errorf("generation %d: resumed %t, want %t", generation, got, want)
					}
					if got := handshake(t, config, client); got != c.want {
						t.Errorf("generation %d again: resumed %t, want %t", generation, got, c.want)
					}
					keys = restored(t, keys, now)
				}
			})
		})
	}
}

// A service that makes tickets for many machines has keys of its own.
func TestOwnTicketKeys(t *testing.T) {
	tlsVersions(t, func(t *testing.T, server, client *tls.Config) {
		legacy := server.Clone()
		legacy.SessionTicketKey = [32]byte{1, 2, 3} //lint:ignore SA1019 services may set it
		newTicketKeys(time.Now()).share("https", legacy)
		other := server.Clone()
		other.SessionTicketKey = [32]byte{1, 2, 3} //lint:ignore SA1019 services may set it
		handshake(t, legacy, client)
		if !handshake(t, other, client) {
			t.Error("a session is not resumed by another machine with the same SessionTicketKey")
		}

		explicit := server.Clone()
		explicit.SetSessionTicketKeys([][32]byte{{4, 5, 6}})
		s := &Service{opts: Options{OwnTicketKeys: true}, tickets: newTicketKeys(time.Now()), drain: newDrain(firstInventory(t))}
		srv := &http.Server{TLSConfig: explicit}
		s.Serve(srv, noListener{})
		if srv.TLSConfig != explicit || explicit.WrapSession != nil {
			t.Error("the configuration was touched in spite of OwnTicketKeys")
		}
	})
}

// A session is resumed under its own name only.
func TestSessionsKeepTheirName(t *testing.T) {
	tlsVersions(t, func(t *testing.T, server, client *tls.Config) {
		keys := newTicketKeys(time.Now())
		public, private := server.Clone(), server.Clone()
		keys.share("public", public)
		keys.share("private", private)
		handshake(t, public, client)
		if handshake(t, private, client) {
			t.Error("a session of one listener was resumed on another")
		}
		if !handshake(t, private, client) {
			t.Error("a session was not resumed on its own listener")
		}
	})
}

// Keys change under a running server; yesterday's tickets are good, and those of
// last week are not.
func TestSessionsOutliveTheirKey(t *testing.T) {
	const day = 24 * time.Hour
	tlsVersions(t, func(t *testing.T, server, client *tls.Config) {
		now := time.Now()
		keys := newTicketKeys(now)
		keys.share("https", server)
		server = server.Clone() // as net/http does
		handshake(t, server, client)
		keys.rotate(now.Add(day))
		if !handshake(t, server, client) {
			t.Error("not resumed after a day")
		}
		// That has a ticket of the new key, which a version of today has, too.
		keys.list = keys.list[:1]
		next := server.Clone()
		next.WrapSession, next.UnwrapSession = nil, nil
		keys = restored(t, keys, now.Add(day))
		keys.share("https", next)
		if !handshake(t, next, client) {
			t.Error("the ticket is not of the newest key")
		}
		for i := range 8 {
			keys.rotate(now.Add(time.Duration(i+2) * day))
		}
		if handshake(t, next, client) {
			t.Error("resumed by a key that is too old")
		}
	})
}

// Sessions go on after a crash, as soon as a generation that serves TLS was main;
// a service without TLS keeps nothing.
func TestSessionsSurviveACrash(t *testing.T) {
	tlsVersions(t, func(t *testing.T, server, client *tls.Config) {
		k := newKeeper(t)
		begin := func() (*generation, *ticketKeys) {
			g := begins(t, k)
			keys, err := newTicketState(g.states, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			g.lead(false)
			return g, keys
		}
		g, keys := begin()
		g.commitAll(t.Context())
		if st := g.status(); len(st) != 0 || len(k.names()) != 0 {
			t.Errorf("without TLS there is %+v, kept are %q", st, k.names())
		}
		config := server.Clone()
		keys.share("https", config)
		keys.commit() // share does so in the background
		if handshake(t, config, client) {
			t.Error("the first session was resumed")
		}
		g, keys = begin()
		config = server.Clone()
		keys.share("https", config)
		if !handshake(t, config, client) {
			t.Error("a session was not resumed after a crash")
		}
		if keys.unkept {
			t.Error("the keys are to be kept again, and are")
		}
		if st := g.status(); len(st) != 1 || st[0].Name != ticketState || st[0].Loaded == nil || st[0].Committed == nil {
			t.Errorf("the status says %+v", st)
		}
	})
}
