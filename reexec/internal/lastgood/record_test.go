// SPDX-License-Identifier: Apache-2.0

package lastgood

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// content is the identity of a file with that content.
func content(s string) Identity {
	sum := sha256.Sum256([]byte(s))
	return Identity{Size: int64(len(s)), SHA256: hex.EncodeToString(sum[:])}
}

func failed(s string) Failure {
	return Failure{Identity: content(s), Version: s, Reason: "died", At: noon}
}

func TestChoose(t *testing.T) {
	good := &Good{Identity: content("v1"), Version: "v1", Since: noon}
	attempt := func(s string, n int) *Attempt { return &Attempt{Identity: content(s), Count: n} }
	for _, tt := range []struct {
		name     string
		record   Record
		file     string
		unusable error
		noGood   error
		want     Choice
		after    Record
	}{
		{
			name: "nothing is known", file: "v1", noGood: ErrNoGood,
			after: Record{Attempt: attempt("v1", 1)},
		},
		{
			name: "the good one itself, which needs no count", file: "v1",
			record: Record{Good: good, Attempt: attempt("v1", 2), Fallback: &Fallback{Reason: "x"}},
			after:  Record{Good: good},
		},
		{
			name: "a new file", file: "v2",
			record: Record{Good: good}, after: Record{Good: good, Attempt: attempt("v2", 1)},
		},
		{
			name: "its third attempt", file: "v2",
			record: Record{Good: good, Attempt: attempt("v2", 2)}, after: Record{Good: good, Attempt: attempt("v2", 3)},
		},
		{
			name: "one attempt too many", file: "v2",
			record: Record{Good: good, Attempt: attempt("v2", 3)},
			want:   Choice{Good: true, Why: "/usr/bin/myapp: failed at 2026-11-30 12:00:00: it was started 3 times and has not once run in good health through its probation"},
			after: Record{
				Good:   good,
				Failed: []Failure{{Identity: content("v2"), At: noon, Counted: true, Reason: "it was started 3 times and has not once run in good health through its probation"}},
				Fallback: &Fallback{
					Since: noon, Count: 1,
					Reason: "/usr/bin/myapp: failed at 2026-11-30 12:00:00: it was started 3 times and has not once run in good health through its probation",
				},
			},
		},
		{
			name: "marked", file: "v2",
			record: Record{Good: good, Failed: []Failure{failed("v2")}},
			want:   Choice{Good: true, Why: "/usr/bin/myapp: version v2 failed at 2026-11-30 12:00:00: died"},
			after: Record{
				Good: good, Failed: []Failure{failed("v2")},
				Fallback: &Fallback{Since: noon, Count: 1, Reason: "/usr/bin/myapp: version v2 failed at 2026-11-30 12:00:00: died"},
			},
		},
		{
			name: "a newer file is a fresh chance", file: "v3",
			record: Record{Good: good, Failed: []Failure{failed("v2")}, Attempt: attempt("v2", 3), Fallback: &Fallback{Reason: "x", Count: 2}},
			after:  Record{Good: good, Failed: []Failure{failed("v2")}, Attempt: attempt("v3", 1)},
		},
		{
			name: "no file", unusable: fs.ErrNotExist,
			record: Record{Good: good},
			want:   Choice{Good: true, Why: "file does not exist"},
			after:  Record{Good: good, Fallback: &Fallback{Since: noon, Count: 1, Reason: "file does not exist"}},
		},
		{
			name: "no file, and nothing better", unusable: fs.ErrNotExist, noGood: ErrNoGood,
			want: Choice{Why: "file does not exist; it is started all the same, since there is nothing better: no version has proven itself yet"},
		},
		{
			name: "marked, but the copy is not to be trusted", file: "v2", noGood: errors.New("others may write it"),
			record: Record{Good: good, Failed: []Failure{failed("v2")}},
			want:   Choice{Why: "/usr/bin/myapp: version v2 failed at 2026-11-30 12:00:00: died; it is started all the same, since there is nothing better: others may write it"},
			after:  Record{Good: good, Failed: []Failure{failed("v2")}},
		},
		{
			name: "the good one does not come up either: the count was not the file's fault", file: "v2",
			record: Record{
				Good: good, Failed: []Failure{{Identity: content("v2"), Reason: "3 times", At: noon, Counted: true}},
				Fallback: &Fallback{Since: noon, Count: 3, Reason: "x"},
			},
			want:  Choice{Why: "/usr/bin/myapp: failed at 2026-11-30 12:00:00: 3 times; it is tried again, since the last good version did not come up either"},
			after: Record{Good: good, Failed: []Failure{}, Attempt: attempt("v2", 1)},
		},
		{
			name: "a verdict stands also then", file: "v2",
			record: Record{Good: good, Failed: []Failure{failed("v2")}, Fallback: &Fallback{Since: noon, Count: 3, Reason: "x"}},
			want:   Choice{Good: true, Why: "/usr/bin/myapp: version v2 failed at 2026-11-30 12:00:00: died"},
			after: Record{
				Good: good, Failed: []Failure{failed("v2")},
				Fallback: &Fallback{Since: noon, Count: 3, Reason: "/usr/bin/myapp: version v2 failed at 2026-11-30 12:00:00: died"},
			},
		},
		{
			name: "a file that may not be read", record: Record{Good: good, Attempt: attempt("v2", 3)},
			after: Record{Good: good},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := Candidate{Path: "/usr/bin/myapp", Unusable: tt.unusable, NoGood: tt.noGood}
			if tt.file != "" {
				c.Identity = content(tt.file)
			}
			if got := tt.record.Choose(c, noon); got != tt.want {
				t.Errorf("chose %+v, want %+v", got, tt.want)
			}
			if !reflect.DeepEqual(tt.record, tt.after) {
				t.Errorf("the record is %s, want %s", text0(t, tt.record), text0(t, tt.after))
			}
		})
	}
}

func text0(t testing.TB, r Record) string {
	t.Helper()
	data, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestMarks(t *testing.T) {
	var r Record
	r.Attempting(content("v2"))
	r.Mark(failed("v2"))
	if r.Attempt != nil {
		t.Error("a marked file has attempts")
	}
	r.Mark(Failure{Identity: content("v2"), Reason: "hangs\nagain\xff", At: noon})
	if len(r.Failed) != 1 || r.Failed[0].Reason != "hangs again?" {
		t.Errorf("marks: %+v", r.Failed)
	}
	if r.Mark(Failure{Reason: "no identity"}) {
		t.Error("a mark without an identity")
	}
	for i := range 20 {
		r.Mark(failed(strings.Repeat("x", i)))
	}
	if len(r.Failed) != maxFailed || r.Failed[0].Identity != content(strings.Repeat("x", 19)) {
		t.Errorf("%d marks, the newest %+v", len(r.Failed), r.Failed[0])
	}
	r.Proven(Good{Identity: r.Failed[0].Identity}, false)
	if len(r.Failed) != maxFailed-1 {
		t.Error("success does not clear the mark")
	}
	if r.Mark(Failure{Identity: r.Good.Identity, Reason: "x", At: noon}) {
		t.Error("the good one was marked")
	}
	if got := r.Retry(); len(got) != maxFailed-1 || len(r.Failed) != 0 || r.Good == nil {
		t.Errorf("after Retry: %+v", r)
	}
	if got := text(strings.Repeat("ä", maxText)); len(got) > maxText+3 || !strings.HasSuffix(got, "ä…") {
		t.Errorf("a long text has %d bytes and ends with %q", len(got), got[len(got)-5:])
	}
}

// A start that was stopped in good health counts for nothing, nor does one of the
// copy that came up.
func TestCountsEnd(t *testing.T) {
	r := Record{Good: &Good{Identity: content("v1")}}
	for range MaxAttempts {
		r.Attempting(content("v2"))
	}
	r.StoppedEarly()
	if c := r.Choose(Candidate{Identity: content("v2")}, noon); c.Good {
		t.Errorf("%+v", c)
	}
	r.Mark(failed("v2"))
	for range MaxAttempts {
		r.Choose(Candidate{Identity: content("v2")}, noon)
	}
	r.Proven(*r.Good, true)
	if r.Fallback == nil || r.Fallback.Count != 0 || len(r.Failed) != 1 {
		t.Errorf("after the copy came up: %s", text0(t, r))
	}
	r.Proven(Good{Identity: content("v3")}, false)
	if r.Fallback != nil {
		t.Errorf("after a newer one came up: %s", text0(t, r))
	}
}

// A rollback swaps the good program and the one before, and marks what must not
// start: what ran, and what is installed.
func TestRollBack(t *testing.T) {
	good := func(s string) *Good { return &Good{Identity: content(s), Version: s, Since: noon} }
	rolled := func(s, version string) Failure {
		return Failure{Identity: content(s), Version: version, Reason: "by the operator", At: noon}
	}
	fallback := func(text string) *Fallback { return &Fallback{Since: noon, Reason: text} }
	const failedAt = "failed at 2026-11-30 12:00:00: by the operator"
	for _, tt := range []struct {
		name      string
		record    Record
		installed string // empty: it cannot be read
		want      Record
	}{
		{
			name: "what ran is installed", installed: "v2",
			record: Record{Good: good("v2"), Previous: good("v1")},
			want:   Record{Good: good("v1"), Previous: good("v2"), Failed: []Failure{rolled("v2", "v2")}, Fallback: fallback("/x: version v2 " + failedAt)},
		},
		{
			name: "something newer is installed", installed: "v3",
			record: Record{Good: good("v2"), Previous: good("v1"), Attempt: &Attempt{Identity: content("v3"), Count: 2}},
			want: Record{
				Good: good("v1"), Previous: good("v2"), Failed: []Failure{rolled("v2", "v2"), rolled("v3", "")},
				Fallback: fallback("/x: " + failedAt),
			},
		},
		{
			name: "the version before is installed, and had failed", installed: "v1",
			record: Record{Good: good("v2"), Previous: good("v1"), Failed: []Failure{failed("v1"), failed("v0")}},
			want:   Record{Good: good("v1"), Previous: good("v2"), Failed: []Failure{rolled("v2", "v2"), failed("v0")}},
		},
		{
			name:   "nothing is installed",
			record: Record{Good: good("v2"), Previous: good("v1")},
			want:   Record{Good: good("v1"), Previous: good("v2"), Failed: []Failure{rolled("v2", "v2")}, Fallback: fallback("file does not exist")},
		},
		{
			name: "what ran has no copy", installed: "v2",
			record: Record{Good: good("v1"), Previous: good("v0")},
			want:   Record{Good: good("v1"), Previous: good("v0"), Failed: []Failure{rolled("v2", "v2")}, Fallback: fallback("/x: version v2 " + failedAt)},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.record
			before := text0(t, r)
			file := Candidate{Path: "/x", Identity: content(tt.installed)}
			if tt.installed == "" {
				file = Candidate{Path: "/x", Unusable: fs.ErrNotExist}
			}
			to := r.Before(content("v2"))
			undo := r.RollBack(*to, rolled("v2", "v2"), file)
			if got, want := text0(t, r), text0(t, tt.want); got != want {
				t.Errorf("the record is\n%s, want\n%s", got, want)
			}
			if c := r.Choose(file, noon); c.Good != (tt.installed != "v1") {
				t.Errorf("next starts: %+v", c)
			}
			r.Mark(failed("v9")) // meanwhile
			undo(&r)
			r.Unmark(content("v9"))
			if got := text0(t, r); got != before {
				t.Errorf("undone it is\n%s, and was\n%s", got, before)
			}
		})
	}
	if r := (Record{Good: good("v1")}); r.Before(content("v1")) != nil || r.Before(content("v2")) != r.Good || (&Record{}).Before(content("v1")) != nil {
		t.Error("the version before the first one")
	}
}

// What the release before knows of a record is what it was, and what that release
// writes is read without a version before.
func TestReleaseBefore(t *testing.T) {
	r := Record{Good: &Good{Identity: content("v1"), Version: "v1", Since: noon}, Previous: &Good{Identity: content("v2"), Version: "v2", Since: noon}}
	r.Mark(failed("v2"))
	type before struct {
		Format   int       `json:"format"`
		Good     *Good     `json:"good,omitempty"`
		Failed   []Failure `json:"failed,omitempty"`
		Attempt  *Attempt  `json:"attempt,omitempty"`
		Fallback *Fallback `json:"fallback,omitempty"`
		Seen     *Seen     `json:"seen,omitempty"`
	}
	var old before
	if err := json.Unmarshal([]byte(text0(t, r)), &old); err != nil || old.Format != 1 || *old.Good != *r.Good || !reflect.DeepEqual(old.Failed, r.Failed) {
		t.Fatalf("the release before reads %+v, %v", old, err)
	}
	text, err := json.Marshal(old)
	if err != nil {
		t.Fatal(err)
	}
	again, err := decode(text)
	if err != nil || again.Previous != nil || again.Before(content("v2")).Identity != content("v1") {
		t.Errorf("it is read back as %+v, %v", again, err)
	}
}

// Records of every format that was ever written are read.
func TestReadsFormat1(t *testing.T) {
	data, err := os.ReadFile("testdata/record-1.json")
	if err != nil {
		t.Fatal(err)
	}
	r, err := decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if r.Good.Version != "1.0.0" || r.Failed[0].Version != "2.0.0" || r.Attempt.Count != 2 || r.Fallback.Count != 1 || r.Seen.Identity != r.Failed[0].Identity {
		t.Errorf("%s", text0(t, r))
	}
	if id, ok := r.Knows(Stamp{1, 5, 9, 6, 7}); !ok || id != r.Failed[0].Identity {
		t.Errorf("the file that was seen is %v, %v", id, ok)
	}
	if id, ok := r.Knows(Stamp{1, 2, 7, 3, 4}); !ok || id != r.Good.Identity {
		t.Errorf("the copy is %v, %v", id, ok)
	}
	if _, ok := r.Knows(Stamp{1, 5, 9, 6, 8}); ok {
		t.Error("a file that has changed is known")
	}
}

func TestDecodeRefuses(t *testing.T) {
	for data, want := range map[string]string{
		"":                          "unexpected end",
		"{":                         "unexpected end",
		"[]":                        "cannot unmarshal",
		"{}":                        "format 0: must be 1 to 1",
		`{"format":-1}`:             "format -1",
		`{"format":2}`:              ErrFuture.Error(),
		`{"format":2,"good":"new"}`: ErrFuture.Error(),
		`{"format":1,"good":{}}`:    "identity of the good program",
		`{"format":1,"good":{"size":1,"sha256":"../../etc/x"}}`: "identity of the good program",
		`{"format":1,"failed":{}}`:                              "cannot unmarshal",
	} {
		if _, err := decode([]byte(data)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", data, err, want)
		}
	}
	r, err := decode([]byte(`{"format":1,"failed":[{"reason":"x"}],"attempt":{"count":7},"fallback":{"count":-1},"seen":{}}`))
	if err != nil || len(r.Failed) > 0 || r.Attempt != nil || r.Fallback != nil || r.Seen != nil {
		t.Errorf("what makes no sense is kept: %+v, %v", r, err)
	}
	same := fmt.Sprintf(`{"size":2,"sha256":%q}`, content("v1").SHA256)
	for _, text := range []string{
		`{"format":1,"previous":` + same + `}`,
		`{"format":1,"good":` + same + `,"previous":` + same + `}`,
		`{"format":1,"good":` + same + `,"previous":{"size":1,"sha256":"../x"}}`,
	} {
		if r, err := decode([]byte(text)); err != nil || r.Previous != nil {
			t.Errorf("%s: %+v, %v", text, r.Previous, err)
		}
	}
}

// Whatever the bytes are, the record that comes of them can be used and read
// back.
func FuzzRecord(f *testing.F) {
	for _, seed := range []string{"", "{}", `{"format":1}`, `{"format":2}`, `{"format":1,"attempt":{"size":1,"sha256":"x","count":9}}`} {
		f.Add([]byte(seed), "v1", false)
	}
	data, err := os.ReadFile("testdata/record-1.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, "v2", true)
	f.Add([]byte(text0(f, Record{
		Good: &Good{Identity: content("v2"), Version: "v2", Since: noon}, Previous: &Good{Identity: content("v1"), Version: "v1", Since: noon},
		Failed: []Failure{failed("v3")},
	})), "v2", false)
	f.Fuzz(func(t *testing.T, data []byte, file string, noGood bool) {
		r, err := decode(data)
		if err != nil {
			if !reflect.DeepEqual(r, Record{}) {
				t.Fatalf("an error and a record: %+v", r)
			}
			return
		}
		c := Candidate{Path: "/usr/bin/myapp", Identity: content(file)}
		if to := r.Before(c.Identity); to != nil {
			if to.Identity == c.Identity || !to.valid() {
				t.Fatalf("rolls %s back to %+v", file, to)
			}
			r.RollBack(*to, failed(file), c)
			if _, marked := r.FailedBefore(r.Good.Identity); marked || r.Good.Identity != to.Identity || r.Previous != nil && r.Previous.Identity == r.Good.Identity {
				t.Fatalf("rolled back to %+v: %s", to, text0(t, r))
			}
		}
		if noGood || r.Good == nil {
			c.NoGood = ErrNoGood
		}
		for range 2*MaxAttempts + 2 {
			if choice := r.Choose(c, noon); choice.Good && (r.Good == nil || noGood || choice.Why == "") {
				t.Fatalf("chose %+v of %+v", choice, r)
			}
			again, err := decode([]byte(text0(t, r)))
			if err != nil {
				t.Fatalf("cannot be read back: %v\n%s", err, text0(t, r))
			}
			if got, want := text0(t, again), text0(t, r); got != want {
				t.Fatalf("read back as\n%s, was\n%s", got, want)
			}
		}
	})
}

func TestLaunched(t *testing.T) {
	for value, want := range map[string]Launched{
		"file,/var/lib/x": {Directory: "/var/lib/x"}, "good,/a,b": {Directory: "/a,b", Good: true},
	} {
		if got, err := ParseLaunched(value); got != want || err != nil || got.String() != value {
			t.Errorf("%q: %+v, %v", value, got, err)
		}
	}
	for _, value := range []string{"", "file", "file,", "file,x", "/var/lib/x", "bad,/x", "good,x"} {
		if got, err := ParseLaunched(value); err == nil {
			t.Errorf("%q: %+v", value, got)
		}
	}
	if got := ForSuccessor("good,/x"); got != "file,/x" {
		t.Errorf("for a successor: %q", got)
	}
	if got := ForSuccessor("file,/x"); got != "file,/x" {
		t.Errorf("for a successor: %q", got)
	}
}

func TestIdentify(t *testing.T) {
	path := t.TempDir() + "/file"
	write(t, path, "hello", 0o755)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 2 {
		if id, err := Identify(f); id != content("hello") || err != nil {
			t.Errorf("%v, %v", id, err)
		}
	}
	before, err := StampOf(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, path+".new", "hollo", 0o755)
	g, err := os.Open(path + ".new")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if after, err := StampOf(g); after == before || err != nil {
		t.Errorf("two files have the stamp %+v, %v", after, err)
	}
}

func write(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask is
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSpace(data))
}
