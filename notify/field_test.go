// SPDX-License-Identifier: Apache-2.0

package notify_test

import (
	"errors"
	"math"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/notify"
	"github.com/holdfast-go/holdfast/notify/notifytest"
)

func TestFieldEncoding(t *testing.T) {
	tests := []struct {
		field notify.Field
		want  string
	}{
		{notify.Ready(), "READY=1"},
		{notify.Stopping(), "STOPPING=1"},
		{notify.MonotonicUsec(0), "MONOTONIC_USEC=0"},
		{notify.MonotonicUsec(math.MaxUint64), "MONOTONIC_USEC=18446744073709551615"},
		{notify.Status("Completed 66% of file system check…"), "STATUS=Completed 66% of file system check…"},
		{notify.Status("a=b\tc"), "STATUS=a=b\tc"},
		{notify.Status(""), "STATUS="},
		{notify.Status(`C:\a\`), `STATUS=C:\\a\\`},
		{notify.Custom("X_PATH", `C:\a`), `X_PATH=C:\a`},
		{notify.NotifyAccess(notify.AccessNone), "NOTIFYACCESS=none"},
		{notify.NotifyAccess(notify.AccessMain), "NOTIFYACCESS=main"},
		{notify.NotifyAccess(notify.AccessExec), "NOTIFYACCESS=exec"},
		{notify.NotifyAccess(notify.AccessAll), "NOTIFYACCESS=all"},
		{notify.Errno(syscall.ENOENT), "ERRNO=2"},
		{notify.Errno(0), "ERRNO=0"},
		{notify.Errno(4095), "ERRNO=4095"},
		{notify.BusError("org.freedesktop.DBus.Error.TimedOut"), "BUSERROR=org.freedesktop.DBus.Error.TimedOut"},
		{notify.BusError("_a.b_9"), "BUSERROR=_a.b_9"},
		{notify.VarlinkError("org.varlink.service.InvalidParameter"), "VARLINKERROR=org.varlink.service.InvalidParameter"},
		{notify.VarlinkError("com.3-com.X9"), "VARLINKERROR=com.3-com.X9"},
		{notify.ExitStatus(0), "EXIT_STATUS=0"},
		{notify.ExitStatus(255), "EXIT_STATUS=255"},
		{notify.MainPID(4711), "MAINPID=4711"},
		{notify.MainPIDFD(os.Stdin), "MAINPIDFD=1"},
		{notify.WatchdogPing(), "WATCHDOG=1"},
		{notify.WatchdogTrigger(), "WATCHDOG=trigger"},
		{notify.WatchdogInterval(20 * time.Second), "WATCHDOG_USEC=20000000"},
		{notify.WatchdogInterval(0), "WATCHDOG_USEC=0"},
		{notify.ExtendTimeout(90 * time.Second), "EXTEND_TIMEOUT_USEC=90000000"},
		{notify.ExtendTimeout(time.Nanosecond), "EXTEND_TIMEOUT_USEC=1"},
		{notify.ExtendTimeout(math.MaxInt64), "EXTEND_TIMEOUT_USEC=9223372036854776"},
		{notify.RestartReset(), "RESTART_RESET=1"},
		{notify.FDStore(os.Stdin), "FDSTORE=1"},
		{notify.Barrier(os.Stdin), "BARRIER=1"},
		{notify.Custom("X_HOLDFAST_GENERATION", "3"), "X_HOLDFAST_GENERATION=3"},
		{notify.Custom("X_1", ""), "X_1="},
	}
	for _, test := range tests {
		payload, err := notify.Encode(test.field)
		if err != nil || string(payload) != test.want || test.field.Err() != nil || test.field.String() != test.want {
			t.Errorf("got %q, %v (field %q, %v), want %q", payload, err, test.field, test.field.Err(), test.want)
		}
	}
}

func TestFieldsThatNeedOthers(t *testing.T) {
	tests := []struct {
		fields []notify.Field
		want   string
	}{
		{[]notify.Field{notify.MainPID(7), notify.MainPIDFDID(8), notify.Ready()}, "MAINPID=7\nMAINPIDFDID=8\nREADY=1"},
		{[]notify.Field{notify.FDStore(os.Stdin), notify.FDName("a b~"), notify.NoPoll()}, "FDSTORE=1\nFDNAME=a b~\nFDPOLL=0"},
		{[]notify.Field{notify.FDName(""), notify.FDStoreRemove()}, "FDNAME=\nFDSTOREREMOVE=1"},
		{[]notify.Field{notify.Custom("X_A", "1"), notify.Custom("X_A", "2")}, "X_A=1\nX_A=2"},
	}
	for _, test := range tests {
		payload, err := notify.Encode(test.fields...)
		if err != nil || string(payload) != test.want {
			t.Errorf("got %q, %v, want %q", payload, err, test.want)
		}
	}
}

func TestFieldRefused(t *testing.T) {
	tests := []struct {
		field notify.Field
		want  string
	}{
		{notify.Status("up\nREADY=1"), `STATUS="up\nREADY=1": must not contain a newline`},
		{notify.Status("up\rREADY=1"), `STATUS="up\rREADY=1": must not contain a carriage return`},
		{notify.Status("up\x00"), `STATUS="up\x00": must not contain a NUL byte`},
		{notify.Status("\xff"), `STATUS="\xff": must be valid UTF-8`},
		{notify.Status(strings.Repeat("x", 100) + "\n"), `STATUS="` + strings.Repeat("x", 64) + `...": must not contain a newline`},
		{notify.NotifyAccess("root"), `NOTIFYACCESS="root": must be none, main, exec or all`},
		{notify.Errno(4096), `ERRNO="4096": must be at most 4095`},
		{notify.BusError("Failed"), `BUSERROR="Failed": must be a D-Bus error name such as org.example.Error.Failed`},
		{notify.VarlinkError("org.example.failed"), `VARLINKERROR="org.example.failed": must be a Varlink error name such as org.example.service.Failed`},
		{notify.ExitStatus(-1), `EXIT_STATUS="-1": must be from 0 to 255`},
		{notify.ExitStatus(256), `EXIT_STATUS="256": must be from 0 to 255`},
		{notify.MainPID(0), `MAINPID="0": must be a positive process ID`},
		{notify.MainPID(-1), `MAINPID="-1": must be a positive process ID`},
		{notify.MainPIDFDID(0), `MAINPIDFDID="0": must be the inode number of a pidfd`},
		{notify.MainPIDFD(nil), `MAINPIDFD="1": must have a descriptor, not nil`},
		{notify.FDStore((*os.File)(nil)), `FDSTORE="1": must have a descriptor, not nil`},
		{notify.WatchdogInterval(-1), `WATCHDOG_USEC="0": must not be negative`},
		{notify.ExtendTimeout(0), `EXTEND_TIMEOUT_USEC="0": must be positive`},
		{notify.ExtendTimeout(-time.Second), `EXTEND_TIMEOUT_USEC="-1000000": must be positive`},
		{notify.FDName("a:b"), `FDNAME="a:b": must have only ASCII characters, no control character, colon or backslash`},
		{notify.FDName(`a\b`), `FDNAME="a\\b": must have only ASCII characters, no control character, colon or backslash`},
		{notify.Custom("X_A", `b\`), `X_A="b\\": must not end with a backslash: systemd would join the next field to it`},
		{notify.FDName("é"), `FDNAME="é": must have only ASCII characters, no control character, colon or backslash`},
		{notify.FDName("a\nFDSTORE=1"), `FDNAME="a\nFDSTORE=1": must have only ASCII characters, no control character, colon or backslash`},
		{notify.FDName(strings.Repeat("n", 256)), `FDNAME="` + strings.Repeat("n", 64) + `...": must be at most 255 bytes long`},
		{notify.Custom("FOO", "1"), `FOO="1": must have a name of "X_" and upper-case letters, digits and underscores`},
		{notify.Custom("X_", "1"), `X_="1": must have a name of "X_" and upper-case letters, digits and underscores`},
		{notify.Custom("X_A\nREADY", "1"), `X_A` + "\n" + `READY="1": must have a name of "X_" and upper-case letters, digits and underscores`},
		{notify.Custom("X_A", "1\nREADY=1"), `X_A="1\nREADY=1": must not contain a newline`},
		{notify.Field{}, `notify: empty field: use one of the constructors`},
	}
	for _, test := range tests {
		err := test.field.Err()
		var fieldErr *notify.FieldError
		if !errors.As(err, &fieldErr) || err.Error() != test.want {
			t.Errorf("got %v, want %s", err, test.want)
		}
		if _, encodeErr := notify.Encode(test.field); encodeErr == nil || encodeErr.Error() != test.want {
			t.Errorf("Encode: got %v, want %s", encodeErr, test.want)
		}
	}
}

func TestErrorNamesAreValidated(t *testing.T) {
	for name, valid := range map[string]bool{
		"a.b": true, "A.B9": true, "a._": true, "a": false, "": false, ".a": false, "a.": false, "a..b": false, "9a.b": false,
		"a.9b": false, "a-b.c": false, "a b.c": false, "a.b" + strings.Repeat("c", 253): false,
	} {
		if got := notify.BusError(name).Err() == nil; got != valid {
			t.Errorf("BusError(%q): valid %v, want %v", name, got, valid)
		}
	}
	for name, valid := range map[string]bool{
		"a.b.C": true, "a.9.C": true, "a.b-c.Cd": true, "a.C": false, "": false, "a..C": false, "a.b.": false, "9.b.C": false,
		"a.b-.C": false, "a.-b.C": true, "a.b.C_d": false, "a.b.9": false, "a.b.C" + strings.Repeat("c", 251): false,
	} {
		if got := notify.VarlinkError(name).Err() == nil; got != valid {
			t.Errorf("VarlinkError(%q): valid %v, want %v", name, got, valid)
		}
	}
}

func TestFieldsRefusedTogether(t *testing.T) {
	tests := []struct {
		fields []notify.Field
		want   string
	}{
		{nil, "notify: no field to send"},
		{[]notify.Field{notify.Ready(), notify.Barrier(os.Stdin)}, `BARRIER="1": must be the only field of its message`},
		{[]notify.Field{notify.Status("a"), notify.Status("b")}, `STATUS="b": is given twice: systemd reads one of each per message`},
		{[]notify.Field{notify.WatchdogPing(), notify.WatchdogTrigger()}, `WATCHDOG="trigger": is given twice: systemd reads one of each per message`},
		{[]notify.Field{notify.Reloading(), notify.MonotonicUsec(1)}, `MONOTONIC_USEC="1": is given twice: systemd reads one of each per message`},
		{[]notify.Field{notify.FDStoreRemove()}, `FDSTOREREMOVE="1": must be sent with FDNAME=`},
		{
			[]notify.Field{notify.FDStore(os.Stdin), notify.FDName("a"), notify.FDStoreRemove()},
			`FDSTOREREMOVE="1": must not be sent with FDSTORE=1: systemd would only remove`,
		},
		{[]notify.Field{notify.FDName("a")}, `FDNAME="a": must be sent with FDSTORE=1 or FDSTOREREMOVE=1`},
		{[]notify.Field{notify.NoPoll()}, `FDPOLL="0": must be sent with FDSTORE=1`},
		{[]notify.Field{notify.MainPIDFDID(3)}, `MAINPIDFDID="3": must be sent with MAINPID=`},
		{
			[]notify.Field{notify.FDStore(os.Stdin), notify.MainPIDFD(os.Stdin)},
			"notify: FDSTORE,MAINPIDFD: a message carries one descriptor: send one after the other",
		},
		{
			[]notify.Field{notify.Ready(), notify.Status(strings.Repeat("x", 4096))},
			"notify: READY,STATUS: message must be at most 4096 bytes long: shorten or split it",
		},
	}
	for _, test := range tests {
		_, err := notify.Encode(test.fields...)
		var fieldErr *notify.FieldError
		if !errors.As(err, &fieldErr) || err.Error() != test.want {
			t.Errorf("got %v, want %s", err, test.want)
		}
	}
}

func TestPayloadLimit(t *testing.T) {
	const room = notify.MaxPayload - len("STATUS=")
	stamp := len("RELOADING=1\nMONOTONIC_USEC=") + len(monotonicNow(t)) + len("\n")
	tests := []struct {
		name   string
		fields []notify.Field
		fits   bool
	}{
		{"one field", []notify.Field{notify.Status(strings.Repeat("x", room))}, true},
		{"one field, too long", []notify.Field{notify.Status(strings.Repeat("x", room+1))}, false},
		{"two fields", []notify.Field{notify.Status(strings.Repeat("x", room-8)), notify.Ready()}, true},
		{"two fields, too long", []notify.Field{notify.Status(strings.Repeat("x", room-7)), notify.Ready()}, false},
		{"timestamp", []notify.Field{notify.Status(strings.Repeat("x", room-stamp)), notify.Reloading()}, true},
		{"timestamp, too long", []notify.Field{notify.Status(strings.Repeat("x", room-stamp+1)), notify.Reloading()}, false},
	}
	for _, test := range tests {
		payload, err := notify.Encode(test.fields...)
		if (err == nil) != test.fits || test.fits && len(payload) != notify.MaxPayload {
			t.Errorf("%s: got %d bytes, %v, want fits %v", test.name, len(payload), err, test.fits)
		}
	}
}

// FuzzEncode checks that what was encoded parses back into the same fields,
// whatever the values: none can end its line and smuggle in another, and a
// status arrives as it was given.
func FuzzEncode(f *testing.F) {
	f.Add("serving", "X_A", "1", "name", int64(7))
	f.Add("a\nREADY=1", "X_A\n", "\r", "a:b", int64(-1))
	f.Add(`tail\`, "X_B", `a\\`, `\`, int64(1))
	f.Add("\x00", "", "\xff", strings.Repeat("n", 256), int64(math.MaxInt64))
	f.Fuzz(func(t *testing.T, status, customName, customValue, fdName string, number int64) {
		for _, fields := range [][]notify.Field{
			{notify.Status(status), notify.Custom(customName, customValue), notify.ExtendTimeout(time.Duration(number))},
			{notify.FDStoreRemove(), notify.FDName(fdName)},
			{notify.MainPID(int(number)), notify.MainPIDFDID(uint64(number)), notify.Errno(syscall.Errno(number))},
			{notify.BusError(status), notify.VarlinkError(customValue), notify.NotifyAccess(notify.Access(fdName))},
		} {
			payload, err := notify.Encode(fields...)
			if err != nil {
				continue
			}
			parsed, err := notifytest.Parse(payload)
			if err != nil || len(parsed) != len(fields) {
				t.Fatalf("%q parses into %d fields, %v, want %d", payload, len(parsed), err, len(fields))
			}
			for i := range parsed {
				want := fields[i].String()
				switch name, _, _ := strings.Cut(want, "="); {
				case name == "STATUS":
					want = "STATUS=" + status
				case strings.HasPrefix(name, "X_"):
					// Its backslashes are for others to read; systemd ignores the field.
					want = name + "=" + string(parsed[i].Value())
				}
				if string(parsed[i]) != want {
					t.Errorf("field %d came back as %q, want %q", i, parsed[i], want)
				}
			}
		}
	})
}
