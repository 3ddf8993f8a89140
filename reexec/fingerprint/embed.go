// SPDX-License-Identifier: Apache-2.0

package fingerprint

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// maxEmbedded bounds an embedded file.
const maxEmbedded = 8 << 10

// Embed returns f with what an embedded file says, which wins over the build
// information. The file has lines of key=value and comments that begin with #:
//
//	# written by debian/rules
//	version=1.4.0-2
//	revision=3f2a9c1e5b7d
//	modified=false
//	built=2026-11-30T12:00:00Z
//	tags=netgo,osusergo
//
// built may also be seconds since 1970, as SOURCE_DATE_EPOCH is. A key that is
// missing leaves f as it is, and so does a file without keys: that may be in the
// repository, for the build to write over. All else is an error that names the
// line: an unknown or repeated key, an empty value, a character that does not
// belong there.
func (f Fingerprint) Embed(data []byte) (Fingerprint, error) {
	if len(data) > maxEmbedded {
		return f, fmt.Errorf("embedded fingerprint: it has %d bytes: must have %d at most", len(data), maxEmbedded)
	}
	if !utf8.Valid(data) {
		return f, fmt.Errorf("embedded fingerprint: must be UTF-8")
	}
	out, seen := f, map[string]bool{}
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return f, fmt.Errorf("embedded fingerprint: line %d: %q: must be key=value", n, line)
		}
		if seen[key] {
			return f, fmt.Errorf("embedded fingerprint: line %d: %s is there twice", n, key)
		}
		seen[key] = true
		if err := out.set(key, value); err != nil {
			return f, fmt.Errorf("embedded fingerprint: line %d: %w", n, err)
		}
	}
	out.Embedded = f.Embedded || len(seen) > 0
	return out, nil
}

// set changes one field.
func (f *Fingerprint) set(key, value string) error {
	switch key {
	case "version":
		return word(key, value, &f.Version)
	case "revision":
		return word(key, value, &f.Revision)
	case "modified":
		switch value {
		case "true", "false":
			f.Modified = value == "true"
			return nil
		}
		return fmt.Errorf("modified=%q: must be true or false", value)
	case "built":
		if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
			f.Built = time.Unix(seconds, 0).UTC()
		} else if f.Built, err = time.Parse(time.RFC3339, value); err != nil {
			return fmt.Errorf("built=%q: must be a time as 2026-11-30T12:00:00Z, or seconds since 1970", value)
		}
		// What JSON cannot write would spoil every status.
		if _, err := f.Built.MarshalJSON(); err != nil {
			return fmt.Errorf("built=%q: %w", value, err)
		}
		return nil
	case "tags":
		tags := strings.Split(value, ",")
		if len(tags) > maxTags {
			return fmt.Errorf("tags has %d words: must have %d at most", len(tags), maxTags)
		}
		for i, tag := range tags {
			if err := word(key, tag, &tags[i]); err != nil {
				return err
			}
		}
		f.Tags = slices.Clone(tags)
		return nil
	}
	return fmt.Errorf("%q: must be version, revision, modified, built or tags", key)
}

// word takes a value of the letters that versions, revisions and tags have.
func word(key, value string, to *string) error {
	if value == "" {
		return fmt.Errorf("%s is empty: leave it out, or say it", key)
	}
	if len(value) > maxText {
		return fmt.Errorf("%s has %d bytes: must have %d at most", key, len(value), maxText)
	}
	for _, r := range value {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && !strings.ContainsRune(".+-~:_/", r) {
			return fmt.Errorf("%s=%q: %q must not be in it", key, value, r)
		}
	}
	*to = value
	return nil
}
