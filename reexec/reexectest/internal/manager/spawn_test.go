// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/wire"
)

// environ reads what the step env wrote.
func (r *running) environ(path string) map[string]string {
	r.t.Helper()
	env := make(map[string]string)
	for line := range strings.Lines(r.file(path)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if _, twice := env[name]; twice {
			r.t.Errorf("%s: %s is there twice", path, name)
		}
		env[name] = value
	}
	return env
}

func names(env map[string]string) []string {
	var all []string
	for name := range env {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// The variables are those that real systemd sets for the same unit, but for
// MEMORY_PRESSURE_WATCH and MEMORY_PRESSURE_WRITE, for which there is no control group.
func TestEnvironment(t *testing.T) {
	_, pidfds := pidfdID(os.Getpid())
	tests := []struct {
		systemd int
		more    string // besides those of 247
	}{
		{247, ""},
		{252, "SYSTEMD_EXEC_PID"},
		{257, "SYSTEMD_EXEC_PID USER FDSTORE"},
		{262, "SYSTEMD_EXEC_PID USER FDSTORE LISTEN_PIDFDID MAINPIDFDID"},
	}
	for _, test := range tests {
		t.Run(strconv.Itoa(test.systemd), func(t *testing.T) {
			r := runUnits(t, wire.Config{
				Systemd:            test.systemd,
				Environment:        []string{"EXTRA=test"},
				ManagerEnvironment: []string{"PASSED=by", "NOT_PASSED=by"},
			}, "a.service", `
[Service]
Type=notify
NotifyAccess=all
RuntimeDirectory=a a/b
StateDirectory=s
WatchdogSec=10
FileDescriptorStoreMax=5
Environment=FOO=bar PIDS=none "SPACE=a b"
EnvironmentFile=-/etc/missing
EnvironmentFile=/etc/a.env
PassEnvironment=PASSED MISSING
UnsetEnvironment=GONE
ExecStartPre=/usr/bin/tool env:%t/pre
ExecStart=/usr/bin/tool env:%t/start "print:${FOO}-${SPACE}-${LISTEN_PID}" links:%t/links copy:/proc/self/status:%t/status copy:/proc/self/stat:%t/stat notify:READY=1 wait
ExecStartPost=/usr/bin/tool env:%t/post
ExecReload=/usr/bin/tool env:%t/reload
ExecStop=/usr/bin/tool env:%t/stop
ExecStopPost=/usr/bin/tool env:%t/stoppost
`, "a.socket", "[Socket]\nListenStream=127.0.0.1:8080\nListenStream=/run/a.sock\nFileDescriptorName=http\n")
			if err := os.WriteFile(filepath.Join(r.root, "etc/a.env"), []byte("FROM_FILE='x y'\nGONE=1\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			r.socketJob(wire.Start, "a.socket", wire.Done)
			r.job(wire.Start, wire.Done)
			main := strconv.Itoa(r.show().MainPID)
			invocation := r.show().InvocationID
			r.job(wire.Reload, wire.Done)
			r.job(wire.Stop, wire.Done)

			common := strings.Fields(`PATH LANG NOTIFY_SOCKET JOURNAL_STREAM INVOCATION_ID RUNTIME_DIRECTORY STATE_DIRECTORY
				FOO PIDS SPACE FROM_FILE PASSED EXTRA GORACE`)
			for path, more := range map[string]string{
				"pre": "", "start": "LISTEN_PID LISTEN_FDS LISTEN_FDNAMES WATCHDOG_PID WATCHDOG_USEC LISTEN_PIDFDID",
				"post": "MAINPID MAINPIDFDID", "reload": "MAINPID MAINPIDFDID", "stop": "MAINPID MAINPIDFDID SERVICE_RESULT",
				"stoppost": "SERVICE_RESULT EXIT_CODE EXIT_STATUS",
			} {
				want := slices.Clone(common)
				for _, name := range strings.Fields(more) {
					switch name {
					case "LISTEN_PIDFDID", "MAINPIDFDID":
						if !strings.Contains(test.more, name) || !pidfds {
							continue
						}
					}
					want = append(want, name)
				}
				for _, name := range strings.Fields(test.more) {
					if !strings.HasSuffix(name, "PIDFDID") {
						want = append(want, name)
					}
				}
				slices.Sort(want)
				if got := names(r.environ("run/" + path)); !slices.Equal(got, want) {
					t.Errorf("%s has\n%q, want\n%q", path, got, want)
				}
			}

			env := r.environ("run/start")
			u, err := user.Current()
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{
				"LISTEN_PID": main, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:http", "WATCHDOG_PID": main, "WATCHDOG_USEC": "10000000",
				"RUNTIME_DIRECTORY": r.root + "/run/a:" + r.root + "/run/a/b", "STATE_DIRECTORY": r.root + "/var/lib/s",
				"NOTIFY_SOCKET": r.root + "/run/systemd/notify", "INVOCATION_ID": invocation,
				"FOO": "bar", "SPACE": "a b", "FROM_FILE": "x y", "PASSED": "by", "EXTRA": "test", "LANG": "C.UTF-8",
			}
			if test.systemd >= 248 {
				want["SYSTEMD_EXEC_PID"] = main
			}
			if test.systemd >= 256 {
				want["FDSTORE"], want["USER"] = "5", u.Username
			}
			for name, value := range want {
				if env[name] != value {
					t.Errorf("%s is %q, want %q", name, env[name], value)
				}
			}
			if got := r.environ("run/stoppost"); got["EXIT_CODE"] != "exited" || got["EXIT_STATUS"] != "0" || got["SERVICE_RESULT"] != "success" {
				t.Errorf("after the stop: %v", got)
			}
			if got := r.environ("run/reload"); got["MAINPID"] != main {
				t.Errorf("MAINPID is %s, want %s", got["MAINPID"], main)
			}
			// Variables of the command line are filled in, those of the process too.
			if line := r.untilLine("bar-a b-" + main); line.PID != r.show().ExecMainPID {
				t.Errorf("line is %+v", line)
			}
		})
	}
}

// A process starts as from systemd: nothing of the manager or the test comes
// along.
func TestProcessAttributes(t *testing.T) {
	// What the test process ignores, as some that run tests have it, a unit does
	// not get: neither an ordinary signal nor one that C libraries keep.
	ignoreSignal(t, uintptr(syscall.SIGUSR2))
	ignoreSignal(t, 32)
	r := runUnits(t, wire.Config{}, "a.service", `
[Service]
Type=notify
RuntimeDirectory=a
WorkingDirectory=/run/a
UMask=0027
LimitNOFILE=123:456
StandardInput=null
ExecStart=/usr/bin/tool links:%t/links copy:/proc/self/stat:%t/stat notify:READY=1 wait
ExecStartPost=/bin/sh -c 'cat /proc/self/status >%t/status; umask >%t/umask; pwd >%t/pwd; ls /proc/self/fd >%t/fds; ulimit -Sn >%t/soft; ulimit -Hn >%t/hard'
`)
	r.job(wire.Start, wire.Done)
	r.job(wire.Stop, wire.Done)
	status := r.file("run/status")
	for _, want := range []string{"SigBlk:\t0000000000000000", "SigIgn:\t0000000000001000", "SigCgt:\t0000000000000000", "Umask:\t0027"} {
		if !strings.Contains(status, want+"\n") {
			t.Errorf("status has no %q:\n%s", want, status)
		}
	}
	if got := strings.TrimSpace(r.file("run/pwd")); got != filepath.Join(r.root, "run/a") {
		t.Errorf("working directory is %s", got)
	}
	if got := r.file("run/fds"); got != "0\n1\n2\n3\n" { // 3 is the directory
		t.Errorf("descriptors are %q", got)
	}
	stat, err := parseStat([]byte(r.file("run/stat")))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(r.file("run/stat"))
	if pid := strconv.Itoa(stat.pid); fields[4] != pid || fields[5] != pid || fields[6] != "0" {
		t.Errorf("no session of its own: %v", fields[:8])
	}
	if stat.parent != r.loaded.Loaded.ManagerPID {
		t.Errorf("parent is %d, the manager is %d", stat.parent, r.loaded.Loaded.ManagerPID)
	}
	if soft, hard := r.file("run/soft"), r.file("run/hard"); soft != "123\n" || hard != "456\n" {
		t.Errorf("limits of files are %q and %q", soft, hard)
	}
	links := r.file("run/links")
	if !strings.Contains(links, "0 /dev/null") || !strings.Contains(links, "1 socket:") || !strings.Contains(links, "2 socket:") {
		t.Errorf("descriptors are\n%s", links)
	}
}

// ignoreSignal has this process, and those that it starts, ignore a signal.
func ignoreSignal(t *testing.T, sig uintptr) {
	t.Helper()
	// The handler comes first, on the platforms that the tests run on.
	ignore, before := [4]uint64{1}, [4]uint64{}
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&ignore)), uintptr(unsafe.Pointer(&before)), 8, 0, 0); errno != 0 {
		t.Fatalf("ignore signal %d: %v", sig, errno)
	}
	t.Cleanup(func() {
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&before)), 0, 8, 0, 0); errno != 0 {
			t.Errorf("restore signal %d: %v", sig, errno)
		}
	})
}

// Where a process cannot be started, it ends with systemd's status for the
// step that failed.
func TestFailedStarts(t *testing.T) {
	root := shortDir(t)
	text := filepath.Join(root, "text")
	if err := os.WriteFile(text, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(root, "plain")
	if err := os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, lines string
		status      int
		line        string
	}{
		{"missing", "ExecStart=/usr/bin/there-is-no-such-program", exitExec, "Failed at step EXEC spawning /usr/bin/there-is-no-such-program: No such file or directory"},
		{"text", "ExecStart=" + text, exitExec, "Exec format error"},
		{"not executable", "ExecStart=" + plain, exitExec, "Permission denied"},
		{"directory", "ExecStart=" + root, exitExec, "Permission denied"},
		{"not in PATH", "ExecStart=there-is-no-such-program", exitExec, "there-is-no-such-program"},
		{"working directory", "WorkingDirectory=/nowhere\nExecStart=/usr/bin/tool wait", exitChdir, "Failed at step CHDIR"},
		{"output", "StandardOutput=file:/nowhere/x\nExecStart=/usr/bin/tool wait", exitStdout, "Failed at step STDOUT"},
		{"error", "StandardError=file:/nowhere/x\nExecStart=/usr/bin/tool wait", exitStderr, "Failed at step STDERR"},
		{"input", "StandardInput=file:/nowhere\nExecStart=/usr/bin/tool wait", exitStdin, "Failed at step STDIN"},
		{"open file", "OpenFile=/nowhere\nExecStart=/usr/bin/tool wait", exitFDs, "Failed at step FDS"},
		{"runtime directory", "RuntimeDirectory=blocked/a\nExecStart=/usr/bin/tool wait", exitRuntimeDirectory, "Failed at step RUNTIME_DIRECTORY"},
		{"state directory", "StateDirectory=blocked\nExecStart=/usr/bin/tool wait", exitStateDirectory, "Failed at step STATE_DIRECTORY"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := runUnits(t, wire.Config{}, "a.service", "[Service]\nType=exec\n"+test.lines+"\n")
			for _, path := range []string{"run/blocked", "var/lib/blocked"} {
				if err := os.WriteFile(filepath.Join(r.root, path), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			r.job(wire.Start, wire.Failed)
			if p := r.show(); p.ExecMainStatus != test.status || p.ExecMainCode != 1 || p.Result != "exit-code" || p.ActiveState != "failed" {
				t.Errorf("got %+v, want the status %d", p, test.status)
			}
			r.untilLine(test.line)
		})
	}
}

// Environment files are read before there is a process.
func TestMissingEnvironmentFile(t *testing.T) {
	r := runUnits(t, wire.Config{}, "a.service", "[Service]\nType=exec\nEnvironmentFile=/etc/missing\nExecStart=/usr/bin/tool wait\n")
	r.job(wire.Start, wire.Failed)
	if p := r.show(); p.Result != "resources" || p.ExecMainPID != 0 {
		t.Errorf("properties are %+v", p)
	}
	r.untilLine("Failed to load environment files: No such file or directory")
}

// Installed programs are below the root, under the name by which they are
// found again; others are the host's.
func TestPrograms(t *testing.T) {
	r := runUnits(t, wire.Config{Programs: []string{"/usr/bin/myapp"}}, "a.service", `
[Service]
Type=oneshot
ExecStart=/usr/bin/myapp first
ExecStart=@/usr/bin/myapp other second
ExecStart=/bin/echo host
ExecStart=:/bin/echo $HOME
`)
	r.job(wire.Start, wire.Failed)
	r.untilLine("No such file or directory")
	if p := r.show(); p.ExecMainStatus != exitExec {
		t.Errorf("not installed, and %+v", p)
	}
	script := filepath.Join(shortDir(t), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$0 says $1\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.call(wire.Request{Verb: wire.Install, Path: "/usr/bin/myapp", Source: script})
	r.job(wire.Start, wire.Done)
	installed := filepath.Join(r.root, "usr/bin/myapp")
	r.untilLine(installed + " says first")
	// The kernel puts the path of a script in the place of its first argument.
	r.untilLine(installed + " says second")
	r.untilLine("host")
	r.untilLine("$HOME")
}

func TestStandardStreams(t *testing.T) {
	r := runUnits(t, wire.Config{}, "a.service", `
[Service]
Type=oneshot
StandardInput=data
StandardInputText=from the unit
StandardOutput=append:/run/out
StandardError=journal
ExecStart=/bin/sh -c 'cat; echo told >&2'
ExecStart=/bin/sh -c 'cat'
`)
	r.job(wire.Start, wire.Done)
	r.untilLine("told")
	if got := r.file("run/out"); got != "from the unit\nfrom the unit\n" {
		t.Errorf("output is %q", got)
	}
}
