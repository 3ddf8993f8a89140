// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/notify/notifytest"
	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// A notifySocket is where the service speaks to its manager.
type notifySocket struct {
	address string
	socket  *notifytest.Socket
	source  *source
	held    *notifytest.Message // taken from the queue, and delayed by a fault
}

// listenNotify opens the socket at the place that systemd has it.
func (m *manager) listenNotify() error {
	n := m.notify
	n.address = filepath.Join(m.config.Root, "run/systemd/notify")
	if err := makeParents(n.address, 0o755); err != nil {
		return err
	}
	socket, err := notifytest.Listen(n.address)
	if err != nil {
		return fmt.Errorf("%w; a shorter Root may help", err)
	}
	// Whoever has a socket in the file system may send: systemd's is open to all.
	if err := os.Chmod(n.address, 0o777); err != nil {
		return errors.Join(err, socket.Close())
	}
	n.socket = socket
	return m.watchNotify()
}

func (m *manager) watchNotify() error {
	raw, err := m.notify.socket.SyscallConn()
	if err != nil {
		return err
	}
	var watchErr error
	err = raw.Control(func(fd uintptr) {
		m.notify.source, watchErr = m.loop.watch(int(fd), unix.EPOLLIN, priorityNotify, func(uint32) { m.receiveNotify() })
	})
	return errors.Join(err, watchErr)
}

// closeNotify closes the socket with what is in its queue.
func (m *manager) closeNotify() {
	n := m.notify
	if n.socket == nil {
		return
	}
	n.source.remove()
	if n.held != nil {
		_ = n.held.Close()
		n.held = nil
	}
	if err := n.socket.Close(); err != nil && !errors.Is(err, os.ErrNotExist) {
		m.log(4, "Failed to close the notify socket: %v", err)
	}
	n.socket = nil
}

// receiveNotify takes one message from the queue.
func (m *manager) receiveNotify() {
	message, err := m.notify.socket.TryReceive()
	if errors.Is(err, unix.EAGAIN) {
		return
	}
	if err != nil {
		m.log(4, "Failed to receive notification message: %v", err)
		return
	}
	if fault := m.faults.strike(wire.DropNotify, message); fault != nil {
		m.struck(fault, message.Sender.PID)
		m.tellNotify(message, time.Now(), false, "dropped by a fault")
		_ = message.Close()
		return
	}
	if fault := m.faults.strike(wire.DelayNotify, message); fault != nil {
		m.struck(fault, message.Sender.PID)
		m.notify.source.remove()
		m.notify.held = message
		fault.release = m.loop.after(fault.Delay, priorityNotify, m.releaseNotify)
		return
	}
	m.handleNotify(message)
}

// releaseNotify handles a delayed message and goes on with the queue.
func (m *manager) releaseNotify() {
	message := m.notify.held
	if message == nil {
		return // the socket was closed meanwhile
	}
	m.notify.held = nil
	if err := m.watchNotify(); err != nil {
		m.log(3, "Failed to watch the notify socket: %v", err)
	}
	m.handleNotify(message)
}

// handleNotify does what systemd does with a message: barriers before anything else,
// then the unit of the sender, then NotifyAccess=, then the fields.
func (m *manager) handleNotify(message *notifytest.Message) {
	defer message.Close()
	received := time.Now()
	switch {
	case errors.Is(message.Err, notifytest.ErrTooLong):
		m.log(4, "Got message with truncated payload, ignoring: %v", message.Err)
	case message.Err != nil:
		m.log(4, "Got an invalid notification message, ignoring: %v", message.Err)
	}
	if message.Err != nil {
		m.tellNotify(message, received, false, message.Err.Error())
		return
	}
	if message.IsBarrier() {
		reason := ""
		if len(message.Fields) != 1 {
			reason = "Extra notification messages sent with BARRIER=1, ignoring everything."
		} else if message.Descriptors != 1 {
			reason = "Got incorrect number of fds with BARRIER=1, closing them."
		}
		if reason != "" {
			m.log(4, "%s", reason)
		}
		m.tellNotify(message, received, true, reason)
		return
	}
	pid := message.Sender.PID
	if !m.belongs(pid) {
		// systemd knows such a message as another unit's, or as nobody's.
		m.tellNotify(message, received, false, "the sender is not a process of the service")
		return
	}
	m.born(pid)
	m.lookSoon()
	note := notification{pid: pid, uid: message.Sender.UID, fields: message.Fields, files: message.Descriptors}
	if message.Has("MAINPIDFD=1") && m.config.Systemd >= 257 && len(message.Files) == 1 {
		note.mainPID = pidfdProcess(message.Files[0])
	}
	// The message is told before what comes of it.
	release := m.holdEvents()
	verdict := m.machine.message(note)
	if verdict.accepted {
		if message.Has("FDSTORE=1") {
			if fault := m.faults.strike(wire.FullStore, nil); fault != nil {
				m.struck(fault, pid)
				m.fds.refuse(m, message)
			}
		}
		before := m.fds.len()
		m.fds.Handle(message)
		if m.fds.len() != before {
			m.changed()
		}
	}
	consequences := release()
	m.tellNotify(message, received, verdict.accepted, verdict.reason)
	for _, message := range consequences {
		m.out.put(message)
	}
}

// tellNotify reports a message to the test.
func (m *manager) tellNotify(message *notifytest.Message, received time.Time, accepted bool, reason string) {
	n := &wire.Notify{
		PID: message.Sender.PID, UID: message.Sender.UID, Payload: message.Payload,
		Descriptors: message.Descriptors, Accepted: accepted, Reason: reason,
	}
	for _, f := range message.Fields {
		n.Fields = append(n.Fields, string(f))
	}
	m.event(wire.Event{Kind: wire.NotifyReceived, Time: received, Notify: n})
}

// pidfdProcess returns the process of a pidfd, or 0.
func pidfdProcess(file *os.File) int {
	raw, err := file.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
		if err != nil {
			return
		}
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, "Pid:"); ok {
				pid, _ = strconv.Atoi(strings.TrimSpace(value))
			}
		}
	})
	return max(pid, 0) // -1 if it has been reaped
}
