// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// manDir has the manual pages, for packagers.
const manDir = "../../../packaging/holdfast/man"

// manDate is when the interface was last changed; mdoc(7) wants one.
const manDate = "November 30, 2026"

// The manual pages say what the helps say.
func TestManPages(t *testing.T) {
	files := map[string]string{"holdfast.1": overview()}
	for _, c := range commands() {
		files["holdfast-"+c.name+".1"] = manPage(c)
		if want := ".It Xr holdfast-" + c.name + " 1\n" + c.summary + "\n"; !strings.Contains(files["holdfast.1"], want) {
			t.Errorf("holdfast.1 lacks %q", want)
		}
	}
	for name, text := range files {
		goldenFile(t, filepath.Join(manDir, name), text)
	}
	there, err := filepath.Glob(manDir + "/*")
	if err != nil || len(there) != len(files) {
		t.Errorf("%s has %q (%v), want %d pages", manDir, there, err, len(files))
	}

	need(t, "mandoc")
	for _, path := range there {
		if out, err := exec.CommandContext(t.Context(), "mandoc", "-T", "lint", "-W", "warning", path).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
	// What is read in the end: nothing of the help is lost on the way.
	for _, c := range commands() {
		out, err := exec.CommandContext(t.Context(), "mandoc", "-T", "utf8", "-O", "width=78", filepath.Join(manDir, "holdfast-"+c.name+".1")).Output()
		if err != nil {
			t.Fatal(err)
		}
		read := words(overstrike.ReplaceAllString(string(out), ""))
		p := helpOf(c)
		for _, o := range p.options() {
			if !strings.Contains(read, " "+words("--"+o.long)) || !strings.Contains(read, words(o.text)) {
				t.Errorf("the page of %s lacks --%s: %s", c.name, o.long, o.text)
			}
		}
		for _, b := range append(p.before, p.after...) {
			for _, line := range b {
				if !strings.Contains(read, words(strings.TrimPrefix(strings.TrimSpace(line), "- "))) {
					t.Errorf("the page of %s lacks %q", c.name, line)
				}
			}
		}
	}
}

// overstrike is how terminals of long ago printed bold and underlined letters.
var overstrike = regexp.MustCompile(".\b")

// words is text without what breaks lines.
func words(text string) string { return strings.Join(strings.Fields(text), " ") }

// mdoc writes the source of a page, see mdoc(7).
type mdoc struct{ strings.Builder }

func (m *mdoc) macro(format string, args ...any) { fmt.Fprintf(m, "."+format+"\n", args...) }

var dash = regexp.MustCompile(`(^|[^A-Za-z0-9])(-+)`)

// escape has text mean itself: no macro, no escape, and a dash that can be copied.
func escape(text string) string {
	text = strings.ReplaceAll(text, `\`, `\e`)
	text = dash.ReplaceAllStringFunc(text, func(s string) string { return strings.ReplaceAll(s, "-", `\-`) })
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	return text
}

// text begins each sentence on a line of its own, as mdoc(7) wants it.
func (m *mdoc) text(text string) {
	for line := range strings.Lines(sentence.ReplaceAllString(text, "$1\n")) {
		m.WriteString(escape(strings.TrimSpace(line)) + "\n")
	}
}

var sentence = regexp.MustCompile(`([.!?]\)?) +`)

func (m *mdoc) head(name, summary string) {
	m.macro(`\" Made of the help of the command by go test -update: change that.`)
	m.macro("Dd %s", manDate)
	m.macro("Dt %s 1", strings.ToUpper(name))
	m.macro("Os")
	m.macro("Sh NAME")
	m.macro("Nm %s", name)
	m.macro("Nd %s", quote(summary))
}

// quote is one argument of a macro.
func quote(text string) string { return `"` + strings.ReplaceAll(escape(text), `"`, `\(dq`) + `"` }

// blocks writes paragraphs, with lists and examples as they are.
func (m *mdoc) blocks(all []block) {
	for i, b := range all {
		if i > 0 && !strings.HasPrefix(b[0], "  ") {
			m.macro("Pp")
		}
		in := ""
		end := func() {
			if in != "" {
				m.macro("E" + in[1:])
			}
			in = ""
		}
		for _, line := range sentences(b) {
			entry, isEntry := strings.CutPrefix(line, "  - ")
			switch {
			case isEntry && in != "Bl":
				end()
				m.macro("Bl -bullet -compact")
				in = "Bl"
				fallthrough
			case isEntry:
				m.macro("It")
				m.text(entry)
			case strings.HasPrefix(line, "    ") && in == "Bl":
				m.text(strings.TrimSpace(line))
			case strings.HasPrefix(line, "  "):
				if in != "Bd" {
					end()
					m.macro("Bd -literal -offset indent")
					in = "Bd"
				}
				m.WriteString(escape(strings.TrimPrefix(line, "  ")) + "\n")
			default:
				end()
				m.text(line)
			}
		}
		end()
	}
}

// sentences joins the lines of a paragraph, so that they can be broken elsewhere.
func sentences(b block) block {
	var joined block
	for i, line := range b {
		if i > 0 && !strings.HasPrefix(line, " ") && !strings.HasPrefix(b[i-1], " ") {
			joined[len(joined)-1] += " " + line
			continue
		}
		joined = append(joined, line)
	}
	return joined
}

// synopsis writes a line of the usage: "holdfast upgrade [OPTIONS] UNIT...".
func (m *mdoc) synopsis(usage string) {
	fields := strings.Fields(strings.NewReplacer("[-- ARG...]", "[--_ARG...]").Replace(usage))
	m.macro("Nm %s", fields[0])
	for _, word := range fields[1:] {
		word = strings.ReplaceAll(word, "_", " ")
		optional := strings.HasPrefix(word, "[")
		word = strings.Trim(word, "[]")
		var text string
		switch name, value, ok := strings.Cut(word, "="); {
		case ok:
			text = fmt.Sprintf("Fl %s Ns = Ns Ar %s", dashes(name), value)
		case word == "--":
			text = `Fl \-`
		case strings.HasPrefix(word, "-- "):
			text = `Fl \- Ar ` + strings.TrimPrefix(word, "-- ")
		case word == "COMMAND" || word == strings.ToUpper(word):
			text = "Ar " + word
		default:
			text = "Cm " + word
		}
		if optional {
			text = "Op " + text
		}
		m.macro("%s", text)
	}
}

// dashes is "--socket" as the argument of Fl, which adds one dash.
func dashes(flag string) string {
	return strings.ReplaceAll(strings.TrimPrefix(flag, "-"), "-", `\-`)
}

func (m *mdoc) list(items []item) {
	m.macro("Bl -tag -width Ds")
	for _, it := range items {
		switch {
		case it.long == "":
			m.macro("It %s", quote(it.term))
		default:
			text := "It"
			if it.short != "" {
				text += " Fl " + it.short + " ,"
			}
			text += " Fl " + dashes("--"+it.long)
			if it.value != "" {
				text += " Ns = Ns Ar " + quote(it.value)
			}
			m.macro("%s", text)
		}
		m.text(it.text)
	}
	m.macro("El")
}

// manPage is the page of one command.
func manPage(c subcommand) string {
	var m mdoc
	p := helpOf(c)
	m.head("holdfast-"+c.name, c.summary)
	m.macro("Sh SYNOPSIS")
	for _, line := range p.usage {
		m.synopsis(line)
	}
	description, examples := splitBlocks(p.before)
	description = append(description, p.after...)
	m.macro("Sh DESCRIPTION")
	m.blocks(description)
	for _, s := range p.sections {
		switch {
		case s.title == "Exit codes":
			m.macro("Sh EXIT STATUS")
		case len(p.sections) > 2:
			if s.title == p.sections[0].title {
				m.macro("Sh OPTIONS")
			}
			m.macro("Ss %s", escape(s.title))
		default:
			m.macro("Sh OPTIONS")
		}
		if s.title == "Exit codes" && c.name == "launch" {
			m.text("Those of PROGRAM, and:")
		}
		m.list(s.items)
		if s.title == "Exit codes" && len(examples) > 0 {
			m.macro("Sh EXAMPLES")
			m.blocks(examples)
		}
	}
	m.macro("Sh SEE ALSO")
	m.macro("Xr holdfast 1 ,")
	m.macro("Xr systemctl 1 ,")
	m.macro("Xr systemd.service 5")
	return m.String()
}

// splitBlocks tells examples, which are commands to type, from what describes.
func splitBlocks(all []block) (description, examples []block) {
	for _, b := range all {
		if strings.HasPrefix(b[0], "  holdfast ") {
			examples = append(examples, b)
		} else {
			description = append(description, b)
		}
	}
	return description, examples
}

// overview is the page of holdfast itself.
func overview() string {
	var m mdoc
	p := parseHelp(help())
	m.head("holdfast", "work with services that upgrade without losing a connection")
	m.macro("Sh SYNOPSIS")
	m.synopsis(p.usage[0])
	m.macro("Sh DESCRIPTION")
	description, examples := splitBlocks(p.before)
	m.blocks(description)
	m.macro("Pp")
	m.text("Each command has a page of its own:")
	for _, s := range p.sections {
		switch s.title {
		case "Commands":
			m.macro("Bl -tag -width Ds")
			for _, it := range s.items {
				m.macro("It Xr holdfast-%s 1", it.term)
				m.text(it.text)
			}
			m.macro("El")
		case "Exit codes":
			m.macro("Sh ENVIRONMENT")
			m.list(environment)
			m.macro("Sh EXIT STATUS")
			m.list(s.items)
		default:
			m.macro("Sh OPTIONS")
			m.list(s.items)
		}
	}
	m.macro("Sh EXAMPLES")
	m.blocks(examples)
	m.macro("Sh SEE ALSO")
	m.macro("Xr systemctl 1 ,")
	m.macro("Xr systemd.service 5 ,")
	m.macro("Xr systemd.socket 5")
	return m.String()
}

// environment is what all commands take from it.
var environment = []item{
	{term: "NO_COLOR, TERM=dumb", text: "No colours, and with TERM=dumb no line that is drawn again."},
	{term: "SYSTEMD_COLORS", text: "Whether there are colours, before NO_COLOR, as in the tools of systemd."},
	{term: "COLUMNS, LINES", text: "The size of the terminal, instead of what it says itself."},
	{term: "RUNTIME_DIRECTORY", text: "Where the control socket is, in a command of the service."},
	{term: "XDG_RUNTIME_DIR", text: "The same for --user."},
}
