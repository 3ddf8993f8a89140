// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/internal/procs"
)

// The sizes of the real curves, made small.
func smallScales() []scale {
	all := append([]scale(nil), scales...)
	all[0].values, all[1].values, all[2].values = []int64{3}, []int64{0, 20}, []int64{1 << 20}
	return all
}

func TestMeasureCosts(t *testing.T) {
	b := sharedBench(t)
	curves, err := b.measureCosts(t.Context(), smallScales(), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range curves {
		for _, p := range c.Points {
			if p.Error != "" || p.Skipped != "" || len(p.Upgrades) != 1 || p.Failed != 0 || p.Reconnects != 0 || p.Requests == 0 {
				t.Fatalf("%s %s: %s", c.Scale, p.Label, jsonOf(t, p))
			}
			u := p.Upgrades[0]
			if u.Total <= 0 || u.First <= 0 || u.Exec <= 0 || u.End < 0 || u.Memory.PSS < 1<<20 {
				t.Errorf("%s %s: %+v: makes no sense", c.Scale, p.Label, u)
			}
			var sum time.Duration
			for _, name := range phases {
				sum += u.Phases[name]
			}
			if sum != u.Total || u.Phases["probation"] < b.probation {
				t.Errorf("%s %s: phases %v, total %v", c.Scale, p.Label, u.Phases, u.Total)
			}
			if c.Scale == "connections" && p.Value == 20 && p.Requests < 40 {
				t.Errorf("%d requests, want two over each of 20 connections", p.Requests)
			}
		}
	}
}

// A point that this machine cannot have is said to be missing, in the table and in the drawing.
func TestCostsThatAreTooMuch(t *testing.T) {
	too := scales[0]
	too.values, too.needs = []int64{7}, func(int64) error { return errors.New("too much for this test") }
	curves, err := sharedBench(t).measureCosts(t.Context(), []scale{too}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := printCosts(&out, curves); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "7: not measured: too much for this test") {
		t.Errorf("the table does not say why:\n%s", &out)
	}
	if err := wellFormed(drawCosts(curves[0])); err != nil {
		t.Error(err)
	}
}

// What needs more open files than can be had says how many.
func TestNeedsFiles(t *testing.T) {
	if err := needsFiles(10); err != nil {
		t.Errorf("10 sockets: %v", err)
	}
	err := needsFiles(3 << 40)
	if err == nil || !strings.Contains(err.Error(), "RLIMIT_NOFILE") || !strings.Contains(err.Error(), fmt.Sprint(4<<40+256)) {
		t.Errorf("a limit of files that no kernel has: %v", err)
	}
}

func wellFormed(document []byte) error {
	for d := xml.NewDecoder(bytes.NewReader(document)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func TestSummarizeCosts(t *testing.T) {
	var all []costs
	for i := range 5 {
		d := time.Duration(i + 1)
		all = append(all, costs{
			Total: d, First: 10 * d, Exec: 100 * d, End: 1000 * d, Phases: map[string]time.Duration{"checking": 5 - d},
			Memory: procs.Memory{RSS: int64(i), PSS: int64(10 - i)},
		})
	}
	m, w := summarize(all, 50), summarize(all, 100)
	if m.Total != 3 || m.First != 30 || m.Exec != 300 || m.End != 3000 || m.Phases["checking"] != 2 || m.Memory != (procs.Memory{RSS: 4, PSS: 10}) {
		t.Errorf("median %+v", m)
	}
	if w.Total != 5 || w.Phases["checking"] != 4 {
		t.Errorf("worst %+v", w)
	}
}
