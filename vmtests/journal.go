// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// An Entry is one entry of the journal. Field names are those of systemd.journal-fields(7).
type Entry struct {
	Fields map[string][]string // a field may occur more than once
}

// Get returns the first value of a field, or "".
func (e Entry) Get(field string) string {
	if values := e.Fields[field]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// Message returns the text of the entry.
func (e Entry) Message() string { return e.Get("MESSAGE") }

// PID returns the PID that wrote the entry, 0 when it is not known.
func (e Entry) PID() int {
	pid, _ := strconv.Atoi(e.Get("_PID")) // written by journald
	return pid
}

// Unit returns the unit that the entry is about: the one that wrote it, or the one that systemd wrote it of.
func (e Entry) Unit() string {
	if unit := e.Get("UNIT"); unit != "" {
		return unit
	}
	return e.Get("_SYSTEMD_UNIT")
}

// Journal returns all that was logged up to this call, as text; args narrow it as they do for journalctl,
// such as "--unit=myapp.service".
func (m *Machine) Journal(ctx context.Context, args ...string) (string, error) {
	if err := m.syncJournal(ctx); err != nil {
		return "", err
	}
	return m.Output(ctx, append([]string{"journalctl", "--no-pager", "--quiet", "--output=short-monotonic", "--no-hostname"}, args...)...)
}

// Entries is [Machine.Journal] with all fields.
func (m *Machine) Entries(ctx context.Context, args ...string) ([]Entry, error) {
	if err := m.syncJournal(ctx); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err := m.run(ctx, Command{
		Args:   append([]string{"journalctl", "--no-pager", "--quiet", "--output=json", "--all"}, args...),
		Stdout: &out,
	})
	if err != nil {
		return nil, err
	}
	return parseEntries(&out)
}

// syncJournal waits until journald has written all that it received.
func (m *Machine) syncJournal(ctx context.Context) error {
	return m.Run(ctx, "journalctl", "--sync")
}

// parseEntries parses "journalctl --output=json": one object a line. A value is a string, null when it
// is too long, an array of byte values when it is no text, or an array of those when the field occurs
// more than once.
func parseEntries(r io.Reader) ([]Entry, error) {
	var entries []Entry
	decoder := json.NewDecoder(r)
	for {
		var object map[string]json.RawMessage
		if err := decoder.Decode(&object); errors.Is(err, io.EOF) {
			return entries, nil
		} else if err != nil {
			return nil, fmt.Errorf("journal entry %d: %w", len(entries), err)
		}
		entry := Entry{Fields: make(map[string][]string)}
		for name, raw := range object {
			values, err := parseField(raw)
			if err != nil {
				return nil, fmt.Errorf("journal entry %d: field %s: %w", len(entries), name, err)
			}
			entry.Fields[name] = values
		}
		entries = append(entries, entry)
	}
}

func parseField(raw json.RawMessage) ([]string, error) {
	if raw[0] != '[' {
		var text string // stays empty for null
		err := json.Unmarshal(raw, &text)
		return []string{text}, err
	}
	var elements []json.RawMessage
	if err := json.Unmarshal(raw, &elements); err != nil {
		return nil, err
	}
	var values []string
	var binary []byte
	for _, element := range elements {
		var n uint8
		if json.Unmarshal(element, &n) == nil && element[0] != 'n' {
			binary = append(binary, n)
			continue
		}
		more, err := parseField(element)
		if err != nil {
			return nil, err
		}
		values = append(values, more...)
	}
	if binary != nil {
		values = append(values, string(binary))
	}
	return values, nil
}
