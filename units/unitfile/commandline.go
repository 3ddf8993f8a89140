// SPDX-License-Identifier: Apache-2.0

package unitfile

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// CommandLine is one command of an Exec option.
type CommandLine struct {
	Prefixes string   // those before the path, each once: "-@:+!"; "!!" is both
	Path     string   // absolute and cleaned, or a bare name
	Args     []string // with argv[0]; variables are as written
}

// Has reports whether the prefix is there; "!" is not when "!!" is.
func (c CommandLine) Has(prefix string) bool {
	if prefix == "!" {
		return strings.Contains(c.Prefixes, "!") && !strings.Contains(c.Prefixes, "!!")
	}
	return strings.Contains(c.Prefixes, prefix)
}

// ParseCommandLine reads the value of an Exec option: commands with ";" between
// them. Prefixes are the characters that the version of systemd takes before
// the path. Specifiers are filled in by expand, once the words are apart, so
// that a value with spaces stays one argument. The warnings are what systemd
// puts up with: escapes that it does not know.
func ParseCommandLine(value, prefixes string, expand func(string) (string, error)) (commands []CommandLine, warnings []string, err error) {
	next := func(s string) (word, rest string, ok bool, err error) {
		word, rest, ok, err = nextWord(s, whitespace, unquote|unescape)
		var unknown *escapeError
		if errors.As(err, &unknown) {
			warnings = append(warnings, err.Error())
			word, rest, ok, err = nextWord(s, whitespace, unquote|unescape|relaxEscapes)
		}
		return word, rest, ok, err
	}
	for s := value; ; {
		word, rest, ok, err := next(s)
		if err != nil {
			return nil, warnings, err
		}
		if !ok {
			return commands, warnings, nil
		}
		s = rest
		if word == ";" {
			continue
		}
		var c CommandLine
		c.Prefixes, word = cutPrefixes(word, prefixes)
		program, err := expand(word)
		if err != nil {
			return nil, warnings, err
		}
		if err := checkProgram(program); err != nil {
			return nil, warnings, err
		}
		c.Path = program
		if path.IsAbs(program) {
			c.Path = CleanPath(program)
		}
		if !c.Has("@") {
			c.Args = []string{program}
		}
		more := false
		for s != "" && !more {
			switch {
			case s[0] == ';' && separated(s[1:]):
				s, more = strings.TrimLeft(s[1:], whitespace), true
				continue
			case strings.HasPrefix(s, `\;`) && separated(s[2:]):
				s = strings.TrimLeft(s[2:], whitespace)
				c.Args = append(c.Args, ";")
				continue
			}
			word, rest, ok, err := next(s)
			if err != nil {
				return nil, warnings, err
			}
			s = rest
			if !ok {
				break
			}
			arg, err := expand(word)
			if err != nil {
				return nil, warnings, err
			}
			c.Args = append(c.Args, arg)
		}
		if len(c.Args) == 0 {
			return nil, warnings, errors.New(`the "@" wants an argument after the path: argv[0]`)
		}
		commands = append(commands, c)
		if !more {
			return commands, warnings, nil
		}
	}
}

func separated(s string) bool { return s == "" || strings.IndexByte(whitespace, s[0]) >= 0 }

// cutPrefixes cuts off prefixes as long as they make sense: each once, and of
// "+", "!" and "!!" only one.
func cutPrefixes(word, allowed string) (prefixes, rest string) {
	for word != "" && strings.IndexByte(allowed, word[0]) >= 0 {
		c := word[:1]
		switch c {
		case "+":
			if strings.ContainsAny(prefixes, "+!") {
				return prefixes, word
			}
		case "!":
			if strings.Contains(prefixes, "+") || strings.Count(prefixes, "!") == 2 {
				return prefixes, word
			}
			if strings.Contains(prefixes, "!") { // keep the two together
				prefixes = strings.Replace(prefixes, "!", "!!", 1)
				word = word[1:]
				continue
			}
		default:
			if strings.Contains(prefixes, c) {
				return prefixes, word
			}
		}
		prefixes += c
		word = word[1:]
	}
	return prefixes, word
}

func checkProgram(program string) error {
	base := program[strings.LastIndexByte(program, '/')+1:]
	switch {
	case program == "":
		return errors.New("there is no program to run")
	case !safe(program):
		return fmt.Errorf("the path %q of the program has a quote, a backslash or a control character", program)
	case base == "" || base == "." || base == "..":
		return fmt.Errorf("%q is a directory: name the program in it", program)
	case !path.IsAbs(program) && strings.Contains(program, "/"):
		return fmt.Errorf("%q is neither an absolute path nor a bare file name", program)
	case len(base) > 255 || len(program) >= 4096:
		return fmt.Errorf("the path of the program has %d bytes, more than the kernel takes", len(program))
	}
	return nil
}

// Quote writes arguments so that ParseCommandLine reads them back: quotes where
// they are needed, specifiers and variables escaped.
func Quote(args ...string) string {
	var b strings.Builder
	for i, arg := range args {
		if i > 0 {
			b.WriteByte(' ')
		}
		plain := arg != "" && !strings.ContainsFunc(arg, func(r rune) bool {
			return r <= ' ' || r == 0x7f || strings.ContainsRune(`"'\;`, r)
		})
		if !plain {
			b.WriteByte('"')
		}
		for j := range len(arg) {
			switch c := arg[j]; {
			case c == '"' || c == '\\':
				b.WriteByte('\\')
				b.WriteByte(c)
			case c == '%' || c == '$':
				b.WriteByte(c)
				b.WriteByte(c)
			case c < ' ' || c == 0x7f:
				fmt.Fprintf(&b, `\x%02x`, c)
			default:
				b.WriteByte(c)
			}
		}
		if !plain {
			b.WriteByte('"')
		}
	}
	return b.String()
}

// ExpandArguments fills the variables of an environment into arguments: "$FOO"
// as a word of its own becomes the words of the value, none if there is no such
// variable; "${FOO}" anywhere becomes the value; "$$" becomes "$".
func ExpandArguments(args, env []string) []string {
	get := func(name string) string {
		if !ValidEnvironmentName(name) {
			return ""
		}
		for i := len(env) - 1; i >= 0; i-- {
			if value, ok := strings.CutPrefix(env[i], name); ok && value != "" && value[0] == '=' {
				return value[1:]
			}
		}
		return ""
	}
	var out []string
	for _, arg := range args {
		if arg != "" && arg[0] == '$' && (len(arg) == 1 || arg[1] != '{' && arg[1] != '$') {
			// With relaxQuotes there is no error.
			split, _ := words(get(arg[1:]), whitespace, unquote|relaxQuotes)
			out = append(out, split...)
			continue
		}
		var b strings.Builder
		for arg != "" {
			i := strings.IndexByte(arg, '$')
			if i < 0 || i+1 == len(arg) {
				break
			}
			b.WriteString(arg[:i])
			switch rest := arg[i+1:]; rest[0] {
			case '$':
				b.WriteByte('$')
				arg = rest[1:]
			case '{':
				name, after, ok := strings.Cut(rest[1:], "}")
				if !ok {
					b.WriteString(arg[i:])
					arg = ""
					continue
				}
				b.WriteString(get(name))
				arg = after
			default:
				b.WriteByte('$')
				arg = rest
			}
		}
		b.WriteString(arg)
		out = append(out, b.String())
	}
	return out
}
