// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

const (
	// maxLine is where journald breaks a line (LineMax=).
	maxLine = 48 << 10
	// maxEntries bounds the memory of a manager; older lines are forgotten.
	maxEntries = 200_000
)

// A journal keeps the lines of one service and its sockets.
type journal struct {
	entries []wire.JournalEntry
	cursor  uint64 // of the last entry
	emit    func(wire.JournalEntry)
	streams map[*stream]bool
	drained []byte
}

func newJournal(emit func(wire.JournalEntry)) *journal {
	return &journal{emit: emit, streams: make(map[*stream]bool)}
}

func (j *journal) add(e wire.JournalEntry) {
	j.cursor++
	e.Cursor, e.Time = j.cursor, time.Now()
	if len(j.entries) >= maxEntries {
		j.entries = append(j.entries[:0:0], j.entries[maxEntries/10:]...)
	}
	j.entries = append(j.entries, e)
	j.emit(e)
}

// since returns the entries after a cursor.
func (j *journal) since(cursor uint64) []wire.JournalEntry {
	for i, e := range j.entries {
		if e.Cursor > cursor {
			return j.entries[i:]
		}
	}
	return nil
}

// A stream is where one start of a command writes, and all its descendants
// that have the descriptor from it. As with journald it is a stream socket that
// says with each write which process wrote.
type stream struct {
	journal    *journal
	fd         int
	id         string // for JOURNAL_STREAM
	source     *source
	unit       string
	identifier string
	level      int
	prefixed   bool // <N> at the beginning of a line is its priority

	pid  int // who wrote line
	line []byte
}

// open makes a stream and returns the end that a process writes to, which is
// the caller's. Reading begins with start.
func (j *journal) open(l *loop, unitName, identifier string, level int, prefixed bool) (*stream, int, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, -1, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := pair[0], pair[1]
	s := &stream{journal: j, fd: ours, unit: unitName, identifier: identifier, level: level, prefixed: prefixed}
	var stat unix.Stat_t
	err = errors.Join(
		os.NewSyscallError("setsockopt SO_PASSCRED", unix.SetsockoptInt(ours, unix.SOL_SOCKET, unix.SO_PASSCRED, 1)),
		os.NewSyscallError("shutdown", unix.Shutdown(theirs, unix.SHUT_RD)),
		os.NewSyscallError("fcntl", unix.SetNonblock(ours, true)),
		os.NewSyscallError("fstat", unix.Fstat(theirs, &stat)))
	if err == nil {
		s.id = fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
		s.source, err = l.watch(ours, unix.EPOLLIN, priorityJournal, func(uint32) { s.read() })
	}
	if err != nil {
		return nil, -1, errors.Join(err, unix.Close(ours), unix.Close(theirs))
	}
	j.streams[s] = true
	return s, theirs, nil
}

// start says which process it belongs to until another one writes. A nil
// stream is none.
func (s *stream) start(pid int) {
	if s != nil && s.pid == 0 {
		s.pid = pid
	}
}

// close ends the stream with what is in it.
func (s *stream) close() {
	if s == nil || !s.journal.streams[s] {
		return
	}
	s.flush()
	s.source.remove()
	_ = unix.Close(s.fd)
	delete(s.journal.streams, s)
}

// drain reads what has been written up to now; no more than a few megabytes, from
// processes that write faster than they are read.
func (j *journal) drain() {
	for s := range j.streams {
		for range 64 {
			if !s.read() {
				break
			}
		}
	}
}

// read takes one piece and reports whether there was one.
func (s *stream) read() bool {
	if s.journal.drained == nil {
		s.journal.drained = make([]byte, 64<<10)
	}
	control := make([]byte, unix.CmsgSpace(unix.SizeofUcred)+unix.CmsgSpace(4*16))
	n, controlled, _, _, err := unix.Recvmsg(s.fd, s.journal.drained, control, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err == unix.EAGAIN || err == unix.EINTR {
		return false
	}
	if err != nil || n == 0 {
		s.close()
		return false
	}
	if pid := writer(control[:controlled]); pid != 0 && pid != s.pid {
		s.flush()
		s.pid = pid
	}
	s.write(s.journal.drained[:n])
	return true
}

// writer returns the PID in control messages, and closes descriptors that
// somebody sent along.
func writer(control []byte) int {
	pid := 0
	messages, _ := unix.ParseSocketControlMessage(control)
	for i := range messages {
		if credentials, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			pid = int(credentials.Pid)
		}
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
		}
	}
	return pid
}

func (s *stream) write(data []byte) {
	for len(data) > 0 {
		i := bytes.IndexAny(data, "\n\x00")
		room := maxLine - len(s.line)
		if i < 0 && len(data) < room {
			s.line = append(s.line, data...)
			return
		}
		if i < 0 || i > room {
			s.line = append(s.line, data[:room]...)
			data = data[room:]
		} else {
			s.line = append(s.line, data[:i]...)
			data = data[i+1:]
		}
		s.flush()
	}
}

// flush makes an entry of what is there of a line, if anything is.
func (s *stream) flush() {
	line := strings.TrimRight(string(s.line), " \t\r\n")
	s.line = s.line[:0]
	level := s.level
	if s.prefixed && len(line) >= 3 && line[0] == '<' && line[1] >= '0' && line[1] <= '7' && line[2] == '>' {
		level, line = int(line[1]-'0'), line[3:]
	}
	if line == "" {
		return
	}
	s.journal.add(wire.JournalEntry{Unit: s.unit, PID: s.pid, Identifier: s.identifier, Priority: level, Message: line})
}

// log writes a line in the manager's name. Lines for debugging are not kept, as by default.
func (m *manager) log(level int, format string, args ...any) {
	m.logUnit(m.service.Name, level, format, args...)
}

func (m *manager) logUnit(unitName string, level int, format string, args ...any) {
	const debug = 7
	if level >= debug {
		return
	}
	text := fmt.Sprintf(format, args...)
	// What is about a job names the unit itself, by its description.
	if !strings.Contains(text, " "+unitName) && !strings.Contains(text, " "+m.service.Description) {
		text = unitName + ": " + text
	}
	m.journal.add(wire.JournalEntry{
		Unit: unitName, PID: os.Getpid(), Identifier: "systemd", Priority: level, Message: text,
	})
}
