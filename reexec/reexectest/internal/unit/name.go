// SPDX-License-Identifier: Apache-2.0

package unit

import (
	"fmt"
	"strconv"
	"strings"
)

// name is the name of a unit, taken apart.
type name struct {
	prefix   string // "myapp"
	template bool   // there is an "@"
	instance string // "1"; empty for a template itself
	kind     string // "service"
}

// parseName takes a name apart and checks it, as systemd.unit(5) has it.
func parseName(text string) (name, error) {
	var n name
	base, kind, ok := cutLast(text, '.')
	n.kind = kind
	if !ok || base == "" || kind == "" {
		return n, fmt.Errorf(`%q is not the name of a unit: it ends in no type such as ".service"`, text)
	}
	if len(text) > 255 {
		return n, fmt.Errorf("the name of the unit has %d bytes, and systemd takes 255: %.40q", len(text), text)
	}
	n.prefix, n.instance, n.template = strings.Cut(base, "@")
	if n.prefix == "" {
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
func (n name) String() string { return n.stem() + "." + n.kind }

// stem is the name without its type, %N.
func (n name) stem() string {
	if n.template {
		return n.prefix + "@" + n.instance
	}
	return n.prefix
}

// withKind is the same name with another type.
func (n name) withKind(kind string) name {
	n.kind = kind
	return n
}

// file is the name of the file: that of the template.
func (n name) file() name {
	n.instance = ""
	return n
}

// dropins are the directories of drop-ins, the most specific first: those of
// the unit, of its template, of what its prefix begins with up to a dash, and
// of its type.
func (n name) dropins(systemd int) []string {
	var dirs []string
	for {
		dirs = append(dirs, n.String()+".d")
		if n.template && n.instance != "" {
			dirs = append(dirs, n.file().String()+".d")
		}
		prefix, _, found := cutLast(strings.TrimRight(n.prefix, "-"), '-')
		if prefix = strings.TrimRight(prefix, "-"); !found || prefix == "" {
			break
		}
		n.prefix = prefix + "-"
	}
	if systemd >= 244 {
		dirs = append(dirs, n.kind+".d")
	}
	return dirs
}

// lastPart is the part of the prefix after its last dash, %j.
func (n name) lastPart() string {
	_, after, found := cutLast(n.prefix, '-')
	if !found {
		return n.prefix
	}
	return after
}

// unescapeName undoes the escaping of systemd-escape(1): "-" is a slash, "\x2d"
// a dash.
func unescapeName(s string) string {
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
