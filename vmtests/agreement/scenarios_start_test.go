// SPDX-License-Identifier: Apache-2.0

package agreement_test

// commands are one of each kind that a service may have around its main process.
const commands = "ExecStartPre=/usr/bin/puppet start-pre {hub}\nExecStartPost=/usr/bin/puppet start-post {hub}\nExecReload=/usr/bin/puppet reload {hub}\nExecStop=/usr/bin/puppet stop {hub}\nExecStopPost=/usr/bin/puppet stop-post {hub}"

// startScenarios show how a service starts, and what its processes find.
func startScenarios() []*scenario {
	all := []*scenario{
		{
			name:    "start: Type=simple",
			service: "Type=simple",
			behave:  map[string]string{"main": "trap TERM exit 0"},
			ops:     "start\nstart\nstop\nstop\nstart\nexit main 0\nstart\nexit main 1\nstart",
		},
		{
			name:    "start: Type=exec",
			service: "Type=exec",
			behave:  map[string]string{"main": "trap TERM exit 0"},
			ops:     "start\nexit main 3\nstart\nstop",
		},
		{
			name:    "start: Type=exec without a program",
			service: "Type=exec\nExecStart=/usr/bin/nonesuch",
			ops:     "start",
		},
		{
			name:    "start: Type=simple without a program",
			service: "Type=simple\nExecStart=/usr/bin/nonesuch",
			ops:     "start",
		},
		{
			name:    "start: Type=notify without a program",
			service: "Type=notify\nExecStart=/usr/bin/nonesuch\nRestart=on-failure\nRestartPreventExitStatus=203",
			ops:     "start",
		},
		{
			name:    "start: a program that may not be executed",
			service: "Type=notify\nExecStart=/etc/passwd",
			ops:     "start",
		},
		{
			name:    "start: Type=notify waits for READY",
			service: "Type=notify\n" + commands,
			behave:  map[string]string{"main": "trap TERM exit 0", "start-post": "hold"},
			ops: `start
				notify main STATUS=soon
				notify main READY=1
				exit control 0
				stop`,
		},
		{
			name:    "start: Type=notify, main ends before READY",
			service: "Type=notify\n" + commands,
			behave:  map[string]string{"main": "trap TERM exit 0"},
			ops: `start
				exit main 0
				start
				exit main 1
				start
				die main KILL`,
		},
		{
			name:    "start: stop before READY",
			service: "Type=notify\n" + commands,
			behave:  map[string]string{"main": "trap TERM exit 0"},
			ops:     "start\nstop",
		},
		{
			name:    "start: restart before READY",
			service: "Type=notify\n" + commands,
			behave:  map[string]string{"main": "trap TERM exit 0"},
			ops:     "start\nrestart\nnotify main READY=1\nstop",
		},
		{
			name:    "start: reload before READY",
			service: "Type=notify\n" + commands,
			behave:  map[string]string{"main": "trap TERM exit 0"},
			ops:     "start\nreload\nnotify main READY=1\nstop",
		},
		{
			name:    "start: Type=oneshot",
			service: "Type=oneshot\nExecStart=/usr/bin/puppet first {hub}\nExecStart=/usr/bin/puppet second {hub}\n" + commands,
			behave:  map[string]string{"second": "hold"},
			ops:     "start\nexit main 0\nstart\nexit main 1\nbehave first: exit 1\nstart",
		},
		{
			name:    "start: Type=oneshot that remains",
			service: "Type=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/puppet first {hub}\n" + commands,
			ops:     "start\nstart\nreload\nrestart\nstop",
		},
		{
			name:    "start: RemainAfterExit",
			service: "Type=notify\nRemainAfterExit=yes\nRestart=on-failure\nRestartSec=10ms\n" + commands,
			ops:     "start\nexit main 0\nreload\nstop\nstart\nexit main 1\nstop",
		},
		{
			name:    "start: an ExecStartPre= that fails",
			service: "Type=notify\nRestart=on-failure\nRestartSec=10ms\n" + commands,
			unit:    "StartLimitIntervalSec=1h\nStartLimitBurst=2",
			behave:  map[string]string{"start-pre": "exit 1"},
			ops:     "start",
		},
		{
			name:    "start: an ExecStartPre= that may fail",
			service: "Type=notify\nExecStartPre=-/usr/bin/puppet start-pre {hub}\nExecStartPre=-/usr/bin/nonesuch",
			behave:  map[string]string{"start-pre": "exit 1"},
			ops:     "start",
		},
		{
			name:    "start: an ExecStartPost= that fails",
			service: "Type=notify\n" + commands,
			behave:  map[string]string{"start-post": "exit 1"},
			ops:     "start",
		},
		{
			name:    "start: main ends during ExecStartPost=",
			service: "Type=notify\n" + commands,
			behave:  map[string]string{"start-post": "hold"},
			ops:     "start\nexit main 1\nexit control 0",
		},
		{
			name:    "start: ExecStartPre= leaves processes",
			service: "Type=notify\n" + commands,
			behave:  map[string]string{"start-pre": "fork child; exit 0", "child": "trap TERM ignore"},
			ops:     "start\nstop\nkill all USR1",
		},
		{
			name:    "start: ExecCondition= says yes, no, and fails",
			service: "Type=notify\nExecCondition=/usr/bin/puppet condition {hub}\n" + commands,
			ops: `start
				stop
				behave condition: exit 1
				start
				behave condition: exit 254
				start
				behave condition: exit 255
				start
				behave condition: die TERM
				start
				reset-failed`,
		},
		{
			name:    "start: stop during ExecStartPre=",
			service: "Type=notify\n" + commands,
			behave:  map[string]string{"start-pre": "hold"},
			ops:     "start\nstop",
		},
		{
			name:    "start: times out in each step",
			service: "Type=notify\nTimeoutStartSec=1s\n" + commands,
			behave:  map[string]string{"start-pre": "hold"},
			ops: `~start
				finish
				behave start-pre: exit 0
				behave main: trap TERM exit 0
				~start
				finish
				behave main: trap TERM exit 0; ready
				behave start-post: hold
				~start
				finish`,
		},
		{
			name:    "start: TimeoutStartFailureMode=kill",
			service: "Type=notify\nTimeoutStartSec=1s\nTimeoutStartFailureMode=kill",
			behave:  map[string]string{"main": "trap TERM exit 0"},
			ops:     "~start\nwait ActiveState=failed",
		},
		{
			name:    "start: RuntimeMaxSec",
			service: "Type=notify\nRuntimeMaxSec=1s\n" + commands,
			ops:     "~start\nwait ActiveState=failed",
		},
		{
			name:    "start: Type=forking with PIDFile=",
			service: "Type=forking\nPIDFile=%t/{name}/pid\nRuntimeDirectory={name}\nRestart=on-failure\nRestartSec=10ms",
			behave:  map[string]string{"main": "fork child; write pid {child}; exit 0", "child": "trap TERM exit 0"},
			ops:     "start\nread /run/{name}/pid\nkill main KILL\nstop\nread /run/{name}",
		},
		{
			name:    "start: Type=forking without PIDFile=",
			service: "Type=forking",
			behave:  map[string]string{"main": "fork child; exit 0", "child": "trap TERM exit 0"},
			ops:     "start\nstop",
		},
		{
			name:    "start: Type=forking that fails",
			service: "Type=forking\nPIDFile=%t/{name}/pid\nRuntimeDirectory={name}",
			behave:  map[string]string{"main": "exit 1"},
			ops:     "start",
		},
		{
			name:    "start: Type=forking that times out",
			service: "Type=forking\nPIDFile=%t/{name}/pid\nRuntimeDirectory={name}\nTimeoutStartSec=1s",
			behave:  map[string]string{"main": "hold"},
			ops:     "~start\nwait ActiveState=failed",
		},
		{
			name: "start: the environment",
			service: "Type=notify\nNotifyAccess=main\nWatchdogSec=1h\nEnvironment=ONE=1 \"TWO=t w o\" 'THREE=3'\nEnvironment=ONE=one EMPTY=\nUnsetEnvironment=THREE LANG\n" +
				"EnvironmentFile=-/etc/nonesuch\nRuntimeDirectory={name} {name}/sub\nStateDirectory={name}\nCacheDirectory={name}\nLogsDirectory={name}\nConfigurationDirectory={name}\nWorkingDirectory=/usr\nUMask=0027\n" + commands,
			ops: "start\nreload\nrestart\nstop",
		},
		{
			name:    "start: an EnvironmentFile= that is missing",
			service: "Type=notify\nEnvironmentFile=/etc/nonesuch\n" + commands,
			ops:     "start",
		},
		{
			name:    "start: a WorkingDirectory= that is missing",
			service: "Type=notify\nWorkingDirectory=/usr/nonesuch\n" + commands,
			ops:     "start",
		},
		{
			name:    "start: a WorkingDirectory= that may be missing",
			service: "Type=notify\nWorkingDirectory=-/usr/nonesuch",
			ops:     "start",
		},
		{
			name:    "start: arguments",
			service: "Type=notify\nEnvironment=WORD=one \"WORDS=two words\"\nExecStart=/usr/bin/puppet main {hub} plain \"quoted words\" 'single $WORD' $WORD ${WORD} $WORDS ${WORDS} x${WORD}x x$WORD $$WORD ${NONE} $NONE %% \\x41 a\\ b \"\" %p.%n",
			ops:     "start",
		},
		{
			name:    "start: arguments without variables",
			service: "Type=notify\nEnvironment=WORD=one\nExecStart=:/usr/bin/puppet main {hub} $WORD ${WORD} $$",
			ops:     "start",
		},
		{
			name:    "start: another argv[0]",
			service: "Type=notify\nExecStart=@/usr/bin/puppet marionette main {hub}",
			ops:     "start",
		},
		{
			name:    "start: signals of a new process",
			service: "Type=notify\nRuntimeDirectory={name}\nExecStartPre=/bin/sh -c 'grep -E \"^Sig(Blk|Ign)\" /proc/self/status >$${RUNTIME_DIRECTORY}/signals'",
			ops:     "start\nread /run/{name}/signals",
		},
		{
			name:    "start: IgnoreSIGPIPE=no",
			service: "Type=notify\nRuntimeDirectory={name}\nIgnoreSIGPIPE=no\nExecStartPre=/bin/sh -c 'grep -E \"^Sig(Blk|Ign)\" /proc/self/status >$${RUNTIME_DIRECTORY}/signals'",
			ops:     "start\nread /run/{name}/signals",
		},
		{
			name:    "start: limits of a new process",
			service: "Type=notify\nRuntimeDirectory={name}\nLimitNOFILE=100:200\nLimitCORE=0\nExecStartPre=/bin/sh -c 'ulimit -Sn >$${RUNTIME_DIRECTORY}/limits; ulimit -Hn >>$${RUNTIME_DIRECTORY}/limits; ulimit -c >>$${RUNTIME_DIRECTORY}/limits'",
			ops:     "start\nread /run/{name}/limits",
		},
		{
			name:    "start: standard input, output and error",
			service: "Type=notify\nStandardInput=null\nStandardOutput=null\nStandardError=inherit",
			ops:     "start",
		},
		{
			name:    "start: StandardOutput=file:",
			service: "Type=notify\nRuntimeDirectory={name}\nStandardOutput=append:/run/{name}-out\nExecStartPre=/bin/echo said by ExecStartPre",
			ops:     "start\nread /run/{name}-out\nrestart\nread /run/{name}-out",
		},
		{
			name:    "start: reset-failed, and jobs of a failed service",
			service: "Type=notify\n" + commands,
			behave:  map[string]string{"main": "exit 1"},
			ops: `start
				try-restart
				reload
				stop
				reset-failed
				reload-or-restart
				behave main: trap TERM exit 0; ready
				restart
				try-restart
				reload-or-restart
				reset-failed
				stop`,
		},
	}
	for _, mode := range []string{"no", "yes", "restart"} {
		all = append(all, &scenario{
			name:    "start: RuntimeDirectoryPreserve=" + mode,
			service: "Type=notify\nRuntimeDirectory={name}\nStateDirectory={name}\nRuntimeDirectoryMode=0711\nRuntimeDirectoryPreserve=" + mode + "\nRestart=on-failure\nRestartSec=10ms",
			ops: `start
				write main file text
				read /run/{name}
				read /var/lib/{name}
				restart
				read /run/{name}
				kill main KILL
				read /run/{name}
				stop
				read /run/{name}
				read /var/lib/{name}
				clean runtime
				read /run/{name}
				clean state
				read /var/lib/{name}`,
		})
	}
	for _, non := range []string{"yes", "no"} {
		all = append(all, &scenario{
			name:    "start: NonBlocking=" + non,
			service: "Type=notify\nFileDescriptorStoreMax=4\nNonBlocking=" + non,
			socket:  "ListenStream=/run/{name}.sock\nListenDatagram=/run/{name}.sock2\nListenFIFO=/run/{name}.fifo",
			ops:     "start {name}.socket\nstart\npush main tcp-listening a FDNAME=a\nrestart",
		})
	}
	return all
}
