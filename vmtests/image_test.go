// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// standIn puts a program in mmdebstrap's place that makes as much of a root file system as the cache looks
// at, and writes its arguments to a log. The script has the target in $root and the mirror in $mirror.
func standIn(t *testing.T, script string) (calls func() []string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip(ErrNotRoot)
	}
	bin := t.TempDir()
	log := filepath.Join(bin, "log")
	text := fmt.Sprintf(`#!/bin/sh
set -e
echo "$*" >>%s
for argument; do
	case $argument in
	/*) root=$argument; mirror=;;
	*) mirror=$argument;;
	esac
done
echo "I: working"
%s
`, log, script)
	if err := os.WriteFile(filepath.Join(bin, "mmdebstrap"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("HOLDFAST_CACHE", filepath.Join(t.TempDir(), "cache"))
	t.Setenv("HOLDFAST_MIRROR", "one two")
	return func() []string {
		lines, err := os.ReadFile(log)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(string(lines)), "\n")
	}
}

const makeRoot = `mkdir -p "$root/usr/lib/systemd" && : >"$root/usr/lib/systemd/libsystemd-shared-257.so"`

// cached lists what is in the cache but the locks.
func cached(t *testing.T) []string {
	t.Helper()
	dir, err := CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "images"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), "lock") {
			names = append(names, entry.Name())
		}
	}
	return names
}

func testRecipe(t *testing.T) recipe {
	t.Helper()
	r, err := containerRecipe(Systemd257)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestImageIsBuiltOnce(t *testing.T) {
	calls := standIn(t, makeRoot)
	r := testRecipe(t)
	const callers = 8
	images := make([]*Image, callers)
	var asking sync.WaitGroup
	for i := range callers {
		asking.Go(func() {
			var err error
			if images[i], err = r.image(t.Context(), nil); err != nil {
				t.Error(err)
			}
		})
	}
	asking.Wait()
	if t.Failed() {
		return
	}
	built := 0
	for _, image := range images {
		if image.Built {
			built++
		}
		if err := image.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(image.Dir, "root/usr")); err != nil {
			t.Error(err)
		}
	}
	if got := calls(); built != 1 || len(got) != 1 || !strings.HasSuffix(got[0], " one") {
		t.Errorf("%d callers built, with the calls %q; want one, with mirror one", built, got)
	}
	if got, want := cached(t), []string{r.name()}; !slices.Equal(got, want) {
		t.Errorf("cache: got %q, want %q", got, want)
	}

	// Another recipe is another image, and leaves the first alone.
	r.Packages = append(slices.Clone(r.Packages), "strace")
	image, err := r.image(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if got := calls(); !image.Built || len(got) != 2 || !strings.Contains(got[1], ",strace ") || len(cached(t)) != 2 {
		t.Errorf("changed recipe: calls %q, cache %q", got, cached(t))
	}
}

func TestImageIsNeverHalfBuilt(t *testing.T) {
	for _, test := range []struct {
		name, script string
		calls        int
		want         string
	}{
		{"failure", makeRoot + "; echo E: no such suite >&2; exit 1", 2, "E: no such suite"},
		{"other version", `mkdir -p "$root/lib/systemd" && : >"$root/lib/systemd/libsystemd-shared-258.so"`, 1, "carries libsystemd-shared-258.so, want systemd 257"},
		{"no systemd", `mkdir -p "$root/usr"`, 1, "contains no systemd"},
	} {
		t.Run(test.name, func(t *testing.T) {
			calls := standIn(t, test.script)
			r := testRecipe(t)
			_, err := r.image(t.Context(), nil)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), r.name()) {
				t.Errorf("got error %v, want one with %q and %q", err, test.want, r.name())
			}
			if test.calls == 2 && !strings.Contains(err.Error(), "HOLDFAST_MIRROR") {
				t.Errorf("got error %v, want it to say how to name a mirror", err)
			}
			if got := calls(); len(got) != test.calls {
				t.Errorf("calls: got %q, want %d", got, test.calls)
			}
			if got := cached(t); len(got) != 0 {
				t.Errorf("cache: got %q, want nothing", got)
			}
		})
	}
}

func TestNextMirror(t *testing.T) {
	calls := standIn(t, `if [ "$mirror" = one ]; then mkdir -p "$root/left/over"; exit 1; fi; `+makeRoot)
	image, err := testRecipe(t).image(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if got := calls(); len(got) != 2 || !strings.HasSuffix(got[1], " two") {
		t.Errorf("calls: got %q, want mirrors one and two", got)
	}
	if _, err := os.Stat(filepath.Join(image.Dir, "root/left")); err == nil {
		t.Error("the image contains what the first mirror left")
	}
}

// A builder that is killed leaves its work. The next one removes it, and mounts of the first are no danger.
func TestBuilderCancelled(t *testing.T) {
	// What mmdebstrap does: the host's files are mounted into the tree that is to be removed.
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "precious"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	standIn(t, fmt.Sprintf(`mkdir -p "$root/host" && mount --bind %s "$root/host" && echo mounted && exec sleep infinity`, host))
	r := testRecipe(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	_, err := r.image(ctx, writerFunc(func(text []byte) (int, error) {
		if strings.Contains(string(text), "mounted") {
			cancel(stop)
		}
		return len(text), nil
	}))
	if !errors.Is(err, stop) {
		t.Errorf("got error %v, want %v", err, stop)
	}
	if got := cached(t); len(got) != 0 {
		t.Errorf("cache: got %q, want nothing", got)
	}
	if _, err := os.Stat(filepath.Join(host, "precious")); err != nil {
		t.Errorf("removing the work removed files of the host: %v", err)
	}

	// Leftovers of this recipe go, those of another stay: it may be in the works.
	dir, err := CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".building-" + r.name() + "-1", ".building-another-1"} {
		if err := os.MkdirAll(filepath.Join(dir, "images", name, "root"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	standInDir := filepath.Dir(mustLookPath(t, "mmdebstrap"))
	script := strings.Replace(string(mustRead(t, filepath.Join(standInDir, "mmdebstrap"))), "mount --bind", "exit 1; :", 1)
	if err := os.WriteFile(filepath.Join(standInDir, "mmdebstrap"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := r.image(t.Context(), nil); err == nil {
		t.Error("got no error from a builder that fails")
	}
	if got := cached(t); !slices.Equal(got, []string{".building-another-1"}) {
		t.Errorf("cache: got %q, want the other recipe's work only", got)
	}
}

// While one builds, another may lose its patience.
func TestWaitForBuilderEnds(t *testing.T) {
	standIn(t, makeRoot)
	r := testRecipe(t)
	dir, err := CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "images"), 0o700); err != nil {
		t.Fatal(err)
	}
	lock := filepath.Join(dir, "images", r.name()+buildLock)
	builder, err := lockFile(t.Context(), lock, unix.LOCK_EX)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.image(ctx, nil); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), lock) {
		t.Errorf("got error %v, want context canceled and the name of the lock", err)
	}
	if err := builder.Close(); err != nil {
		t.Fatal(err)
	}
	image, err := r.image(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	image.Close()
}

func TestPruneImages(t *testing.T) {
	standIn(t, makeRoot)
	used, unused := testRecipe(t), testRecipe(t)
	unused.Packages = append(slices.Clone(unused.Packages), "strace")
	inUse, err := used.image(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := unused.image(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		age  time.Duration
		want int
	}{{time.Hour, 2}, {0, 1}} {
		if err := PruneImages(t.Context(), test.age); err != nil {
			t.Fatal(err)
		}
		if got := cached(t); len(got) != test.want {
			t.Errorf("unused for %v: cache has %q, want %d", test.age, got, test.want)
		}
	}
	if _, err := os.Stat(inUse.Dir); err != nil {
		t.Errorf("the image in use: %v", err)
	}
	if err := inUse.Close(); err != nil {
		t.Fatal(err)
	}
	// What was pruned is built again.
	if other, err = unused.image(t.Context(), nil); err != nil || !other.Built {
		t.Fatalf("image after pruning: %v", err)
	}
	other.Close()
}

func mustRead(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func mustLookPath(t *testing.T, name string) string {
	t.Helper()
	file, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func TestCacheDir(t *testing.T) {
	t.Setenv("HOLDFAST_CACHE", "/some/where")
	if dir, err := CacheDir(); err != nil || dir != "/some/where" {
		t.Errorf("got %q (%v), want /some/where", dir, err)
	}
	t.Setenv("HOLDFAST_CACHE", "some/where")
	if _, err := CacheDir(); err == nil || !strings.Contains(err.Error(), `HOLDFAST_CACHE="some/where": must be an absolute path`) {
		t.Errorf("got error %v, want one that names the variable", err)
	}
	t.Setenv("HOLDFAST_CACHE", "")
	if dir, err := CacheDir(); err != nil || !filepath.IsAbs(dir) || filepath.Base(dir) != "holdfast" {
		t.Errorf("got %q (%v), want a directory of ours", dir, err)
	}
}

func TestFilterAptOptions(t *testing.T) {
	const dump = `APT "";
APT::Architecture "amd64";
Acquire "";
Acquire::cdrom "";
Acquire::http "";
Acquire::http::Proxy "http://proxy.test:3142";
Acquire::https::CaInfo "/etc/ssl/ours.pem";
Acquire::Retries "3";
Acquire::Languages:: "en";
Dir::Cache "var/cache/apt";
`
	want := []string{
		`Acquire::http::Proxy "http://proxy.test:3142";`,
		`Acquire::https::CaInfo "/etc/ssl/ours.pem";`,
		`Acquire::Retries "3";`,
	}
	if got := filterAptOptions([]byte(dump)); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParseVersion(t *testing.T) {
	for _, v := range Versions() {
		if got, err := ParseVersion(fmt.Sprint(int(v))); err != nil || got != v {
			t.Errorf("ParseVersion(%d): got %v (%v)", int(v), got, err)
		}
		if suite, err := v.suite(); err != nil || suite == "" {
			t.Errorf("suite of %v: got %q (%v)", v, suite, err)
		}
	}
	for _, text := range []string{"", "systemd", "248", "-1", "257 "} {
		if _, err := ParseVersion(text); err == nil || !strings.Contains(err.Error(), "247, 252, 257, 262") {
			t.Errorf("ParseVersion(%q): got error %v, want one that lists the versions", text, err)
		}
	}
}
