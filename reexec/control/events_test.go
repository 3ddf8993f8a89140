// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"testing"
	"testing/iotest"
	"time"
)

func FuzzEventReader(f *testing.F) {
	f.Add([]byte(`{"state":{"protocol":1,"instance":"i","state":"starting"}}` + "\n" + `{"verdict":{"outcome":"upgraded","from":{"pid":1}}}` + "\n"))
	f.Add([]byte("{}\n\n"))
	f.Add([]byte(`{"state":null,"verdict":{"outcome":""}}` + "\n"))
	f.Add([]byte(`{"state":{"since":"0000-01-01T00:00:00Z"}}`))
	f.Add(bytes.Repeat([]byte("["), 20000))
	f.Fuzz(func(t *testing.T, data []byte) {
		events, err := readEvents(bytes.NewReader(data))
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, errNotEvent) {
			t.Fatalf("error %v is of no kind that the client knows", err)
		}
		// How the bytes arrive makes no difference.
		slowly, slowErr := readEvents(iotest.OneByteReader(bytes.NewReader(data)))
		if !reflect.DeepEqual(events, slowly) || err.Error() != slowErr.Error() {
			t.Fatalf("read at once: %+v, %v; byte by byte: %+v, %v", events, err, slowly, slowErr)
		}
		for _, ev := range events {
			if (ev.State == nil) == (ev.Verdict == nil) {
				t.Fatalf("event %+v: want a state or a verdict", ev)
			}
			line, err := json.Marshal(ev)
			if err != nil {
				t.Fatalf("encode what was decoded: %v", err)
			}
			again, err := parseEvent(line)
			if err != nil {
				t.Fatalf("decode %s: %v", line, err)
			}
			if second, err := json.Marshal(again); err != nil || !bytes.Equal(line, second) {
				t.Fatalf("encoded again: %s, %v; want %s", second, err, line)
			}
		}
	})
}

func readEvents(r io.Reader) ([]Event, error) {
	var events []Event
	for reader := newEventReader(r); ; {
		ev, err := reader.next()
		if err != nil {
			return events, err
		}
		events = append(events, ev)
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add([]byte(`{"protocol":1,"name":"myapp","instance":"i1","state":"running","since":"2026-01-02T03:04:05Z","pid":1}`))
	f.Add([]byte(`{"protocol":1e0,"instance":"\u0000"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		st, err := parseStatus(data)
		if err != nil {
			return
		}
		if st.Protocol == 0 || st.Instance == "" {
			t.Fatalf("status %+v cannot tell an upgrade from a restart", st)
		}
		// Whatever two statuses say, there is a decision or a wait, no panic.
		if result, known := decide(st, st, time.Time{}); known && result.Now == nil {
			t.Fatalf("decided %+v without saying who serves", result)
		}
	})
}

// Another attempt's verdict is not ours: it began before we asked, or another
// process made it.
func TestDecideKnowsItsOwnAttempt(t *testing.T) {
	asked := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	before := Status{Protocol: 1, Instance: "i", State: "running", PID: 10, Generation: 1}
	now := before
	now.PID, now.Generation = 11, 2
	for _, c := range []struct {
		name    string
		from    int
		started time.Time
		want    Outcome
	}{
		{"ours", 10, asked.Add(time.Millisecond), Upgraded},
		{"began before", 10, asked.Add(-time.Millisecond), Busy},
		{"of another process", 9, asked.Add(time.Second), Busy},
	} {
		now.Last = &Verdict{Outcome: Upgraded, From: Process{PID: c.from}, Started: c.started}
		if result, known := decide(before, now, asked); !known || result.Verdict.Outcome != c.want {
			t.Errorf("%s: %v, %t; want %v", c.name, result.Verdict.Outcome, known, c.want)
		}
	}
}
