// SPDX-License-Identifier: Apache-2.0

package unit_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
)

func load(t *testing.T, o unit.Options) *unit.Set {
	t.Helper()
	if o.Systemd == 0 {
		o.Systemd = unit.NewestSystemd
	}
	set, err := unit.Load(o)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// files makes files of alternating names and texts.
func files(namesAndTexts ...string) []unit.File {
	var all []unit.File
	for i := 0; i < len(namesAndTexts); i += 2 {
		all = append(all, unit.File{Name: namesAndTexts[i], Text: namesAndTexts[i+1]})
	}
	return all
}

func service(lines string) []unit.File {
	return files("a.service", "[Service]\nExecStart=/bin/true\n"+lines+"\n")
}

func TestDefaults(t *testing.T) {
	want := func(systemd int) *unit.Service {
		w := &unit.Service{
			Name: "a.service", Description: "a.service",
			Type: "simple", NotifyAccess: "none", ExitType: "main",
			ExecStart:    []unit.Command{{Path: "/bin/true", Args: []string{"/bin/true"}, File: "a.service", Line: 2}},
			TimeoutStart: 90 * time.Second, TimeoutStop: 90 * time.Second, TimeoutAbort: 90 * time.Second, RuntimeMax: unit.Infinity,
			TimeoutStartFailureMode: "terminate", TimeoutStopFailureMode: "terminate",
			Restart: "no", RestartMode: "normal", RestartSec: 100 * time.Millisecond, RestartMaxDelay: unit.Infinity,
			GuessMainPID: true, StartLimitInterval: 10 * time.Second, StartLimitBurst: 5, DefaultDependencies: true,
			FileDescriptorStorePreserve: "restart", KillMode: "control-group",
			KillSignal: syscall.SIGTERM, RestartKillSignal: syscall.SIGTERM, FinalKillSignal: syscall.SIGKILL,
			WatchdogSignal: syscall.SIGABRT, ReloadSignal: syscall.SIGHUP, SendSIGKILL: true, OOMPolicy: "stop",
			RuntimeDirectoryMode: 0o755, StateDirectoryMode: 0o755, CacheDirectoryMode: 0o755, LogsDirectoryMode: 0o755,
			ConfigurationDirectoryMode: 0o755, RuntimeDirectoryPreserve: "no", TimeoutClean: unit.Infinity,
			UMask: 0o022, IgnoreSIGPIPE: true,
			StandardInput: "null", StandardOutput: "journal", StandardError: "inherit", SyslogLevel: 6, SyslogLevelPrefix: true,
		}
		if systemd < 243 {
			w.OOMPolicy = "continue"
		}
		return w
	}
	for systemd := unit.OldestSystemd; systemd <= unit.NewestSystemd; systemd++ {
		if got := load(t, unit.Options{Systemd: systemd, Files: service("")}).Service; !reflect.DeepEqual(got, want(systemd)) {
			t.Errorf("for systemd %d:\n%+v\nwant\n%+v", systemd, got, want(systemd))
		}
	}
}

func TestSocketDefaults(t *testing.T) {
	both := append(service(""), files("a.socket", "[Socket]\nListenStream=80")...)
	for systemd := unit.OldestSystemd; systemd <= unit.NewestSystemd; systemd++ {
		want := &unit.Socket{
			Name: "a.socket", Description: "a.socket", Service: "a.service",
			Listen:             []unit.Listen{{Kind: "ListenStream", Address: "80", File: "a.socket", Line: 2}},
			FileDescriptorName: "a.socket", Backlog: -1, BindIPv6Only: "default", SocketMode: 0o666, DirectoryMode: 0o755,
			AcceptFileDescriptors: true, Timestamping: "off", TimeoutSec: 90 * time.Second, MaxConnections: 64,
			TriggerLimitInterval: 2 * time.Second, TriggerLimitBurst: 20, DeferTrigger: "no", DeferTriggerMax: unit.Infinity,
			StartLimitInterval: 10 * time.Second, StartLimitBurst: 5, DefaultDependencies: true,
		}
		if systemd >= 255 {
			want.PollLimitInterval, want.PollLimitBurst = 2*time.Second, 15
		}
		if systemd < 252 {
			want.Backlog = 4096
		}
		if systemd < 245 {
			want.Backlog = 128
		}
		set := load(t, unit.Options{Systemd: systemd, Files: both})
		if len(set.Sockets) != 1 || !reflect.DeepEqual(set.Sockets[0], want) {
			t.Errorf("for systemd %d:\n%+v\nwant\n%+v", systemd, set.Sockets[0], want)
		}
		if !slices.Equal(set.Service.Sockets, []string{"a.socket"}) {
			t.Errorf("the sockets of the service are %q", set.Service.Sockets)
		}
	}
}

// What follows from other options.
func TestImplied(t *testing.T) {
	for _, c := range []struct {
		systemd int
		lines   string
		get     func(s *unit.Service) any
		want    any
	}{
		{262, "Type=notify", func(s *unit.Service) any { return s.NotifyAccess }, "main"},
		{262, "Type=notify\nNotifyAccess=all", func(s *unit.Service) any { return s.NotifyAccess }, "all"},
		{262, "Type=notify-reload", func(s *unit.Service) any { return s.NotifyAccess }, "main"},
		{262, "WatchdogSec=1", func(s *unit.Service) any { return s.NotifyAccess }, "main"},
		{262, "WatchdogSec=infinity", func(s *unit.Service) any { return s.NotifyAccess }, "none"},
		{262, "WatchdogSec=infinity", func(s *unit.Service) any { return s.Watchdog }, time.Duration(0)},
		{239, "FileDescriptorStoreMax=1", func(s *unit.Service) any { return s.NotifyAccess }, "main"},
		{262, "FileDescriptorStoreMax=1\nNotifyAccess=none", func(s *unit.Service) any { return s.NotifyAccess }, "main"},
		{262, "Type=oneshot", func(s *unit.Service) any { return s.TimeoutStart }, unit.Infinity},
		{262, "Type=oneshot\nTimeoutStartSec=5", func(s *unit.Service) any { return s.TimeoutStart }, 5 * time.Second},
		{262, "TimeoutSec=7", func(s *unit.Service) any { return [2]time.Duration{s.TimeoutStart, s.TimeoutStop} }, [2]time.Duration{7 * time.Second, 7 * time.Second}},
		{262, "TimeoutSec=0", func(s *unit.Service) any { return s.TimeoutStop }, unit.Infinity},
		{262, "TimeoutStopSec=0", func(s *unit.Service) any { return s.TimeoutStop }, unit.Infinity},
		{262, "TimeoutStopSec=3", func(s *unit.Service) any { return s.TimeoutAbort }, 3 * time.Second},
		{262, "TimeoutStopSec=3\nTimeoutAbortSec=4", func(s *unit.Service) any { return s.TimeoutAbort }, 4 * time.Second},
		{262, "TimeoutAbortSec=4\nTimeoutAbortSec=\nTimeoutStopSec=3", func(s *unit.Service) any { return s.TimeoutAbort }, 3 * time.Second},
		{262, "KillSignal=SIGINT", func(s *unit.Service) any { return s.RestartKillSignal }, syscall.SIGINT},
		{262, "RestartKillSignal=SIGUSR1\nKillSignal=SIGINT", func(s *unit.Service) any { return s.RestartKillSignal }, syscall.SIGUSR1},
		{262, "RestartSec=10\nRestartMaxDelaySec=5\nRestartSteps=2", func(s *unit.Service) any { return s.RestartSec }, 5 * time.Second},
		{262, "StartLimitInterval=0", func(s *unit.Service) any { return s.StartLimitBurst }, 0},
		{262, "StartLimitBurst=0", func(s *unit.Service) any { return s.StartLimitInterval }, time.Duration(0)},
		{262, "Delegate=yes", func(s *unit.Service) any { return s.OOMPolicy }, "continue"},
		{262, "Delegate=cpu memory", func(s *unit.Service) any { return s.OOMPolicy }, "continue"},
		{262, "Delegate=no", func(s *unit.Service) any { return s.OOMPolicy }, "stop"},
		{262, "SetCredential=a:b", func(s *unit.Service) any { return s.Type }, "exec"},
		{256, "SetCredential=a:b", func(s *unit.Service) any { return s.Type }, "simple"},
		{262, "StandardInputText=a\\tb", func(s *unit.Service) any { return s.StandardInput + string(s.StandardInputData) }, "dataa\tb\n"},
		{262, "StandardInput=socket", func(s *unit.Service) any { return s.StandardOutput }, "inherit"},
		{262, "StandardInput=fd", func(s *unit.Service) any { return s.StandardInput + s.StandardOutput }, "fd:stdininherit"},
		{262, "StandardInput=file:/dev/null", func(s *unit.Service) any { return s.StandardOutput }, "journal"},
		{244, "StandardInput=file:/dev/null", func(s *unit.Service) any { return s.StandardOutput }, "inherit"},
		{262, "RemainAfterExit=yes\nExecStart=\nExecStop=/bin/true", func(s *unit.Service) any { return s.Type }, "oneshot"},
		{262, "FileDescriptorStorePreserve=1", func(s *unit.Service) any { return s.FileDescriptorStorePreserve }, "yes"},
		{262, "FileDescriptorStorePreserve=on-success", func(s *unit.Service) any { return s.FileDescriptorStorePreserve }, "on-success"},
		{262, "RuntimeDirectoryPreserve=no", func(s *unit.Service) any { return s.RuntimeDirectoryPreserve }, "no"},
		{262, "PIDFile=x/main.pid", func(s *unit.Service) any { return s.PIDFile }, "/run/x/main.pid"},
		{262, "PIDFile=/var/run/main.pid", func(s *unit.Service) any { return s.PIDFile }, "/run/main.pid"},
		{262, "Environment=A=1 B=2\nEnvironment=A=3", func(s *unit.Service) any { return strings.Join(s.Environment, " ") }, "A=3 B=2"},
		{262, "Environment=A=1\nEnvironment=\nEnvironment=B=2", func(s *unit.Service) any { return strings.Join(s.Environment, " ") }, "B=2"},
		{262, "LimitNOFILE=10:20\nLimitCORE=1K\nLimitNOFILE=30", func(s *unit.Service) any { return fmt.Sprint(s.Limits) }, "[{LimitCORE 4 1024 1024} {LimitNOFILE 7 30 30}]"},
		{262, "LimitNICE=-5", func(s *unit.Service) any { return s.Limits[0].Soft }, uint64(25)},
		{262, "LimitCPU=1500ms", func(s *unit.Service) any { return s.Limits[0].Soft }, uint64(2)},
		{262, "LimitRTTIME=5ms", func(s *unit.Service) any { return s.Limits[0].Soft }, uint64(5000)},
		{262, "StateDirectory=a b/c a", func(s *unit.Service) any { return strings.Join(s.StateDirectory, " ") }, "a b/c"},
		{262, "RuntimeDirectory=a:b c", func(s *unit.Service) any { return fmt.Sprint(s.RuntimeDirectory, s.DirectoryLinks) }, "[a c] [{RuntimeDirectory a b}]"},
		{262, "RuntimeDirectory=a:b\nRuntimeDirectory=", func(s *unit.Service) any { return len(s.RuntimeDirectory) + len(s.DirectoryLinks) }, 0},
		{262, "OpenFile=/etc/a:b:read-only,graceful", func(s *unit.Service) any { return s.OpenFiles[0] }, unit.OpenFile{Path: "/etc/a", Name: "b", ReadOnly: true, Graceful: true}},
		{262, `OpenFile=/etc/a\:b:n`, func(s *unit.Service) any { return s.OpenFiles[0].Path }, "/etc/a:b"},
		{262, "WorkingDirectory=-/x//y/./z/", func(s *unit.Service) any { return fmt.Sprint(s.WorkingDirectory, s.WorkingDirectoryOptional) }, "/x/y/ztrue"},
		{262, "UMask=0027", func(s *unit.Service) any { return s.UMask }, os.FileMode(0o027)},
		{262, "ExecStart=\nExecStart=-@/bin/sh sh -c ':'", func(s *unit.Service) any { return fmt.Sprint(s.ExecStart) }, "[{/bin/sh [sh -c :] true true false false false false a.service 4}]"},
		{262, "SyslogLevel=debug", func(s *unit.Service) any { return s.SyslogLevel }, 7},
		{262, "SuccessExitStatus=TEMPFAIL 250 SIGKILL", func(s *unit.Service) any {
			return s.SuccessExit.Has(75<<8) && s.SuccessExit.Has(9) && !s.SuccessExit.Has(9<<8)
		}, true},
		{262, "SuccessExitStatus=1\nSuccessExitStatus=", func(s *unit.Service) any { return s.SuccessExit.Empty() }, true},
	} {
		if got := c.get(load(t, unit.Options{Systemd: c.systemd, Files: service(c.lines)}).Service); got != c.want {
			t.Errorf("%q for systemd %d: %v, want %v", c.lines, c.systemd, got, c.want)
		}
	}
}

func TestFaults(t *testing.T) {
	for _, c := range []struct {
		systemd int
		files   []unit.File
		want    string // in the error
	}{
		{262, nil, "no service"},
		{262, files("a.socket", "[Socket]\nListenStream=80"), "no service"},
		{262, append(service(""), files("b.service", "")...), "several services"},
		{262, append(service(""), service("")...), "twice"},
		{262, files("a.timer", ""), `"timer" are not supported`},
		{262, files("a", ""), "not the name of a unit"},
		{262, files("a@.service", "[Service]\nExecStart=/bin/true"), "no instance"},
		{262, append(service(""), files("b.service.d/x.conf", "")...), "b.service.d is a drop-in of no unit"},
		{262, append(service(""), files("a.service.d/x", "")...), `ends in ".conf"`},
		{262, append(service(""), files("x/y/z.conf", "")...), "nor that of a drop-in"},
		{262, service("FooBar=yes"), "a.service:3: [Service] FooBar=yes: the stand-in does not know this option"},
		{262, service("Restrat=always"), "did you mean Restart=?"},
		{262, service("execstart=/bin/true"), "did you mean ExecStart=?"},
		{262, service("Description=x"), "it belongs into [Unit]"},
		{262, service("[Unit]\nRestart=no"), "it belongs into [Service]"},
		{262, service("[Foo]\nBar=1"), "a.service:3: [Foo] a service unit has no such section"},
		{262, service("[Socket]\nListenStream=80"), "[Socket] a service unit has no such section"},
		{252, service("RestartMode=direct"), "a.service:3: [Service] RestartMode=direct: the option is of systemd 254, and this is 252"},
		{262, service("ManagedOOMMemoryPressureLimitPercent=5"), "has the option no more since 248"},
		{239, service("Type=exec"), `"exec" is a value since systemd 240`},
		{252, service("Type=notify-reload"), `"notify-reload" is a value since systemd 253`},
		{256, service("RestartMode=debug"), `"debug" is a value since systemd 257`},
		{260, service("FileDescriptorStorePreserve=on-success"), `"on-success" is a value since systemd 261`},
		{247, service("StandardOutput=truncate:/x"), `"truncate:" is a value since systemd 248`},
		{242, service("SuccessExitStatus=TEMPFAIL"), "since 243, and this is 242: write 75"},
		{241, service("ExecStart=:/bin/true"), "neither an absolute path nor a bare file name"},
		{245, service("ExecStartPre=/bin/echo %l"), "%l is a specifier since systemd 246"},
		{262, service("ExecStartPre=|/bin/echo"), `prefix "|" is not supported`},
		{262, service("ExecStartPre=/bin/echo %c"), "%c names a control group"},
		{262, service("ExecStartPre=/bin/echo %z"), `%z is no specifier: write "%%z"`},
		{262, service("Type=dbus"), "no message bus"},
		{262, service("BusName=org.example"), "no message bus"},
		{262, service("Type=idle"), "Type=simple is the same"},
		{262, service("StandardInput=tty"), "no terminal"},
		{262, service("FileDescriptorStorePreserve=maybe"), `"maybe" is none of the values: no, yes, restart, on-success`},
		{262, service("RootDirectory=/srv"), "does not support the option: programs run in the root directory"},
		{262, service("ExecStart="), "bad-setting): there is neither ExecStart= nor ExecStop="},
		{262, service("ExecStart=/bin/false"), "2 commands in ExecStart="},
		{243, service("Type=oneshot\nRestart=on-failure"), "before systemd 244"},
		{262, service("Type=oneshot\nRestart=always"), "may not have Restart=always"},
		{255, service("Type=oneshot\nRestartForceExitStatus=1"), "before systemd 256"},
		{262, service("Type=oneshot\nExitType=cgroup"), "ExitType=cgroup"},
		{262, service("OpenFile=/a:b:append,truncate"), "a file can have one"},
		{262, service("StateDirectory=a:b:c"), "too many fields"},
		{262, service("ExecStart"), `has no "="`},
		{262, append(service(""), files("a.socket", "[Socket]")...), "no Listen option"},
		{262, append(service(""), files("b.socket", "[Socket]\nListenStream=80")...), "b.socket: the socket starts b.service, which is not among the files: write Service=a.service"},
		{262, append(service(""), files("a.socket", "[Socket]\nListenStream=80\nAccept=yes")...), "make it a template"},
		{262, append(service(""), files("a.socket", "[Socket]\nListenNetlink=route 1")...), "does not support the option: only stream"},
		{262, append(service(""), files("a.socket", "[Socket]\nListenStream=80\nDeferTrigger=often")...), `"often" is none of the values`},
		{257, append(service(""), files("a.socket", "[Socket]\nListenStream=80\nDeferTrigger=yes")...), "of systemd 258"},
		{262, append(service(""), files("a.socket", "[Socket]\nListenDatagram=80\nAccept=yes")...), "which Accept=yes needs"},
		{262, append(service(""), files("a.socket", "[Service]\nExecStart=/bin/true")...), "[Service] a socket unit has no such section"},
	} {
		_, err := unit.Load(unit.Options{Systemd: c.systemd, Files: c.files})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v for systemd %d: %v, want %q", c.files, c.systemd, err, c.want)
			continue
		}
		var e *unit.Error
		if !errors.As(err, &e) || e.File == "" {
			t.Errorf("%v is no Error with a file", err)
		}
	}
	for _, systemd := range []int{0, 238, 263} {
		if _, err := unit.Load(unit.Options{Systemd: systemd, Files: service("")}); err == nil || !strings.Contains(err.Error(), "239 to 262") {
			t.Errorf("for systemd %d: %v", systemd, err)
		}
	}
}

// All faults are there, in the order of the files; only some are printed.
func TestManyFaults(t *testing.T) {
	var b strings.Builder
	b.WriteString("[Service]\nExecStart=/bin/true\n")
	for i := range 10000 {
		fmt.Fprintf(&b, "NoSuchOption%d=%s\n", i, strings.Repeat("x", 300))
	}
	start := time.Now()
	_, err := unit.Load(unit.Options{Systemd: 262, Files: append(files("a.socket", "[Socket]\nNo=1"), files("a.service", b.String())...)})
	var faults unit.Faults
	if !errors.As(err, &faults) || len(faults) != 10001 {
		t.Fatalf("%d faults, want 10001", len(faults))
	}
	if faults[0].File != "a.socket" || faults[10000].Line != 10002 {
		t.Errorf("the first fault is %v, the last %v", faults[0], faults[10000])
	}
	text := err.Error()
	if strings.Count(text, "\n") != 20 || !strings.HasSuffix(text, "\nand 9981 more") || len(text) > 10000 {
		t.Errorf("%d bytes:\n%s", len(text), text)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestDropIns(t *testing.T) {
	set := load(t, unit.Options{Instance: "x", Files: files(
		"my-app@.service", "[Unit]\nDescription=main\n[Service]\nExecStart=/bin/true\nEnvironment=A=main B=main",
		"service.d/50-all.conf", "[Service]\nEnvironment=A=all E=all",
		"my-@.service.d/40-my.conf", "[Service]\nEnvironment=A=my D=my",
		"my-app@.service.d/10-x.conf", "[Service]\nEnvironment=A=hidden",
		"my-app@x.service.d/10-x.conf", "[Service]\nEnvironment=B=x C=x\nExecStart=\nExecStart=/bin/false",
		"my-app@x.service.d/90-last.conf", "[Unit]\nDescription=last\n[X-Mine]\nFoo=bar\n[Service]\nX-Foo=bar\nEnvironmentFile=/etc/x\nEnvironmentFile=\n",
	)})
	s := set.Service
	if want := "A=all B=x C=x D=my E=all"; strings.Join(slices.Sorted(slices.Values(s.Environment)), " ") != want {
		t.Errorf("Environment=%q, want %q", s.Environment, want)
	}
	if s.Description != "last" || len(s.ExecStart) != 1 || s.ExecStart[0].Path != "/bin/false" || len(s.EnvironmentFiles) != 0 {
		t.Errorf("%+v", s)
	}
	if c := s.ExecStart[0]; c.File != "my-app@x.service.d/10-x.conf" || c.Line != 4 {
		t.Errorf("the command is said to be at %s:%d", c.File, c.Line)
	}
	// Without service.d before 244.
	if _, err := unit.Load(unit.Options{Systemd: 243, Files: append(service(""), files("service.d/x.conf", "")...)}); err == nil {
		t.Error("systemd 243 has no service.d")
	}
}

func TestSpecifiers(t *testing.T) {
	set := load(t, unit.Options{
		Instance: `a-b\x2dc`,
		Files: files(`my-app\x2dx@.service`, "[Service]\nExecStart=/bin/x %n %N %p %P %i %I %j %J %f %t %S %C %L %E %d %T %V %h %u %U %g %G %s %H %l %m %b %v %a %y %Y %% %q\n"+
			"Environment=\"X=%n\"\nStateDirectory=%p\nSyslogIdentifier=%i"),
		Specifiers: unit.Specifiers{
			Runtime: "/r/run", State: "/r/lib", Cache: "/r/cache", Logs: "/r/log", Configuration: "/r/etc",
			Tmp: "/r/tmp", VarTmp: "/r/vartmp", Home: "/home/me", User: "me", UID: "7", Group: "us", GID: "8",
			Shell: "/bin/zsh", Host: "h.example.org", MachineID: "mmm", BootID: "bbb", Kernel: "6.1", Fragments: "/u",
		},
	})
	s := set.Service
	got := strings.Join(s.ExecStart[0].Args[1:], " ")
	got = strings.Replace(got, " x86-64 ", " ARCH ", 1)
	got = strings.Replace(got, " arm64 ", " ARCH ", 1)
	const n = `my-app\x2dx@a-b\x2dc`
	want := n + ".service " + n + ` my-app\x2dx my/app-x a-b\x2dc a/b-c app\x2dx app-x /a/b-c ` +
		"/r/run /r/lib /r/cache /r/log /r/etc /r/run/credentials/" + n + ".service /r/tmp /r/vartmp " +
		"/home/me me 7 us 8 /bin/zsh h.example.org h mmm bbb 6.1 ARCH /u/my-app\\x2dx@.service /u % h.example.org"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if s.Environment[0] != "X="+n+".service" || s.StateDirectory[0] != `my-app\x2dx` || s.SyslogIdentifier != `a-b\x2dc` {
		t.Errorf("%q %q %q", s.Environment, s.StateDirectory, s.SyslogIdentifier)
	}
}

func TestRelocate(t *testing.T) {
	set := load(t, unit.Options{
		Files: append(service(strings.Join([]string{
			"PIDFile=/run/a.pid", "WorkingDirectory=/var/lib/a", "EnvironmentFile=-/etc/a", "EnvironmentFile=%t/a",
			"ExecStartPre=/usr/bin/x /run/y", "StandardOutput=append:/var/log/a", "StandardInput=file:/etc/in", "OpenFile=/etc/o",
			"ExecSearchPath=/opt/bin", "StateDirectory=a", "Environment=A=/run/x",
		}, "\n")), files("a.socket", strings.Join([]string{
			"[Socket]", "ListenStream=/run/a.sock", "ListenStream=%t/b.sock", "ListenStream=@abstract", "ListenStream=127.0.0.1:80",
			"ListenFIFO=/run/fifo", "ListenSpecial=/dev/null", "ListenStream=/var/run/c.sock", "ListenStream=[fe80::1]:80%%lo", "ListenDatagram=0x50",
		}, "\n"))...),
		Specifiers: unit.Specifiers{Runtime: "/root/run"},
		Relocate:   func(path string) string { return "/root" + path },
	})
	s := set.Service
	got := []string{
		s.PIDFile, s.WorkingDirectory, s.EnvironmentFiles[0].Path, s.EnvironmentFiles[1].Path, s.ExecStartPre[0].Path, s.ExecStartPre[0].Args[1],
		s.StandardOutput, s.StandardInput, s.OpenFiles[0].Path, s.ExecSearchPath[0], s.StateDirectory[0], s.Environment[0],
	}
	for _, l := range set.Sockets[0].Listen {
		got = append(got, l.Address)
	}
	want := []string{
		"/root/run/a.pid", "/root/var/lib/a", "/root/etc/a", "/root/run/a", "/usr/bin/x", "/run/y",
		"append:/root/var/log/a", "file:/root/etc/in", "/root/etc/o", "/opt/bin", "a", "A=/run/x",
		"/root/run/a.sock", "/root/run/b.sock", "@abstract", "127.0.0.1:80", "/root/run/fifo", "/root/dev/null", "/root/run/c.sock", "[fe80::1%lo]:80", "80",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	_, err := unit.Load(unit.Options{
		Systemd:  262,
		Files:    append(service(""), files("a.socket", "[Socket]\nListenStream=/run/a.sock")...),
		Relocate: func(path string) string { return "/" + strings.Repeat("x", 100) + path },
	})
	if err == nil || !strings.Contains(err.Error(), "at most 107") {
		t.Errorf("a path that is too long: %v", err)
	}
}

func TestAccept(t *testing.T) {
	for _, c := range []struct {
		systemd int
		name    string
	}{{256, "connection"}, {257, "http"}} {
		set := load(t, unit.Options{Systemd: c.systemd, Files: files(
			"a@.service", "[Service]\nExecStart=/bin/cat\nStandardInput=socket",
			"a.socket", "[Socket]\nListenStream=80\nAccept=yes\nFileDescriptorName=http",
		)})
		s := set.Sockets[0]
		if s.Service != "a@.service" || s.FileDescriptorName != c.name || s.TriggerLimitBurst != 200 || set.Service.Name != "a@0.service" {
			t.Errorf("for systemd %d: %+v, the service is %s", c.systemd, s, set.Service.Name)
		}
		if len(set.Service.Sockets) != 0 {
			t.Errorf("the instance has the sockets %q: it gets a connection", set.Service.Sockets)
		}
	}
	set := load(t, unit.Options{Systemd: 262, Instance: "7", Files: files(
		"a@.service", "[Service]\nExecStart=/bin/cat", "a.socket", "[Socket]\nListenStream=80\nAccept=yes",
	)})
	if s := set.Sockets[0]; set.Service.Name != "a@7.service" || s.FileDescriptorName != "connection" || s.PollLimitBurst != 150 {
		t.Errorf("%+v, the service is %s", s, set.Service.Name)
	}
}

func TestWarnings(t *testing.T) {
	for lines, want := range map[string]string{
		`ExecStartPre=/bin/echo \q`:     `a.service:3: [Service] ExecStartPre=/bin/echo \q: \q is no escape`,
		"ExecStartPre=!!/bin/echo":      "since 258",
		"KillMode=none":                 "deprecated",
		"RestartSteps=3":                "without RestartMaxDelaySec=",
		"StandardOutput=syslog":         "obsolete",
		"PIDFile=/var/run/x":            "legacy",
		"RuntimeRandomizedExtraSec=1":   "without RuntimeMaxSec=",
		"Type=oneshot\nRuntimeMaxSec=1": "no effect with Type=oneshot",
	} {
		set := load(t, unit.Options{Files: service(lines)})
		if len(set.Warnings) != 1 || !strings.Contains(set.Warnings[0].Error(), want) {
			t.Errorf("%q: %v, want %q", lines, set.Warnings, want)
		}
	}
}

// The units of this machine, if it has any, are read: what Load has against
// them is that it does not support something.
func TestUnitsOfTheMachine(t *testing.T) {
	paths, err := filepath.Glob("/lib/systemd/system/*.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil || len(b) == 0 {
			continue // a link to nowhere, or to /dev/null
		}
		instance := ""
		if strings.HasSuffix(path, "@.service") {
			instance = "1"
		}
		all := files(filepath.Base(path), string(b))
		if b, err := os.ReadFile(strings.TrimSuffix(path, ".service") + ".socket"); err == nil {
			all = append(all, files(strings.TrimSuffix(filepath.Base(path), ".service")+".socket", string(b))...)
		}
		_, err = unit.Load(unit.Options{Systemd: unit.NewestSystemd, Files: all, Instance: instance})
		var faults unit.Faults
		if err != nil && !errors.As(err, &faults) {
			t.Errorf("%s: %v", path, err)
		}
		for _, f := range faults {
			if !strings.Contains(f.Reason, "not support") && !strings.Contains(f.Reason, "Accept=yes") {
				t.Error(f)
			}
		}
	}
	t.Logf("%d units", len(paths))
}

func FuzzLoad(f *testing.F) {
	for _, c := range verdicts {
		f.Add("[Service]\nExecStart=/bin/true\n"+c, "[Socket]\nListenStream=80\n"+c, "[Service]\n"+c, uint8(23))
	}
	paths, err := filepath.Glob("../../../../units/testdata/full-*.golden")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		main, rest, _ := strings.Cut(string(b), "\n==> ")
		f.Add(main, rest, "", uint8(13))
	}
	f.Fuzz(func(t *testing.T, service, socket, dropin string, systemd uint8) {
		o := unit.Options{
			Systemd:    unit.OldestSystemd + int(systemd)%(unit.NewestSystemd-unit.OldestSystemd+1),
			Files:      files("a.service", service, "a.socket", socket, "a.service.d/x.conf", dropin),
			Specifiers: unit.Specifiers{Host: "h", MachineID: "m", BootID: "b", Kernel: "k"},
		}
		set, err := unit.Load(o)
		if err != nil {
			var faults unit.Faults
			if !errors.As(err, &faults) || set != nil {
				t.Fatalf("%v is not of the type Faults, or comes with a set", err)
			}
			if text := err.Error(); strings.Count(text, "\n") > 20 {
				t.Fatalf("the error has many lines:\n%s", text)
			}
			return
		}
		s := set.Service
		if s.Type == "" || len(s.ExecStart) == 0 && s.Type != "oneshot" || s.TimeoutStart < 0 || s.RestartSec > s.RestartMaxDelay {
			t.Fatalf("%+v", s)
		}
		for _, c := range slices.Concat(s.ExecStart, s.ExecStop, s.ExecReload) {
			if len(c.Args) == 0 || c.Path == "" {
				t.Fatalf("%+v", c)
			}
			c.Expand(s.Environment)
		}
		for _, k := range set.Sockets {
			if len(k.Listen) == 0 || k.FileDescriptorName == "" || k.Service == "" {
				t.Fatalf("%+v", k)
			}
		}
		if again, err := unit.Load(o); err != nil || !reflect.DeepEqual(set, again) {
			t.Fatalf("loaded again it is not the same: %v", err)
		}
	})
}
