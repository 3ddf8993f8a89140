// SPDX-License-Identifier: Apache-2.0

package notifytest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// MaxPayload is the longest message in bytes that systemd reads
// (NOTIFY_BUFFER_MAX).
const MaxPayload = 4096

// Errors of [Parse]: messages that systemd drops whole.
var (
	ErrTooLong = fmt.Errorf("message is longer than %d bytes", MaxPayload)
	ErrNUL     = errors.New("message contains a NUL byte")
	// ErrBackslash: systemd takes a message for a list of words, in which the
	// last character escapes one that is missing.
	ErrBackslash = errors.New("message ends with a backslash")
)

// Field is one assignment of a message as systemd reads it: "NAME=value". systemd
// ignores one without a "=".
type Field string

// Name returns what stands before the "=".
func (f Field) Name() string {
	name, _, _ := strings.Cut(string(f), "=")
	return name
}

// Value returns what stands after it.
func (f Field) Value() string {
	_, value, _ := strings.Cut(string(f), "=")
	return value
}

// Parse splits a payload into its fields as systemd 247 and newer do: at every
// newline and carriage return, without empty lines. A backslash takes the
// special meaning from the character after it, a line break included, and is
// dropped. One NUL byte at the end is allowed.
//
// The error is [ErrTooLong], [ErrNUL] or [ErrBackslash]; all mean that systemd
// drops the message whole.
func Parse(payload []byte) ([]Field, error) {
	if len(payload) > MaxPayload {
		return nil, ErrTooLong
	}
	payload = bytes.TrimSuffix(payload, []byte{0})
	if bytes.IndexByte(payload, 0) >= 0 {
		return nil, ErrNUL
	}
	var fields []Field
	var line []byte
	for i := 0; i < len(payload); i++ {
		switch c := payload[i]; c {
		case '\n', '\r':
			if len(line) > 0 {
				fields = append(fields, Field(line))
			}
			line = line[:0]
		case '\\':
			if i++; i == len(payload) {
				return nil, ErrBackslash
			}
			line = append(line, payload[i])
		default:
			line = append(line, c)
		}
	}
	if len(line) > 0 {
		fields = append(fields, Field(line))
	}
	return fields, nil
}
