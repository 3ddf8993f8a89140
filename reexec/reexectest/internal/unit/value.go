// SPDX-License-Identifier: Apache-2.0

package unit

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/units/unitfile"
)

// The setters of this file read the kinds of values that several options have.

func (c *context) boolean(p *bool) setter {
	return func(a unitfile.Assignment) (err error) {
		return assign(p)(unitfile.ParseBool(a.Value))
	}
}

// assign stores a value that was read without an error.
func assign[T any](p *T) func(T, error) error {
	return func(v T, err error) error {
		if err == nil {
			*p = v
		}
		return err
	}
}

func (c *context) unsigned(p *int) setter {
	return func(a unitfile.Assignment) error {
		n, err := unitfile.ParseUnsigned(a.Value, 32)
		if err == nil {
			*p = int(n)
		}
		return err
	}
}

// integer reads a number into what is nil while it is not set.
func (c *context) integer(p **int) setter {
	return func(a unitfile.Assignment) error {
		n, err := unitfile.ParseInt(a.Value, 32)
		if err == nil {
			v := int(n)
			*p = &v
		}
		return err
	}
}

// timespan reads a time span in seconds; with zeroIsNone, 0 means no limit.
func (c *context) timespan(p *time.Duration, zeroIsNone bool) setter {
	return func(a unitfile.Assignment) error {
		d, err := unitfile.ParseTimespan(a.Value, time.Second)
		if err == nil && d == 0 && zeroIsNone {
			d = Infinity
		}
		return assign(p)(d, err)
	}
}

func (c *context) size(p *int) setter {
	return func(a unitfile.Assignment) error {
		n, err := unitfile.ParseSize(a.Value)
		if err == nil && n > math.MaxInt32 {
			err = fmt.Errorf("%q is out of range: the kernel takes less than 2G", a.Value)
		}
		if err == nil {
			*p = int(n)
		}
		return err
	}
}

func (c *context) mode(p *os.FileMode) setter {
	return func(a unitfile.Assignment) error { return assign(p)(unitfile.ParseMode(a.Value)) }
}

func (c *context) signal(p *syscall.Signal) setter {
	return func(a unitfile.Assignment) error { return assign(p)(unitfile.ParseSignal(a.Value)) }
}

// choice reads one of some words, each of which may have a ":" and the version
// that has it first.
func (c *context) choice(p *string, choices ...string) setter {
	return func(a unitfile.Assignment) error {
		var words []string
		for _, choice := range choices {
			word, since, _ := strings.Cut(choice, ":")
			if word == a.Value {
				if since != "" && number(since) > c.systemd {
					return fmt.Errorf("%q is a value since systemd %s, and this is %d", word, since, c.systemd)
				}
				*p = word
				return nil
			}
			if since == "" || number(since) <= c.systemd {
				words = append(words, word)
			}
		}
		return fmt.Errorf("%q is none of the values: %s", a.Value, strings.Join(words, ", "))
	}
}

// text reads a text with specifiers.
func (c *context) text(p *string) setter {
	return func(a unitfile.Assignment) error { return assign(p)(c.expand(a.Value)) }
}

// place fills in specifiers, checks that the path is absolute and relocates it:
// but not one that begins with a specifier, which is where it should be.
func (c *context) place(text string) (string, error) {
	path, err := c.expand(text)
	if err != nil {
		return "", err
	}
	if err := unitfile.CheckPath(path, true); err != nil {
		return "", err
	}
	path = unitfile.CleanPath(path)
	if c.Relocate != nil && (text[0] == '/' || strings.HasPrefix(text, "%f")) {
		path = c.Relocate(path)
	}
	return path, nil
}

// unique removes what is in a list again.
func unique(list []string) []string {
	seen := make(map[string]bool, len(list))
	return slices.DeleteFunc(list, func(s string) bool {
		again := seen[s]
		seen[s] = true
		return again
	})
}

// withoutVar is what systemd does to a path below the legacy /var/run.
func (c *context) withoutVar(a unitfile.Assignment) string {
	rest, ok := strings.CutPrefix(a.Value, "/var/run/")
	if !ok {
		return a.Value
	}
	c.warn(a, "the path is below the legacy directory /var/run, and systemd takes it for one below /run")
	return "/run/" + rest
}

// units reads a list of names of units of some type, or of any.
func (c *context) units(p *[]string, kind string) setter {
	return func(a unitfile.Assignment) error {
		words, err := unitfile.QuotedWords(a.Value)
		if err != nil {
			return err
		}
		// An empty assignment does not reset what adds dependencies.
		for _, word := range words {
			text, err := c.expand(word)
			if err != nil {
				return err
			}
			n, err := unitfile.ParseName(text)
			if err != nil {
				return err
			}
			if kind != "" && n.Kind != kind {
				return fmt.Errorf("%q is no %s unit", text, kind)
			}
			*p = append(*p, text)
		}
		return nil
	}
}

// list reads a list of words, which an empty assignment resets.
func (c *context) list(p *[]string, check func(string) error) setter {
	return func(a unitfile.Assignment) error {
		if a.Value == "" {
			*p = nil
			return nil
		}
		words, err := unitfile.QuotedWords(a.Value)
		if err != nil {
			return err
		}
		for _, word := range words {
			text, err := c.expand(word)
			if err != nil {
				return err
			}
			if err := check(text); err != nil {
				return err
			}
			*p = append(*p, text)
		}
		return nil
	}
}

// paths reads a list of absolute paths, which an empty assignment resets.
func (c *context) paths(p *[]string) setter {
	return func(a unitfile.Assignment) error {
		if a.Value == "" {
			*p = nil
			return nil
		}
		words, err := unitfile.QuotedWords(a.Value)
		if err != nil {
			return err
		}
		for _, word := range words {
			path, err := c.place(word)
			if err != nil {
				return err
			}
			*p = append(*p, path)
		}
		return nil
	}
}

// commands reads an Exec option.
func (c *context) commands(p *[]Command) setter {
	return func(a unitfile.Assignment) error {
		if a.Value == "" {
			*p = nil
			return nil
		}
		prefixes := "-@+!"
		if c.systemd >= 242 {
			prefixes += ":"
		}
		if c.systemd >= 258 && strings.Contains(leading(a.Value), "|") {
			return fmt.Errorf(`the prefix "|" is not supported: run the shell by its path, /bin/sh -c`)
		}
		parsed, warnings, err := unitfile.ParseCommandLine(a.Value, prefixes, c.expand)
		for _, w := range warnings {
			c.warn(a, "%s", w)
		}
		if err != nil {
			return err
		}
		for _, cmd := range parsed {
			if cmd.Has("!!") && c.systemd >= 258 {
				c.warn(a, `systemd ignores the prefix "!!" since 258`)
			}
			*p = append(*p, Command{
				Path: cmd.Path, Args: cmd.Args,
				IgnoreFailure: cmd.Has("-"), ArgvZero: cmd.Has("@"), NoEnv: cmd.Has(":"),
				Privileged: cmd.Has("+"), NoSetuid: cmd.Has("!"), AmbientMagic: cmd.Has("!!"),
				File: a.File, Line: a.Line,
			})
		}
		return nil
	}
}

// leading are the characters before a path that may be prefixes.
func leading(text string) string {
	return text[:len(text)-len(strings.TrimLeft(text, `"'-@:+!|`))]
}

// startLimit reads the options of a start limit.
func (c *context) startLimit(set map[string]setter, interval *time.Duration, burst *int) {
	*interval, *burst = 10*time.Second, 5
	set["Unit.StartLimitIntervalSec"] = c.timespan(interval, false)
	set["Unit.StartLimitInterval"] = set["Unit.StartLimitIntervalSec"]
	set["Unit.StartLimitBurst"] = c.unsigned(burst)
}
