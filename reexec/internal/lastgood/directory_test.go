// SPDX-License-Identifier: Apache-2.0

package lastgood

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func open(t *testing.T) Directory {
	t.Helper()
	// Each write waits for the disk, and there are many.
	parent := t.TempDir()
	if dir, err := os.MkdirTemp("/dev/shm", "lastgood"); err == nil {
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		parent = dir
	}
	d, err := Open(filepath.Join(parent, "holdfast"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// quiet fails the test for a warning.
func quiet(t *testing.T) func(error) {
	return func(err error) { t.Errorf("warning: %v", err) }
}

func nothing(*Record) error { return nil }

// keep makes a program with that content the good one.
func keep(t *testing.T, d Directory, program string) {
	t.Helper()
	path := filepath.Join(filepath.Dir(d.Path()), "program")
	write(t, path, program, 0o755)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	id := content(program)
	stamp, err := d.KeepCopy(f, id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Update(quiet(t), func(r *Record) error {
		r.Proven(Good{Identity: id, Version: program, Since: noon, Copy: stamp}, false)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// A copy that cannot be executed where it is, as on a mount with noexec, is no way back,
// and that is known before it is needed.
func TestCopyIsExecutable(t *testing.T) {
	d := open(t)
	keep(t, d, "v1")
	r, err := d.Read()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.CheckCopy(r.Good); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(d.CopyOf(r.Good.Identity), 0o644); err != nil {
		t.Fatal(err)
	}
	err = d.CheckCopy(r.Good)
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "allow "+d.Path()+" in ExecPaths=") {
		t.Errorf("a copy that cannot be executed: %v", err)
	}
	keep(t, d, "v1") // it makes a new one
	if r, err = d.Read(); err != nil {
		t.Fatal(err)
	}
	if err := d.CheckCopy(r.Good); err != nil {
		t.Error(err)
	}
}

func TestKeepCopy(t *testing.T) {
	d := open(t)
	kept := map[string]int{"v1": 1, "v2": 2, "v3": 2}
	for _, version := range []string{"v1", "v2", "v2", "v3"} {
		write(t, filepath.Join(d.Path(), ".new-half"), "a crash left this", 0o600)
		keep(t, d, version)
		r, err := d.Read()
		if err != nil {
			t.Fatal(err)
		}
		if err := d.CheckCopy(r.Good); err != nil {
			t.Error(err)
		}
		if err := d.RemoveOthers(); err != nil {
			t.Error(err)
		}
		if got := read(t, d.CopyOf(r.Good.Identity)); got != version {
			t.Errorf("the copy of %s is %q", version, got)
		}
		info, err := os.Stat(d.CopyOf(r.Good.Identity))
		if err != nil || info.Mode() != 0o755 {
			t.Errorf("the copy has mode %v, %v", info.Mode(), err)
		}
		entries, err := os.ReadDir(d.Path())
		if err != nil || len(entries) != 2+kept[version] {
			t.Errorf("%v, %v: want the lock, the record and %d copies", entries, err, kept[version])
		}
	}
}

// The copy is executed as the service's user, so nobody else may have written it.
func TestCheckCopyRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		damage func(t *testing.T, copy string)
		want   string
	}{
		"missing":               {func(t *testing.T, copy string) { must(t, os.Remove(copy)) }, "no such file"},
		"writable by the group": {func(t *testing.T, copy string) { must(t, os.Chmod(copy, 0o775)) }, "others than its owner may write it"},
		"writable by all":       {func(t *testing.T, copy string) { must(t, os.Chmod(copy, 0o757)) }, "others than its owner may write it"},
		"another's": {func(t *testing.T, copy string) {
			if os.Geteuid() != 0 {
				t.Skip("only root can give a file away")
			}
			must(t, os.Chown(copy, 12345, 12345))
		}, "belongs to uid 12345"},
		"changed":     {func(t *testing.T, copy string) { write(t, copy, "V1", 0o755) }, "is not what was copied"},
		"cut off":     {func(t *testing.T, copy string) { must(t, os.Truncate(copy, 1)) }, "is not what was copied"},
		"a link":      {func(t *testing.T, copy string) { must(t, os.Remove(copy)); must(t, os.Symlink("/bin/true", copy)) }, "too many levels of symbolic links"},
		"a directory": {func(t *testing.T, copy string) { must(t, os.Remove(copy)); must(t, os.Mkdir(copy, 0o755)) }, "is not a regular file"},
		"a FIFO":      {func(t *testing.T, copy string) { must(t, os.Remove(copy)); must(t, syscall.Mkfifo(copy, 0o755)) }, "is not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t)
			keep(t, d, "v1")
			r, err := d.Read()
			must(t, err)
			tt.damage(t, d.CopyOf(r.Good.Identity))
			if err := d.CheckCopy(r.Good); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
	if err := open(t).CheckCopy(nil); !errors.Is(err, ErrNoGood) {
		t.Error(err)
	}
}

// Another stamp alone is no reason: a backup was restored, or the device has
// another number after a reboot.
func TestCheckCopyReads(t *testing.T) {
	d := open(t)
	keep(t, d, "v1")
	r, err := d.Read()
	must(t, err)
	r.Good.Copy.Dev++
	must(t, d.CheckCopy(r.Good))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		path func(t *testing.T) string
		want string
	}{
		"relative":  {func(*testing.T) string { return "holdfast" }, "must be an absolute path"},
		"no parent": {func(*testing.T) string { return filepath.Join(dir, "a/b") }, "no such file or directory"},
		"a file": {func(t *testing.T) string {
			write(t, filepath.Join(dir, "f"), "", 0o600)
			return filepath.Join(dir, "f")
		}, "not a directory"},
		"writable": {func(t *testing.T) string {
			p := filepath.Join(dir, "w")
			must(t, os.Mkdir(p, 0o700))
			must(t, os.Chmod(p, 0o770))
			return p
		}, "others than its owner may write it"},
		"of somebody": {func(t *testing.T) string {
			if os.Geteuid() != 0 {
				t.Skip("only root can give a directory away")
			}
			p := filepath.Join(dir, "o")
			must(t, os.Mkdir(p, 0o700))
			must(t, os.Chown(p, 12345, 12345))
			return p
		}, "belongs to uid 12345"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Open(tt.path(t)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
	if _, err := Existing(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// Garbage is begun anew; what a later release wrote stays.
func TestUpdateUnreadable(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare func(t *testing.T, record string)
		warning string
		err     error
	}{
		"missing":   {func(*testing.T, string) {}, "", nil},
		"garbage":   {func(t *testing.T, record string) { write(t, record, "\x00\x01", 0o644) }, "begun anew", nil},
		"empty":     {func(t *testing.T, record string) { write(t, record, "", 0o644) }, "begun anew", nil},
		"too large": {func(t *testing.T, record string) { write(t, record, strings.Repeat(" ", maxRecord+1), 0o644) }, "larger than", nil},
		"a link":    {func(t *testing.T, record string) { must(t, os.Symlink("/etc/passwd", record)) }, "too many levels of symbolic links", nil},
		"a FIFO":    {func(t *testing.T, record string) { must(t, syscall.Mkfifo(record, 0o644)) }, "begun anew", nil},
		"later":     {func(t *testing.T, record string) { write(t, record, `{"format":2}`, 0o644) }, "", ErrFuture},
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t)
			record := filepath.Join(d.Path(), recordName)
			tt.prepare(t, record)
			var warnings []string
			_, err := d.Update(func(err error) { warnings = append(warnings, err.Error()) }, func(r *Record) error {
				r.Attempting(content("v1"))
				return nil
			})
			if !errors.Is(err, tt.err) || !strings.Contains(strings.Join(warnings, "\n"), tt.warning) || tt.warning == "" && len(warnings) > 0 {
				t.Errorf("%v, warnings %q; want %v and %q", err, warnings, tt.err, tt.warning)
			}
			if tt.err != nil {
				if got := read(t, record); got != `{"format":2}` {
					t.Errorf("the record of a later release is now %s", got)
				}
				return
			}
			if r, err := d.Read(); err != nil || r.Attempt == nil {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}

// No change of one process is lost to another's.
func TestUpdateAtOnce(t *testing.T) {
	d := open(t)
	const each, writers = 20, 4
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for range each {
				if _, err := d.Update(quiet(t), func(r *Record) error { r.Attempting(content("v1")); return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if r, err := d.Read(); err != nil || r.Attempt.Count != each*writers {
		t.Errorf("%+v, %v: want %d", r.Attempt, err, each*writers)
	}
}

// A process that was stopped while it held the lock stops no start.
func TestUpdateDoesNotHang(t *testing.T) {
	d := open(t)
	unlock, err := d.lock()
	must(t, err)
	defer unlock()
	var warned error
	if _, err := d.Update(func(err error) { warned = err }, func(r *Record) error { r.Attempting(content("v1")); return nil }); err != nil {
		t.Fatal(err)
	}
	if warned == nil || !strings.Contains(warned.Error(), "it goes on without") {
		t.Errorf("warned %v", warned)
	}
}

// Root gives the service its own files, and no other that was linked to their place.
func TestLockIsNotAnotherFile(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	const owner = 65534
	d := open(t)
	must(t, os.Chown(d.Path(), owner, owner))
	lock, other := filepath.Join(d.Path(), lockName), filepath.Join(filepath.Dir(d.Path()), "other") // on one file system
	ownerOf := func(name string) uint32 {
		info, err := os.Stat(name)
		must(t, err)
		return info.Sys().(*syscall.Stat_t).Uid
	}
	unlock, err := d.lock()
	must(t, err)
	unlock()
	if got := ownerOf(lock); got != owner {
		t.Errorf("the lock is of %d, want the owner of the directory", got)
	}
	must(t, os.WriteFile(other, nil, 0o600))
	must(t, os.Remove(lock))
	must(t, os.Link(other, lock))
	unlock, err = d.lock()
	must(t, err)
	unlock()
	if got := ownerOf(other); got != 0 {
		t.Errorf("another file was given to %d", got)
	}
}

func TestUpdateChangesNothing(t *testing.T) {
	d := open(t)
	keep(t, d, "v1")
	before, err := os.Stat(filepath.Join(d.Path(), recordName))
	must(t, err)
	_, err = d.Update(quiet(t), nothing)
	must(t, err)
	after, err := os.Stat(filepath.Join(d.Path(), recordName))
	must(t, err)
	if !os.SameFile(before, after) {
		t.Error("the record was written without a change")
	}
	failure := errors.New("no")
	if _, err := d.Update(quiet(t), func(*Record) error { return failure }); !errors.Is(err, failure) {
		t.Error(err)
	}
}

// Any order of starts, verdicts and crashes between two writes leaves a record
// that can be read, and a choice that can be started: the file, or a copy whose
// content is a version that has proven itself.
func TestAnyOrder(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds = 20
	}
	for seed := range uint64(rounds) {
		anyOrder(t, seed)
		if t.Failed() {
			return
		}
	}
}

func anyOrder(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	d := open(t)
	proven := map[Identity]string{}
	file := "v0"
	version := 0
	var said []string
	say := func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
	defer func() {
		if t.Failed() {
			t.Logf("seed %d:\n%s", seed, strings.Join(said, "\n"))
		}
	}()
	launches := func() Choice {
		var choice Choice
		_, err := d.Update(quiet(t), func(r *Record) error {
			noGood := d.CheckCopy(r.Good)
			choice = r.Choose(Candidate{Path: "/x", Identity: content(file), NoGood: noGood}, noon)
			if !choice.Good {
				return nil
			}
			if noGood != nil {
				t.Errorf("the copy cannot be started: %v", noGood)
			} else if got, ok := proven[r.Good.Identity]; !ok || got != read(t, d.CopyOf(r.Good.Identity)) {
				t.Errorf("the copy is of %q, which has not proven itself", got)
			}
			return nil
		})
		if err != nil {
			t.Errorf("launch: %v", err)
		}
		say("launch %s: %+v", file, choice)
		return choice
	}
	for range 30 {
		switch random.IntN(8) {
		case 0:
			version++
			file = fmt.Sprintf("v%d", version)
			say("install %s", file)
		case 1, 2:
			launches()
		case 3:
			say("%s failed", file)
			if _, err := d.Update(quiet(t), func(r *Record) error { r.Mark(failed(file)); return nil }); err != nil {
				t.Error(err)
			}
		case 4:
			say("%s proven", file)
			proven[content(file)] = file
			keep(t, d, file)
			if random.IntN(2) == 0 { // else a crash just before
				must(t, d.RemoveOthers())
			}
			copies, err := filepath.Glob(filepath.Join(d.Path(), copyPrefix+"*"))
			if r, readErr := d.Read(); err != nil || readErr != nil || r.Previous != nil && d.CheckCopy(r.Previous) != nil {
				t.Errorf("no copy of %+v among %q, %v, %v", r.Previous, copies, err, readErr)
			}
			r, err := d.Read()
			if _, marked := r.FailedBefore(content(file)); marked || err != nil {
				t.Errorf("%s is marked although it has proven itself, %v", file, err)
			}
			if launches().Good {
				t.Errorf("the copy starts instead of the same file")
			}
		case 5:
			say("a crash after the copy of %s", file)
			half, err := os.CreateTemp(d.Path(), newPrefix)
			must(t, err)
			must(t, half.Close())
			write(t, d.CopyOf(content(file)), file, 0o755)
		case 6:
			// It may be undone, and then it was nothing.
			var before, after string
			if _, err := d.Update(quiet(t), func(r *Record) error {
				to := r.Before(content(file))
				if to == nil || d.CheckCopy(to) != nil {
					return nil
				}
				before = text0(t, *r)
				undo := r.RollBack(*to, failed(file), Candidate{Path: "/x", Identity: content(file)})
				if _, marked := r.FailedBefore(content(file)); !marked || r.Good.Identity != to.Identity {
					t.Errorf("rolled back from %s: %s", file, text0(t, *r))
				}
				if say("roll %s back to %s", file, to.Version); random.IntN(2) == 0 {
					say("and undo that")
					undo(r)
					after = text0(t, *r)
				}
				return nil
			}); err != nil || after != "" && after != before {
				t.Errorf("%v, the record was\n%s, and is\n%s", err, before, after)
			}
		case 7:
			say("retry")
			if _, err := d.Update(quiet(t), func(r *Record) error { r.Retry(); return nil }); err != nil {
				t.Error(err)
			}
		}
		if _, err := d.Read(); err != nil {
			t.Errorf("the record: %v", err)
		}
		if t.Failed() {
			return
		}
	}
	// However it came to this, a file that never comes up is given up.
	keep(t, d, "the good one")
	proven[content("the good one")] = "the good one"
	file = "the bad one"
	for n := 1; !launches().Good; n++ {
		if n > MaxAttempts {
			t.Fatalf("attempt %d", n)
		}
	}
}
