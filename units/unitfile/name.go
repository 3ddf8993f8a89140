// SPDX-License-Identifier: Apache-2.0

package unitfile

import (
	"fmt"
	"strconv"
	"strings"
)

// Name is the name of a unit, taken apart.
type Name struct {
	Prefix   string // "myapp"
	Template bool   // there is an "@"
	Instance string // "1"; empty for a template itself
	Kind     string // "service"
}

// ParseName takes a name apart and checks it, as systemd.unit(5) has it.
func ParseName(text string) (Name, error) {
	var n Name
	base, kind, ok := cutLast(text, '.')
	n.Kind = kind
	if !ok || base == "" || kind == "" {
		return n, fmt.Errorf(`%q is not the name of a unit: it ends in no type such as ".service"`, text)
	}
	if len(text) > 255 {
		return n, fmt.Errorf("the name of the unit has %d bytes, and systemd takes 255: %.40q", len(text), text)
	}
	n.Prefix, n.Instance, n.Template = strings.Cut(base, "@")
	if n.Prefix == "" {
		return n, fmt.Errorf(`%q is not the name of a unit: there is nothing before the "@"`, text)
	}
	valid := func(r rune) bool {
		return r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || strings.ContainsRune(`:-_.\@`, r)
	}
	if i := strings.IndexFunc(text, func(r rune) bool { return !valid(r) }); i >= 0 {
		return n, fmt.Errorf(`%q is not the name of a unit: letters, digits and ":-_.\@" are allowed`, text)
	}
	return n, nil
}

func cutLast(s string, sep byte) (before, after string, found bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// String is the name: that of the template when there is no instance.
func (n Name) String() string { return n.Stem() + "." + n.Kind }

// Stem is the name without its type, %N.
func (n Name) Stem() string {
	if n.Template {
		return n.Prefix + "@" + n.Instance
	}
	return n.Prefix
}

// WithKind is the same name with another type.
func (n Name) WithKind(kind string) Name {
	n.Kind = kind
	return n
}

// File is the name of the file: that of the template.
func (n Name) File() Name {
	n.Instance = ""
	return n
}

// DropIns are the directories of drop-ins, the most specific first: those of
// the unit, of its template, of what its prefix begins with up to a dash, and
// of its type.
func (n Name) DropIns(systemd int) []string {
	var dirs []string
	for {
		dirs = append(dirs, n.String()+".d")
		if n.Template && n.Instance != "" {
			dirs = append(dirs, n.File().String()+".d")
		}
		prefix, _, found := cutLast(strings.TrimRight(n.Prefix, "-"), '-')
		if prefix = strings.TrimRight(prefix, "-"); !found || prefix == "" {
			break
		}
		n.Prefix = prefix + "-"
	}
	if systemd >= 244 {
		dirs = append(dirs, n.Kind+".d")
	}
	return dirs
}

// LastPart is the part of the prefix after its last dash, %j.
func (n Name) LastPart() string {
	_, after, found := cutLast(n.Prefix, '-')
	if !found {
		return n.Prefix
	}
	return after
}

// UnescapeName undoes the escaping of systemd-escape(1): "-" is a slash, "\x2d"
// a dash.
func UnescapeName(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '-':
			b.WriteByte('/')
			continue
		case s[i] == '\\' && len(s) >= i+4 && s[i+1] == 'x':
			if v, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil && v != 0 {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
