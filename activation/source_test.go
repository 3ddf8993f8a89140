// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
)

func TestParseStoreName(t *testing.T) {
	for stored, want := range map[string]struct {
		name string
		seq  uint64
		ok   bool
	}{
		"state@0":                      {"state", 0, true},
		"state@17":                     {"state", 17, true},
		"a@b@3":                        {"a@b", 3, true},
		"@1":                           {"", 1, true},
		"state@18446744073709551615":   {"state", 1<<64 - 1, true},
		"state@18446744073709551616":   {},
		"state@":                       {},
		"state@01":                     {},
		"state@+1":                     {},
		"state@1 ":                     {},
		"state@1a":                     {},
		"state":                        {},
		"":                             {},
		"instance@1.socket":            {}, // the default name of a socket unit made from a template
		"stored":                       {},
		"state@\u0661":                 {}, // a digit, but not a decimal one of ours
		"state@1@x":                    {},
		"instance@7.socket@2":          {"instance@7.socket", 2, true},
		"with space and \"quotes\"@12": {"with space and \"quotes\"", 12, true},
	} {
		name, seq, ok := ParseStoreName(stored)
		if name != want.name || seq != want.seq || ok != want.ok {
			t.Errorf("ParseStoreName(%q) = %q, %d, %t; want %q, %d, %t", stored, name, seq, ok, want.name, want.seq, want.ok)
		}
	}
}

func FuzzParseStoreName(f *testing.F) {
	f.Add("state@1", "state", uint64(1))
	f.Add("a@b@01", "a@b", uint64(1<<64-1))
	f.Fuzz(func(t *testing.T, stored, name string, seq uint64) {
		if name, seq, ok := ParseStoreName(stored); ok && name+"@"+strconv.FormatUint(seq, 10) != stored {
			t.Errorf("%q was taken for %q and %d", stored, name, seq)
		}
		made := name + "@" + strconv.FormatUint(seq, 10)
		if gotName, gotSeq, ok := ParseStoreName(made); !ok || gotName != name || gotSeq != seq {
			t.Errorf("ParseStoreName(%q) = %q, %d, %t", made, gotName, gotSeq, ok)
		}
	})
}

func entriesOf(named ...any) []*entry {
	var entries []*entry
	for i := 0; i < len(named); i += 2 {
		entries = append(entries, newEntry(i/2, 3+i/2, named[i].(string), identity{kind: named[i+1].(Kind)}))
	}
	return entries
}

func TestSourcesOf(t *testing.T) {
	declared := &Set{stored: []string{"cache"}}
	cases := []struct {
		name    string
		entries []*entry
		want    []Source
	}{
		{"none", nil, []Source{}},
		{
			"socket units only", entriesOf("web", KindListener, "web", KindListener, "log", KindFIFO, "dns", KindPacket),
			[]Source{SourceSocket, SourceSocket, SourceSocket, SourceSocket},
		},
		{
			"store behind", entriesOf("web", KindListener, "state@4", KindMemfd, "stored", KindListener, "cache", KindPacket),
			[]Source{SourceSocket, SourceStore, SourceStore, SourceStore},
		},
		{"store only", entriesOf("state@4", KindMemfd), []Source{SourceStore}},
		{"Accept=yes", entriesOf("connection", KindConn, "state@4", KindMemfd), []Source{SourceConnection, SourceStore}},
		{"Accept=yes with a configured name", entriesOf("ssh", KindConn), []Source{SourceConnection}},
		{"a connection in the store", entriesOf("client@9", KindConn), []Source{SourceStore}},
		{"nothing of a socket unit follows the connection", entriesOf("connection", KindConn, "web", KindListener), []Source{SourceConnection, SourceOther}},
		{
			"OpenFile= behind the store", entriesOf("web", KindListener, "state@4", KindMemfd, "config", KindRegular, "stored", KindMemfd),
			[]Source{SourceSocket, SourceStore, SourceOther, SourceStore},
		},
		{
			"no socket unit passes a memfd", entriesOf("web", KindListener, "blob", KindMemfd, "more", KindListener),
			[]Source{SourceSocket, SourceOther, SourceOther},
		},
		{"OpenFile= of a socket", entriesOf("web", KindListener, "upstream", KindConn), []Source{SourceSocket, SourceOther}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := sourcesOf(c.entries, declared.isStored); !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

// Whatever systemd can pass is told correctly, as long as the names keep the rule.
func TestSourcesOfEveryLegalOrder(t *testing.T) {
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 1))
		var entries []*entry
		var want []Source
		add := func(source Source, name string, kinds ...Kind) {
			entries = append(entries, newEntry(len(entries), 0, name, identity{kind: kinds[random.IntN(len(kinds))]}))
			want = append(want, source)
		}
		if random.IntN(3) == 0 {
			add(SourceConnection, "connection", KindConn)
		} else {
			for i := range random.IntN(4) {
				add(SourceSocket, fmt.Sprintf("unit%d.socket", i), KindListener, KindPacket, KindFIFO, KindSpecial, KindNetlink, KindMessageQueue, KindRegular)
			}
		}
		stored := random.IntN(4)
		for range stored {
			add(SourceStore, fmt.Sprintf("entry@%d", random.Uint64()), KindListener, KindConn, KindMemfd, KindPacket, KindUnknown, KindFIFO)
		}
		if stored > 0 {
			for range random.IntN(3) {
				add(SourceOther, "opened", KindRegular, KindConn, KindSpecial)
			}
		}
		if got := sourcesOf(entries, (&Set{}).isStored); !slices.Equal(got, want) {
			t.Fatalf("seed %d: %v, want %v", seed, got, want)
		}
	}
}

// Only what can be a connection, came first and is not from the store is taken for one whose client is gone.
func TestRecogniseConnection(t *testing.T) {
	unconnected := identity{kind: KindSocket, stream: true}
	for name, c := range map[string]struct {
		entries []*entry
		want    Kind
	}{
		"first":                  {[]*entry{newEntry(0, 3, "connection", unconnected)}, KindConn},
		"not first":              {[]*entry{newEntry(0, 3, "log", identity{kind: KindFIFO}), newEntry(1, 4, "connection", unconnected)}, KindFIFO},
		"in the store":           {[]*entry{newEntry(0, 3, "client@3", unconnected)}, KindSocket},
		"a raw socket":           {[]*entry{newEntry(0, 3, "ping", identity{kind: KindSocket})}, KindSocket},
		"a listener":             {[]*entry{newEntry(0, 3, "web", identity{kind: KindListener, stream: true})}, KindListener},
		"nothing at all":         {nil, KindUnknown},
		"a connection, as it is": {[]*entry{newEntry(0, 3, "connection", identity{kind: KindConn, stream: true})}, KindConn},
	} {
		set := &Set{entries: c.entries}
		set.recogniseConnection()
		for i, e := range set.entries {
			if want := c.want; i == 0 && e.info.Kind != want {
				t.Errorf("%s: %v, want %v", name, e.info.Kind, want)
			} else if i > 0 && e.info.Kind != KindSocket {
				t.Errorf("%s: number %d became a %v", name, i, e.info.Kind)
			}
		}
	}
}

// Package reexec sends the numbers to processes of other versions.
func TestSourceNumbersStay(t *testing.T) {
	for number, source := range []Source{1: SourceSocket, 2: SourceConnection, 3: SourceStore, 4: SourceOther, 5: SourcePredecessor} {
		if number > 0 && int(source) != number {
			t.Errorf("%v has the number %d, had %d in earlier versions", source, source, number)
		}
	}
}

func TestSourceString(t *testing.T) {
	for source, want := range map[Source]string{
		SourceSocket: "socket unit", SourceConnection: "Accept=yes", SourceStore: "fd store", SourceOther: "other",
		SourcePredecessor: "predecessor", 0: "Source(0)", 77: "Source(77)",
	} {
		if got := source.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
