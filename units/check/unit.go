// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/units/unitfile"
)

// setting is one assignment as it is in force.
type setting struct {
	value string
	file  string
	line  int
}

type optionKey struct{ section, key string }

// unit is a unit with its drop-ins.
type unit struct {
	name     unitfile.Name
	files    []string
	settings map[optionKey][]setting
	faults   unitfile.Faults
}

func newUnit(name unitfile.Name) *unit {
	return &unit{name: name, settings: make(map[optionKey][]setting)}
}

// renamed are options under their old names and in their old places
// (load-fragment-gperf.gperf.in of systemd).
var renamed = map[optionKey]optionKey{
	{"Unit", "StartLimitInterval"}:      {"Unit", "StartLimitIntervalSec"},
	{"Service", "StartLimitInterval"}:   {"Unit", "StartLimitIntervalSec"},
	{"Service", "StartLimitBurst"}:      {"Unit", "StartLimitBurst"},
	{"Service", "StartLimitAction"}:     {"Unit", "StartLimitAction"},
	{"Unit", "BindTo"}:                  {"Unit", "BindsTo"},
	{"Unit", "PropagateReloadTo"}:       {"Unit", "PropagatesReloadTo"},
	{"Unit", "PropagateReloadFrom"}:     {"Unit", "ReloadPropagatedFrom"},
	{"Service", "MemoryLimit"}:          {"Service", "MemoryMax"},
	{"Service", "ReadOnlyDirectories"}:  {"Service", "ReadOnlyPaths"},
	{"Service", "ReadWriteDirectories"}: {"Service", "ReadWritePaths"},
}

// keeps are options with one value of which systemd ignores an empty one; others have it for
// taking back what was set before.
var keeps = func() map[optionKey]bool {
	keeps := make(map[optionKey]bool)
	for section, names := range map[string]string{
		"Unit": "StartLimitIntervalSec StartLimitBurst",
		"Service": `Type ExitType RemainAfterExit GuessMainPID NotifyAccess TimeoutStartSec TimeoutStopSec WatchdogSec
			Restart RestartSec OOMPolicy FileDescriptorStoreMax FileDescriptorStorePreserve KillMode SendSIGKILL
			DynamicUser NoNewPrivileges PrivatePIDs RuntimeDirectoryMode RuntimeDirectoryPreserve ReloadSignal LimitNOFILE LimitNPROC`,
		"Socket": "Accept ReusePort FlushPending RemoveOnStop TriggerLimitIntervalSec TriggerLimitBurst",
	} {
		for name := range strings.FieldsSeq(names) {
			keeps[optionKey{section, name}] = true
		}
	}
	return keeps
}()

// read applies a file. An empty value takes back what was set before.
func (u *unit) read(file, text string) {
	u.files = append(u.files, file)
	parsed := unitfile.Parse(file, text)
	u.faults = append(u.faults, parsed.Faults...)
	for _, a := range parsed.Assignments {
		keys := []optionKey{{a.Section, a.Key}}
		if to, ok := renamed[keys[0]]; ok {
			keys[0] = to
		}
		if keys[0] == (optionKey{"Service", "TimeoutSec"}) {
			keys = []optionKey{{"Service", "TimeoutStartSec"}, {"Service", "TimeoutStopSec"}}
		}
		for _, key := range keys {
			if a.Value == "" {
				if !keeps[key] {
					delete(u.settings, key)
				}
				continue
			}
			u.settings[key] = append(u.settings[key], setting{a.Value, file, a.Line})
		}
	}
}

// all are the assignments of an option that takes several.
func (u *unit) all(section, key string) []setting { return u.settings[optionKey{section, key}] }

// last is the assignment that counts of an option that takes one. What is not set
// has an empty value and the unit's own file.
func (u *unit) last(section, key string) (setting, bool) {
	all := u.all(section, key)
	if len(all) == 0 {
		return setting{file: u.file()}, false
	}
	return all[len(all)-1], true
}

// file is that of the unit itself.
func (u *unit) file() string {
	if len(u.files) == 0 {
		return ""
	}
	return u.files[0]
}

// value is that of an option, or what systemd takes without it.
func (u *unit) value(section, key, without string) string {
	if s, ok := u.last(section, key); ok {
		return s.value
	}
	return without
}

// yes reads a boolean; what is none is ignored by systemd.
func (u *unit) yes(section, key string, without bool) bool {
	s, ok := u.last(section, key)
	if !ok {
		return without
	}
	v, err := unitfile.ParseBool(s.value)
	if err != nil {
		return without
	}
	return v
}

// span reads a time; ok is false if it is not set, or wrong.
func (u *unit) span(section, key string) (d time.Duration, ok bool) {
	s, set := u.last(section, key)
	if !set {
		return 0, false
	}
	d, err := unitfile.ParseTimespan(s.value, time.Second)
	return d, err == nil
}

// words are those of all assignments of an option with a list.
func (u *unit) words(section, key string) []string {
	var words []string
	for _, s := range u.all(section, key) {
		w, err := unitfile.QuotedWords(u.expand(s.value))
		if err != nil {
			continue
		}
		words = append(words, w...)
	}
	return words
}

// specifierText are the specifiers that do not depend on the unit, for the
// manager of the system.
var specifierText = map[byte]string{
	't': "/run", 'S': "/var/lib", 'C': "/var/cache", 'L': "/var/log", 'E': "/etc", 'T': "/tmp", 'V': "/var/tmp",
	'h': "/root", 'u': "root", 'U': "0", 'g': "root", 'G': "0", 's': "/bin/sh", 'D': "/usr/share",
}

// expand fills in specifiers. What depends on the machine stays as it is: it has
// no part in any rule.
func (u *unit) expand(text string) string {
	n := u.name
	expanded, err := unitfile.ExpandSpecifiers(text, func(c byte) (string, error) {
		switch c {
		case 'n':
			return n.String(), nil
		case 'N':
			return n.Stem(), nil
		case 'p':
			return n.Prefix, nil
		case 'P':
			return unitfile.UnescapeName(n.Prefix), nil
		case 'i':
			return n.Instance, nil
		case 'I':
			return unitfile.UnescapeName(n.Instance), nil
		case 'j':
			return n.LastPart(), nil
		case 'J':
			return unitfile.UnescapeName(n.LastPart()), nil
		}
		if value, ok := specifierText[c]; ok {
			return value, nil
		}
		return "%" + string(rune(c)), nil
	})
	if err != nil {
		return text
	}
	return expanded
}

// command is one command of an Exec option.
type command struct {
	unitfile.CommandLine
	at setting
}

// base is the name of its program.
func (c command) base() string { return c.Path[strings.LastIndexByte(c.Path, '/')+1:] }

// commands are those of an Exec option. What systemd would not read is left out.
func (u *unit) commands(key string) []command {
	var list []command
	for _, s := range u.all("Service", key) {
		lines, _, err := unitfile.ParseCommandLine(s.value, "-@:+!|", func(word string) (string, error) { return u.expand(word), nil })
		if err != nil {
			continue
		}
		for _, line := range lines {
			list = append(list, command{line, s})
		}
	}
	return list
}

// startsService says whether a socket unit starts a service.
func (u *unit) startsService(service unitfile.Name) bool {
	if u.yes("Socket", "Accept", false) {
		n := u.name.WithKind("service")
		n.Template, n.Instance = true, service.Instance
		return n == service
	}
	return u.service() == service.String()
}

// service is the name of the service that a socket unit without Accept=yes starts.
func (u *unit) service() string {
	if s, ok := u.last("Socket", "Service"); ok {
		return u.expand(s.value)
	}
	return u.name.WithKind("service").String()
}

// listens are the addresses of a socket unit.
func (u *unit) listens() []setting {
	var all []setting
	for _, key := range []string{"ListenStream", "ListenDatagram", "ListenSequentialPacket", "ListenFIFO", "ListenSpecial", "ListenNetlink", "ListenMessageQueue"} {
		all = append(all, u.all("Socket", key)...)
	}
	return all
}

func assignment(key, value string) string { return fmt.Sprintf("%s=%s", key, value) }
