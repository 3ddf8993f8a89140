// SPDX-License-Identifier: Apache-2.0

// Package page reads a guide as its reader does: which files it has them write, and which commands it has them
// type, in order. So a test does what the page says, and the page cannot drift from what works.
//
//	p, err := page.Read("deb.md")
//	for _, s := range p.Steps {
//		switch s.Kind {
//		case page.File: // write s.Text to s.Name
//		case page.Command: // run s.Text
//		}
//	}
//
// A guide is Markdown with these conventions. A block of code under a line that ends with the name of a file,
// as in
//
//	Write `debian/rules`:
//
// is that file. A block in "console" is a session: a line that begins with "$ " is what the reader types, one
// with "# " what they type as root, one with "> " goes on from the line before, and what follows is what it prints, with
// "[...]" for what is left out. A block in "diff" is a change to what is there. Other blocks are only read.
package page

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Kind is what a reader does with a step.
type Kind string

// The kinds of steps.
const (
	File    Kind = "file"
	Command Kind = "command"
	Diff    Kind = "diff"
	Sample  Kind = "sample" // is only read
)

// A Step is one thing that a page has its reader do.
type Step struct {
	Kind     Kind
	Line     int    // of the page, from 1
	Heading  string // under which it is
	Name     string // of a file
	Language string // of a file or a sample
	Text     string // of a file, a diff or a sample with its last newline; a command without
	Root     bool   // a command is for root
	Output   string // what the page says that a command prints; "" if nothing
}

// A Page is a guide.
type Page struct {
	Name  string
	Text  string
	Steps []Step
}

// named is a line that says which file comes next.
var named = regexp.MustCompile("`([^`]+)`[^`]*:$")

// Read reads a page.
func Read(name string) (*Page, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	p := &Page{Name: filepath.Base(name), Text: string(text)}
	if err := p.parse(); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Page) parse() error {
	var heading, before, fence string // before is the last line of text
	var block Step
	var body strings.Builder
	for i, line := range strings.Split(strings.TrimSuffix(p.Text, "\n"), "\n") {
		marks := line[:len(line)-len(strings.TrimLeft(line, "`"))]
		switch {
		case fence == "" && len(marks) >= 3:
			fence, block = marks, Step{Line: i + 1, Heading: heading, Language: line[len(marks):]}
			body.Reset()
		case fence != "" && line == fence:
			if err := p.add(block, before, body.String()); err != nil {
				return err
			}
			fence, before = "", ""
		case fence != "":
			body.WriteString(line + "\n")
		case strings.HasPrefix(line, "#"):
			heading, before = strings.TrimSpace(strings.TrimLeft(line, "#")), ""
		case line != "":
			before = line
		}
	}
	if fence != "" {
		return fmt.Errorf("%s:%d: the block of code does not end", p.Name, block.Line)
	}
	return nil
}

// add adds what a block of code asks for.
func (p *Page) add(block Step, before, text string) error {
	block.Text = text
	switch {
	case block.Language == "console":
		return p.addSession(block)
	case block.Language == "diff":
		block.Kind = Diff
	default:
		block.Kind = Sample
		if m := named.FindStringSubmatch(before); m != nil {
			block.Kind, block.Name = File, m[1]
		}
	}
	p.Steps = append(p.Steps, block)
	return nil
}

// addSession adds the commands of a session.
func (p *Page) addSession(block Step) error {
	first := len(p.Steps)
	for i, line := range strings.Split(strings.TrimSuffix(block.Text, "\n"), "\n") {
		prompt, rest, _ := strings.Cut(line, " ")
		switch {
		case prompt == "$" || prompt == "#":
			p.Steps = append(p.Steps, Step{
				Kind: Command, Line: block.Line + 1 + i, Heading: block.Heading, Text: rest, Root: prompt == "#",
			})
		case len(p.Steps) == first:
			return fmt.Errorf("%s:%d: a session begins with a command, not with %q", p.Name, block.Line+1+i, line)
		case prompt == ">" && p.Steps[len(p.Steps)-1].Output == "":
			p.Steps[len(p.Steps)-1].Text += "\n" + rest
		default:
			p.Steps[len(p.Steps)-1].Output += line + "\n"
		}
	}
	return nil
}

// File returns the step that writes a file.
func (p *Page) File(name string) (Step, error) {
	for _, s := range p.Steps {
		if s.Kind == File && s.Name == name {
			return s, nil
		}
	}
	return Step{}, fmt.Errorf("%s has no file %q", p.Name, name)
}

// Of returns the steps of a kind, in order.
func (p *Page) Of(kind Kind) []Step {
	var steps []Step
	for _, s := range p.Steps {
		if s.Kind == kind {
			steps = append(steps, s)
		}
	}
	return steps
}

// Differ says how what a command printed differs from what a page shows of it, where a line "[...]" stands for any
// number of lines and "..." in a line for any text; "" if it does not.
func Differ(shown, printed string) string {
	var pattern strings.Builder
	pattern.WriteString(`\A`)
	for line := range strings.Lines(shown) {
		if line == "[...]\n" {
			pattern.WriteString(`(?:.*\n)*?`)
			continue
		}
		for i, part := range strings.Split(strings.TrimSuffix(line, "\n"), "...") {
			if i > 0 {
				pattern.WriteString(`.*`)
			}
			pattern.WriteString(regexp.QuoteMeta(part))
		}
		pattern.WriteString(`\n`)
	}
	pattern.WriteString(`\z`)
	if printed != "" && !strings.HasSuffix(printed, "\n") {
		printed += "\n"
	}
	if regexp.MustCompile(pattern.String()).MatchString(printed) {
		return ""
	}
	return fmt.Sprintf("it prints\n%s\nthe page shows\n%s", printed, shown)
}
