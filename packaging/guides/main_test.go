// SPDX-License-Identifier: Apache-2.0

package guides_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/packaging/guides/guidetest"
	"github.com/holdfast-go/holdfast/reexec/reexectest"
	"github.com/holdfast-go/holdfast/vmtests"
)

// The stand-in for systemd is this test binary.
func TestMain(m *testing.M) { reexectest.Main(m, func() { panic("this is no service") }) }

// A release is how a service gets from one version to the next.
type release struct {
	options reexectest.Options
	program string // path in the unit
	next    string // file of the next version
	path    string // of the URL
	upgrade func(ctx context.Context, u *reexectest.Unit) error
}

// underLoad starts a service, upgrades it under load, and returns what became of the requests.
func (r release) underLoad(t *testing.T) vmtests.LoadSummary {
	t.Helper()
	u := reexectest.Start(t, r.options)
	ctx := t.Context()
	load, err := vmtests.StartLoad(ctx, vmtests.LoadOptions{
		URL: "http://" + u.Addr("http") + r.path, New: 8, KeepAlive: 8, Think: time.Millisecond, Redial: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	ok := func(n int) {
		t.Helper()
		if _, err := load.WaitOK(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	ok(500)
	if err := u.Install(r.program, reexectest.File(r.next)); err != nil {
		t.Fatal(err)
	}
	before := u.MainPID()
	if err := r.upgrade(ctx, u); err != nil {
		t.Fatal(err)
	}
	if err := u.WaitFor(ctx, reexectest.MainPIDIsNot(before)); err != nil {
		t.Fatal(err)
	}
	ok(500)
	summary, err := load.Stop(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d requests, %d lost, longest time without an answer %v",
		summary.OK+summary.Failed, summary.Failed, summary.LongestGap.Duration.Round(time.Millisecond))
	return summary
}

// install builds versions of a program, and returns their files.
func install(t *testing.T, r *guidetest.Reader, pkg string, versions ...string) []string {
	t.Helper()
	dir := t.TempDir()
	var files []string
	for _, version := range versions {
		file := filepath.Join(dir, version)
		r.Build(t, pkg, file, "-ldflags=-X main.version="+version)
		files = append(files, file)
	}
	return files
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
