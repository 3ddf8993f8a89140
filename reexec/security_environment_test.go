// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// What systemd has set for the service goes on to its next version, and what is
// about this one process does not, however often it is there.
func TestEnvironmentOfChildren(t *testing.T) {
	goesOn := []string{
		"PATH=/usr/bin", "HOME=/", "GODEBUG=panicnil=1", "LD_PRELOAD=/usr/lib/libx.so", "LD_LIBRARY_PATH=/opt/lib", "GOMAXPROCS=2", "GOTRACEBACK=all",
		"RUNTIME_DIRECTORY=/run/myapp", "STATE_DIRECTORY=/var/lib/myapp", "CREDENTIALS_DIRECTORY=/run/credentials/myapp.service",
		"INVOCATION_ID=0", "JOURNAL_STREAM=8:1", "FDSTORE=10", "LISTEN_FDS_OTHER=1", "EMPTY=", "no assignment",
	}
	ofManager := []string{"NOTIFY_SOCKET=/run/systemd/notify", "WATCHDOG_USEC=1000000"}
	stays := []string{
		"LISTEN_PID=1", "LISTEN_PIDFDID=1", "LISTEN_FDS=1", "LISTEN_FDNAMES=http", "WATCHDOG_PID=1", "SYSTEMD_EXEC_PID=1", "MAINPID=1", "MAINPIDFDID=1",
		"HOLDFAST_HANDOVER=3,4,1", "HOLDFAST_CHECK=3", "HOLDFAST_EXECUTABLE=/bin/sh", "LISTEN_FDS=2", "HOLDFAST_CHECK=", "HOLDFAST_HANDOVER=9,8,7",
	}
	all := slices.Concat(stays[:5], goesOn, ofManager, stays[5:])
	if got, want := childEnv(all), slices.Concat(goesOn, ofManager); !slices.Equal(got, want) {
		t.Errorf("a successor gets\n%q, want\n%q", got, want)
	}
	if got := childEnv(all, "NOTIFY_SOCKET", "WATCHDOG_USEC"); !slices.Equal(got, goesOn) {
		t.Errorf("a check gets\n%q, want\n%q", got, goesOn)
	}
	// What main, or what runs in it, sets later is its own.
	t.Setenv("LD_PRELOAD", "/tmp/of-a-plugin.so")
	if i := slices.Index(environ, "LD_PRELOAD=/tmp/of-a-plugin.so"); i >= 0 {
		t.Error("a change of this process's environment would go on to the next version")
	}
}

// A value that a grandchild has found, with a socket of the right kind under that
// number, makes nobody a successor: the socket is not of the process that it names.
func TestSocketOfAnotherProcess(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	t.Setenv(handoverVariable, fmt.Sprintf("%d,%d,%d", pair[0], pair[1], os.Getppid()))
	t.Setenv(executableVariable, "/bin/sh")
	want := fmt.Sprintf("the socket is of PID %d: unset the variable in children of the service", os.Getpid())
	if _, _, err := join(handover.Hello{Name: "myapp", Version: "1"}, patience); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
	for _, name := range []string{handoverVariable, executableVariable} {
		if value, ok := os.LookupEnv(name); ok {
			t.Errorf("children would find %s=%s", name, value)
		}
	}
	for _, fd := range pair {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			t.Errorf("descriptor %d was closed under its owner: %v", fd, err)
		}
	}
}

// The same for a program that was not executed in place: a grandchild that has found
// the variable, and any descriptor under its number, even another process's manifest.
func TestManifestOfAnotherProcess(t *testing.T) {
	manifestOf := func(pid int) *os.File {
		f, err := (&manifest{Hello: handover.Hello{Versions: handover.Ours, Name: "myapp", PID: pid}}).write()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	fd, err := unix.MemfdCreate("unsealed", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	unsealed := os.NewFile(uintptr(fd), "unsealed")
	defer unsealed.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, c := range []struct {
		name, value string
		file        *os.File // under the number in value
		want        string
	}{
		{"no number", "yes", nil, "invalid syntax"},
		{"standard error", "2", nil, "descriptors start at 3"},
		{"not open", "1048576", nil, "is no sealed memfd"},
		{"another file", "", null, "is no sealed memfd"},
		{"a memfd that can change", "", unsealed, "is no sealed memfd"},
		{"another process's", "", manifestOf(os.Getppid()), fmt.Sprintf("the manifest is for PID %d", os.Getppid())},
	} {
		if c.file != nil {
			c.value = fmt.Sprint(minFD(c.file))
		}
		t.Setenv(inPlaceVariable, c.value)
		if _, _, err := renew("myapp"); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), inPlaceVariable) {
			t.Errorf("%s: %v, want it to name the variable and to say %q", c.name, err, c.want)
		}
		if _, ok := os.LookupEnv(inPlaceVariable); ok {
			t.Errorf("%s: children would find the variable", c.name)
		}
		if c.file != nil {
			if _, err := c.file.Stat(); err != nil {
				t.Errorf("%s: the descriptor was closed under its owner: %v", c.name, err)
			}
		}
	}
}

// No way to print the keys of TLS tickets shows them: not in text, or in JSON of a
// log.
func TestKeysAreNotShown(t *testing.T) {
	key := bytes.Repeat([]byte{0xa5}, 32)
	list := []ticketKey{{Key: key}}
	var out strings.Builder
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("x", "key", list[0])
	}
	fmt.Fprintf(&out, "%v %+v %#v %s %v", list, list, list, list, fmt.Errorf("%v", &list[0]))
	for _, form := range []string{string(key), "a5a5a5", "A5A5A5", "paWlpaWl", "165 165", "165, 165", "0xa5, 0xa5"} {
		if strings.Contains(out.String(), form) {
			t.Errorf("the key is shown as %q in\n%s", form, &out)
		}
	}
	// In the state it is there.
	var saved bytes.Buffer
	if err := (&ticketKeys{list: list}).save(&saved); err != nil || !bytes.Contains(saved.Bytes(), []byte("paWlpaWl")) {
		t.Errorf("the state does not have the key: %s, %v", &saved, err)
	}
}

// What another version says is bounded before it gets into the next hello, which
// must fit into a frame whatever it was.
func TestReasonsAreBounded(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"short", "short"},
		{strings.Repeat("x", 10), strings.Repeat("x", 10)},
		{strings.Repeat("x", 11), strings.Repeat("x", 10) + "…"},
		{"123456789ü", "123456789…"},
	} {
		if got := clip(c.in, 10); got != c.want {
			t.Errorf("clip(%q) = %q, want %q", c.in, got, c.want)
		}
	}
	v := control.Verdict{Reason: clip(strings.Repeat("<", 1<<20), maxReason), To: &control.Process{Version: clip(strings.Repeat("\x01", 1<<20), maxVersion)}}
	data, err := json.Marshal(handover.Hello{Last: &v})
	if err != nil || len(data) > handover.MaxPayload/2 {
		t.Errorf("a hello with it has %d bytes, %v", len(data), err)
	}
}
