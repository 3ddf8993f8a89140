// SPDX-License-Identifier: Apache-2.0

package notifytest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// ErrNoCredentials marks a message whose sender the kernel did not name, for
// example because it lives in another PID namespace. systemd drops it.
var ErrNoCredentials = errors.New("message has no credentials of its sender")

// ErrDescriptorsLost marks a message some of whose descriptors the kernel
// could not deliver, because the receiver has too many open.
var ErrDescriptorsLost = errors.New("descriptors of the message were lost: too many open files")

// Sender is what the kernel says about the process that sent a message.
type Sender struct {
	PID int
	UID uint32
	GID uint32
}

// Message is one received datagram.
type Message struct {
	// Payload is what was sent, or its first MaxPayload bytes.
	Payload []byte
	// Fields is the payload, parsed; empty if systemd would drop it.
	Fields []Field
	// Sender is the process that sent the message.
	Sender Sender
	// Files are the descriptors that came with it. Whoever received the
	// message owns them; Close closes those that are left. A [Manager] closes
	// them as soon as it has handled the message, as systemd does, so the
	// messages that it has recorded carry none.
	Files []*os.File
	// Descriptors is the number of descriptors that came.
	Descriptors int
	// Err says why systemd would drop the message: [ErrTooLong], [ErrNUL],
	// [ErrBackslash], [ErrNoCredentials] or [ErrDescriptorsLost].
	Err error
}

// Value returns the value of the first field of that name, which is the one
// that systemd reads.
func (m *Message) Value(name string) (value string, ok bool) {
	for _, f := range m.Fields {
		if value, ok := strings.CutPrefix(string(f), name+"="); ok {
			return value, true
		}
	}
	return "", false
}

// Has reports whether the message has all of the given fields. A field is
// written as "NAME=value", or as "NAME" for any value.
func (m *Message) Has(fields ...string) bool {
	for _, field := range fields {
		if strings.Contains(field, "=") {
			if !slices.Contains(m.Fields, Field(field)) {
				return false
			}
		} else if _, ok := m.Value(field); !ok {
			return false
		}
	}
	return true
}

// IsBarrier reports whether the message asks for synchronization. systemd
// reads nothing else in such a message.
func (m *Message) IsBarrier() bool { return m.Has("BARRIER=1") }

// Close closes the descriptors of the message that nobody took.
func (m *Message) Close() error {
	var err error
	for _, file := range m.Files {
		err = errors.Join(err, file.Close())
	}
	m.Files = nil
	return err
}

// String is the message on one line, for the log of a test.
func (m *Message) String() string {
	text := fmt.Sprintf("%q from PID %d", m.Payload, m.Sender.PID)
	if m.Descriptors > 0 {
		text += fmt.Sprintf(" with %d descriptors", m.Descriptors)
	}
	if m.Err != nil {
		text += ": " + m.Err.Error()
	}
	return text
}
