// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"slices"
	"strings"
	"testing"
)

func TestParseEntries(t *testing.T) {
	const text = `{"MESSAGE":"hello","_PID":"42","_SYSTEMD_UNIT":"myapp.service","PRIORITY":"6"}
{"MESSAGE":[104,105,27],"UNIT":"myapp.service","_SYSTEMD_UNIT":"init.scope","TWICE":["a","b"],"MIXED":["a",[98,10]],"LONG":null}
`
	entries, err := parseEntries(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 2 {
		t.Fatalf("got %d entries, want 2", len(entries))
	}
	if e := entries[0]; e.Message() != "hello" || e.PID() != 42 || e.Unit() != "myapp.service" || e.Get("NONE") != "" {
		t.Errorf("first entry: got %+v", e)
	}
	if e := entries[1]; e.Message() != "hi\x1b" || e.PID() != 0 || e.Unit() != "myapp.service" {
		t.Errorf("second entry: got %+v", e)
	}
	for field, want := range map[string][]string{"TWICE": {"a", "b"}, "MIXED": {"a", "b\n"}, "LONG": {""}} {
		if got := entries[1].Fields[field]; !slices.Equal(got, want) {
			t.Errorf("field %s: got %q, want %q", field, got, want)
		}
	}
	for _, bad := range []string{"{", "[]", `{"MESSAGE":1}`, `{"MESSAGE":{}}`} {
		if entries, err := parseEntries(strings.NewReader(bad)); err == nil {
			t.Errorf("%s: got %v, want an error", bad, entries)
		}
	}
}
