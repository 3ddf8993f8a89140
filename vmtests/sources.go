// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"bufio"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// A source is one binary package source of apt: what a "deb" line or a stanza of a .sources file says.
type source struct {
	uris       []string
	suites     []string
	components []string
	signedBy   string
}

// debianSuites are the code names whose main component only Debian's own archive and its mirrors carry.
var debianSuites = []string{"buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid"}

// debianAliases are the names that third parties use for suites of their own too.
var debianAliases = []string{"oldoldstable", "oldstable", "stable", "testing", "unstable"}

// isDebian reports whether s is a mirror of Debian's main archive.
func (s source) isDebian() bool {
	if !slices.Contains(s.components, "main") {
		return false
	}
	for _, suite := range s.suites {
		if slices.Contains(debianSuites, suite) {
			return true
		}
		if slices.Contains(debianAliases, suite) && strings.Contains(s.signedBy, "debian-archive") {
			return true
		}
		if slices.Contains(debianAliases, suite) {
			for _, uri := range s.uris {
				if path.Base(strings.TrimRight(uri, "/")) == "debian" {
					return true
				}
			}
		}
	}
	return false
}

// debianMirrors returns the addresses of Debian's main archive in the apt sources below root, normally
// "/", in the order apt reads them. It returns none where the sources name no mirror of Debian, as on
// other distributions.
func debianMirrors(root string) []string {
	etc := filepath.Join(root, "etc/apt")
	files := []string{filepath.Join(etc, "sources.list")}
	parts, _ := filepath.Glob(filepath.Join(etc, "sources.list.d/*")) // the pattern is well-formed
	files = append(files, parts...)

	var mirrors []string
	for _, file := range files {
		var parse func(string) []source
		switch filepath.Ext(file) {
		case ".list":
			parse = parseSourcesList
		case ".sources":
			parse = parseDeb822
		default: // apt ignores it as well
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			continue // a source that cannot be read is one we do not have
		}
		for _, s := range parse(string(text)) {
			if !s.isDebian() {
				continue
			}
			for _, uri := range s.uris {
				if !slices.Contains(mirrors, uri) && reachable(uri) {
					mirrors = append(mirrors, uri)
				}
			}
		}
	}
	return mirrors
}

// reachable reports whether another root file system can be built from uri; a disc cannot.
func reachable(uri string) bool {
	method, _, _ := strings.Cut(uri, ":")
	switch method {
	case "http", "https", "mirror", "mirror+http", "mirror+https", "mirror+file":
		return true
	}
	return false
}

// parseSourcesList parses the one-line format of sources.list(5).
func parseSourcesList(text string) []source {
	var sources []source
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(line)
		if len(words) == 0 || words[0] != "deb" {
			continue
		}
		words = words[1:]
		var s source
		if len(words) > 0 && strings.HasPrefix(words[0], "[") {
			// Options may be spread over several words: [ arch=amd64 signed-by=/x ]
			end := slices.IndexFunc(words, func(w string) bool { return strings.HasSuffix(w, "]") })
			if end < 0 {
				continue
			}
			for _, option := range strings.Fields(strings.Trim(strings.Join(words[:end+1], " "), "[]")) {
				if value, ok := strings.CutPrefix(option, "signed-by="); ok {
					s.signedBy = value
				}
			}
			words = words[end+1:]
		}
		if len(words) < 3 { // also the flat form "URI ./", which has no components
			continue
		}
		s.uris, s.suites, s.components = words[:1], words[1:2], words[2:]
		sources = append(sources, s)
	}
	return sources
}

// parseDeb822 parses the stanzas of a .sources file, the deb822 format of sources.list(5).
func parseDeb822(text string) []source {
	var sources []source
	fields := make(map[string]string)
	end := func() {
		if slices.Contains(strings.Fields(fields["types"]), "deb") && !slices.Contains([]string{"no", "false", "0"}, strings.ToLower(fields["enabled"])) {
			sources = append(sources, source{
				uris:       strings.Fields(fields["uris"]),
				suites:     strings.Fields(fields["suites"]),
				components: strings.Fields(fields["components"]),
				signedBy:   fields["signed-by"],
			})
		}
		clear(fields)
	}
	var name string
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "#"): // a comment does not end a stanza
		case strings.TrimSpace(line) == "":
			end()
		case line[0] == ' ' || line[0] == '\t':
			fields[name] += " " + strings.TrimSpace(line)
		default:
			key, value, _ := strings.Cut(line, ":")
			name = strings.ToLower(strings.TrimSpace(key))
			fields[name] = strings.TrimSpace(value)
		}
	}
	end()
	return sources
}
