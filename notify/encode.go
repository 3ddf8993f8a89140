// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
)

// Encode returns the payload of the datagram that [Notifier.Notify] would
// send for fields, without the descriptors that go beside it. The error is
// the one that Notify would return: a [FieldError].
func Encode(fields ...Field) ([]byte, error) {
	payload, _, err := appendPayload(make([]byte, 0, MaxPayload), fields)
	return payload, err
}

// appendPayload appends the fields in their order, separated by newlines, to
// dst, which is empty and has room for MaxPayload bytes. It returns the one
// connection whose descriptor goes with them, if there is one.
func appendPayload(dst []byte, fields []Field) ([]byte, syscall.Conn, error) {
	if err := checkTogether(fields); err != nil {
		return nil, nil, err
	}
	var conn syscall.Conn
	for i := range fields {
		f := &fields[i]
		if len(dst)+len("\n")+len(f.text) > MaxPayload && (i > 0 || len(f.text) > MaxPayload) {
			return nil, nil, tooLong(fields)
		}
		if i > 0 {
			dst = append(dst, '\n')
		}
		dst = append(dst, f.text...)
		if f.is&isReloading != 0 {
			usec, err := monotonicUsec()
			if err != nil {
				return nil, nil, err
			}
			var digits [20]byte
			stamp := strconv.AppendInt(digits[:0], usec, 10)
			if len(dst)+len("\nMONOTONIC_USEC=")+len(stamp) > MaxPayload {
				return nil, nil, tooLong(fields)
			}
			dst = append(append(dst, "\nMONOTONIC_USEC="...), stamp...)
		}
		if f.conn != nil {
			conn = f.conn
		}
	}
	return dst, conn, nil
}

// checkTogether refuses what systemd would drop in silence: a bad field, and
// fields that have no meaning in one datagram.
func checkTogether(fields []Field) error {
	if len(fields) == 0 {
		return &FieldError{Reason: "no field to send"}
	}
	var seen role
	descriptors := 0
	for i := range fields {
		f := &fields[i]
		if err := f.Err(); err != nil {
			return err
		}
		if seen&f.is != 0 {
			return fieldError(f.name(), f.value(), "is given twice: systemd reads one of each per message")
		}
		seen |= f.is
		if f.conn != nil {
			descriptors++
		}
	}
	for i := range fields {
		if reason := checkBeside(&fields[i], seen, len(fields)); reason != "" {
			return fieldError(fields[i].name(), fields[i].value(), reason)
		}
	}
	if descriptors > 1 {
		return &FieldError{Reason: fmt.Sprintf("%s: a message carries one descriptor: send one after the other", names(fields))}
	}
	return nil
}

// checkBeside says why f cannot be sent in one message with the other fields,
// whose roles are in seen.
func checkBeside(f *Field, seen role, count int) string {
	switch {
	case f.is == isBarrier && count > 1:
		return "must be the only field of its message"
	case f.is == isRemove && seen&isStore != 0:
		return "must not be sent with FDSTORE=1: systemd would only remove"
	case f.is == isRemove && seen&isName == 0:
		return "must be sent with FDNAME="
	case f.is == isName && seen&(isStore|isRemove) == 0:
		return "must be sent with FDSTORE=1 or FDSTOREREMOVE=1"
	case f.is == isNoPoll && seen&isStore == 0:
		return "must be sent with FDSTORE=1"
	case f.is == isMainPIDFDID && seen&isMainPID == 0:
		return "must be sent with MAINPID="
	}
	return ""
}

func tooLong(fields []Field) error {
	return &FieldError{Reason: fmt.Sprintf("%s: message must be at most %d bytes long: shorten or split it", names(fields), MaxPayload)}
}

// names lists the names of fields for an error.
func names(fields []Field) string {
	list := make([]string, len(fields))
	for i := range fields {
		list[i] = fields[i].name()
	}
	return strings.Join(list, ",")
}
