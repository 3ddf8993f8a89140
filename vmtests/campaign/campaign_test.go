// SPDX-License-Identifier: Apache-2.0

package campaign_test

import (
	"errors"
	"regexp"
	"testing"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/campaign"
)

// programs builds what a campaign needs, or skips the test for users other than root.
func programs(t *testing.T) *campaign.Programs {
	t.Helper()
	if err := vmtests.RequireContainers(); errors.Is(err, vmtests.ErrNotRoot) {
		t.Skip(err)
	}
	p, err := campaign.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// A slice of "make campaign": the oldest and the newest systemd, eight rounds each.
func TestKill(t *testing.T) {
	report, err := campaign.Kill(t.Context(), programs(t), campaign.KillOptions{
		Versions: []vmtests.Version{vmtests.Systemd247, vmtests.Systemd262},
		Mode:     reexec.Overlap, Seed: 5, Rounds: 16, Log: func(text string) { t.Log(text) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report)
	for _, p := range report.Problems() {
		t.Error(p)
	}
	if report.Rounds() != 16 {
		t.Errorf("%d rounds, want 16", report.Rounds())
	}
}

// A slice of its table: one fault of each sort.
func TestTable(t *testing.T) {
	some := regexp.MustCompile("cut off|removed between|exits with 0|falls ill|torn frame|stop on trial|daemon-reexec in the drain")
	report, err := campaign.Table(t.Context(), programs(t), campaign.TableOptions{
		Versions: []vmtests.Version{vmtests.Systemd252},
		Modes:    []reexec.Mode{reexec.Overlap}, Only: some, Log: func(text string) { t.Log(text) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report)
	for _, p := range report.Problems() {
		t.Error(p)
	}
	if report.Rows() != 7 {
		t.Errorf("%d faults, want 7", report.Rows())
	}
}
