// SPDX-License-Identifier: Apache-2.0

package units

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// whitespace is WHITESPACE of systemd, which it strips.
const whitespace = " \t\n\r"

// line is one assignment of a unit file.
type line struct{ section, key, value string }

// parseUnit reads a unit the way systemd.syntax(7) says, and knows nothing of
// how it was rendered.
func parseUnit(t testing.TB, text string) []line {
	t.Helper()
	var lines []line
	section := ""
	for _, l := range strings.Split(text, "\n") {
		l = strings.Trim(l, whitespace)
		switch {
		case l == "" || l[0] == '#' || l[0] == ';':
			continue
		case strings.HasSuffix(l, `\`):
			t.Fatalf("line %q continues on the next one", l)
		case l[0] == '[':
			section = l
			continue
		}
		key, value, found := strings.Cut(l, "=")
		if !found || section == "" {
			t.Fatalf("line %q outside of a section or without =", l)
		}
		lines = append(lines, line{section, strings.Trim(key, whitespace), strings.Trim(value, whitespace)})
	}
	return lines
}

// splitCommand splits as systemd.service(5) says under "Command lines", and
// expands specifiers and variables (none is set).
func splitCommand(t testing.TB, s string) []string {
	t.Helper()
	var words []string
	var word strings.Builder
	inWord, quoted := false, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
			if i == len(s) || !strings.ContainsRune(`\"`, rune(s[i])) {
				t.Fatalf("command %q: escape that is not needed", s)
			}
			word.WriteByte(s[i])
			inWord = true
		case c == '"':
			quoted = !quoted
			inWord = true
		case c == '\'' && !quoted:
			t.Fatalf("command %q: unquoted '", s)
		case c == ' ' && !quoted:
			if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if quoted {
		t.Fatalf("command %q: quote does not end", s)
	}
	if inWord {
		words = append(words, word.String())
	}
	for i, w := range words {
		if strings.Contains(strings.ReplaceAll(w, "$$", ""), "$") {
			t.Fatalf("command %q: expands a variable", s)
		}
		words[i] = strings.ReplaceAll(expand(t, w), "$$", "$")
	}
	return words
}

// expand expands specifiers.
func expand(t testing.TB, s string) string {
	t.Helper()
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		i++
		if i == len(s) {
			t.Fatalf("%q ends in %%", s)
		}
		switch s[i] {
		case '%':
			b.WriteByte('%')
		case 't':
			b.WriteString("/run")
		case 'S':
			b.WriteString("/var/lib")
		case 'i':
			b.WriteString("1")
		default:
			t.Fatalf("%q has the specifier %%%c", s, s[i])
		}
	}
	return b.String()
}

// base is an Options without a choice in it.
func base(version int) Options {
	return Options{
		Name: "myapp", Exec: "/usr/bin/myapp", Systemd: version, StateDirectory: "myapp",
		Documentation: []string{"man:myapp(8)"}, Args: []string{"-x"},
		Sockets: []Socket{{Name: "http", Address: "127.0.0.1:8080"}, {Name: "dns", Type: Datagram, Address: "/run/dns"}},
	}
}

// variants calls f with every version, flavour and kind.
func variants(f func(name string, o Options)) {
	for version := OldestSystemd; version <= NewestSystemd+3; version++ {
		for _, flavour := range []Flavour{ExecReload, NotifyReload} {
			if flavour == NotifyReload && version < notifyReloadSince {
				continue
			}
			for kind := range 8 {
				o := base(version)
				o.Flavour = flavour
				o.User = kind&1 != 0
				if o.SoftReboot = kind&4 != 0; o.SoftReboot && (o.User || version < softRebootSince) {
					continue
				}
				if o.Template = kind&2 != 0; o.Template {
					o.StateDirectory = "myapp/%i"
					o.Sockets = []Socket{{Name: "http", Address: "127.0.0.1:808%i"}, {Name: "dns", Type: Datagram, Address: "/run/dns%i"}}
				}
				f(fmt.Sprintf("%d %s user=%v template=%v soft-reboot=%v", version, flavour, o.User, o.Template, o.SoftReboot), o)
			}
		}
	}
}

func TestNoVersionMeetsUnknownOption(t *testing.T) {
	emitted := make(map[string]bool)
	variants(func(name string, o Options) {
		files, err := Render(o)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, f := range files {
			for _, l := range parseUnit(t, f.Content) {
				emitted[l.key] = true
				if first, found := since[l.key]; !found || first > o.Systemd {
					t.Errorf("%s: %s has %s=, known since %d (%v)", name, f.Name, l.key, first, found)
				}
			}
		}
	})
	// The table has no entry that nothing uses.
	emitted["ListenSequentialPacket"] = true
	for key := range since {
		if !emitted[key] {
			t.Errorf("the table of versions has %s=, which is never rendered", key)
		}
	}
}

// What a user's manager cannot do: anything that needs privileges, or a
// namespace and with it PrivateUsers=.
func TestUserUnitsNeedNoPrivileges(t *testing.T) {
	allowed := []string{
		"UMask", "NoNewPrivileges", "LockPersonality", "MemoryDenyWriteExecute", "RestrictNamespaces", "RestrictRealtime",
		"RestrictSUIDSGID", "RestrictAddressFamilies", "SystemCallArchitectures", "SystemCallErrorNumber", "SystemCallFilter",
	}
	variants(func(name string, o Options) {
		if !o.User {
			return
		}
		files, err := Render(o)
		if err != nil {
			t.Fatal(err)
		}
		hardening := false
		for _, l := range parseUnit(t, files[0].Content) {
			hardening = hardening || l.key == "UMask"
			if l.section == "[Install]" {
				if l.key == "WantedBy" && l.value != "default.target" {
					t.Errorf("%s: wanted by %s, which a user's manager has not", name, l.value)
				}
				continue
			}
			if hardening && !slices.Contains(allowed, l.key) {
				t.Errorf("%s: has %s=", name, l.key)
			}
		}
	})
}

func find(lines []line, key string) string {
	for _, l := range lines {
		if l.key == key {
			return l.value
		}
	}
	return ""
}

// seconds reads what span wrote.
func seconds(t testing.TB, s string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Every phase fits into the timeout around it.
func TestTimeoutsNest(t *testing.T) {
	for _, o := range []Options{
		{},
		{CheckTimeout: time.Minute, StartTimeout: 10 * time.Minute, Probation: time.Hour, DrainTimeout: 3 * time.Hour},
		{CheckTimeout: time.Millisecond, StartTimeout: 1500 * time.Millisecond, Probation: time.Millisecond, DrainTimeout: time.Millisecond},
	} {
		o.Name, o.Exec, o.Systemd = "myapp", "/usr/bin/myapp", 252
		files, err := Render(o)
		if err != nil {
			t.Fatal(err)
		}
		d := o.withDefaults()
		lines := parseUnit(t, files[0].Content)
		_, client, _ := strings.Cut(find(lines, "ExecReload"), "--timeout=")
		upgrade := d.CheckTimeout + d.StartTimeout + d.Probation
		if got := seconds(t, client); got <= upgrade {
			t.Errorf("%+v: the client waits %v for an upgrade of up to %v", o, got, upgrade)
		}
		if got := seconds(t, find(lines, "TimeoutStartSec")); got <= seconds(t, client) {
			t.Errorf("%+v: systemd ends the client after %v, before it ends itself", o, got)
		}
		if got := seconds(t, find(lines, "TimeoutStopSec")); got <= d.DrainTimeout {
			t.Errorf("%+v: TimeoutStopSec=%v cuts the drain of %v", o, got, d.DrainTimeout)
		}
	}
}

// keys are the sections and keys of all files: what a value must not change.
func keys(t testing.TB, files []File) []string {
	var all []string
	for _, f := range files {
		for _, l := range parseUnit(t, f.Content) {
			all = append(all, f.Name+l.section+l.key)
		}
	}
	return all
}

// No text changes the structure of the units, and each arrives as it was given
// or is refused.
func FuzzTextIsLiteral(f *testing.F) {
	for _, s := range []string{
		"x", "a b", "100%", "%n", "%%", "%t", "%i", "a\nExecStart=/bin/sh", "a\r", "\\", "a\\", `"`, "'", "$HOME", "${X}", ";", "#", "",
		" ", "\x00", "\xff", "-x", "[Service]", "=", "ä", "\u2028", `\x41`, "@/bin/sh", "/a/../b", "/run/x y", "a;b", "http://x", "man:x",
	} {
		f.Add(s)
	}
	plain, err := Render(base(252))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for option, set := range map[string]func(*Options){
			"Name":           func(o *Options) { o.Name = s },
			"Exec":           func(o *Options) { o.Exec = s },
			"Args":           func(o *Options) { o.Args = []string{s} },
			"Description":    func(o *Options) { o.Description = s },
			"Documentation":  func(o *Options) { o.Documentation = []string{s} },
			"StateDirectory": func(o *Options) { o.StateDirectory = s },
			"Socket.Name":    func(o *Options) { o.Sockets[0].Name = s },
			"Socket.Address": func(o *Options) { o.Sockets[0].Address = s },
			"Holdfast":       func(o *Options) { o.Holdfast = s },
			"ExecDirectory":  func(o *Options) { o.ExecDirectories = []string{s} },
		} {
			o := base(252)
			set(&o)
			files, err := Render(o)
			if err != nil {
				var fault *OptionError
				if !errors.As(err, &fault) {
					t.Fatalf("%s = %q: error %v is no *OptionError", option, s, err)
				}
				continue
			}
			if option == "Name" || option == "Socket.Name" {
				// These are in the names of the files.
				if len(keys(t, files)) != len(keys(t, plain)) && s != "dns" {
					t.Fatalf("%s = %q changes the units:\n%s", option, s, files)
				}
				continue
			}
			if got := keys(t, files); s != "" && !reflect.DeepEqual(got, keys(t, plain)) {
				t.Fatalf("%s = %q changes the keys of the units: %v", option, s, got)
			}
			service := parseUnit(t, files[0].Content)
			command := launched(splitCommand(t, find(service, "ExecStart")))
			switch option {
			case "Args":
				if want := []string{"/usr/bin/myapp", expand(t, s)}; !reflect.DeepEqual(command, want) {
					t.Fatalf("ExecStart is %q, want %q", command, want)
				}
			case "Exec":
				if want := []string{s, "-x"}; !reflect.DeepEqual(command, want) {
					t.Fatalf("ExecStart is %q, want %q", command, want)
				}
			case "Description":
				if got := expand(t, find(service, "Description")); s != "" && got != strings.Trim(s, whitespace) {
					t.Fatalf("Description is %q, want %q", got, s)
				}
			case "Socket.Address":
				if got := find(parseUnit(t, files[1].Content), "ListenStream"); got != s || strings.ContainsAny(got, " \t") {
					t.Fatalf("ListenStream is %q, want %q", got, s)
				}
			}
		}
	})
}

// Added lines are one assignment each, of the section they were meant for.
func FuzzLines(f *testing.F) {
	for _, s := range []string{"A=b", "A=", "=b", "a", "[Service]", "A=b\nC=d", "A=b\\", "#A=b", " A=b", "KillMode=none", "RestartSteps=3", "A b=c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o := base(252)
		o.ServiceLines = []string{s}
		files, err := Render(o)
		if err != nil {
			return
		}
		lines := parseUnit(t, files[0].Content)
		key, value, _ := strings.Cut(s, "=")
		if want := (line{"[Service]", key, strings.Trim(value, whitespace)}); !slices.Contains(lines, want) {
			t.Fatalf("line %q did not arrive as %+v", s, want)
		}
		plain, err := Render(base(252))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := len(lines), len(parseUnit(t, plain[0].Content))+1; got != want {
			t.Fatalf("line %q makes %d assignments, want %d", s, got, want)
		}
	})
}

// launched is what "holdfast launch" is to start.
func launched(command []string) []string {
	if i := slices.Index(command, "--"); i >= 0 && command[0] == "/usr/bin/holdfast" {
		return command[i+1:]
	}
	return command
}
