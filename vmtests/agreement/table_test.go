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

var tableFile = flag.String("table", "", "write what agreed to this `file`; needs -all and all sequences of the table")

// committed is the table of the last time that everything was played: make agreement.
const committed = "table.txt"

// tableSequences is how many sequences, from the first, belong to the table.
const tableSequences = 300

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
	fmt.Fprintf(&b, "generated sequences, played again when they differ: a few\n    %s\n", sequencesChance)
	return b.String()
}

// toWrite is what tests of this run have for the table.
var toWrite struct {
	mu        sync.Mutex
	scenarios *table
	sequences map[vmtests.Version]int // operations of sequences 1 to tableSequences
}

// writeTable writes the table after all tests passed.
func writeTable(name string) error {
	if toWrite.scenarios == nil || len(toWrite.sequences) < len(vmtests.Versions()) {
		return fmt.Errorf("table %s: not all was played: set -all -seed=1 -sequences=%d", name, tableSequences)
	}
	text, err := tableText(toWrite.scenarios, toWrite.sequences)
	if err != nil {
		return err
	}
	return os.WriteFile(name, []byte(text), 0o644)
}

func tableText(scenarios *table, sequences map[vmtests.Version]int) (string, error) {
	sum, err := digest()
	if err != nil {
		return "", err
	}
	head := "The agreement of the stand-in with real systemd. Written by: make agreement\nDigest of what was played: " + sum + "\n\n"
	last := row(sequencesRow, func(v vmtests.Version) string { return strconv.Itoa(sequences[v]) })
	return head + scenarios.String() + "\n" + last, nil
}

var sequencesRow = fmt.Sprintf("Generated sequences 1 to %d agreed, so many operations", tableSequences)

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
	for _, v := range vmtests.Versions() {
		for seed := range uint64(tableSequences) {
			if err := out.Encode(agreement.Generate(seed+1, int(v))); err != nil {
				return "", err
			}
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), nil
}

// The committed table is of the scenarios, sequences and exceptions that there are, and shows no difference.
func TestTable(t *testing.T) {
	if *tableFile != "" {
		t.Skip("the table is written anew")
	}
	text, err := os.ReadFile(committed)
	if err != nil {
		t.Fatal(err)
	}
	results, sequences := newTable(), make(map[vmtests.Version]int)
	versions := vmtests.Versions()
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
			} else if name == sequencesRow {
				sequences[v] = count
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
	for _, v := range versions {
		if sequences[v] == 0 {
			t.Errorf("%s: no sequence was played on %v", committed, v)
		}
	}
	want, err := tableText(results, sequences)
	if err != nil {
		t.Fatal(err)
	}
	if want != string(text) {
		t.Errorf("%s is not of these scenarios, sequences and exceptions: write it anew: make agreement", committed)
	}
}
