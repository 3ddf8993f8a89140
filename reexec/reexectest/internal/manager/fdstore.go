// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/notify/notifytest"
	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// A storeWatch is the fd store of the service, whose entries the loop watches
// for hang-ups.
type storeWatch struct {
	*notifytest.FDStore
	manager *manager
	sources map[*os.File]*source
}

func (m *manager) newStore(limit int) *storeWatch {
	s := &storeWatch{FDStore: notifytest.NewFDStore(limit), manager: m, sources: make(map[*os.File]*source)}
	s.Watch(s)
	return s
}

// Stored begins to watch an entry. Files that cannot be polled are kept without, as
// systemd does.
func (s *storeWatch) Stored(e notifytest.StoredFD) {
	if !e.Poll {
		return
	}
	control(e.File, func(fd int) {
		// With no events wanted, errors and hang-ups are told all the same.
		source, err := s.manager.loop.watch(fd, 0, priorityNormal, func(uint32) { s.hungUp(e.File) })
		if err == nil {
			s.sources[e.File] = source
		}
	})
}

// Dropped ends the watch before the file is closed.
func (s *storeWatch) Dropped(e notifytest.StoredFD) {
	s.sources[e.File].remove()
	delete(s.sources, e.File)
}

func (s *storeWatch) Warned(warning string) {
	if strings.Contains(warning, "is full") {
		s.manager.logFullStore()
		return
	}
	s.manager.log(6, "%s", warning)
}

func (m *manager) logFullStore() {
	m.log(4, "Cannot store more fds than FileDescriptorStoreMax=%d, closing remaining.", m.service.FileDescriptorStoreMax)
}

func (s *storeWatch) hungUp(file *os.File) {
	s.Drop(file)
	s.manager.changed()
	if s.len() == 0 {
		s.manager.machine.storeEmptied()
	}
}

func (s *storeWatch) len() int { return len(s.Entries()) }

func (s *storeWatch) release() {
	if s.len() == 0 {
		return
	}
	if err := s.Close(); err != nil {
		s.manager.log(4, "Failed to close what was stored: %v", err)
	}
	s.manager.changed()
}

// refuse handles a message as a full store does.
func (s *storeWatch) refuse(m *manager, message *notifytest.Message) {
	if !message.Has("FDSTOREREMOVE=1") && len(message.Files) > 0 {
		m.logFullStore()
	}
	_ = message.Close()
}

// storedFiles are what the next start is passed from the store.
func (m *manager) storedFiles() []passed {
	var all []passed
	for _, e := range m.fds.Entries() {
		control(e.File, func(fd int) { all = append(all, passed{fd: fd, name: e.Name}) })
	}
	return all
}

// describeStore is DumpUnitFileDescriptorStore.
func (m *manager) describeStore() []wire.StoredFD {
	all := []wire.StoredFD{}
	for _, e := range m.fds.Entries() {
		control(e.File, func(fd int) {
			d := wire.StoredFD{Name: e.Name}
			var stat unix.Stat_t
			if unix.Fstat(fd, &stat) == nil {
				d.Mode, d.Inode = stat.Mode, stat.Ino
				dev, rdev := uint64(stat.Dev), uint64(stat.Rdev)
				d.DevMajor, d.DevMinor = unix.Major(dev), unix.Minor(dev)
				d.RdevMajor, d.RdevMinor = unix.Major(rdev), unix.Minor(rdev)
			}
			d.Path, _ = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			d.Flags, _ = unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			all = append(all, d)
		})
	}
	return all
}

// control calls f with the descriptor of a file. (*os.File).Fd would change its blocking mode.
func control(file *os.File, f func(fd int)) {
	raw, err := file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { f(int(fd)) })
}
