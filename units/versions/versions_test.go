// SPDX-License-Identifier: Apache-2.0

package versions

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// layout is a directory that is open to be changed, with versions of one file.
func layout(t *testing.T, installed ...string) *Directory {
	t.Helper()
	d := reopen(t, t.TempDir())
	for i, v := range installed {
		install(t, d, v)
		// As far apart as on a real machine.
		at := time.Date(2026, 11, 1+i, 12, 0, 0, 0, time.UTC)
		must(t, os.Chtimes(filepath.Join(d.Path(), "versions", v), at, at))
	}
	return d
}

func reopen(t *testing.T, path string) *Directory {
	t.Helper()
	d, err := OpenToChange(path)
	must(t, err)
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func install(t *testing.T, d *Directory, version string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "myapp")
	must(t, os.WriteFile(file, []byte("program "+version), 0o600))
	must(t, d.Install(file, version, "myapp"))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// links checks where both lead; "" is nowhere.
func (d *Directory) links(t *testing.T, current, previous string) {
	t.Helper()
	for link, want := range map[string]string{currentLink: current, previousLink: previous} {
		got, err := d.link(link)
		if errors.Is(err, ErrNone) {
			got, err = "", nil
		}
		if err != nil || got != want {
			t.Errorf("%s leads to %q, %v; want %q", link, got, err, want)
		}
	}
}

func (d *Directory) names(t *testing.T) (names []string) {
	t.Helper()
	all, err := d.List()
	must(t, err)
	for _, v := range all {
		names = append(names, v.Name)
	}
	return names
}

func TestSwitch(t *testing.T) {
	d := layout(t, "1.0", "2.0", "3.0~rc1")
	d.links(t, "", "")
	for _, step := range []struct{ to, current, previous string }{
		{"1.0", "1.0", ""},
		{"2.0", "2.0", "1.0"},
		{"2.0", "2.0", "1.0"}, // nothing to do
		{"3.0~rc1", "3.0~rc1", "2.0"},
		{Previous, "2.0", "3.0~rc1"},
		{Previous, "3.0~rc1", "2.0"},
	} {
		s, err := d.Switch(step.to)
		must(t, err)
		d.links(t, step.current, step.previous)
		if s.To != step.current {
			t.Errorf("%+v", s)
		}
		if text, err := os.ReadFile(filepath.Join(d.Path(), "current", "myapp")); string(text) != "program "+step.current || err != nil {
			t.Errorf("by way of the link: %q, %v", text, err)
		}
		if _, ok, err := d.Unfinished(); ok || err != nil {
			t.Errorf("after a switch: %v, %v", ok, err)
		}
	}
	for version, want := range map[string]string{
		"4.0": "install it first", "": "must be letters", "../1.0": "must be letters", ".x": "must be letters", "current": "must be letters",
		"a b": "must be letters", "a\nb": "must be letters", strings.Repeat("x", 129): "128 characters",
	} {
		if _, err := d.Switch(version); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("switch to %q: %v, want %q", version, err, want)
		}
	}
	if _, err := d.Switch("4.0"); !errors.As(err, new(*NoVersionError)) {
		t.Errorf("%v", err)
	}
	if _, err := layout(t, "1.0").Switch(Previous); !errors.Is(err, ErrNone) {
		t.Errorf("%v", err)
	}
	d.links(t, "3.0~rc1", "2.0")
}

// A switch that was begun goes back or on, whatever of it was done.
func TestUnfinishedSwitch(t *testing.T) {
	for _, before := range []struct{ current, previous string }{{"", ""}, {"1.0", ""}, {"2.0", "1.0"}} {
		for done := range 4 {
			for _, on := range []bool{false, true} {
				d := layout(t, "1.0", "2.0", "3.0")
				must(t, d.point(previousLink, before.previous))
				must(t, d.point(currentLink, before.current))
				s, err := d.Begin("3.0", "/run/myapp/control.sock")
				must(t, err)
				// A crash after so many steps of it; the journal is the first.
				if done < 3 {
					must(t, d.point(currentLink, before.current))
				}
				if done < 2 {
					must(t, d.point(previousLink, before.previous))
				}
				if done == 1 {
					must(t, os.WriteFile(filepath.Join(d.Path(), newPrefix+"left"), nil, 0o600))
				}
				must(t, d.Close())
				d = reopen(t, d.Path())
				found, ok, err := d.Unfinished()
				if !ok || err != nil || !found.Began.Equal(s.Began) || found.From != before.current || found.Previous != before.previous || found.To != "3.0" || found.Socket != s.Socket {
					t.Fatalf("found %+v, %v, %v; begun was %+v", found, ok, err, s)
				}
				if _, err := d.Begin("1.0", ""); err == nil || !strings.Contains(err.Error(), "has not ended") {
					t.Errorf("a second one begins: %v", err)
				}
				if on {
					must(t, d.Commit(found))
					d.links(t, "3.0", before.current)
				} else {
					must(t, d.Back(found))
					d.links(t, before.current, before.previous)
				}
				if _, ok, err := d.Unfinished(); ok || err != nil {
					t.Errorf("it has not ended: %v, %v", ok, err)
				}
				if done == 3 {
					must(t, d.Back(found)) // the process was killed before it could say so
				}
			}
		}
	}
}

// Whoever looks in between sees one version or the other.
func TestSwitchIsAtomic(t *testing.T) {
	d := layout(t, "1.0", "2.0")
	_, err := d.Switch("1.0")
	must(t, err)
	over := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for n := 0; ; n++ {
			text, err := os.ReadFile(filepath.Join(d.Path(), "current", "myapp"))
			if err != nil || string(text) != "program 1.0" && string(text) != "program 2.0" {
				t.Errorf("look %d: %q, %v", n, text, err)
				return
			}
			select {
			case <-over:
				return
			default:
			}
		}
	})
	for i := range 100 {
		_, err := d.Switch([]string{"2.0", "1.0"}[i%2])
		must(t, err)
	}
	close(over)
	reader.Wait()
}

func TestOneAtATime(t *testing.T) {
	d := layout(t)
	if _, err := OpenToChange(d.Path()); !errors.Is(err, ErrBusy) {
		t.Errorf("a second one: %v", err)
	}
	look, err := Open(d.Path())
	must(t, err)
	must(t, look.Close())
	must(t, d.Close())
	reopen(t, d.Path())
}

func TestOpenRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for path, want := range map[string]string{"x": "must be an absolute path", file + ".none": "no such file", file: "not a directory"} {
		if _, err := OpenToChange(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

// Links that lead elsewhere are not followed, and say so.
func TestForeignLinks(t *testing.T) {
	for target, want := range map[string]string{
		"/etc": "must lead to versions/VERSION", "versions/../../etc": "must lead to", "versions/.x": "must be letters", "other/1.0": "must lead to",
	} {
		d := layout(t, "1.0")
		must(t, os.Symlink(target, filepath.Join(d.Path(), currentLink)))
		if _, err := d.Current(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("current to %q: %v, want %q", target, err, want)
		}
		if _, err := d.Switch("1.0"); err == nil {
			t.Errorf("it was replaced: %q", target)
		}
	}
	d := layout(t, "1.0")
	must(t, os.Mkdir(filepath.Join(d.Path(), currentLink), 0o755))
	if _, err := d.Switch("1.0"); err == nil {
		t.Error("a directory was replaced by the link")
	}
	// versions itself is a way out of the directory.
	d = layout(t)
	must(t, os.Remove(filepath.Join(d.Path(), versionsDir)))
	elsewhere := t.TempDir()
	must(t, os.Symlink(elsewhere, filepath.Join(d.Path(), versionsDir)))
	file := filepath.Join(t.TempDir(), "myapp")
	must(t, os.WriteFile(file, []byte("x"), 0o600))
	if err := d.Install(file, "1.0", "myapp"); err == nil {
		t.Error("installed by way of a link that leads out")
	}
	if left, err := os.ReadDir(elsewhere); len(left) > 0 || err != nil {
		t.Errorf("%v, %v", left, err)
	}
}

func TestInstall(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	d := layout(t, "1.0")
	program := filepath.Join(d.Path(), "versions/1.0/myapp")
	info, err := os.Stat(program)
	if err != nil || info.Mode() != 0o755 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Dir(program)); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	must(t, syscall.Mkfifo(fifo, 0o600))
	for _, tt := range []struct{ file, version, name, want string }{
		{program, "1.0", "myapp", "is installed already"},
		{program, "../x", "myapp", "must be letters"},
		{program, "2.0", "a/b", "must be the name of a file"},
		{program, "2.0", "..", "must be the name of a file"},
		{program, "2.0", "", "must be the name of a file"},
		{program + "none", "2.0", "myapp", "no such file"},
		{fifo, "2.0", "myapp", "not a regular file"},
		{filepath.Dir(program), "2.0", "myapp", "not a regular file"},
	} {
		if err := d.Install(tt.file, tt.version, tt.name); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	if err := d.Install(program, "1.0", "myapp"); !errors.Is(err, ErrExists) {
		t.Errorf("%v", err)
	}
	if got := d.names(t); !slices.Equal(got, []string{"1.0"}) {
		t.Errorf("installed: %q", got)
	}
	entries, err := os.ReadDir(filepath.Join(d.Path(), versionsDir))
	if len(entries) != 1 || err != nil {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// On a full disk a version is not there, and nothing else is lost.
func TestInstallOnAFullDisk(t *testing.T) {
	// In a process of its own: the limit would also be that of go test's own log.
	const inChild = "HOLDFAST_TEST_FULL_DISK"
	if os.Getenv(inChild) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), inChild+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	d := layout(t, "1.0")
	_, err := d.Switch("1.0")
	must(t, err)
	big := filepath.Join(t.TempDir(), "big")
	must(t, os.WriteFile(big, make([]byte, 64<<10), 0o600))
	var before syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before))
	// The limit of one file, in place of that of the disk. Its signal is ignored by Go's runtime.
	must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 4 << 10, Max: before.Max}))
	err = d.Install(big, "2.0", "myapp")
	must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before))
	if !errors.Is(err, syscall.EFBIG) || !strings.Contains(err.Error(), "install version 2.0 from "+big) {
		t.Errorf("%v", err)
	}
	d.links(t, "1.0", "")
	entries, err := os.ReadDir(filepath.Join(d.Path(), versionsDir))
	if len(entries) != 1 || err != nil {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestPrune(t *testing.T) {
	d := layout(t, "1.0", "2.0", "3.0", "4.0", "5.0", "6.0")
	_, err := d.Switch("2.0")
	must(t, err)
	_, err = d.Switch("3.0")
	must(t, err)
	// One that runs, such as an old generation that drains.
	sleep, err := exec.LookPath("sleep")
	must(t, err)
	sleep, err = filepath.EvalSymlinks(sleep)
	must(t, err)
	text, err := os.ReadFile(sleep)
	must(t, err)
	copied := filepath.Join(d.Path(), "versions/1.0/sleep")
	must(t, os.WriteFile(copied, text, 0o755))
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	must(t, os.Chtimes(filepath.Dir(copied), at, at))
	running := exec.Command(copied, "3600")
	must(t, running.Start())
	defer func() {
		_ = running.Process.Kill()
		_ = running.Wait()
	}()
	all, err := d.List()
	must(t, err)
	if v := all[len(all)-1]; v.Name != "1.0" || !slices.Equal(v.Running, []int{running.Process.Pid}) {
		t.Errorf("%+v; want 1.0, which PID %d runs", v, running.Process.Pid)
	}
	if got := d.Running(running.Process.Pid, "x"); got != "1.0" {
		t.Errorf("it runs %q", got)
	}
	if got := d.Running(os.Getpid(), "x"); got != "x" {
		t.Errorf("this test runs %q", got)
	}
	must(t, os.Mkdir(filepath.Join(d.Path(), versionsDir, oldPrefix+"half"), 0o755))
	for _, step := range []struct {
		keep    int
		removed []string
		left    []string
	}{
		{6, nil, []string{"6.0", "5.0", "4.0", "3.0", "2.0", "1.0"}},
		{5, []string{"4.0"}, []string{"6.0", "5.0", "3.0", "2.0", "1.0"}},
		{0, []string{"5.0", "6.0"}, []string{"3.0", "2.0", "1.0"}},
	} {
		removed, err := d.Prune(step.keep)
		if err != nil || !slices.Equal(removed, step.removed) {
			t.Errorf("prune to %d removed %q, %v; want %q", step.keep, removed, err, step.removed)
		}
		if got := d.names(t); !slices.Equal(got, step.left) {
			t.Errorf("after prune to %d: %q, want %q", step.keep, got, step.left)
		}
	}
	if _, err := d.Prune(-1); err == nil {
		t.Error("a negative number")
	}
	d.links(t, "3.0", "2.0")
	if entries, err := os.ReadDir(filepath.Join(d.Path(), versionsDir)); len(entries) != 3 || err != nil {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestFind(t *testing.T) {
	d := layout(t, "1.0")
	if _, ok := Find(filepath.Join(d.Path(), "current/myapp")); ok {
		t.Error("found without a link")
	}
	_, err := d.Switch("1.0")
	must(t, err)
	for program, want := range map[string]string{
		"current/myapp": d.Path(), "current/bin/myapp": d.Path(), "versions/1.0/myapp": "", "current": "",
	} {
		got, ok := Find(filepath.Join(d.Path(), program))
		if got != want || ok != (want != "") {
			t.Errorf("%s: %q, %v", program, got, ok)
		}
	}
	if got, ok := Find("/usr/bin/myapp"); ok {
		t.Errorf("%q", got)
	}
}

func TestDamagedJournal(t *testing.T) {
	for text, want := range map[string]string{
		"": "unexpected end", "{}": "must be letters", `{"to":"../x"}`: "must be letters", `{"to":"1","from":"a b"}`: "must be letters",
		`{"to":"1","socket":"x"}`: "must be an absolute path", strings.Repeat(" ", maxJournal+1): "larger than",
	} {
		d := layout(t, "1.0")
		must(t, os.WriteFile(filepath.Join(d.Path(), journalName), []byte(text), 0o600))
		if _, ok, err := d.Unfinished(); ok || err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "and remove it") {
			t.Errorf("%.20q: %v, %v; want %q", text, ok, err, want)
		}
	}
	d := layout(t, "1.0")
	must(t, os.Symlink("/etc/passwd", filepath.Join(d.Path(), journalName)))
	if _, ok, err := d.Unfinished(); ok || err == nil {
		t.Errorf("a link that leads out: %v, %v", ok, err)
	}
}

func FuzzSwitch(f *testing.F) {
	for _, s := range []string{"", "{}", `{"to":"1.0"}`, `{"from":"1.0","previous":"0.9","to":"1.1~rc1","socket":"/run/myapp/control.sock","began":"2026-11-30T12:00:00Z"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseSwitch(data)
		if err != nil {
			if s != (Switch{}) {
				t.Fatalf("an error and %+v", s)
			}
			return
		}
		for _, v := range []string{s.From, s.Previous, s.To} {
			if strings.ContainsAny(v, "/\x00\n") || strings.HasPrefix(v, ".") || len(v) > 128 {
				t.Fatalf("version %q of %q", v, data)
			}
		}
		if s.To == "" || s.Socket != "" && !filepath.IsAbs(s.Socket) {
			t.Fatalf("%+v of %q", s, data)
		}
		_ = fmt.Sprint(s)
	})
}

// What a package has put there, read-only, can be looked at.
func TestReadOnly(t *testing.T) {
	d := layout(t, "1.0", "2.0")
	_, err := d.Switch("1.0")
	must(t, err)
	_, err = d.Switch("2.0")
	must(t, err)
	must(t, d.Close())
	for _, dir := range []string{d.Path(), filepath.Join(d.Path(), versionsDir)} {
		must(t, os.Chmod(dir, 0o555))
		defer func() { _ = os.Chmod(dir, 0o755) }()
	}
	look, err := Open(d.Path())
	must(t, err)
	defer look.Close()
	look.links(t, "2.0", "1.0")
	if got := look.names(t); !slices.Equal(got, []string{"2.0", "1.0"}) {
		t.Errorf("%q", got)
	}
	if os.Geteuid() == 0 {
		return // who may write all the same
	}
	change := reopen(t, d.Path())
	if _, err := change.Switch("1.0"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("%v", err)
	}
}

// Who may only look at the directory cannot keep others from changing it, and whoever owns
// it is not kept out by root.
func TestLockIsForWriters(t *testing.T) {
	path := t.TempDir()
	must(t, os.Chmod(path, 0o775))
	const owner = 65534
	root := os.Geteuid() == 0
	if root {
		must(t, os.Chown(path, owner, owner))
	}
	d := reopen(t, path)
	info, err := os.Stat(filepath.Join(path, lockName))
	must(t, err)
	if got := info.Mode().Perm(); got != 0o620 {
		t.Errorf("the lock has mode %#o, want that of its writers", got)
	}
	if st := info.Sys().(*syscall.Stat_t); root && (st.Uid != owner || st.Gid != owner) {
		t.Errorf("the lock is of %d:%d, want the owner of the directory", st.Uid, st.Gid)
	}
	must(t, d.Close())
	reader, err := os.Open(path)
	must(t, err)
	defer reader.Close()
	must(t, syscall.Flock(int(reader.Fd()), syscall.LOCK_EX|syscall.LOCK_NB))
	reopen(t, path)
	if _, err := OpenToChange(path); !errors.Is(err, ErrBusy) {
		t.Errorf("error %v, want that it is busy", err)
	}
}

// A link in the place of the lock is not followed.
func TestLockIsNoLink(t *testing.T) {
	path, other := t.TempDir(), filepath.Join(t.TempDir(), "other")
	must(t, os.Symlink(other, filepath.Join(path, lockName)))
	if d, err := OpenToChange(path); err == nil {
		t.Errorf("opened by a link: %v", errors.Join(d.Close()))
	}
	if _, err := os.Lstat(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("made by a link: %v", err)
	}
}
