// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestDebianMirrors(t *testing.T) {
	for _, test := range []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"no sources", nil, nil},
		{"one line", map[string]string{
			"sources.list": "# comment\ndeb http://mirror.test/debian bookworm main contrib # trailing\ndeb-src http://source.test/debian bookworm main\n",
		}, []string{"http://mirror.test/debian"}},
		{"one line with options", map[string]string{
			"sources.list": "deb [ arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg ] https://mirror.test/d stable main\n",
		}, []string{"https://mirror.test/d"}},
		{"unclosed options", map[string]string{
			"sources.list": "deb [arch=amd64 http://mirror.test/debian bookworm main\n",
		}, nil},
		{"deb822", map[string]string{
			"sources.list.d/debian.sources": "Types: deb deb-src\n# a comment\nURIs: http://one.test/debian\n http://two.test/debian\nSuites: trixie trixie-updates\nComponents: main\n\n" +
				"Types: deb\nURIs: http://security.test/debian-security\nSuites: trixie-security\nComponents: main\n",
		}, []string{"http://one.test/debian", "http://two.test/debian"}},
		{"deb822 disabled, source only", map[string]string{
			"sources.list.d/a.sources": "Enabled: no\nTypes: deb\nURIs: http://one.test/debian\nSuites: trixie\nComponents: main\n\n\n" +
				"Types: deb-src\nURIs: http://two.test/debian\nSuites: trixie\nComponents: main\n",
		}, nil},
		{"mirror list file", map[string]string{
			"sources.list.d/debian.sources": "Types: deb\nURIs: mirror+file:///etc/apt/mirrors/debian.list\nSuites: trixie\nComponents: main\n",
		}, []string{"mirror+file:///etc/apt/mirrors/debian.list"}},
		{"disc", map[string]string{
			"sources.list": "deb cdrom:[Debian]/ bookworm main\n",
		}, nil},
		{"third parties", map[string]string{
			"sources.list.d/browser.list":  "deb https://dl.browser.test/linux/deb stable main\n",
			"sources.list.d/node.sources":  "Types: deb\nURIs: https://deb.node.test/node\nSuites: nodistro\nComponents: main\n",
			"sources.list.d/docker.list":   "deb https://docker.test/linux/debian bookworm stable\n",
			"sources.list.d/disabled.save": "deb http://mirror.test/debian bookworm main\n",
			"sources.list.d/flat.list":     "deb http://flat.test/debian ./\n",
		}, nil},
		{"ubuntu", map[string]string{
			"sources.list.d/ubuntu.sources": "Types: deb\nURIs: http://ubuntu.test/ubuntu\nSuites: noble noble-updates\nComponents: main universe\n",
		}, nil},
		{"alias by path, once", map[string]string{
			"sources.list":                  "deb http://mirror.test/debian/ testing main\n",
			"sources.list.d/debian.sources": "Types: deb\nURIs: http://mirror.test/debian/\nSuites: sid\nComponents: main\n",
		}, []string{"http://mirror.test/debian/"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			for name, text := range test.files {
				file := filepath.Join(root, "etc/apt", name)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := debianMirrors(root); !slices.Equal(got, test.want) {
				t.Errorf("debianMirrors: got %q, want %q", got, test.want)
			}
		})
	}
}

// FuzzSources feeds both parsers what nobody would write; they must neither panic nor invent words.
func FuzzSources(f *testing.F) {
	f.Add("deb [arch=amd64] http://mirror.test/debian bookworm main\n")
	f.Add("Types: deb\nURIs: http://mirror.test/debian\nSuites: trixie\nComponents: main\n continued\n")
	f.Add(" \n:\n\t\ndeb [\ndeb ] ]\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range parseSourcesList(text) {
			if len(s.uris) != 1 || len(s.suites) != 1 || len(s.components) == 0 {
				t.Errorf("parseSourcesList(%q): incomplete source %+v", text, s)
			}
		}
		for _, s := range parseDeb822(text) {
			s.isDebian()
		}
	})
}
