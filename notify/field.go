// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// MaxPayload is the longest message in bytes that every systemd reads
// (NOTIFY_BUFFER_MAX). It drops a longer one whole.
const MaxPayload = 4096

// MaxName is the longest name in bytes that the fd store takes.
const MaxName = 255

// Field is one assignment of a message, made by one of the constructors of
// this package and sent by [Notifier.Notify]. A Field may be kept, sent many
// times and shared by goroutines; a service that sends the same field often
// should keep it, for then sending it does not allocate.
//
// A constructor never fails by itself: a Field with a bad value carries a
// [FieldError], which Err tells and Notify returns.
type Field struct {
	text string // "NAME=value"; the separators are added when it is sent
	err  error
	is   role
	conn syscall.Conn // whose descriptor goes with the message
}

// role says which fields of the protocol a Field stands for, one bit each. It
// tells what may share a datagram.
type role uint32

const (
	isReady role = 1 << iota
	isReloading
	isStopping
	isMonotonic
	isStatus
	isNotifyAccess
	isErrno
	isBusError
	isVarlinkError
	isExitStatus
	isMainPID
	isMainPIDFDID
	isMainPIDFD
	isWatchdog
	isWatchdogInterval
	isExtendTimeout
	isRestartReset
	isStore
	isRemove
	isName
	isNoPoll
	isBarrier
)

// isCustom has no bit of its own: any number of private fields may be sent.
const isCustom role = 0

// String returns the field as it is sent: "NAME=value".
func (f Field) String() string { return f.text }

// Err returns the [FieldError] of a field that cannot be sent, nil otherwise.
func (f Field) Err() error {
	if f.err == nil && f.text == "" {
		return &FieldError{Reason: "empty field: use one of the constructors"}
	}
	return f.err
}

// name returns what stands before the "=".
func (f Field) name() string {
	name, _, _ := strings.Cut(f.text, "=")
	return name
}

// value returns what stands after it.
func (f Field) value() string {
	_, value, _ := strings.Cut(f.text, "=")
	return value
}

// newField makes a field of a value that was checked.
func newField(is role, name, value string) Field {
	return Field{text: name + "=" + value, is: is}
}

// refuse makes a field that carries an error.
func refuse(is role, name, value, reason string) Field {
	return Field{text: name + "=" + value, is: is, err: fieldError(name, value, reason)}
}

// checkLine says what a value must not contain. systemd splits a message at
// carriage returns as well as at newlines, so either of them would smuggle in
// a field of its own; it drops a message with a NUL byte.
func checkLine(value string) string {
	switch i := strings.IndexAny(value, "\n\r\x00"); {
	case i < 0:
		return ""
	case value[i] == '\n':
		return "must not contain a newline"
	case value[i] == '\r':
		return "must not contain a carriage return"
	default:
		return "must not contain a NUL byte"
	}
}

// Ready is READY=1: the service has started, or a reload is complete. It is
// read for Type=notify and Type=notify-reload. There is no way to say that a
// reload failed: READY=1 always means success.
func Ready() Field { return Field{text: "READY=1", is: isReady} }

// Reloading is RELOADING=1 (systemd 217) with MONOTONIC_USEC= (systemd 253):
// the service begins to reload. [Ready] must follow when the reload is over.
//
// Type=notify-reload demands the timestamp. It is read from CLOCK_MONOTONIC
// when the field is sent, so a field that was kept is never stale.
func Reloading() Field { return Field{text: "RELOADING=1", is: isReloading | isMonotonic} }

// Stopping is STOPPING=1 (systemd 217): the service begins to shut down.
//
// Coming from any process that NotifyAccess= admits, it puts the whole unit
// into stop, and from systemd 259 on nothing undoes that. A process that only
// drains while its successor serves must not send it.
func Stopping() Field { return Field{text: "STOPPING=1", is: isStopping} }

// MonotonicUsec is MONOTONIC_USEC= (systemd 253) with a timestamp of
// CLOCK_MONOTONIC in microseconds. [Reloading] sends the current one by
// itself; this is for a message that is forwarded.
func MonotonicUsec(usec uint64) Field {
	return newField(isMonotonic, "MONOTONIC_USEC", strconv.FormatUint(usec, 10))
}

// Status is STATUS=: one line of text that systemctl status shows. It must be
// valid UTF-8 without a line break; "" clears what was shown before.
//
// A backslash is sent as two, since systemd takes one away: it reads a message
// like a list of shell words. Sent alone, a backslash at the end of the text
// would join the next field to it, or have the whole message dropped.
func Status(text string) Field {
	if !utf8.ValidString(text) {
		return refuse(isStatus, "STATUS", text, "must be valid UTF-8")
	}
	if reason := checkLine(text); reason != "" {
		return refuse(isStatus, "STATUS", text, reason)
	}
	return newField(isStatus, "STATUS", strings.ReplaceAll(text, `\`, `\\`))
}

// Access is a value of NotifyAccess= in systemd.service(5): it says from which
// processes of the unit messages are taken.
type Access string

const (
	AccessNone Access = "none" // from none
	AccessMain Access = "main" // from the main process
	AccessExec Access = "exec" // from the main process and the Exec*= commands
	AccessAll  Access = "all"  // from every process in the unit's control group
)

// NotifyAccess is NOTIFYACCESS= (systemd 254): it overrides the unit's
// NotifyAccess= until the service stops.
func NotifyAccess(access Access) Field {
	switch access {
	case AccessNone, AccessMain, AccessExec, AccessAll:
		return newField(isNotifyAccess, "NOTIFYACCESS", string(access))
	}
	return refuse(isNotifyAccess, "NOTIFYACCESS", string(access), "must be none, main, exec or all")
}

// Errno is ERRNO=: the errno-style error of a service that failed. 0 clears
// it; the largest one that Linux knows is 4095.
func Errno(errno syscall.Errno) Field {
	const maxErrno = 4095
	text := strconv.FormatUint(uint64(errno), 10)
	if errno > maxErrno {
		return refuse(isErrno, "ERRNO", text, "must be at most 4095")
	}
	return newField(isErrno, "ERRNO", text)
}

// BusError is BUSERROR=: the D-Bus error name of a service that failed, such
// as org.freedesktop.DBus.Error.TimedOut. systemd keeps it from 257 on.
func BusError(name string) Field {
	if !validBusError(name) {
		return refuse(isBusError, "BUSERROR", name, "must be a D-Bus error name such as org.example.Error.Failed")
	}
	return newField(isBusError, "BUSERROR", name)
}

// VarlinkError is VARLINKERROR= (systemd 257): the Varlink error of a service
// that failed, such as org.varlink.service.InvalidParameter.
func VarlinkError(name string) Field {
	if !validVarlinkError(name) {
		return refuse(isVarlinkError, "VARLINKERROR", name, "must be a Varlink error name such as org.example.service.Failed")
	}
	return newField(isVarlinkError, "VARLINKERROR", name)
}

// ExitStatus is EXIT_STATUS= (systemd 254): an exit status from 0 to 255. It
// only informs; managers of containers and virtual machines read it.
func ExitStatus(status int) Field {
	text := strconv.Itoa(status)
	if status < 0 || status > 255 {
		return refuse(isExitStatus, "EXIT_STATUS", text, "must be from 0 to 255")
	}
	return newField(isExitStatus, "EXIT_STATUS", text)
}

// MainPID is MAINPID=: pid is the service's main process from now on.
//
// systemd handles it before the other fields of its datagram, so MainPID and
// [Ready] sent together take effect as one. Under NotifyAccess=main the sender
// is not heard any more afterwards. systemd ignores a process outside of the
// unit's control group (unless root asks), the manager itself, a control
// process and a zombie.
//
// The process should be a child of systemd. Of any other, also when it becomes
// one later, systemd does not notice the death and starts nothing again, and a
// stop kills it without waiting for an end by SIGTERM. What os/exec starts is
// a child of its starter: use [syscall.ForkExec] with CLONE_PARENT in
// [syscall.SysProcAttr].Cloneflags, and watch it by a pidfd, since only its
// parent can wait for it.
func MainPID(pid int) Field {
	text := strconv.Itoa(pid)
	if pid <= 0 {
		return refuse(isMainPID, "MAINPID", text, "must be a positive process ID")
	}
	return newField(isMainPID, "MAINPID", text)
}

// MainPIDFDID is MAINPIDFDID= (systemd 257): the inode number of a pidfd for
// the process that [MainPID], in the same message, names; see [PidfdInode]. It
// keeps a recycled PID from being taken for that process. Older versions
// ignore it.
func MainPIDFDID(inode uint64) Field {
	text := strconv.FormatUint(inode, 10)
	if inode == 0 {
		return refuse(isMainPIDFDID, "MAINPIDFDID", text, "must be the inode number of a pidfd")
	}
	return newField(isMainPIDFDID, "MAINPIDFDID", text)
}

// MainPIDFD is MAINPIDFD=1 (systemd 257): the process behind pidfd is the main
// process from now on; see [MainPID], over which it wins. The descriptor is
// copied; the caller keeps pidfd.
func MainPIDFD(pidfd syscall.Conn) Field {
	return Field{text: "MAINPIDFD=1", is: isMainPIDFD}.with(pidfd)
}

// WatchdogPing is WATCHDOG=1: the service is alive. [Watchdog] sends it for
// as long as a health check passes.
func WatchdogPing() Field { return Field{text: "WATCHDOG=1", is: isWatchdog} }

// WatchdogTrigger is WATCHDOG=trigger (systemd 243): the service found itself
// broken. systemd acts as if a ping had been missed, also without
// WatchdogSec=.
func WatchdogTrigger() Field { return Field{text: "WATCHDOG=trigger", is: isWatchdog} }

// WatchdogInterval is WATCHDOG_USEC=: the service's watchdog interval from now
// on, in place of WatchdogSec=. 0 turns the watchdog off. The variable that
// [WatchdogFromEnv] reads keeps its value.
func WatchdogInterval(interval time.Duration) Field {
	if interval < 0 {
		return refuse(isWatchdogInterval, "WATCHDOG_USEC", microseconds(interval), "must not be negative")
	}
	return newField(isWatchdogInterval, "WATCHDOG_USEC", microseconds(interval))
}

// ExtendTimeout is EXTEND_TIMEOUT_USEC= (systemd 236): the start, stop, reload
// or run time under way may last for d from now. It never shortens a timeout,
// and another such message must come before d is over.
func ExtendTimeout(d time.Duration) Field {
	if d <= 0 {
		return refuse(isExtendTimeout, "EXTEND_TIMEOUT_USEC", microseconds(d), "must be positive")
	}
	return newField(isExtendTimeout, "EXTEND_TIMEOUT_USEC", microseconds(d))
}

// RestartReset is RESTART_RESET=1 (systemd 258): the count of restarts starts
// again at zero, and with it the delay of RestartSteps=.
func RestartReset() Field { return Field{text: "RESTART_RESET=1", is: isRestartReset} }

// FDStore is FDSTORE=1 (systemd 219): the manager keeps a copy of the
// descriptor of conn. [Notifier.Store] sends it with all that belongs to it
// and is what most services want. The caller keeps conn.
func FDStore(conn syscall.Conn) Field {
	return Field{text: "FDSTORE=1", is: isStore}.with(conn)
}

// FDStoreRemove is FDSTOREREMOVE=1 (systemd 236): the manager closes all
// descriptors that it keeps under the [FDName] in the same message.
// [Notifier.Remove] sends the two.
func FDStoreRemove() Field { return Field{text: "FDSTOREREMOVE=1", is: isRemove} }

// FDName is FDNAME= (systemd 233): the name of the descriptor that is stored
// or removed by the same message. At most [MaxName] bytes from 0x20 to 0x7e
// without a colon; systemd would store a descriptor with another name under
// the name "stored". A backslash is refused too: systemd 247 and newer take it
// away, and the service would get back a name that it does not know.
func FDName(name string) Field {
	if reason := checkName(name); reason != "" {
		return refuse(isName, "FDNAME", name, reason)
	}
	return newField(isName, "FDNAME", name)
}

// NoPoll is FDPOLL=0 (systemd 246): the manager does not watch the descriptor
// that the same message stores, and so keeps it after an error or a hang-up.
// UDP sockets need it: an ICMP error would end their stay.
func NoPoll() Field { return Field{text: "FDPOLL=0", is: isNoPoll} }

// Barrier is BARRIER=1 (systemd 246): the manager closes its copy of the
// descriptor of conn when everything sent before has been processed. It must
// be sent alone. [Notifier.Barrier] makes the pipe, sends this and waits.
func Barrier(conn syscall.Conn) Field {
	return Field{text: "BARRIER=1", is: isBarrier}.with(conn)
}

// Custom is a private field, which systemd ignores and other managers may
// read. sd_notify(3) asks for a name that starts with "X_" and the name of a
// namespace; it may have upper-case letters, digits and underscores.
func Custom(name, value string) Field {
	rest, ok := strings.CutPrefix(name, "X_")
	if !ok || rest == "" || strings.Trim(rest, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
		return refuse(isCustom, name, value, `must have a name of "X_" and upper-case letters, digits and underscores`)
	}
	reason := checkLine(value)
	if strings.HasSuffix(value, `\`) {
		reason = "must not end with a backslash: systemd would join the next field to it"
	}
	if reason != "" {
		return refuse(isCustom, name, value, reason)
	}
	return newField(isCustom, name, value)
}

// with attaches a descriptor.
func (f Field) with(conn syscall.Conn) Field {
	if file, ok := conn.(*os.File); conn == nil || ok && file == nil {
		return Field{text: f.text, is: f.is, err: fieldError(f.name(), "1", "must have a descriptor, not nil")}
	}
	f.conn = conn
	return f
}

// checkName says what is wrong with the name of a stored descriptor.
func checkName(name string) string {
	if len(name) > MaxName {
		return "must be at most 255 bytes long"
	}
	for i := range len(name) {
		if c := name[i]; c < 0x20 || c > 0x7e || c == ':' || c == '\\' {
			return "must have only ASCII characters, no control character, colon or backslash"
		}
	}
	return ""
}

// validBusError applies the D-Bus rule for error names: two or more elements
// of letters, digits and underscores, none of them starting with a digit.
func validBusError(name string) bool {
	elements := strings.Split(name, ".")
	if len(elements) < 2 || len(name) > 255 {
		return false
	}
	for _, element := range elements {
		if !validElement(element, "_") {
			return false
		}
	}
	return true
}

// validVarlinkError applies the Varlink rule: an interface name in reverse
// domain notation and an error that starts with an upper-case letter.
func validVarlinkError(name string) bool {
	elements := strings.Split(name, ".")
	if len(elements) < 3 || len(name) > 255 {
		return false
	}
	last := len(elements) - 1
	for i, element := range elements[:last] {
		// Only the first element has to start with a letter.
		if i > 0 && element != "" {
			element = "a" + element
		}
		if !validElement(element, "-") || strings.HasSuffix(element, "-") {
			return false
		}
	}
	symbol := elements[last]
	return symbol != "" && symbol[0] >= 'A' && symbol[0] <= 'Z' && validElement(symbol, "")
}

// validElement reports whether s has only ASCII letters, digits and the
// characters of others, and starts with none of the digits.
func validElement(s, others string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		digit := c >= '0' && c <= '9' && i > 0
		if !letter && !digit && strings.IndexByte(others, c) < 0 {
			return false
		}
	}
	return s != ""
}

// microseconds rounds up, so that no positive duration becomes 0.
func microseconds(d time.Duration) string {
	usec := int64(d / time.Microsecond)
	if d%time.Microsecond > 0 {
		usec++
	}
	return strconv.FormatInt(usec, 10)
}

// monotonicUsec reads the clock that MONOTONIC_USEC= is compared with.
func monotonicUsec() (int64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, os.NewSyscallError("clock_gettime", err)
	}
	return now.Nano() / int64(time.Microsecond), nil
}
