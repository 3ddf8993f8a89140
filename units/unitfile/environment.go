// SPDX-License-Identifier: Apache-2.0

package unitfile

import (
	"errors"
	"fmt"
	"strings"
)

// ParseEnvironment reads the value of Environment=: assignments, each of which
// may be quoted as a whole or in part. Specifiers are filled in by expand.
func ParseEnvironment(value string, expand func(string) (string, error)) ([]string, error) {
	split, err := words(value, whitespace, unquote|unescape)
	if err != nil {
		return nil, err
	}
	for i, word := range split {
		if split[i], err = expand(word); err != nil {
			return nil, err
		}
		if err := checkAssignment(split[i]); err != nil {
			return nil, err
		}
	}
	return split, nil
}

func checkAssignment(assignment string) error {
	name, value, ok := strings.Cut(assignment, "=")
	switch {
	case !ok:
		return fmt.Errorf("%q is no assignment: write NAME=value, with quotes around it if the value has spaces", assignment)
	case !ValidEnvironmentName(name):
		return fmt.Errorf("%q is not the name of a variable: letters, digits and underscores, and no digit first", name)
	case !validUTF8(value) || strings.Contains(value, "\x00"):
		return fmt.Errorf("the value of %s is not valid UTF-8", name)
	}
	return nil
}

// ValidEnvironmentName reports whether systemd takes name for a variable.
func ValidEnvironmentName(name string) bool {
	if name == "" || name[0] >= '0' && name[0] <= '9' {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
}

// SetEnvironment adds assignments to an environment. A variable stays where it
// was first set, with the value that it got last.
func SetEnvironment(env []string, assignments ...string) []string {
	at := make(map[string]int, len(env)+len(assignments))
	for i, e := range env {
		name, _, _ := strings.Cut(e, "=")
		at[name] = i
	}
	for _, a := range assignments {
		name, _, _ := strings.Cut(a, "=")
		if i, ok := at[name]; ok {
			env[i] = a
			continue
		}
		at[name] = len(env)
		env = append(env, a)
	}
	return env
}

// ParseEnvironmentFile reads the text of an EnvironmentFile=, which is not unit
// syntax but a little of the shell's: NAME=value a line, "#" and ";" comments,
// values with single and double quotes and backslashes, which may also continue
// a line. Version is that of systemd: since 254 a comment is not continued.
//
// Names that are none are left out, as systemd does. The error is that the text
// is not UTF-8: then systemd does not start the service.
func ParseEnvironmentFile(text string, version int) ([]string, error) {
	var (
		env        []string
		key, value strings.Builder
		// How much of them is left when spaces at the end are cut off.
		keyLen, valueLen int
		failed           error
	)
	push := func(strip bool) {
		k, v := key.String()[:keyLen], value.String()
		if strip {
			v = v[:valueLen]
		}
		switch {
		case !validUTF8(k) || !validUTF8(v):
			failed = errors.Join(failed, fmt.Errorf("the environment file has a variable %q that is not valid UTF-8", k))
		case ValidEnvironmentName(k):
			env = append(env, k+"="+v)
		}
		key.Reset()
		value.Reset()
		keyLen, valueLen = 0, 0
	}
	const (
		preKey = iota
		inKey
		preValue
		inValue
		escape
		single
		double
		doubleEscape
		comment
		commentEscape
	)
	isSpace := func(c byte) bool { return strings.IndexByte(whitespace, c) >= 0 }
	isNewline := func(c byte) bool { return c == '\n' || c == '\r' }
	add := func(c byte) {
		value.WriteByte(c)
		valueLen = value.Len()
	}
	state := preKey
	text, _, _ = strings.Cut(text, "\x00")
	for i := range len(text) {
		c := text[i]
		switch state {
		case preKey:
			if c == '#' || c == ';' {
				state = comment
			} else if !isSpace(c) {
				state = inKey
				key.WriteByte(c)
				keyLen = key.Len()
			}
		case inKey:
			switch {
			case isNewline(c):
				state = preKey
				key.Reset()
				keyLen = 0
			case c == '=':
				state = preValue
			default:
				key.WriteByte(c)
				if !isSpace(c) {
					keyLen = key.Len()
				}
			}
		case preValue:
			switch {
			case isNewline(c):
				state = preKey
				push(false)
			case c == '\'':
				state = single
			case c == '"':
				state = double
			case c == '\\':
				state = escape
			case !isSpace(c):
				state = inValue
				add(c)
			}
		case inValue:
			switch {
			case isNewline(c):
				state = preKey
				push(true)
			case c == '\\':
				state = escape
				valueLen = value.Len()
			case isSpace(c):
				value.WriteByte(c)
			default:
				add(c)
			}
		case escape:
			state = inValue
			if !isNewline(c) {
				add(c)
			}
		case single:
			if c == '\'' {
				state = preValue
			} else {
				add(c)
			}
		case double:
			switch c {
			case '"':
				state = preValue
			case '\\':
				state = doubleEscape
			default:
				add(c)
			}
		case doubleEscape:
			state = double
			if strings.IndexByte("\"\\`$", c) >= 0 {
				add(c)
			} else if c != '\n' {
				add('\\')
				add(c)
			}
		case comment:
			if c == '\\' {
				state = commentEscape
			} else if isNewline(c) {
				state = preKey
			}
		case commentEscape:
			if isNewline(c) && version >= 254 {
				state = preKey
			} else {
				state = comment
			}
		}
	}
	switch state {
	case inValue:
		push(true)
	case preValue, escape, single, double, doubleEscape:
		push(false)
	}
	return SetEnvironment(nil, env...), failed
}
