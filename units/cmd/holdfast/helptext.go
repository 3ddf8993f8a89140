// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"regexp"
	"strings"
)

// page is the help of a command, taken apart. Completion and man pages are made of
// it, so that they say what the help says.
//
// A help is made of blocks, separated by empty lines: paragraphs, and examples,
// which are indented. The line "Usage:" may have more lines below it. A block whose
// first line ends with a colon, and whose others are indented, is a section.
type page struct {
	before   []block // the usage
	usage    []string
	after    []block
	sections []section
}

// block is a paragraph or, if its lines are indented, an example.
type block []string

// section is a list of options, of commands, or of exit codes.
type section struct {
	title string
	items []item
}

// item is one of them: an option has at least a long name.
type item struct {
	term  string // "-q, --quiet", "upgrade", "0"
	text  string
	short string // "q"
	long  string // "quiet"
	value string // "MODE", empty for a flag without a value
}

var (
	optionRE = regexp.MustCompile(`^(?:-([a-z]), )?--([a-z][a-z-]*)(?:=(\S+))?$`)
	itemRE   = regexp.MustCompile(`^ {2,6}(\S.*?) {2,}(\S.*)$`)
)

// helpOf returns the help of a command.
func helpOf(c subcommand) page {
	var out bytes.Buffer
	c.run(context.Background(), []string{"--help"}, &out, &out)
	return parseHelp(out.String())
}

func parseHelp(text string) page {
	var p page
	for part := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		lines := block(strings.Split(strings.Trim(part, "\n"), "\n"))
		title, isTitle := strings.CutSuffix(lines[0], ":")
		switch {
		case strings.HasPrefix(lines[0], "Usage: "):
			p.usage = append(p.usage, strings.TrimPrefix(lines[0], "Usage: "))
			for _, line := range lines[1:] {
				p.usage = append(p.usage, strings.TrimSpace(line))
			}
		case strings.HasPrefix(lines[0], "Exit codes:"):
			p.sections = append(p.sections, section{"Exit codes", items(lines[1:])})
		case isTitle && len(lines) > 1 && strings.HasPrefix(lines[1], "  "):
			p.sections = append(p.sections, section{title, items(lines[1:])})
		case p.usage == nil:
			p.before = append(p.before, lines)
		default:
			p.after = append(p.after, lines)
		}
	}
	return p
}

// items takes the lines of a section apart; what belongs to an item is indented
// more than it.
func items(lines []string) []item {
	var all []item
	for _, line := range lines {
		m := itemRE.FindStringSubmatch(line)
		if m == nil {
			if len(all) > 0 {
				all[len(all)-1].text += " " + strings.TrimSpace(line)
			}
			continue
		}
		it := item{term: m[1], text: m[2]}
		if o := optionRE.FindStringSubmatch(it.term); o != nil {
			it.short, it.long, it.value = o[1], o[2], o[3]
		}
		all = append(all, it)
	}
	return all
}

// options are those of all sections.
func (p page) options() []item {
	var all []item
	for _, s := range p.sections {
		for _, it := range s.items {
			if it.long != "" {
				all = append(all, it)
			}
		}
	}
	return all
}

// operand is the first one of the usage that is no option: "UNIT", or empty.
func (p page) operand() string {
	for _, line := range p.usage {
		for _, word := range strings.Fields(line)[2:] {
			if word = strings.Trim(word, "[].|"); word == strings.ToUpper(word) && word != "OPTIONS" && !strings.HasPrefix(word, "-") {
				return word
			}
		}
	}
	return ""
}
