// SPDX-License-Identifier: Apache-2.0

package notify_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/notify"
	"github.com/holdfast-go/holdfast/notify/notifytest"
)

// systemdNotify returns the path of systemd-notify and its version. The tool
// is there wherever these tests are meant to run, so only a person's own
// machine may skip.
func systemdNotify(t *testing.T) (path string, version int) {
	t.Helper()
	path, err := exec.LookPath("systemd-notify")
	if errors.Is(err, exec.ErrNotFound) {
		const message = "systemd-notify not found: install the package systemd"
		if os.Getenv("CI") == "true" || os.Geteuid() == 0 {
			t.Fatal(message)
		}
		t.Skip(message)
	}
	if err != nil {
		t.Fatal(err)
	}
	output, err := exec.CommandContext(t.Context(), path, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(string(output), "systemd %d", &version); err != nil {
		t.Fatalf("%s --version says %q: %v", path, output, err)
	}
	return path, version
}

// stamp matches the part of a message that differs each time.
var stamp = regexp.MustCompile(`MONOTONIC_USEC=[0-9]+`)

// TestSameAsSystemdNotify lets systemd's own tool and this package send the
// same things to the same socket, and compares the datagrams byte by byte.
func TestSameAsSystemdNotify(t *testing.T) {
	path, version := systemdNotify(t)
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	self := strconv.Itoa(os.Getpid())
	mainPID := []notify.Field{notify.MainPID(os.Getpid())}
	pidfd := pidfdSelf(t)
	// From 257 on the tool adds this by itself, if the kernel has it.
	if inode, err := notify.PidfdInode(pidfd); err == nil && version >= 257 {
		mainPID = append(mainPID, notify.MainPIDFDID(inode))
	}
	tests := []struct {
		since  int // first version that has the option; 0: all
		args   []string
		fields []notify.Field
	}{
		{args: []string{"--ready"}, fields: []notify.Field{notify.Ready()}},
		{args: []string{"--status=Completed 66%…"}, fields: []notify.Field{notify.Status("Completed 66%…")}},
		{args: []string{"--status="}, fields: []notify.Field{notify.Status("")}},
		{args: []string{"--pid=" + self}, fields: mainPID},
		{
			args:   []string{"--pid=" + self, "--status=up", "--ready"},
			fields: append([]notify.Field{notify.Ready(), notify.Status("up")}, mainPID...),
		},
		{since: 253, args: []string{"--reloading"}, fields: []notify.Field{notify.Reloading()}},
		{since: 253, args: []string{"--stopping"}, fields: []notify.Field{notify.Stopping()}},
		{
			since: 254, args: []string{"--fd=3", "--fdname=state", "FDSTORE=1"},
			fields: []notify.Field{notify.FDStore(file), notify.FDName("state")},
		},
		// For all else the tool takes the assignment as it is sent.
		{args: []string{"STOPPING=1"}, fields: []notify.Field{notify.Stopping()}},
		{args: []string{"WATCHDOG=1"}, fields: []notify.Field{notify.WatchdogPing()}},
		{args: []string{"WATCHDOG=trigger"}, fields: []notify.Field{notify.WatchdogTrigger()}},
		{
			args:   []string{"--ready", "ERRNO=2", "BUSERROR=org.freedesktop.DBus.Error.TimedOut", "WATCHDOG_USEC=20000000"},
			fields: []notify.Field{notify.Ready(), notify.Errno(syscall.ENOENT), notify.BusError("org.freedesktop.DBus.Error.TimedOut"), notify.WatchdogInterval(20 * time.Second)},
		},
		{
			args:   []string{"FDSTOREREMOVE=1", "FDNAME=state"},
			fields: []notify.Field{notify.FDStoreRemove(), notify.FDName("state")},
		},
		{args: []string{"EXTEND_TIMEOUT_USEC=1000000"}, fields: []notify.Field{notify.ExtendTimeout(time.Second)}},
	}
	for _, test := range tests {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			if version < test.since {
				t.Skipf("systemd-notify has %s from version %d on, this is %d", test.args, test.since, version)
			}
			m := notifytest.NewManager(t)
			cmd := exec.CommandContext(t.Context(), path, test.args...)
			cmd.Env = append(os.Environ(), m.Environ())
			cmd.ExtraFiles = []*os.File{file}
			if output, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %v: %s", cmd, err, output)
			}
			// The tool waits for a barrier, so all it sent is there by now.
			theirs := m.Messages()
			if len(theirs) < 2 {
				t.Fatalf("%v sent %v, want a message and a barrier", cmd, theirs)
			}

			n := open(t, m.Socket())
			if err := n.Notify(test.fields...); err != nil {
				t.Fatal(err)
			}
			if err := n.Barrier(t.Context()); err != nil {
				t.Fatal(err)
			}
			ours := m.Messages()[len(theirs):]
			if len(ours) != len(theirs) {
				t.Fatalf("sent %v, systemd-notify %v", ours, theirs)
			}
			for i := range ours {
				mine := stamp.ReplaceAll(ours[i].Payload, []byte("MONOTONIC_USEC=*"))
				its := stamp.ReplaceAll(theirs[i].Payload, []byte("MONOTONIC_USEC=*"))
				if !bytes.Equal(mine, its) || ours[i].Descriptors != theirs[i].Descriptors {
					t.Errorf("sent %v, systemd-notify %v", ours[i], theirs[i])
				}
				// Some versions send in the name of their parent, if they may.
				if pid := theirs[i].Sender.PID; pid != cmd.Process.Pid && pid != os.Getpid() {
					t.Errorf("sender is PID %d, systemd-notify was PID %d", pid, cmd.Process.Pid)
				}
			}
		})
	}
}

// The tool's exit status says whether it thinks that it was heard.
func TestManagerSatisfiesSystemdNotify(t *testing.T) {
	path, _ := systemdNotify(t)
	m := notifytest.NewManager(t, notifytest.Abstract())
	var group []*exec.Cmd
	for i := range 5 {
		cmd := exec.CommandContext(t.Context(), path, fmt.Sprintf("X_I=%d", i))
		cmd.Env = append(os.Environ(), m.Environ())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		group = append(group, cmd)
	}
	for i, cmd := range group {
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v", cmd, err)
		}
		want := fmt.Sprintf("X_I=%d", i)
		found := false
		for _, message := range m.Messages() {
			found = found || message.Has(want)
		}
		if !found {
			t.Errorf("%s is not in %v", want, m.Messages())
		}
	}
}

// What systemd-notify takes for an address, and what it refuses, is the same.
func TestSystemdNotifyAgreesOnAddresses(t *testing.T) {
	path, _ := systemdNotify(t)
	for _, value := range []string{"systemd", "/", "@", "/" + strings.Repeat("p", 120), filepath.Join(t.TempDir(), "notify"), "unknown:1:2"} {
		cmd := exec.CommandContext(t.Context(), path, "--ready")
		cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+value)
		output, theirs := cmd.CombinedOutput()
		n, ours := notify.New(value)
		if ours == nil {
			n.Close()
		}
		if (theirs == nil) != (ours == nil) {
			t.Errorf("NOTIFY_SOCKET=%q: New says %v, systemd-notify %v: %s", value, ours, theirs, output)
		}
	}
}
