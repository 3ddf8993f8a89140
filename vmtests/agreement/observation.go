// SPDX-License-Identifier: Apache-2.0

package agreement

import (
	"fmt"
	"slices"
	"strings"
)

// An Observation is all that one can see after an op, once nothing moves any more. PIDs, addresses and the
// like are replaced by names that mean the same on both sides.
type Observation struct {
	// Op is what the op itself came to: "ok", or why not, such as the name of a D-Bus error.
	Op string
	// Facts are the lines to compare: a key that names what is seen, and what it is.
	Facts map[string]string
	// Remarks help to understand the facts and are not compared.
	Remarks []string `json:",omitempty"`
}

// A Difference is one fact that two sides do not see alike.
type Difference struct {
	Step     int // of the sequence, from 0
	Key      string
	Real     string
	Imitated string
}

func (d Difference) String() string {
	return fmt.Sprintf("step %d: %s: %s under systemd, %s under the stand-in", d.Step+1, d.Key, quote(d.Real), quote(d.Imitated))
}

// absent is the value of a fact that one side does not have at all.
const absent = "(none)"

func quote(value string) string {
	if value == absent {
		return value
	}
	return fmt.Sprintf("%q", value)
}

// Compare lists what differs, sorted by key.
func Compare(step int, systemd, standin *Observation) []Difference {
	var all []Difference
	if systemd.Op != standin.Op {
		all = append(all, Difference{step, "op", systemd.Op, standin.Op})
	}
	keys := make(map[string]bool)
	for key := range systemd.Facts {
		keys[key] = true
	}
	for key := range standin.Facts {
		keys[key] = true
	}
	value := func(o *Observation, key string) string {
		if v, ok := o.Facts[key]; ok {
			return v
		}
		return absent
	}
	for key := range keys {
		if r, i := value(systemd, key), value(standin, key); r != i {
			all = append(all, Difference{step, key, r, i})
		}
	}
	slices.SortFunc(all, func(a, b Difference) int { return strings.Compare(a.Key, b.Key) })
	return all
}
