// SPDX-License-Identifier: Apache-2.0

// Package unitfile reads the syntax of unit files, as systemd.syntax(7) and the
// manual pages of the options have it: sections and assignments, specifiers,
// quoting, command lines, environments, time spans, sizes, signals, exit status
// names and the names of units. It knows no option: those who read it do, which
// are the stand-in of package reexectest and package check.
//
// It reads what systemd reads, in the same way. Where systemd logs a warning
// and goes on without the line, there is an error here: a test wants to know.
package unitfile

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxLine is what systemd takes as one line, with its continuations.
const maxLine = 1 << 20

// whitespace is what systemd strips and separates words at.
const whitespace = " \t\n\r"

// Assignment is one "Key=Value" of a section. The value has its continuation
// lines joined and is stripped, and is otherwise as written.
type Assignment struct {
	File    string
	Line    int // that of the key: the first, when there are continuations
	Section string
	Key     string
	Value   string
}

// Fault returns the error that says what is wrong with the assignment.
func (a Assignment) Fault(format string, args ...any) *Error {
	return &Error{
		File: a.File, Line: a.Line, Section: a.Section, Key: a.Key, Value: a.Value,
		Reason: fmt.Sprintf(format, args...),
	}
}

// Section is where a section begins. A file may begin the same one repeatedly.
type Section struct {
	File string
	Line int
	Name string
}

// Parsed is a unit file taken apart.
type Parsed struct {
	Sections    []Section
	Assignments []Assignment
	Faults      Faults
}

// Parse takes the text of a unit file apart. It goes on after a fault, but for
// what makes systemd give the file up: a line of a mebibyte or more, and a
// section header that is none; and after too many of them.
func Parse(file, text string) *Parsed {
	p := parser{Parsed: &Parsed{}, file: file}
	var (
		pending   strings.Builder // a line that goes on
		first     int             // the number of its first line
		bom       bool
		number    int
		continues bool
	)
	for text != "" && !p.stop {
		line, rest, nul := cutLine(text)
		text = rest
		number++
		if len(line) >= maxLine {
			p.fail(number, "", "the line has %d bytes, and systemd reads no line of %d or more: break it up", len(line), maxLine)
			return p.Parsed
		}
		if nul {
			p.fail(number, excerpt(line), "the line has a NUL byte, which systemd takes for its end: remove it")
			if p.stop {
				break
			}
		}
		if t := strings.TrimLeft(line, whitespace); t != "" && (t[0] == '#' || t[0] == ';') {
			continue // also between a line and its continuation
		}
		if !bom {
			line, bom = strings.CutPrefix(line, "\uFEFF")
		}
		if !continues {
			first = number
		} else if pending.Len()+len(line) > maxLine {
			p.fail(first, "", "the line and its continuations have more than %d bytes, which is where systemd gives up: break it up", maxLine)
			return p.Parsed
		}
		if body, more := cutBackslash(line); more {
			// The backslash becomes a space.
			pending.WriteString(body)
			pending.WriteByte(' ')
			continues = true
			continue
		}
		if continues {
			pending.WriteString(line)
			line = pending.String()
			pending.Reset()
			continues = false
		}
		p.line(first, line)
	}
	if continues && !p.stop {
		p.line(first, pending.String())
	}
	return p.Parsed
}

// cutLine returns the first line of the text, without its end. Ends are LF, CR
// and NUL, and a LF and a CR together in either order.
func cutLine(text string) (line, rest string, nul bool) {
	i := strings.IndexAny(text, "\n\r\x00")
	if i < 0 {
		return text, "", false
	}
	line, rest = text[:i], text[i+1:]
	if text[i] == 0 {
		return line, rest, true
	}
	if rest != "" && (rest[0] == '\n' || rest[0] == '\r') && rest[0] != text[i] {
		rest = rest[1:]
	}
	return line, rest, false
}

// cutBackslash cuts off a backslash at the end that is not itself escaped.
func cutBackslash(line string) (string, bool) {
	n := len(line)
	for n > 0 && line[n-1] == '\\' {
		n--
	}
	if (len(line)-n)%2 == 0 {
		return line, false
	}
	return line[:len(line)-1], true
}

type parser struct {
	*Parsed
	file    string
	section string
	stop    bool
}

// maxFileFaults is how many faults of a file are told apart. What has more is another
// kind of file.
const maxFileFaults = 10_000

func (p *parser) fail(line int, value, format string, args ...any) {
	if len(p.Faults) == maxFileFaults {
		p.stop = true
		value, format, args = "", "the file has more than %d faults, and is not read on: is it a unit file?", []any{maxFileFaults}
	}
	p.Faults = append(p.Faults, &Error{
		File: p.file, Line: line, Section: p.section, Value: value, Reason: fmt.Sprintf(format, args...),
	})
}

func (p *parser) line(number int, line string) {
	line = strings.Trim(line, whitespace)
	if line == "" {
		return
	}
	if !validUTF8(line) {
		p.fail(number, excerpt(line), "the line is not valid UTF-8: remove it, or write the bytes as escapes where the option takes them")
		return
	}
	if line[0] == '[' {
		name, ok := strings.CutSuffix(line[1:], "]")
		if !ok {
			p.fail(number, excerpt(line), `the section header does not end in "]": systemd gives up on the file`)
			p.stop = true
			return
		}
		if !safe(name) {
			p.fail(number, excerpt(line), "the section header has a quote, a backslash or a control character: systemd gives up on the file")
			p.stop = true
			return
		}
		p.section = name
		p.Sections = append(p.Sections, Section{File: p.file, Line: number, Name: name})
		return
	}
	key, value, ok := strings.Cut(line, "=")
	key, value = strings.Trim(key, whitespace), strings.Trim(value, whitespace)
	switch {
	case len(p.Sections) == 0:
		p.fail(number, excerpt(line), `the assignment is outside of a section: put a header such as "[Service]" before it`)
	case !ok:
		p.fail(number, excerpt(line), `the line has no "=": it is neither a section header nor an assignment nor a comment`)
	case key == "":
		p.fail(number, excerpt(line), `there is no name before the "="`)
	default:
		p.Assignments = append(p.Assignments, Assignment{File: p.file, Line: number, Section: p.section, Key: key, Value: value})
	}
}

// safe is systemd's string_is_safe: no control characters, quotes, backslashes.
func safe(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == 0x7f || c == '"' || c == '\'' || c == '\\' {
			return false
		}
	}
	return true
}

// validUTF8 is systemd's utf8_is_valid, which takes no noncharacters.
func validUTF8(s string) bool {
	for i := 0; i < len(s); {
		if s[i] < utf8.RuneSelf {
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 || r&0xfffe == 0xfffe || r >= 0xfdd0 && r <= 0xfdef {
			return false
		}
		i += n
	}
	return true
}
