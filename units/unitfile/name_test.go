// SPDX-License-Identifier: Apache-2.0

package unitfile_test

import (
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/units/unitfile"
)

func TestNames(t *testing.T) {
	for _, c := range []struct {
		text, stem, last, dropins string
	}{
		{"myapp.service", "myapp", "myapp", "myapp.service.d service.d"},
		{"foo-bar-baz.socket", "foo-bar-baz", "baz", "foo-bar-baz.socket.d foo-bar-.socket.d foo-.socket.d socket.d"},
		{"foo-bar@x.service", "foo-bar@x", "bar", "foo-bar@x.service.d foo-bar@.service.d foo-@x.service.d foo-@.service.d service.d"},
		{"a.b.service", "a.b", "a.b", "a.b.service.d service.d"},
		{"a@b@c.service", "a@b@c", "a", "a@b@c.service.d a@.service.d service.d"},
		{"-.service", "-", "", "-.service.d service.d"},
		{"a--b.service", "a--b", "b", "a--b.service.d a-.service.d service.d"},
	} {
		n, err := unitfile.ParseName(c.text)
		if err != nil {
			t.Error(err)
			continue
		}
		if n.String() != c.text || n.Stem() != c.stem || n.LastPart() != c.last || strings.Join(n.DropIns(252), " ") != c.dropins {
			t.Errorf("%s: %s %s %s %q", c.text, n, n.Stem(), n.LastPart(), n.DropIns(252))
		}
	}
	for _, text := range []string{"", "a", ".service", "@.service", "@a.service", "a b.service", "a/b.service", "ä.service", "a.", strings.Repeat("a", 248) + ".service"} {
		if n, err := unitfile.ParseName(text); err == nil {
			t.Errorf("ParseName(%q) = %v, want an error", text, n)
		}
	}
}

func TestUnescapeName(t *testing.T) {
	for text, want := range map[string]string{
		"a-b": "a/b", `a\x2db`: "a-b", `a\x2`: `a\x2`, `a\xzz`: `a\xzz`, "": "", `\x00`: `\x00`, `\x2f\x2f`: "//",
	} {
		if got := unitfile.UnescapeName(text); got != want {
			t.Errorf("UnescapeName(%q) = %q, want %q", text, got, want)
		}
	}
}
