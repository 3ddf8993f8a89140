// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// BootTest is [Boot] for a test. It skips the test for users other than root and fails it where the lane
// cannot run. The machine is closed at the end of the test; if that failed, the journal is kept.
func BootTest(tb testing.TB, v Version) *Machine {
	tb.Helper()
	return bootTest(tb, func(ctx context.Context) (*Machine, error) { return Boot(ctx, v) })
}

// BootPolkitTest is [BootPolkit] for a test, as [BootTest] is [Boot].
func BootPolkitTest(tb testing.TB, v Version) *Machine {
	tb.Helper()
	return bootTest(tb, func(ctx context.Context) (*Machine, error) { return BootPolkit(ctx, v) })
}

// BootWithTest is [BootWith] for a test, as [BootTest] is [Boot].
func BootWithTest(tb testing.TB, v Version, packages ...string) *Machine {
	tb.Helper()
	return bootTest(tb, func(ctx context.Context) (*Machine, error) { return BootWith(ctx, v, packages...) })
}

// BootSetupTest is [BootSetup] for a test, as [BootTest] is [Boot].
func BootSetupTest(tb testing.TB, v Version, setup Setup) *Machine {
	tb.Helper()
	return bootTest(tb, func(ctx context.Context) (*Machine, error) { return BootSetup(ctx, v, setup) })
}

// BootVMSetupTest is [BootVMSetup] for a test, as [BootTest] is [Boot].
func BootVMSetupTest(tb testing.TB, v Version, setup Setup) *Machine {
	tb.Helper()
	return bootTest(tb, func(ctx context.Context) (*Machine, error) { return BootVMSetup(ctx, v, setup) })
}

// BootVMTest is [BootVM] for a test, as [BootTest] is [Boot].
func BootVMTest(tb testing.TB, v Version) *Machine {
	tb.Helper()
	return bootTest(tb, func(ctx context.Context) (*Machine, error) { return BootVM(ctx, v) })
}

func bootTest(tb testing.TB, boot func(context.Context) (*Machine, error)) *Machine {
	tb.Helper()
	m, err := boot(tb.Context())
	if errors.Is(err, ErrNotRoot) {
		tb.Skip(err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	m.CloseAfter(tb)
	return m
}

// CloseAfter closes the machine at the end of a test. If that failed, the journal is kept. It is for a test that boots
// several at once; [BootTest] and its like do it by themselves.
func (m *Machine) CloseAfter(tb testing.TB) {
	tb.Cleanup(func() {
		if tb.Failed() {
			m.keepJournal(tb)
		}
		if err := m.Close(); err != nil {
			tb.Error(err)
		}
	})
}

// keepJournal writes the journal to the log of a failed test and, with "go test -artifacts", to a file.
func (m *Machine) keepJournal(tb testing.TB) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second) // that of the test is over
	defer cancel()
	journal, err := m.Journal(ctx)
	if err != nil {
		tb.Logf("journal of %s: %v\nits console:\n%s", m.Name, err, m.Console())
		return
	}
	// The log gets what came after the boot, in most cases.
	const lines = 200
	end := strings.Split(journal, "\n")
	if len(end) > lines {
		end = end[len(end)-lines:]
	}
	tb.Logf("journal of %s, its last %d lines:\n%s", m.Name, len(end), strings.Join(end, "\n"))
	keeper, ok := tb.(interface{ ArtifactDir() string }) // since Go 1.26
	if !ok {
		return
	}
	file := filepath.Join(keeper.ArtifactDir(), m.Name+".journal.txt")
	if err := os.WriteFile(file, []byte(journal+"\n"), 0o644); err != nil {
		tb.Logf("keep journal: %v", err)
	}
}
