// SPDX-License-Identifier: Apache-2.0

package unitfile

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// wordFlags say how a word is taken from a text.
type wordFlags int

const (
	unquote      wordFlags = 1 << iota // quotes are removed
	unescape                           // C escapes are replaced; without it, a backslash escapes any one character
	relaxQuotes                        // an open quote ends with the text
	relaxEscapes                       // an unknown escape stays as it is
	keepEscapes                        // a backslash is a character
)

var (
	errQuote = errors.New("a quote is not closed")
	errSlash = errors.New("there is a backslash at the end")
)

// An escapeError is an escape that systemd does not know.
type escapeError struct{ text string }

func (e *escapeError) Error() string {
	return fmt.Sprintf(`%s is no escape that systemd knows: write "\\" for a backslash`, e.text)
}

// nextWord takes the first word of s: characters up to one of the separators
// that is neither quoted nor escaped. There is none when ok is false. The rest
// begins with the next word.
func nextWord(s, separators string, flags wordFlags) (word, rest string, ok bool, err error) {
	s = strings.TrimLeft(s, separators)
	if s == "" {
		return "", "", false, nil
	}
	var (
		b     strings.Builder
		quote byte
	)
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '\\' && flags&keepEscapes == 0:
			if i+1 == len(s) {
				if flags&relaxEscapes != 0 && quote == 0 {
					b.WriteByte('\\')
				} else if flags&relaxQuotes == 0 {
					return "", "", false, errSlash
				}
				return b.String(), "", true, nil
			}
			n := 1
			if flags&unescape != 0 {
				text, used := unescapeOne(s[i+1:])
				if used == 0 {
					if flags&relaxEscapes == 0 {
						return "", "", false, &escapeError{s[i : i+2]}
					}
					text, used = s[i:i+2], 1
				}
				b.WriteString(text)
				n = used
			} else {
				b.WriteByte(s[i+1])
			}
			i += 1 + n
			continue
		case quote != 0:
			if c == quote {
				quote = 0
				i++
				continue
			}
		case flags&unquote != 0 && (c == '"' || c == '\''):
			quote = c
			i++
			continue
		case strings.IndexByte(separators, c) >= 0:
			return b.String(), strings.TrimLeft(s[i:], separators), true, nil
		}
		b.WriteByte(c)
		i++
	}
	if quote != 0 && flags&relaxQuotes == 0 {
		return "", "", false, errQuote
	}
	return b.String(), "", true, nil
}

// unescapeOne replaces the C escape at the beginning of s, which is what comes
// after the backslash. It returns how many bytes of s it took, 0 for none.
func unescapeOne(s string) (string, int) {
	if s == "" {
		return "", 0
	}
	if i := strings.IndexByte(`abfnrtv\"'s`, s[0]); i >= 0 {
		return "\a\b\f\n\r\t\v\\\"' "[i : i+1], 1
	}
	switch c := s[0]; {
	case c == 'x':
		if v, ok := digits(s[1:], 2, 16); ok && v != 0 {
			return string([]byte{byte(v)}), 3
		}
	case c >= '0' && c <= '7':
		if v, ok := digits(s, 3, 8); ok && v != 0 && v <= 255 {
			return string([]byte{byte(v)}), 3
		}
	case c == 'u':
		// systemd would also take a surrogate, and write what is no UTF-8.
		if v, ok := digits(s[1:], 4, 16); ok && v != 0 && utf8.ValidRune(rune(v)) {
			return string(rune(v)), 5
		}
	case c == 'U':
		if v, ok := digits(s[1:], 8, 16); ok && v != 0 && v <= utf8.MaxRune && validUTF8(string(rune(v))) && utf8.ValidRune(rune(v)) {
			return string(rune(v)), 9
		}
	}
	return "", 0
}

// digits reads exactly n digits.
func digits(s string, n int, base uint64) (uint64, bool) {
	if len(s) < n {
		return 0, false
	}
	var v uint64
	for i := range n {
		var d uint64
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			d = uint64(c - '0')
		case c >= 'a' && c <= 'f':
			d = uint64(c-'a') + 10
		case c >= 'A' && c <= 'F':
			d = uint64(c-'A') + 10
		default:
			return 0, false
		}
		if d >= base {
			return 0, false
		}
		v = v*base + d
	}
	return v, true
}

// words splits a whole text.
func words(s, separators string, flags wordFlags) ([]string, error) {
	var all []string
	for {
		word, rest, ok, err := nextWord(s, separators, flags)
		if err != nil {
			return nil, err
		}
		if !ok {
			return all, nil
		}
		all = append(all, word)
		s = rest
	}
}

// Words splits a value into its words, as options with lists of plain words
// do: quotes stay, a backslash makes the next character part of the word.
func Words(value string) ([]string, error) { return words(value, whitespace, 0) }

// QuotedWords splits a value into its words, quotes removed and backslashes
// kept, as options with lists of paths do.
func QuotedWords(value string) ([]string, error) {
	return words(value, whitespace, unquote|keepEscapes)
}

// Fields splits at every one of the separators, so that there may be empty
// fields, with C escapes replaced, as "path:name:options" of OpenFile= is.
func Fields(value, separator string) ([]string, error) {
	var (
		all []string
		b   strings.Builder
	)
	for i := 0; i < len(value); {
		switch c := value[i]; {
		case c == '\\':
			if i+1 == len(value) {
				return nil, errSlash
			}
			text, n := unescapeOne(value[i+1:])
			if n == 0 {
				if strings.IndexByte(separator, value[i+1]) < 0 {
					return nil, &escapeError{value[i : i+2]}
				}
				text, n = value[i+1:i+2], 1
			}
			b.WriteString(text)
			i += 1 + n
		case strings.IndexByte(separator, c) >= 0:
			all = append(all, b.String())
			b.Reset()
			i++
		default:
			b.WriteByte(c)
			i++
		}
	}
	return append(all, b.String()), nil
}

// Unescape replaces the C escapes of a text.
func Unescape(text string) (string, error) {
	fields, err := Fields(text, "")
	if err != nil {
		return "", err
	}
	return fields[0], nil
}
