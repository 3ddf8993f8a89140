// SPDX-License-Identifier: Apache-2.0

package lastgood

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// Format is the version of the record that is written. A field that may be
	// missing is no new format; one whose meaning changes is, and then the one
	// before is still read.
	Format = 1
	oldest = 1

	maxFailed = 8    // marks that are kept, the newest
	maxText   = 2000 // bytes of a text in the record
	maxRecord = 64 << 10
)

// ErrFuture is returned for the record of a later release. Whoever does not
// understand it neither uses nor replaces it.
var ErrFuture = errors.New("the record is of a later release of Holdfast")

// Record is what is known about the programs of one service. Its zero value
// knows nothing.
type Record struct {
	Format int `json:"format"`
	// Good is the last program that has proven itself; nil if none has.
	Good *Good `json:"good,omitempty"`
	// Previous was the good one before Good, for a rollback; nil if there was none.
	// A release that does not know it drops it, and removes the copy.
	Previous *Good `json:"previous,omitempty"`
	// Failed are contents that must not start, the newest first.
	Failed []Failure `json:"failed,omitempty"`
	// Attempt counts the starts of a file that has not proven itself yet.
	Attempt *Attempt `json:"attempt,omitempty"`
	// Fallback is set while Good starts in place of the service's file.
	Fallback *Fallback `json:"fallback,omitempty"`
	// Seen saves the reading of a file that has not changed.
	Seen *Seen `json:"seen,omitempty"`
}

// Good is a program that has proven itself, and its copy.
type Good struct {
	Identity
	Version string    `json:"version,omitempty"`
	Since   time.Time `json:"since"`
	// Copy is the stamp of the copy when it was made.
	Copy Stamp `json:"copy"`
}

// Failure marks the content of a file that must not start.
type Failure struct {
	Identity
	Version string    `json:"version,omitempty"`
	Reason  string    `json:"reason"`
	At      time.Time `json:"at"`
	// Counted marks come from the attempts, and not from a verdict: they end
	// also if the good version does not come up either.
	Counted bool `json:"counted,omitempty"`
}

func (f Failure) String() string {
	text := ""
	if f.Version != "" {
		text = "version " + f.Version + " "
	}
	return fmt.Sprintf("%sfailed at %s: %s", text, f.At.Format(time.DateTime), f.Reason)
}

// Attempt counts the starts of one content.
type Attempt struct {
	Identity
	Count int `json:"count"`
}

// Fallback says why the good version starts, and how often it has without
// proving itself again.
type Fallback struct {
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
	Count  int       `json:"count,omitempty"`
}

// Seen is the identity of the file with that stamp.
type Seen struct {
	Stamp
	Identity Identity `json:"identity"`
}

// decode reads a record. What it returns without an error can be used as it is.
func decode(data []byte) (Record, error) {
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return Record{}, err
	}
	switch {
	case head.Format > Format:
		return Record{}, fmt.Errorf("%w: it has format %d, this one reads %d to %d", ErrFuture, head.Format, oldest, Format)
	case head.Format < oldest:
		return Record{}, fmt.Errorf("format %d: must be %d to %d", head.Format, oldest, Format)
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, err
	}
	if r.Good != nil && !r.Good.valid() {
		return Record{}, fmt.Errorf("identity of the good program: %d bytes, SHA-256 %q", r.Good.Size, r.Good.SHA256)
	}
	// The rest only decides what is tried: what makes no sense is left out.
	if r.Previous != nil && (!r.Previous.valid() || r.Good == nil || r.Previous.Identity == r.Good.Identity) {
		r.Previous = nil
	}
	r.Failed = slices.DeleteFunc(r.Failed, func(f Failure) bool { return !f.valid() })
	r.Failed = r.Failed[:min(len(r.Failed), maxFailed)]
	if r.Attempt != nil && (!r.Attempt.valid() || r.Attempt.Count < 0) {
		r.Attempt = nil
	}
	if r.Fallback != nil && r.Fallback.Count < 0 {
		r.Fallback = nil
	}
	if r.Seen != nil && !r.Seen.Identity.valid() {
		r.Seen = nil
	}
	return r, nil
}

func (r Record) encode() ([]byte, error) {
	r.Format = Format
	data, err := json.MarshalIndent(r, "", "\t")
	return append(data, '\n'), err
}

// Knows returns the identity of a file whose stamp was seen before.
func (r *Record) Knows(s Stamp) (Identity, bool) {
	switch {
	case r.Seen != nil && r.Seen.Stamp == s:
		return r.Seen.Identity, true
	case r.Good != nil && r.Good.Copy == s:
		return r.Good.Identity, true
	case r.Previous != nil && r.Previous.Copy == s:
		return r.Previous.Identity, true
	}
	return Identity{}, false
}

// FailedBefore returns the mark of that content.
func (r *Record) FailedBefore(id Identity) (Failure, bool) {
	i := slices.IndexFunc(r.Failed, func(f Failure) bool { return f.Identity == id })
	if i < 0 || !id.Known() {
		return Failure{}, false
	}
	return r.Failed[i], true
}

// MayHaveFailed says whether the content of a file of that size could be marked.
func (r *Record) MayHaveFailed(size int64) bool {
	return slices.ContainsFunc(r.Failed, func(f Failure) bool { return f.Size == size })
}

// Mark marks a content. The good one is never marked: there would be nothing
// better to start. It says whether the mark was set.
func (r *Record) Mark(f Failure) bool {
	if !f.valid() || r.Good != nil && r.Good.Identity == f.Identity {
		return false
	}
	f.Reason, f.Version = text(f.Reason), text(f.Version)
	r.Unmark(f.Identity)
	r.Failed = slices.Insert(r.Failed, 0, f)
	r.Failed = r.Failed[:min(len(r.Failed), maxFailed)]
	if r.Attempt != nil && r.Attempt.Identity == f.Identity {
		r.Attempt = nil
	}
	return true
}

// Unmark takes the mark from a content, if it has one.
func (r *Record) Unmark(id Identity) {
	r.Failed = slices.DeleteFunc(r.Failed, func(f Failure) bool { return f.Identity == id })
}

// Attempting counts one more start of a content that has not proven itself.
func (r *Record) Attempting(id Identity) {
	if r.Good != nil && r.Good.Identity == id || !id.Known() {
		r.Attempt = nil
		return
	}
	if r.Attempt == nil || r.Attempt.Identity != id {
		r.Attempt = &Attempt{Identity: id}
	}
	r.Attempt.Count++
}

// Proven takes note that a program has proven itself. Fallback says that it is
// the copy that runs in place of the service's file, which stays marked then.
func (r *Record) Proven(good Good, fallback bool) {
	r.Unmark(good.Identity)
	r.become(good)
	r.Attempt = nil
	switch {
	case !fallback:
		r.Fallback = nil
	case r.Fallback != nil:
		r.Fallback.Count = 0
	}
}

// become makes a program the good one, and that before it the previous.
func (r *Record) become(good Good) {
	good.Version = text(good.Version)
	if r.Good != nil && r.Good.Identity != good.Identity {
		r.Previous = r.Good
	}
	r.Good = &good
}

// Before is the program to which one of that content is rolled back: the last one
// that has proven itself and is another one. It is nil if there is none.
func (r *Record) Before(id Identity) *Good {
	for _, g := range []*Good{r.Good, r.Previous} {
		if g != nil && g.Identity != id {
			return g
		}
	}
	return nil
}

// RollBack makes to the good one in the place of the program that from describes.
// It marks that and the service's file, so that to starts next whatever happens.
// Undo takes all of it back, and leaves alone what has been changed since.
func (r *Record) RollBack(to Good, from Failure, file Candidate) (undo func(*Record)) {
	before := *r
	before.Failed = slices.Clone(r.Failed)
	r.Unmark(to.Identity)
	r.become(to)
	r.Attempt, r.Fallback = nil, nil
	installed := from
	if file.Identity != from.Identity {
		installed.Identity, installed.Version = file.Identity, ""
	}
	r.Mark(installed)
	r.Mark(from)
	if file.Identity != to.Identity {
		why := fmt.Sprintf("%s: %v", file.Path, installed)
		if file.Unusable != nil {
			why = file.Unusable.Error()
		}
		r.Fallback = &Fallback{Reason: text(why), Since: from.At}
	}
	return func(now *Record) {
		now.Good, now.Previous, now.Attempt, now.Fallback = before.Good, before.Previous, before.Attempt, before.Fallback
		for _, id := range []Identity{to.Identity, file.Identity, from.Identity} {
			now.Unmark(id)
			if mark, had := before.FailedBefore(id); had {
				now.Mark(mark)
			}
		}
	}
}

// ProvenWithoutCopy takes note that a program has proven itself of which there
// can be no copy, such as on a full disk: the good one stays what it was, and is
// not started in place of this one.
func (r *Record) ProvenWithoutCopy(id Identity) {
	r.Unmark(id)
	if r.Attempt != nil && r.Attempt.Identity == id {
		r.Attempt = nil
	}
}

// StoppedEarly takes back the count of a start that was stopped in good health
// before it could prove itself.
func (r *Record) StoppedEarly() {
	r.Attempt = nil
	if r.Fallback != nil {
		r.Fallback.Count = 0
	}
}

// Retry forgets what speaks against a file, so that it starts again.
func (r *Record) Retry() (forgotten []Failure) {
	forgotten = r.Failed
	r.Failed, r.Attempt, r.Fallback = nil, nil, nil
	return forgotten
}

// text makes a text fit for the record and for one line of a log.
func text(s string) string {
	s = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(s, "?"))
	if len(s) <= maxText {
		return s
	}
	end := maxText
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}
