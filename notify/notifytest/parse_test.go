// SPDX-License-Identifier: Apache-2.0

package notifytest_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/notify/notifytest"
)

// What systemd made of these payloads was read from StatusText= and
// StatusErrno= of a service under systemd 247, 252, 257 and 262.
func TestParse(t *testing.T) {
	tests := []struct {
		payload string
		want    []notifytest.Field
		err     error
	}{
		{"", nil, nil},
		{"\n\r\n", nil, nil},
		{"READY=1", []notifytest.Field{"READY=1"}, nil},
		{"READY=1\n", []notifytest.Field{"READY=1"}, nil},
		{"READY=1\x00", []notifytest.Field{"READY=1"}, nil},
		{"\x00", nil, nil},
		{"READY=1\n\nSTATUS=up", []notifytest.Field{"READY=1", "STATUS=up"}, nil},
		{"STATUS=cr\rERRNO=7", []notifytest.Field{"STATUS=cr", "ERRNO=7"}, nil},
		{"STATUS= a=b ", []notifytest.Field{"STATUS= a=b "}, nil},
		{"STATUS=\"quoted\" 'q'", []notifytest.Field{"STATUS=\"quoted\" 'q'"}, nil},
		{"STATUS=\xff\xfe", []notifytest.Field{"STATUS=\xff\xfe"}, nil},
		{"no assignment", []notifytest.Field{"no assignment"}, nil},
		{`STATUS=a\b`, []notifytest.Field{"STATUS=ab"}, nil},
		{`STATUS=a\\b`, []notifytest.Field{`STATUS=a\b`}, nil},
		{`STATUS=x\n y`, []notifytest.Field{"STATUS=xn y"}, nil},
		{"STATUS=tail\\\nERRNO=5", []notifytest.Field{"STATUS=tail\nERRNO=5"}, nil},
		{"READY=1\nSTATUS=tail\\", nil, notifytest.ErrBackslash},
		{"STATUS=tail\\\x00", nil, notifytest.ErrBackslash},
		{"STATUS=\x00\nREADY=1", nil, notifytest.ErrNUL},
		{"READY=1\x00\x00", nil, notifytest.ErrNUL},
		{strings.Repeat("x", 4096), []notifytest.Field{notifytest.Field(strings.Repeat("x", 4096))}, nil},
		{strings.Repeat("x", 4097), nil, notifytest.ErrTooLong},
	}
	for _, test := range tests {
		got, err := notifytest.Parse([]byte(test.payload))
		if !errors.Is(err, test.err) || !slices.Equal(got, test.want) {
			t.Errorf("Parse(%.40q): got %q, %v, want %q, %v", test.payload, got, err, test.want, test.err)
		}
	}
}

func TestField(t *testing.T) {
	for field, want := range map[notifytest.Field][2]string{
		"READY=1": {"READY", "1"}, "STATUS=a=b": {"STATUS", "a=b"}, "STATUS=": {"STATUS", ""}, "bare": {"bare", ""}, "": {"", ""},
	} {
		if got := [2]string{field.Name(), field.Value()}; got != want {
			t.Errorf("%q: got %q, want %q", field, got, want)
		}
	}
}

// FuzzParse checks that a payload is either refused for a reason that it has,
// or split into fields that give the same fields again when they are sent
// with their special characters escaped.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"READY=1\nSTATUS=up", "STATUS=a\\\nb", "\\", "\\\\", "a\x00b", "a\x00", "\r\n", "BARRIER=1", strings.Repeat("x\n", 2049),
	} {
		f.Add([]byte(seed))
	}
	escape := strings.NewReplacer("\\", "\\\\", "\n", "\\\n", "\r", "\\\r")
	f.Fuzz(func(t *testing.T, payload []byte) {
		original := bytes.Clone(payload)
		fields, err := notifytest.Parse(payload)
		if !bytes.Equal(payload, original) {
			t.Fatal("payload was changed")
		}
		switch {
		case errors.Is(err, notifytest.ErrTooLong):
			if len(payload) <= notifytest.MaxPayload {
				t.Errorf("%d bytes are not too long", len(payload))
			}
			return
		case errors.Is(err, notifytest.ErrNUL):
			if !bytes.Contains(payload, []byte{0}) {
				t.Errorf("%q has no NUL byte", payload)
			}
			return
		case errors.Is(err, notifytest.ErrBackslash):
			if !bytes.HasSuffix(bytes.TrimSuffix(payload, []byte{0}), []byte(`\`)) {
				t.Errorf("%q does not end with a backslash", payload)
			}
			return
		case err != nil:
			t.Fatalf("got %v", err)
		}
		var lines []string
		for _, field := range fields {
			if field == "" || strings.ContainsRune(string(field), 0) {
				t.Errorf("field %q of %q", field, payload)
			}
			lines = append(lines, escape.Replace(string(field)))
		}
		again := strings.Join(lines, "\n")
		if len(again) > notifytest.MaxPayload {
			return // escaping made it too long
		}
		reparsed, err := notifytest.Parse([]byte(again))
		if err != nil || !slices.Equal(reparsed, fields) {
			t.Errorf("%q parses into %q, again into %q, %v", payload, fields, reparsed, err)
		}
	})
}
