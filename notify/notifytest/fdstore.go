// SPDX-License-Identifier: Apache-2.0

package notifytest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxName is the longest name in bytes that the fd store takes.
const maxName = 255

// unnamed is the name of a descriptor that was stored without a valid one.
const unnamed = "stored"

// FDStore keeps descriptors as systemd does for one service, in silence: its
// answer to whatever does not fit is to drop the descriptor. Warnings tells
// what systemd would have written to the journal.
//
// It is safe for concurrent use.
type FDStore struct {
	mu       sync.Mutex
	max      int
	entries  []StoredFD // newest first
	warnings []string
	watcher  Watcher
}

// A Watcher is told which descriptors a store has, so that it can notice a
// hang-up at the moment it happens. It may not use the store from within its methods.
type Watcher interface {
	// Stored is called when an entry was stored.
	Stored(StoredFD)
	// Dropped is called before the store closes the file of an entry.
	Dropped(StoredFD)
	// Warned is called with each of the Warnings.
	Warned(warning string)
}

// StoredFD is one entry of an [FDStore].
type StoredFD struct {
	Name string
	File *os.File // the store's copy; the store closes it
	Poll bool     // dropped at an error or a hang-up, unless FDPOLL=0
}

// NewFDStore returns an empty store with the limit that FileDescriptorStoreMax=
// sets in a unit; its default there is 0, which is no store at all. The caller
// closes it.
func NewFDStore(limit int) *FDStore { return &FDStore{max: limit} }

// Watch has w told of every entry from now on. The store no longer looks for
// hang-ups by itself: it is for the watcher to call Drop, as the event loop of systemd
// does, which may be later than the next message.
func (s *FDStore) Watch(w Watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watcher = w
	for _, e := range s.entries {
		w.Stored(e)
	}
}

// Drop removes the entry with that file because it reports an error or a
// hang-up. It does nothing if there is none.
func (s *FDStore) Drop(file *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries = slices.DeleteFunc(s.entries, func(e StoredFD) bool {
		if e.File != file {
			return false
		}
		s.warn("descriptor %q reports an error or a hang-up: dropped", e.Name)
		_ = s.discard(e)
		return true
	})
}

// discard closes the file of an entry.
func (s *FDStore) discard(e StoredFD) error {
	if s.watcher != nil {
		s.watcher.Dropped(e)
	}
	return e.File.Close()
}

// Handle does what systemd does with FDSTORE=1 and FDSTOREREMOVE=1. It takes
// the files that it stores out of m, which keeps the others.
func (s *FDStore) Handle(m *Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropHungUp()
	name, named := m.Value("FDNAME")
	switch {
	case m.Err != nil || m.IsBarrier():
	case m.Has("FDSTOREREMOVE=1"):
		if !named || !validName(name) {
			s.warn("FDSTOREREMOVE=1 without a valid FDNAME=: nothing removed")
			return
		}
		s.remove(name)
	case m.Has("FDSTORE=1"):
		if named && !validName(name) {
			s.warn("FDNAME=%q is not valid: stored as %q", name, unnamed)
			named = false
		}
		if !named {
			name = unnamed
		}
		s.add(m, name, !m.Has("FDPOLL=0"))
	}
}

// add stores the files of m. The store is full before a duplicate is looked
// for, so storing again what is stored fails too.
func (s *FDStore) add(m *Message, name string, poll bool) {
	for len(m.Files) > 0 {
		if len(s.entries) >= s.max {
			s.warn("store of %d descriptors is full: %q and what came with it dropped", s.max, name)
			return
		}
		file := m.Files[0]
		if i := slices.IndexFunc(s.entries, func(e StoredFD) bool { return sameFile(e.File, file) }); i >= 0 {
			s.warn("descriptor %q is stored already as %q", name, s.entries[i].Name)
			_ = file.Close()
		} else {
			e := StoredFD{Name: name, File: file, Poll: poll}
			s.entries = slices.Insert(s.entries, 0, e)
			if s.watcher != nil {
				s.watcher.Stored(e)
			}
		}
		m.Files = m.Files[1:]
	}
}

// remove closes all entries of that name.
func (s *FDStore) remove(name string) {
	s.entries = slices.DeleteFunc(s.entries, func(e StoredFD) bool {
		if e.Name == name {
			_ = s.discard(e)
		}
		return e.Name == name
	})
}

func (s *FDStore) warn(format string, args ...any) {
	warning := fmt.Sprintf(format, args...)
	s.warnings = append(s.warnings, warning)
	if s.watcher != nil {
		s.watcher.Warned(warning)
	}
}

// Entries returns what is stored, newest first, which is the order in which
// systemd passes it to the next start. Descriptors with an error or a hang-up
// are dropped first. The files belong to the store: they stay open until the
// entry is removed or the store closed.
func (s *FDStore) Entries() []StoredFD {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropHungUp()
	return slices.Clone(s.entries)
}

// dropHungUp does what the manager's event loop does at an error or a hang-up.
func (s *FDStore) dropHungUp() {
	if s.watcher != nil {
		return
	}
	s.entries = slices.DeleteFunc(s.entries, func(e StoredFD) bool {
		hungUp := e.Poll && hasHungUp(e.File)
		if hungUp {
			s.warn("descriptor %q reports an error or a hang-up: dropped", e.Name)
			_ = s.discard(e)
		}
		return hungUp
	})
}

// Names returns the names of the entries, newest first.
func (s *FDStore) Names() []string {
	var names []string
	for _, e := range s.Entries() {
		names = append(names, e.Name)
	}
	return names
}

// Warnings returns what was dropped or renamed in silence, in its order.
func (s *FDStore) Warnings() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.warnings)
}

// DaemonReload reverses the order of the entries, as every daemon-reload does:
// systemd writes its list from head to tail and reads it back by prepending.
func (s *FDStore) DaemonReload() {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Reverse(s.entries)
}

// SetMax changes the limit, as a daemon-reload with another
// FileDescriptorStoreMax= does just before it reverses the order: of more entries than
// that, the newest stay.
func (s *FDStore) SetMax(limit int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.max = limit
	for len(s.entries) > limit {
		last := s.entries[len(s.entries)-1]
		s.entries = s.entries[:len(s.entries)-1]
		s.warn("store of %d descriptors is full: %q dropped", limit, last.Name)
		_ = s.discard(last)
	}
}

// Close closes all entries, as systemd does when the service stops. The store
// can be used on.
func (s *FDStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for _, e := range s.entries {
		err = errors.Join(err, s.discard(e))
	}
	s.entries = nil
	return err
}

// validName applies systemd's rule for names; the empty name is valid.
func validName(name string) bool {
	return len(name) <= maxName && strings.IndexFunc(name, func(r rune) bool {
		return r < 0x20 || r > 0x7e || r == ':'
	}) < 0
}

// hasHungUp reports whether a watcher of the descriptor sees an error or a
// hang-up now.
func hasHungUp(file *os.File) bool {
	revents := int16(0)
	control(file, func(fd int) {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		for {
			if _, err := unix.Poll(fds, 0); err != unix.EINTR {
				break
			}
		}
		revents = fds[0].Revents
	})
	return revents&(unix.POLLERR|unix.POLLHUP) != 0
}

// sameFile reports whether two descriptors are copies of one description. It
// asks the kernel where that is possible, and otherwise compares inodes.
func sameFile(a, b *os.File) bool {
	same := false
	control(a, func(x int) {
		control(b, func(y int) {
			// Since Linux 6.10; kcmp(2) may be compiled out or forbidden.
			if answer, err := unix.FcntlInt(uintptr(x), unix.F_DUPFD_QUERY, y); err == nil {
				same = answer == 1
				return
			}
			const kcmpFile = 0
			pid := uintptr(os.Getpid())
			answer, _, errno := unix.Syscall6(unix.SYS_KCMP, pid, pid, kcmpFile, uintptr(x), uintptr(y), 0)
			if errno == 0 {
				same = answer == 0
				return
			}
			var s, t unix.Stat_t
			same = unix.Fstat(x, &s) == nil && unix.Fstat(y, &t) == nil &&
				s.Dev == t.Dev && s.Ino == t.Ino && s.Mode == t.Mode
		})
	})
	return same
}

// control calls f with the descriptor of file, unless that is closed.
func control(file syscall.Conn, f func(fd int)) {
	raw, err := file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { f(int(fd)) })
}
