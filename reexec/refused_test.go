// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// mustRefuse asks for an upgrade that must be refused for this reason, and
// checks that nothing has changed.
func (s *service) mustRefuse(main int, want string) control.Verdict {
	s.t.Helper()
	v, _ := s.upgrade()
	if v.Outcome != control.Refused {
		s.t.Fatalf("verdict %q (%s), want refused", v.Outcome, v.Reason)
	}
	if !strings.Contains(v.Reason, want) {
		s.t.Errorf("reason %q, want it to say %q", v.Reason, want)
	}
	s.mustServe(main)
	if last := s.status().Last; last == nil || last.Reason != v.Reason {
		s.t.Errorf("the status knows %+v of it", last)
	}
	return v
}

// bad is a version that must be refused.
type bad struct {
	name   string
	change func(*plan)
	want   string // of the reason; %d stands for the PID of the successor
}

// refuse offers bad versions to a service under load, then a good one.
func refuse(t *testing.T, p plan, managed bool, list func(s *service) []bad) {
	s := start(t, setup{plan: p, managed: managed})
	load := startLoad(t, s.url("/echo"), 2)
	for _, c := range list(s) {
		begin := time.Now()
		s.release("bad", c.change)
		v, _ := s.upgrade()
		want := c.want
		if strings.Contains(want, "%d") {
			if v.To == nil {
				t.Errorf("%s: the verdict names no successor: %+v", c.name, v)
				continue
			}
			want = fmt.Sprintf(want, v.To.PID)
		}
		if v.Outcome != control.Refused || !strings.Contains(v.Reason, want) {
			t.Errorf("%s: verdict %q, reason %q; want refused, %q", c.name, v.Outcome, v.Reason, want)
		}
		s.mustServe(s.first)
		if v.To != nil && v.To.PID != 0 {
			s.waitGone(v.To.PID)
		}
		t.Logf("%s: %v", c.name, time.Since(begin).Round(time.Millisecond))
	}
	s.release("v2", nil)
	st := s.upgradeInTime()
	s.mustServe(st.PID)
	load.mustBeWhole()
}

// upgradeInTime is mustUpgrade for a service whose bounds are as short as a test of them
// needs: on a busy machine a sound version reaches them, too, and is asked again.
func (s *service) upgradeInTime() control.Status {
	s.t.Helper()
	for deadline := time.Now().Add(4 * patience); ; {
		v, _ := s.upgrade()
		late := v.Outcome == control.Refused && strings.Contains(v.Reason, " within ")
		if !late || time.Now().After(deadline) {
			return s.mustBeUpgraded(v)
		}
		s.t.Logf("again: %s", v.Reason)
	}
}

// Whatever is wrong with the new version, it is refused with the reason, the
// old one serves on without a hitch, and the next upgrade works.
func TestRefused(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		refuse(t, quick(), managed, func(s *service) []bad {
			return []bad{
				{"check fails", func(p *plan) { p.Check = "exit: greeting is empty" }, "self-check of " + s.path + ": greeting is empty"},
				{"check panics", func(p *plan) { p.Check = "panic: no such option" }, "exit status 2: panic: no such option"},
				{"no answer", func(p *plan) { p.Check = "mute" }, "gave no answer: call reexec.New in its main"},
				{"panics at its start", func(p *plan) { p.Early = "panic: a bad init" }, "successor (PID %d) " + died(managed, "exited with status 2") + ": panic: a bad init"},
				{"ends at its start", func(p *plan) { p.Early = "exit: no licence" }, "successor (PID %d) " + died(managed, "exited with status 1") + ": "},
				{"panics while it builds", func(p *plan) { p.Built = "panic: no database" }, "successor (PID %d) " + died(managed, "exited with status 2") + ": panic: no database"},
				{"ends while it builds", func(p *plan) { p.Built = "exit: no cache" }, "successor (PID %d) " + died(managed, "exited with status 1")},
				{"cannot bind", func(p *plan) {
					p.Listeners = append(p.Listeners, planSocket{"admin", "tcp", "192.0.2.1:80"})
				}, `successor (PID %d) ` + died(managed, "exited with status 1") + `: reexec: listen "admin": `},
				{"another service", func(p *plan) { p.Name = "another" }, s.path + ` is the service "another", this is "service"`},
				{"garbage on the handover socket", func(p *plan) { p.Early = "garbage: HTTP/1.1 400 Bad Request" }, "successor (PID %d): handover: bad frame"},
				{"closes the handover socket", func(p *plan) { p.Early = "close" }, "successor (PID %d) closed the handover socket and lives on"},
			}
		})
	})
}

func TestCheckTimeout(t *testing.T) {
	t.Parallel()
	p := quick()
	p.CheckTimeout = time.Second
	refuse(t, p, false, func(s *service) []bad {
		return []bad{
			{"check hangs", func(p *plan) { p.Check = "hang" }, "self-check of " + s.path + " did not end within 1s"},
			{"knows nothing of the check", func(p *plan) { p.Check = "ignore" }, "self-check of " + s.path + " did not end within 1s"},
		}
	})
}

func TestStartTimeout(t *testing.T) {
	environments(t, func(t *testing.T, managed bool) {
		p := quick()
		p.StartTimeout = 2 * time.Second
		refuse(t, p, managed, func(s *service) []bad {
			return []bad{
				{"never joins", func(p *plan) { p.Early = "hang" }, "not ready within 2s"},
				{"never ready", func(p *plan) { p.Built = "hang" }, "not ready within 2s"},
				{"never healthy", func(p *plan) {
					p.HealthFile = filepath.Join(s.dir, "ill")
					writeFile(t, p.HealthFile, "no connection to the database")
				}, "not ready within 2s: no connection to the database"},
			}
		})
	})
}

// died is what the verdict says of the end of a process: only its parent knows
// how, before Linux 6.15.
func died(managed bool, how string) string {
	var name unix.Utsname
	var major, minor int
	if unix.Uname(&name) == nil {
		_, _ = fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	}
	if managed && (major < 6 || major == 6 && minor < 15) {
		return "died"
	}
	return how
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	next := path + ".new"
	if err := os.WriteFile(next, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

// What is behind the path decides at the moment of the upgrade.
func TestPreCheckOfTheFile(t *testing.T) {
	t.Parallel()
	s := start(t, setup{plan: quick()})
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		t.Fatal("the test has no build information")
	}
	place := func(make func(path string) error) {
		t.Helper()
		next := s.path + ".new"
		if err := make(next); err != nil {
			t.Fatal(err)
		}
		// A directory gives way to nothing but a directory.
		_ = os.Remove(s.path)
		if err := os.Rename(next, s.path); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	file := func(data []byte, mode os.FileMode) func(string) error {
		return func(path string) error {
			if err := os.WriteFile(path, data, mode); err != nil {
				return err
			}
			return os.Chmod(path, mode)
		}
	}
	sparc := bytes.Clone(program)
	binary.NativeEndian.PutUint16(sparc[18:], uint16(elf.EM_SPARCV9)) // e_machine, see elf(5)
	renamed := bytes.ReplaceAll(program, []byte("path\t"+info.Path+"\n"), []byte("path\t"+strings.Repeat("x", len(info.Path))+"\n"))
	for _, c := range []struct {
		make func(string) error
		want string
	}{
		{func(string) error { return nil }, "open " + s.path + ": no such file or directory"},
		{func(path string) error { return os.Mkdir(path, 0o755) }, s.path + " is not a regular file but a directory"},
		{func(path string) error { return syscall.Mkfifo(path, 0o755) }, s.path + " is not a regular file but a FIFO"},
		{func(path string) error { return os.Symlink("service", path) }, "open " + s.path + ": too many levels of symbolic links"},
		{file(program, 0o644), s.path + " is not executable (mode 0644): permission denied: chmod +x"},
		{file(program, 0o777), s.path + " has mode 0777: others than its owner may write it: chmod go-w"},
		{file([]byte("#!/bin/sh\nexit 0\n"), 0o755), s.path + " is not an ELF executable"},
		{file(program[:len(program)/2], 0o755), s.path + " is "},
		{file(sparc, 0o755), s.path + " is built for EM_SPARCV9, this machine is "},
		{file(renamed, 0o755), s.path + " is the program xxx"},
	} {
		place(c.make)
		s.mustRefuse(s.first, c.want)
	}
	// The same program in another file, and another file behind the link.
	place(file(program, 0o755))
	st := s.mustUpgrade()
	if err := os.Mkdir(filepath.Join(s.dir, "v3"), 0o755); err != nil {
		t.Fatal(err)
	}
	copyFile(t, "/proc/self/exe", filepath.Join(s.dir, "v3", "service"))
	place(func(path string) error { return os.Symlink("v3/service", path) })
	s.release("v3", nil)
	st = s.mustUpgrade()
	if got, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", st.PID)); err != nil || got != filepath.Join(s.dir, "v3", "service") {
		t.Errorf("%s runs, %v", got, err)
	}
	// It is known by its own name, not by the descriptor's number.
	if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", st.PID)); err != nil || string(name) != "service\n" {
		t.Errorf("ps shows it as %q, %v", name, err)
	}
}
