// SPDX-License-Identifier: Apache-2.0

package agreement_test

import (
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/agreement"
)

var tableFile = flag.String("table", "", "write what agreed to this `file`; needs -all")

// committed is the table of the last time that everything was played: make agreement.
const committed = "table.txt"

// A table says for each scenario and version how it went.
type table struct {
	mu   sync.Mutex
	rows map[string]map[vmtests.Version]string
	met  map[*agreement.Exception]map[vmtests.Version]int
}

func newTable() *table {
	return &table{rows: make(map[string]map[vmtests.Version]string), met: make(map[*agreement.Exception]map[vmtests.Version]int)}
}

func (t *table) set(name string, v vmtests.Version, outcome string, met []*agreement.Exception) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rows[name] == nil {
		t.rows[name] = make(map[vmtests.Version]string)
	}
	t.rows[name][v] = outcome
	for _, e := range met {
		if t.met[e] == nil {
			t.met[e] = make(map[vmtests.Version]int)
		}
		t.met[e][v]++
	}
}

// Outcomes.
const (
	agreed    = "agreed"
	excepted  = "exception"
	different = "DIFFERENT"
	failed    = "FAILED"
	absent    = "-"
)

// row is a line with one cell for each version.
func row(name string, cell func(v vmtests.Version) string) string {
	line := fmt.Sprintf("%-78s", name)
	for _, v := range vmtests.Versions() {
		line += fmt.Sprintf(" %-9s", cell(v))
	}
	return strings.TrimRight(line, " ") + "\n"
}

func (t *table) String() string {
	var b strings.Builder
	b.WriteString(row("", func(v vmtests.Version) string { return fmt.Sprint(int(v)) }))
	for _, s := range scenarios {
		if t.rows[s.name] == nil {
			continue
		}
		b.WriteString(row(s.name, func(v vmtests.Version) string {
			if outcome := t.rows[s.name][v]; outcome != "" {
				return outcome
			}
			return absent
		}))
	}
	b.WriteString("\nExceptions, and how many scenarios met them:\n")
	for _, e := range agreement.Exceptions {
		b.WriteString(row(e.Name, func(v vmtests.Version) string { return fmt.Sprint(t.met[e][v]) }))
		fmt.Fprintf(&b, "    %s\n", e.Reason)
	}
	b.WriteString("\nLeft to chance by systemd itself, and not compared:\n")
	for _, s := range scenarios {
		if len(s.chance) > 0 {
			fmt.Fprintf(&b, "%s: %s\n    %s\n", s.name, strings.Join(s.chance, ", "), s.why)
		}
	}
	fmt.Fprintf(&b, "generated sequences, where systemd does the one or the other: a few\n    %s\n", sequencesChance)
	return b.String()
}

// played is what TestScenarios has for the table.
var played *table

// writeTable writes the table after all tests passed.
func writeTable(name string) error {
	if played == nil {
		return fmt.Errorf("table %s: not all scenarios were played: set -all", name)
	}
	text, err := played.text()
	if err != nil {
		return err
	}
	return os.WriteFile(name, []byte(text), 0o644)
}

// text is what is committed.
func (t *table) text() (string, error) {
	sum, err := digest()
	if err != nil {
		return "", err
	}
	return "The agreement of the stand-in with real systemd. Written by: make agreement\nDigest of what was played: " + sum + "\n\n" + t.String(), nil
}

// digest changes with whatever the table is about.
func digest() (string, error) {
	h := sha256.New()
	out := json.NewEncoder(h)
	for n, s := range scenarios {
		q, err := s.sequence(n)
		if err == nil {
			err = out.Encode([]any{s.name, s.since, s.until, q})
		}
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), nil
}

// The committed table is of the scenarios and exceptions that there are, and shows no difference.
func TestTable(t *testing.T) {
	if *tableFile != "" {
		t.Skip("the table is written anew")
	}
	text, err := os.ReadFile(committed)
	if err != nil {
		t.Fatal(err)
	}
	results, versions := newTable(), vmtests.Versions()
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) <= len(versions) {
			continue
		}
		cells := words[len(words)-len(versions):]
		name := strings.Join(words[:len(words)-len(versions)], " ")
		for i, v := range versions {
			count, _ := strconv.Atoi(cells[i])
			if e := slices.IndexFunc(agreement.Exceptions, func(e *agreement.Exception) bool { return e.Name == name }); e >= 0 {
				for range count {
					results.set("", v, "", []*agreement.Exception{agreement.Exceptions[e]})
				}
			} else if cells[i] == agreed || cells[i] == excepted {
				results.set(name, v, cells[i], nil)
			}
		}
	}
	for _, s := range scenarios {
		for _, v := range versions {
			if played := results.rows[s.name][v] != ""; played != s.applies(v) {
				t.Errorf("%s: %s: on %v it agreed: %v, want %v", committed, s.name, v, played, s.applies(v))
			}
		}
	}
	want, err := results.text()
	if err != nil {
		t.Fatal(err)
	}
	if want != string(text) {
		t.Errorf("%s is not of these scenarios and exceptions: write it anew: make agreement", committed)
	}
}
