// SPDX-License-Identifier: Apache-2.0

package unit

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// An option that the table calls enforced is read, and one that is read is in
// the table, and not as unsupported.
func TestTableAgreesWithSetters(t *testing.T) {
	l := &loader{Options: Options{Systemd: NewestSystemd}, set: &Set{}}
	for section, set := range map[string]map[string]setter{
		"Service": (&serviceLoader{context: l.context(name{prefix: "a", kind: "service"}), Service: &Service{}}).setters(),
		"Socket":  (&socketLoader{context: l.context(name{prefix: "a", kind: "socket"}), Socket: &Socket{}}).setters(),
	} {
		for _, o := range Known() {
			if (o.Section == "Unit" || o.Section == section) && o.Handling == Enforced && set[o.Section+"."+o.Name] == nil {
				t.Errorf("[%s] %s= is enforced, and nothing reads it for a [%s] unit", o.Section, o.Name, section)
			}
		}
		for _, key := range slices.Sorted(maps.Keys(set)) {
			of, option, _ := strings.Cut(key, ".")
			if o := options[[2]string{of, option}]; o == nil || o.Handling == Unsupported {
				t.Errorf("%s is read for a [%s] unit, and the table has %+v", key, section, o)
			}
		}
	}
}

func TestTable(t *testing.T) {
	handled := make(map[Handling]int)
	for _, o := range Known() {
		handled[o.Handling]++
		if (o.Handling == Enforced) != (o.Reason == "") {
			t.Errorf("[%s] %s= is %s with the reason %q", o.Section, o.Name, o.Handling, o.Reason)
		}
		if o.Since < OldestSystemd || o.Since > NewestSystemd || o.Until != 0 && o.Until < o.Since {
			t.Errorf("[%s] %s= is of systemd %d to %d", o.Section, o.Name, o.Since, o.Until)
		}
	}
	if len(Known()) < 750 || handled[Enforced] < 150 || handled[NoEffect] < 500 || handled[Unsupported] < 10 {
		t.Errorf("%d options: %v", len(Known()), handled)
	}
	if !slices.IsSortedFunc(Known(), func(a, b Option) int { return strings.Compare(order(a), order(b)) }) {
		t.Error("the options are not sorted")
	}
}

func order(o Option) string {
	return fmt.Sprint(slices.Index([]string{"Unit", "Service", "Socket", "Install"}, o.Section), o.Name)
}

// legacy are options that systemd reads to warn about them, and does not list.
var legacy = regexp.MustCompile(`^(BusPolicy|SysVStartPriority|Capabilities|NetClass|IgnoreOnSnapshot|` +
	`(Startup)?BlockIO.*|(Startup)?CPUShares|CPUAccounting|MemoryLimit|Default(Startup)?Memory(Min|Low)|Smack.*|.*SELinux.*)$`)

// The table has the options that the manager of this machine has.
func TestTableOfSystemd(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "--version").Output()
	if err != nil {
		if os.Geteuid() == 0 {
			t.Fatalf("systemd is needed (install the package systemd): %v", err)
		}
		t.Skipf("systemd is not here and only root can install it: %v", err)
	}
	var version int
	if _, err := fmt.Sscanf(string(out), "systemd %d", &version); err != nil {
		t.Fatalf("systemd-analyze --version: %q", out)
	}
	if version < OldestSystemd || version > NewestSystemd {
		t.Skipf("systemd %d is none of the versions that are known", version)
	}
	out, err = exec.CommandContext(t.Context(), "/lib/systemd/systemd", "--dump-configuration-items").Output()
	if err != nil {
		t.Fatal(err)
	}
	listed := make(map[[2]string]bool)
	section := ""
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "["); ok {
			section = strings.TrimSuffix(name, "]")
		} else if name, _, ok := strings.Cut(line, "="); ok && slices.Contains([]string{"Unit", "Service", "Socket", "Install"}, section) {
			listed[[2]string{section, name}] = true
		}
	}
	if len(listed) < 450 {
		t.Fatalf("systemd lists %d options:\n%s", len(listed), out)
	}
	for key := range listed {
		if o := options[key]; o == nil || o.Since > version || o.Until != 0 && o.Until < version {
			t.Errorf("systemd %d has [%s] %s=, and the table %+v", version, key[0], key[1], o)
		}
	}
	for key, o := range options {
		if o.Since <= version && (o.Until == 0 || o.Until >= version) && !listed[key] && !legacy.MatchString(o.Name) {
			t.Errorf("the table has [%s] %s=, and systemd %d has not", key[0], key[1], version)
		}
	}
}

func TestOneEdit(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"Restart", "Restart", true},
		{"Restart", "restart", true},
		{"Restart", "Restrat", true},
		{"Restart", "Restar", true},
		{"Restart", "Restartt", true},
		{"Restart", "Rxstart", true},
		{"Restart", "Rxstxrt", false},
		{"Restart", "start", false},
		{"", "a", true},
		{"ab", "ba", true},
		{"abc", "bca", false},
	} {
		if got := oneEdit(c.a, c.b); got != c.want {
			t.Errorf("oneEdit(%q, %q) = %v", c.a, c.b, got)
		}
		if got := oneEdit(c.b, c.a); got != c.want {
			t.Errorf("oneEdit(%q, %q) = %v", c.b, c.a, got)
		}
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct {
		text, stem, last, dropins string
	}{
		{"myapp.service", "myapp", "myapp", "myapp.service.d service.d"},
		{"foo-bar-baz.socket", "foo-bar-baz", "baz", "foo-bar-baz.socket.d foo-bar-.socket.d foo-.socket.d socket.d"},
		{"foo-bar@x.service", "foo-bar@x", "bar", "foo-bar@x.service.d foo-bar@.service.d foo-@x.service.d foo-@.service.d service.d"},
		{"a.b.service", "a.b", "a.b", "a.b.service.d service.d"},
		{"a@b@c.service", "a@b@c", "a", "a@b@c.service.d a@.service.d service.d"},
		{"-.service", "-", "", "-.service.d service.d"},
		{"a--b.service", "a--b", "b", "a--b.service.d a-.service.d service.d"},
	} {
		n, err := parseName(c.text)
		if err != nil {
			t.Error(err)
			continue
		}
		if n.String() != c.text || n.stem() != c.stem || n.lastPart() != c.last || strings.Join(n.dropins(252), " ") != c.dropins {
			t.Errorf("%s: %s %s %s %q", c.text, n, n.stem(), n.lastPart(), n.dropins(252))
		}
	}
	for _, text := range []string{"", "a", ".service", "@.service", "@a.service", "a b.service", "a/b.service", "ä.service", "a.", strings.Repeat("a", 248) + ".service"} {
		if n, err := parseName(text); err == nil {
			t.Errorf("parseName(%q) = %v, want an error", text, n)
		}
	}
}

func TestUnescapeName(t *testing.T) {
	for text, want := range map[string]string{
		"a-b": "a/b", `a\x2db`: "a-b", `a\x2`: `a\x2`, `a\xzz`: `a\xzz`, "": "", `\x00`: `\x00`, `\x2f\x2f`: "//",
	} {
		if got := unescapeName(text); got != want {
			t.Errorf("unescapeName(%q) = %q, want %q", text, got, want)
		}
	}
}
