// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// newCertificate makes a certificate for the name "service", in PEM.
func newCertificate(t *testing.T, serial int64) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: []string{"service"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// reconnecting is a client with a connection for each request, which remembers
// its sessions.
type reconnecting struct {
	t         *testing.T
	client    *http.Client
	url       string
	connected int
}

func newReconnecting(t *testing.T, url string, config *tls.Config, version uint16) *reconnecting {
	config = config.Clone()
	config.MinVersion, config.MaxVersion = version, version
	config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	return &reconnecting{t: t, url: url, client: &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}}
}

// ask says who has answered, and which certificate the session has begun with.
// The first connection begins it, all others must resume it.
func (r *reconnecting) ask() (who who, serial int64) {
	r.t.Helper()
	resp, err := r.client.Get(r.url)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&who); err != nil {
		r.t.Fatal(err)
	}
	if want := r.connected > 0; resp.TLS.DidResume != want {
		r.t.Errorf("connection %d by %s to %+v: resumed %t, want %t", r.connected, tls.VersionName(resp.TLS.Version), who, resp.TLS.DidResume, want)
	}
	r.connected++
	return who, resp.TLS.PeerCertificates[0].SerialNumber.Int64()
}

// Clients that come back resume their TLS sessions, whichever version serves:
// across upgrades, one of which brings a new certificate, and one that is
// undone. Requests on HTTP/2 meanwhile are all answered.
func TestTLSCrossesUpgrades(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		p := quick()
		p.Certificate, p.Key = newCertificate(t, 1)
		s := start(t, setup{plan: p, managed: managed})
		renewed, renewedKey := newCertificate(t, 2)
		config := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "service"}
		config.RootCAs.AppendCertsFromPEM(p.Certificate)
		config.RootCAs.AppendCertsFromPEM(renewed)
		address := "https://" + s.address(0)
		load := startHTTP2Load(t, address+"/echo", config, 2, 3)

		clients := []*reconnecting{
			newReconnecting(t, address+"/who", config, tls.VersionTLS12),
			newReconnecting(t, address+"/who", config, tls.VersionTLS13),
		}
		mustReach := func(version string) {
			t.Helper()
			// One that was undone may have a connection left to accept.
			for deadline := time.Now().Add(patience); ; {
				if who, _ := clients[0].ask(); who.Version == version {
					break
				} else if time.Now().After(deadline) {
					t.Fatalf("answered by %q, want %q", who.Version, version)
				}
			}
			for range 7 {
				for _, c := range clients {
					if who, serial := c.ask(); who.Version != version || serial != 1 {
						t.Errorf("answered by %q with certificate %d, want %q and the first one", who.Version, serial, version)
					}
				}
			}
		}
		mustReach("v1")
		s.release("v2", nil)
		s.mustUpgrade()
		mustReach("v2")
		s.release("v3", func(p *plan) { p.Certificate, p.Key = renewed, renewedKey })
		s.mustUpgrade()
		mustReach("v3")
		if _, serial := newReconnecting(t, address+"/who", config, tls.VersionTLS13).ask(); serial != 2 {
			t.Errorf("a new session has certificate %d, want the new one", serial)
		}
		for _, version := range []string{"v4", "v5", "v6"} {
			s.release(version, func(p *plan) {
				if version == "v6" {
					p.Probation = patience // of the next one
				}
			})
			s.mustUpgrade()
			mustReach(version)
		}

		// Sessions of one that is undone go on, too.
		health := filepath.Join(s.dir, "health")
		_, verdict := s.onTrial(func(p *plan) { p.HealthFile = health })
		// These have their connections with it, and are led away from it.
		undone := startHTTP2Load(t, address+"/echo", config, 2, 3)
		mustReach("trial")
		if err := os.WriteFile(health, []byte("ill"), 0o644); err != nil {
			t.Fatal(err)
		}
		if v, _ := verdict(); v.Outcome != control.RolledBack {
			t.Errorf("verdict %q: %s", v.Outcome, v.Reason)
		}
		mustReach("v6")
		for _, c := range clients {
			if c.connected < 50 {
				t.Errorf("only %d connections were made", c.connected)
			}
		}
		load.mustBeWhole()
		undone.mustBeWhole()
		if n := len(undone.answered); n != 2 {
			t.Errorf("the clients of the version that was undone were answered by %d processes, want 2", n)
		}
	})
}
