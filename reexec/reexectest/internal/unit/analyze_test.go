// SPDX-License-Identifier: Apache-2.0

package unit_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
)

// hostSystemd is the version of systemd-analyze here. Without it the tests
// skip, but not as root, who can install it.
func hostSystemd(t *testing.T) int {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "--version").Output()
	if err != nil {
		if os.Geteuid() == 0 {
			t.Fatalf("systemd-analyze is needed (install the package systemd): %v", err)
		}
		t.Skipf("systemd-analyze is not here and only root can install it: %v", err)
	}
	fields := strings.Fields(string(out))
	if len(fields) < 2 {
		t.Fatalf("systemd-analyze --version: %q", out)
	}
	version, err := strconv.Atoi(strings.FieldsFunc(fields[1], func(r rune) bool { return r < '0' || r > '9' })[0])
	if err != nil {
		t.Fatalf("systemd-analyze --version: %v", err)
	}
	return version
}

// verdicts are lines of [Service] units, or of [Socket] units where they have a
// Listen option, about which systemd and Load are to be of one mind: whether
// there is something to complain about. ExecStart= is added unless there is
// one, or the service is to have none.
var verdicts = []string{
	// Booleans, numbers, modes
	"RemainAfterExit=yes", "RemainAfterExit=T", "RemainAfterExit=oN", "RemainAfterExit=2", "RemainAfterExit=", "RemainAfterExit=ja",
	"FileDescriptorStoreMax=0x10", "FileDescriptorStoreMax=-1", "FileDescriptorStoreMax=", "FileDescriptorStoreMax=+3",
	"FileDescriptorStoreMax=010", "FileDescriptorStoreMax=08", "FileDescriptorStoreMax=4294967295", "FileDescriptorStoreMax=4294967296",
	"FileDescriptorStoreMax=1_0", "FileDescriptorStoreMax=3 4",
	"UMask=0077", "UMask=77", "UMask=0789", "UMask=10000", "UMask=", "UMask=u=rwx",
	// Time spans
	"TimeoutSec=5min 20s", "TimeoutSec=infinity", "TimeoutSec=0", "TimeoutSec=", "TimeoutSec=5 bananas", "TimeoutSec=-1",
	"TimeoutStartSec=1.5h", "TimeoutStopSec=1y 2M 3w 4d 5hr 6m 7.25s 8ms 9us 10µs", "RestartSec=.5", "RestartSec=5.", "RestartSec=1.2.3",
	"RestartSec=1s2", "RestartSec=1 2 3", "RestartSec=infinity seconds", "RestartSec=+5", "RestartSec=0x10", "RestartSec=99999999999999999999",
	"RestartSec=18446744073709551614us", "RestartSec=584542y", "RestartSec=600000y", "TimeoutAbortSec=", "TimeoutAbortSec=x",
	"WatchdogSec=infinity", "WatchdogSec=3S", "RuntimeMaxSec=1week", "RuntimeRandomizedExtraSec=2s",
	// Words
	"Type=simple", "Type=exec", "Type=forking", "Type=notify", "Type=Simple", "Type=", "Type=other",
	"ExitType=main", "ExitType=cgroup", "ExitType=all", "NotifyAccess=all", "NotifyAccess=exec", "NotifyAccess=yes", "NotifyAccess=",
	"Restart=always", "Restart=on-abnormal", "Restart=yes", "KillMode=mixed", "KillMode=process", "KillMode=control_group",
	"OOMPolicy=continue", "OOMPolicy=none", "TimeoutStartFailureMode=abort", "TimeoutStopFailureMode=stop",
	"RuntimeDirectoryPreserve=restart", "RuntimeDirectoryPreserve=yes", "RuntimeDirectoryPreserve=1", "RuntimeDirectoryPreserve=maybe",
	// Signals and statuses
	"KillSignal=SIGTERM", "KillSignal=TERM", "KillSignal=15", "KillSignal=0", "KillSignal=65", "KillSignal=64", "KillSignal=RTMIN+3",
	"KillSignal=SIGRTMAX-3", "KillSignal=SIGRTMIN+31", "KillSignal=RTMIN-1", "KillSignal=SIGRTMIN3", "KillSignal=sigterm", "KillSignal=SIGIO", "KillSignal=SIGPOLL",
	"KillSignal=SIGCLD", "KillSignal=SIGSTKFLT", "KillSignal=", "FinalKillSignal=SIGQUIT", "WatchdogSignal=BUS", "RestartKillSignal=HUP",
	"SuccessExitStatus=TEMPFAIL 250 SIGKILL", "SuccessExitStatus=256", "SuccessExitStatus=-1", "SuccessExitStatus=tempfail", "SuccessExitStatus=",
	"SuccessExitStatus=KILL RTMIN+1", "RestartPreventExitStatus=1 6 SIGABRT", "RestartForceExitStatus=255", "RestartForceExitStatus=0x1",
	// Commands
	"ExecStart=-@:/bin/true argv0 x", "ExecStart=!!/bin/true", "ExecStart=+/bin/true", "ExecStart=!+/bin/true", "ExecStart=@/bin/true",
	"ExecStart=true", "ExecStart=bin/true", "ExecStart=/bin/", "ExecStart=", "ExecStart=/bin/true \"a b\" 'c d' e\\ f", "ExecStart=/bin/true \"a",
	"ExecStart=/bin/true 'a", "ExecStart=/bin/true \\x41\\101\\u00e4\\U0001F600\\s\\t", "ExecStart=/bin/true \\x00", "ExecStart=/bin/true \\q", "ExecStart=/bin/true %z",
	"ExecStart=/bin/true %%z 50%% %n %p %t %H %1", "ExecStart=/bin/true ; /bin/false", "ExecStart=/bin/true \\; x", "ExecStart=/bin/true ;x", "ExecStart=; /bin/true",
	"ExecStart=/bin/true\nExecStart=/bin/false", "Type=oneshot\nExecStart=/bin/true ; /bin/false", "Type=oneshot\nExecStart=/bin/true\nRestart=always",
	"Type=oneshot\nRestart=on-failure", "Type=oneshot\nRestart=on-success", "Type=oneshot\nExitType=cgroup", "Type=oneshot\nRestartForceExitStatus=1",
	"Type=oneshot\nRuntimeMaxSec=1", "Type=oneshot\nRemainAfterExit=yes\nExecStart=", "Type=oneshot\nExecStart=\nExecStop=/bin/true",
	"Type=oneshot\nExecStart=\nExecStop=/bin/true\nRemainAfterExit=yes", "ExecStart=\nExecStop=/bin/true\nRemainAfterExit=yes", "Type=simple\nExecStart=\nExecStop=/bin/true",
	"ExecReload=/bin/kill -HUP $MAINPID", "ExecStopPost=/bin/sh -c 'echo ${X} $$'", "ExecCondition=/bin/true", "ExecStartPre=-/bin/false",
	"ExecStart=/bin/true \\", "ExecStart=\"/bin/true\" x", "ExecStart=\"-/bin/true\"", "ExecStart=/bin/true a\"b\"c",
	// Environments
	"Environment=A=b C=d", "Environment=\"A=b c\" 'D=e f'", "Environment=A", "Environment=1A=b", "Environment=A-B=c", "Environment=A=\"b", "Environment=",
	"Environment=A=%n", "Environment=A=%z", "Environment=A=\\x41", "EnvironmentFile=/etc/x", "EnvironmentFile=-/etc/x", "EnvironmentFile=etc/x", "EnvironmentFile=/etc/*.env",
	"EnvironmentFile=", "EnvironmentFile=/etc/../x", "PassEnvironment=A B", "PassEnvironment=A=b", "UnsetEnvironment=A B=c", "UnsetEnvironment=1",
	// Paths and directories
	"PIDFile=/run/x.pid", "PIDFile=x.pid", "PIDFile=%t/x.pid", "WorkingDirectory=/tmp", "WorkingDirectory=-/x", "WorkingDirectory=~", "WorkingDirectory=",
	"RuntimeDirectory=a b/c", "RuntimeDirectory=/a", "RuntimeDirectory=../a", "RuntimeDirectory=private", "RuntimeDirectory=a:b", "ConfigurationDirectory=a:b",
	"StateDirectory=%p", "StateDirectory=", "CacheDirectoryMode=0700", "LogsDirectory=a/../b", "ExecSearchPath=/bin:/usr/bin", "ExecSearchPath=bin",
	"OpenFile=/etc/passwd", "RuntimeDirectory=a\\x20b", "RuntimeDirectory='a b'",
	// Descriptors and output
	"StandardInput=null", "StandardInput=file:/dev/null", "StandardInput=file:x", "StandardInput=data\nStandardInputText=x\\n%p", "StandardInput=fd:x", "StandardInput=fd:x:y", "StandardInput=other",
	"StandardOutput=journal", "StandardOutput=append:/tmp/x", "StandardOutput=truncate:/tmp/x", "StandardOutput=file:/tmp/x", "StandardOutput=file:x", "StandardOutput=inherit", "StandardOutput=null",
	"StandardError=journal+console", "StandardError=x", "StandardOutput=syslog", "StandardOutput=fd:out", "StandardInputData=aGVsbG8=", "StandardInputData=!", "StandardInputData=aGVs bG8=",
	"SyslogLevel=debug", "SyslogLevel=7", "SyslogLevel=8", "SyslogIdentifier=x",
	"Sockets=a.socket", "Sockets=a.service",
	// Limits
	"LimitNOFILE=1024", "LimitNOFILE=1024:4096", "LimitNOFILE=4096:1024", "LimitNOFILE=infinity", "LimitNOFILE=1K", "LimitNOFILE=", "LimitNOFILE=1:2:3",
	"LimitCORE=1G", "LimitCORE=1.5G:infinity", "LimitCPU=1min", "LimitRTTIME=5ms", "LimitNICE=+5", "LimitNICE=-21", "LimitNICE=40", "LimitNICE=41", "LimitFSIZE=1M 5K", "LimitFSIZE=5K 1M",
	"LimitSTACK=8m", "LimitAS=1Q",
	// Unknown ones
	"FooBar=1", "X-FooBar=1", "execStart=/bin/true",
	// Sockets
	"ListenStream=/run/x", "ListenStream=@x", "ListenStream=80", "ListenStream=0", "ListenStream=65536", "ListenStream=127.0.0.1:80", "ListenStream=[::1]:80", "ListenStream=::1:80",
	"ListenStream=127.0.0.1", "ListenStream=127.0.0.1:0", "ListenStream=vsock::80", "ListenStream=vsock:2:80", "ListenStream=vsock:x:80", "ListenStream=localhost:80", "ListenStream=x",
	"ListenStream=/run/" + strings.Repeat("x", 102), "ListenStream=/run/" + strings.Repeat("x", 103), "ListenStream=@" + strings.Repeat("x", 107), "ListenStream=@" + strings.Repeat("x", 108), "ListenStream=@",
	"ListenStream=%t/x", "ListenStream=", "ListenStream=80\nListenStream=", "ListenSequentialPacket=/run/x", "ListenSequentialPacket=80", "ListenFIFO=/run/x", "ListenFIFO=x",
	"ListenSpecial=/dev/null", "ListenSpecial=null", "ListenDatagram=53\nListenDatagram=[::]:53",
	"ListenStream=80\nAccept=yes", "ListenDatagram=80\nAccept=yes", "ListenStream=80\nAccept=yes\nService=x.service", "ListenStream=80\nService=x.socket", "ListenStream=80\nMaxConnections=0\nAccept=yes",
	"ListenStream=80\nFileDescriptorName=http", "ListenStream=80\nFileDescriptorName=a:b", "ListenStream=80\nFileDescriptorName=\xc3\xa4", "ListenStream=80\nFileDescriptorName=" + strings.Repeat("x", 256),
	"ListenStream=/run/a\nSymlinks=/run/b", "ListenStream=/run/a\nListenStream=/run/c\nSymlinks=/run/b", "ListenStream=80\nSymlinks=/run/b", "ListenStream=80\nBacklog=5", "ListenStream=80\nBacklog=-1",
	"ListenStream=80\nBindIPv6Only=both", "ListenStream=80\nBindIPv6Only=yes", "ListenStream=80\nReceiveBuffer=1M", "ListenStream=80\nReceiveBuffer=1X", "ListenStream=80\nIPTOS=low-delay", "ListenStream=80\nIPTOS=64",
	"ListenStream=80\nIPTOS=256", "ListenStream=80\nTimestamping=us", "ListenStream=80\nTimestamping=on", "ListenStream=80\nKeepAliveTimeSec=1min", "ListenStream=80\nPriority=-1", "ListenStream=80\nSocketProtocol=sctp",
	"ListenStream=80\nSocketProtocol=tcp", "ListenStream=80\nTriggerLimitIntervalSec=infinity", "ListenStream=80\nSocketMode=0600", "ListenStream=80\nSocketMode=rw", "ListenStream=80\nSocketProtocol=mptcp",
	"ListenStream=80\nTriggerLimitIntervalSec=0\nTriggerLimitBurst=5", "ListenStream=80\nExecStartPre=/bin/true",
	"ListenStream=[fe80::1%%lo]:80", "ListenStream=[fe80::1]:80%%lo", "ListenStream=[::ffff:1.2.3.4]:80", "ListenStream=1.2.3:80", "ListenStream=080", "ListenStream=+80", "ListenStream=0x50",
}

// verdictUnit makes a unit of lines: its name, and its files.
func verdictUnit(i int, lines string) (name string, files []unit.File) {
	name = fmt.Sprintf("verdict%d.service", i)
	if !strings.HasPrefix(lines, "Listen") {
		if !strings.Contains(lines, "ExecStart=") {
			lines += "\nExecStart=/bin/true"
		}
		return name, []unit.File{{Name: name, Text: "[Service]\n" + lines + "\n"}}
	}
	service := "[Service]\nExecStart=/bin/true\n"
	if strings.Contains(lines, "Accept=yes") {
		name = fmt.Sprintf("verdict%d@.service", i)
	}
	socket := fmt.Sprintf("verdict%d.socket", i)
	return socket, []unit.File{{Name: socket, Text: "[Socket]\n" + lines + "\n"}, {Name: name, Text: service}}
}

// Load complains about what systemd complains about, and about nothing else.
func TestVerdicts(t *testing.T) {
	host := hostSystemd(t)
	if host < 252 {
		t.Skipf("the verdicts are those of systemd 252 and later, this is %d", host)
	}
	dir := t.TempDir()
	args := []string{"verify", "--man=no", "--recursive-errors=no"}
	for i, lines := range verdicts {
		name, files := verdictUnit(i, lines)
		for _, f := range files {
			if err := os.WriteFile(filepath.Join(dir, f.Name), []byte(f.Text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		args = append(args, filepath.Join(dir, name))
	}
	cmd := exec.CommandContext(t.Context(), "systemd-analyze", args...)
	cmd.Env = append(os.Environ(), "SYSTEMD_LOG_LEVEL=info", "SYSTEMD_COLORS=0")
	out, _ := cmd.CombinedOutput() // it fails, since there is much to complain about
	checkVerdicts(t, min(host, unit.NewestSystemd), string(out))
}

// checkVerdicts compares what systemd-analyze wrote with what Load says.
func checkVerdicts(t *testing.T, systemd int, output string) {
	t.Helper()
	said := make(map[string]string)
	about := regexp.MustCompile(`verdict\d+@?(0)?\.(service|socket)`)
	for line := range strings.Lines(output) {
		if name := about.FindString(line); name != "" && !strings.Contains(line, "legacy cgroups v1") {
			said[name] += line
		}
	}
	if len(said) < 50 {
		t.Fatalf("systemd-analyze complained about %d units:\n%s", len(said), output)
	}
	for i, lines := range verdicts {
		name, files := verdictUnit(i, lines)
		set, err := unit.Load(unit.Options{Systemd: systemd, Files: files})
		var mine string
		if err != nil {
			mine = err.Error()
		} else if len(set.Warnings) > 0 {
			mine = set.Warnings.Error()
		}
		if (mine == "") != (said[name] == "") {
			t.Errorf("%q:\nsystemd %d says: %s\nLoad says: %s", lines, systemd, said[name], mine)
		}
	}
}

var timespans = []string{
	"5min 20s", "1", "0", ".5", "1.5h", "2y 3month", "1week 2d", "17us", "1.000001s", "1.0000001s", "3m5", "1 2 3", "48hr", "90 seconds", "1.5us", "1.123456789min", "1M",
}

// Time spans are as long as systemd finds them.
func TestTimespansOfSystemd(t *testing.T) {
	hostSystemd(t)
	micro := regexp.MustCompile(`[µμ]s: (\d+)`)
	for _, text := range timespans {
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", "timespan", text).CombinedOutput()
		m := micro.FindStringSubmatch(string(out))
		if err != nil || m == nil {
			t.Errorf("systemd-analyze timespan %q: %v: %s", text, err, out)
			continue
		}
		set, err := unit.Load(unit.Options{Systemd: 252, Files: []unit.File{{Name: "a.service", Text: "[Service]\nExecStart=/bin/true\nRestartSec=" + text}}})
		if err != nil {
			t.Error(err)
			continue
		}
		if got := strconv.FormatInt(set.Service.RestartSec.Microseconds(), 10); got != m[1] {
			t.Errorf("%q is %s µs, and %s to systemd", text, got, m[1])
		}
	}
}
