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
	// maxUnread is how much a process may write before it is read: little, because
	// the test waits for it before each answer.
	maxUnread = 8 << 10
)

// A journal passes on the lines of one service and its sockets. Nothing is
// dropped: who writes faster than the test reads has to wait.
type journal struct {
	emit    func(wire.JournalEntry)
	behind  func() bool // whether the test has to catch up first
	streams map[*stream]bool
	waiting []*stream // that are not watched until the test has caught up
	buffer  []byte
}

func newJournal(emit func(wire.JournalEntry), behind func() bool) *journal {
	return &journal{emit: emit, behind: behind, streams: make(map[*stream]bool), buffer: make([]byte, 64<<10)}
}

func (j *journal) add(e wire.JournalEntry) {
	e.Time = time.Now()
	j.emit(e)
}

// A stream is where one start of a command writes, and all its descendants
// that have the descriptor from it. As with journald it is a stream socket that
// says with each write which process wrote.
type stream struct {
	journal    *journal
	loop       *loop
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
	s := &stream{journal: j, loop: l, fd: ours, unit: unitName, identifier: identifier, level: level, prefixed: prefixed}
	var stat unix.Stat_t
	err = errors.Join(
		os.NewSyscallError("setsockopt SO_PASSCRED", unix.SetsockoptInt(ours, unix.SOL_SOCKET, unix.SO_PASSCRED, 1)),
		os.NewSyscallError("setsockopt SO_SNDBUF", unix.SetsockoptInt(theirs, unix.SOL_SOCKET, unix.SO_SNDBUF, maxUnread)),
		os.NewSyscallError("shutdown", unix.Shutdown(theirs, unix.SHUT_RD)),
		os.NewSyscallError("fcntl", unix.SetNonblock(ours, true)),
		os.NewSyscallError("fstat", unix.Fstat(theirs, &stat)))
	if err == nil {
		s.id = fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
		err = s.watch()
	}
	if err != nil {
		return nil, -1, errors.Join(err, unix.Close(ours), unix.Close(theirs))
	}
	j.streams[s] = true
	return s, theirs, nil
}

func (s *stream) watch() (err error) {
	s.source, err = s.loop.watch(s.fd, unix.EPOLLIN, priorityJournal, func(uint32) { s.ready() })
	return err
}

// ready reads a piece, or leaves it where it is until the test has caught up.
func (s *stream) ready() {
	if !s.journal.behind() {
		s.read()
		return
	}
	s.source.remove()
	s.journal.waiting = append(s.journal.waiting, s)
}

// caughtUp goes on with the streams that wait.
func (j *journal) caughtUp() {
	waiting := j.waiting
	j.waiting = nil
	for _, s := range waiting {
		if j.streams[s] && s.watch() != nil {
			s.close()
		}
	}
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

// drain reads what has been written up to now, which is at most what the socket
// takes. What processes write meanwhile is for later.
func (j *journal) drain() {
	for s := range j.streams {
		for left := s.unread(); left > 0; {
			n := s.read()
			if n == 0 {
				break
			}
			left -= n
		}
	}
}

// unread is how many bytes wait. It is 1 at the end of the stream, to be read too.
func (s *stream) unread() int {
	poll := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, 0); err != nil || n == 0 {
		return 0
	}
	n, err := unix.IoctlGetInt(s.fd, unix.SIOCINQ)
	if err != nil {
		return 1
	}
	return max(n, 1)
}

// read takes one piece and returns its size, 0 if there was none.
func (s *stream) read() int {
	buffer := s.journal.buffer
	control := make([]byte, unix.CmsgSpace(unix.SizeofUcred)+unix.CmsgSpace(4*16))
	n, controlled, _, _, err := unix.Recvmsg(s.fd, buffer, control, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err == unix.EAGAIN || err == unix.EINTR {
		return 0
	}
	if err != nil || n == 0 {
		s.close()
		return 0
	}
	if pid := writer(control[:controlled]); pid != 0 && pid != s.pid {
		s.flush()
		s.pid = pid
	}
	s.write(buffer[:n])
	return n
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
