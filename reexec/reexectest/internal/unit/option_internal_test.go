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

	"github.com/holdfast-go/holdfast/units/unitfile"
)

// An option that the table calls enforced is read, and one that is read is in
// the table, and not as unsupported.
func TestTableAgreesWithSetters(t *testing.T) {
	l := &loader{Options: Options{Systemd: NewestSystemd}, set: &Set{}}
	for section, set := range map[string]map[string]setter{
		"Service": (&serviceLoader{context: l.context(unitfile.Name{Prefix: "a", Kind: "service"}), Service: &Service{}}).setters(),
		"Socket":  (&socketLoader{context: l.context(unitfile.Name{Prefix: "a", Kind: "socket"}), Socket: &Socket{}}).setters(),
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
