// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
)

// example is a command line of the documentation and what it prints.
type example struct {
	uid, command string
	prints       string
}

// documented returns the examples below a heading of units/UPGRADE1.md.
func documented(t *testing.T, heading string) []example {
	t.Helper()
	text, err := os.ReadFile("../units/UPGRADE1.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var all []example
	for {
		_, rest, ok := strings.Cut(section, "```console\n")
		if !ok {
			break
		}
		var block string
		block, section, _ = strings.Cut(rest, "```")
		for line := range strings.Lines(strings.ReplaceAll(block, "\\\n", "")) {
			prompt, command, _ := strings.Cut(line, " ")
			switch prompt {
			case "$":
				all = append(all, example{uid: deploy, command: command})
			case "#":
				all = append(all, example{uid: root, command: command})
			default:
				all[len(all)-1].prints += line
			}
		}
	}
	if len(all) == 0 {
		t.Fatalf("units/UPGRADE1.md has no examples below %q", heading)
	}
	return all
}

// examples compares what the examples print with what they should. "[...]" stands for anything.
func (m upgrade1) examples(all []example) {
	m.t.Helper()
	for _, e := range all {
		out, _ := m.as(e.uid, "sh", "-c", "{ "+strings.TrimSpace(e.command)+"; } 2>&1")
		want := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(e.prints)), regexp.QuoteMeta("[...]"), "(?s:.*)")
		if !regexp.MustCompile("^" + want + "$").MatchString(out) {
			m.t.Errorf("%sprints\n%s\nand the documentation says\n%s", e.command, out, e.prints)
		}
	}
}

func TestUpgrade1Examples(t *testing.T) {
	eachVersion(t, func(t *testing.T, v vmtests.Version) {
		m := startUpgrade1(t, vmtests.BootPolkitTest(t, v))
		m.put(v2)
		if v == vmtests.Systemd247 {
			m.install("deploy.sudoers.example", "/etc/sudoers.d/deploy")
			m.run("chmod", "0440", "/etc/sudoers.d/deploy")
			m.run("sh", "-c", `echo "127.0.1.1 $(cat /proc/sys/kernel/hostname)" >>/etc/hosts`) // sudo looks it up
			m.examples(documented(t, "polkit 0.105"))
			m.wantVersion("2.0.0")
			return
		}
		m.install("50-deploy.rules.example", "/etc/polkit-1/rules.d/50-deploy.rules")
		m.examples(documented(t, "Examples"))
	})
}

// The rule in the documentation is that in the package.
func TestUpgrade1Rule(t *testing.T) {
	text, err := os.ReadFile("../units/UPGRADE1.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rule, _ := strings.Cut(string(text), "```js\n")
	rule, _, _ = strings.Cut(rule, "```")
	packaged, err := os.ReadFile("../packaging/holdfast/50-deploy.rules.example")
	if err != nil {
		t.Fatal(err)
	}
	if rule == "" || !strings.HasSuffix(string(packaged), rule) {
		t.Errorf("the documentation has another rule than the package:\n%s", rule)
	}
}
