// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pidFileEvents are those of a path unit with PathChanged=.
const pidFileEvents = unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ATTRIB | unix.IN_CLOSE_WRITE |
	unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO

// A pidFileWatch tells of changes of PIDFile=.
type pidFileWatch struct {
	path   string
	fd     int // of inotify
	source *source
	first  *alarm // looks for the file that is there already
}

func (m *manager) readPIDFile() (int, error) {
	text, err := os.ReadFile(m.service.PIDFile)
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.ParseInt(strings.TrimSpace(line), 10, 32)
	if err != nil || pid <= 0 {
		return 0, fmt.Errorf("read PID from file %s: %q is no PID", m.service.PIDFile, line)
	}
	return int(pid), nil
}

func (m *manager) removePIDFile() {
	if path := m.service.PIDFile; path != "" {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			m.log(4, "Failed to unlink PID file %s: %v", path, err)
		}
	}
}

func (m *manager) watchPIDFile(on bool) {
	if m.pidFile != nil {
		m.pidFile.source.remove()
		m.pidFile.first.stop()
		_ = unix.Close(m.pidFile.fd)
		m.pidFile = nil
	}
	if !on {
		return
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		m.log(3, "Failed to set a watch for PID file %s: %v", m.service.PIDFile, err)
		return
	}
	w := &pidFileWatch{path: m.service.PIDFile, fd: fd}
	w.add()
	w.source, err = m.loop.watch(fd, unix.EPOLLIN, priorityNormal, func(uint32) {
		buffer := make([]byte, 4096)
		for {
			if n, err := unix.Read(fd, buffer); err != nil || n <= 0 {
				break
			}
		}
		w.add()
		m.machine.pidFileChanged()
	})
	if err != nil {
		m.log(3, "Failed to set a watch for PID file %s: %v", w.path, err)
		_ = unix.Close(fd)
		return
	}
	m.pidFile = w
	// It may have been written before the watch began.
	w.first = m.loop.after(0, priorityNormal, m.machine.pidFileChanged)
}

// add watches the directories that lead to the file, as far as they exist. To
// add one again changes nothing.
func (w *pidFileWatch) add() {
	for path := w.path; path != "/" && path != "."; path = filepath.Dir(path) {
		_, _ = unix.InotifyAddWatch(w.fd, path, pidFileEvents)
	}
}
