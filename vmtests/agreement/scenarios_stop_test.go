// SPDX-License-Identifier: Apache-2.0

package agreement_test

// stopScenarios show how processes are ended.
func stopScenarios() []*scenario {
	all := []*scenario{
		{
			name:    "stop: ExecStop= and ExecStopPost=",
			service: "Type=notify\n" + commands,
			behave:  map[string]string{"stop": "hold", "stop-post": "hold"},
			ops: `start
				stop
				exit control 1
				exit control 0
				start
				stop
				exit main 0
				exit control 0
				exit control 3`,
		},
		{
			name:    "stop: no ExecStop= after a failure",
			service: "Type=notify\n" + commands,
			ops:     "start\nexit main 1\nstart\nexit main 0\nstart\ndie main KILL",
		},
		{
			name:    "stop: several ExecStop=",
			service: "Type=notify\nExecStop=/usr/bin/puppet first {hub}\nExecStop=-/usr/bin/puppet second {hub}\nExecStop=/usr/bin/puppet third {hub}\nExecStopPost=/usr/bin/puppet stop-post {hub}",
			behave:  map[string]string{"second": "exit 1"},
			ops:     "start\nstop\nbehave first: exit 1\nstart\nstop",
		},
		{
			name:    "stop: ExecStop= ends main",
			service: "Type=notify\nExecStop=/bin/kill -TERM $MAINPID",
			ops:     "start\n~stop\nfinish",
		},
		{
			name:    "stop: a time-out, and SIGKILL",
			service: "Type=notify\nTimeoutStopSec=1s\nRestart=on-failure\nExecStopPost=/usr/bin/puppet stop-post {hub}",
			behave:  map[string]string{"main": "trap TERM report; ready"},
			ops:     "start\n~stop\nfinish",
		},
		{
			name:    "stop: a time-out of ExecStop=",
			service: "Type=notify\nTimeoutStopSec=1s\n" + commands,
			behave:  map[string]string{"stop": "hold"},
			ops:     "start\n~stop\nfinish",
		},
		{
			name:    "stop: a time-out of ExecStopPost=",
			service: "Type=notify\nTimeoutStopSec=1s\n" + commands,
			behave:  map[string]string{"stop-post": "hold"},
			ops:     "start\n~stop\nfinish",
		},
		{
			name:    "stop: a time-out, TimeoutStopFailureMode=abort",
			service: "Type=notify\nTimeoutStopSec=1s\nTimeoutAbortSec=1s\nTimeoutStopFailureMode=abort\nWatchdogSignal=USR1",
			behave:  map[string]string{"main": "trap TERM report; trap USR1 report; ready"},
			ops:     "start\n~stop\nfinish",
		},
		{
			name:    "stop: a time-out without SIGKILL",
			service: "Type=notify\nTimeoutStopSec=1s\nSendSIGKILL=no",
			behave:  map[string]string{"main": "trap TERM report; ready"},
			ops:     "start\n~stop\nfinish\nkill all USR1",
		},
		{
			name:    "stop: a second stop, a start",
			service: "Type=notify",
			behave:  map[string]string{"main": "trap TERM report; ready"},
			ops:     "start\nstop\nstop\nstart\nexit main 0",
		},
		{
			name:    "stop: KillSignal=INT, FinalKillSignal=TERM",
			service: "Type=notify\nKillSignal=INT\nFinalKillSignal=TERM\nTimeoutStopSec=1s",
			behave:  map[string]string{"main": "trap INT report; trap TERM exit 0; ready"},
			ops:     "start\n~stop\nfinish",
		},
		{
			name:    "stop: SendSIGHUP",
			service: "Type=notify\nSendSIGHUP=yes",
			behave:  map[string]string{"main": "trap TERM report; trap HUP report; ready"},
			ops:     "start\nstop\nexit main 0",
		},
		{
			name:    "stop: kill",
			service: "Type=notify\nExecReload=/usr/bin/puppet reload {hub}",
			behave:  map[string]string{"main": "trap TERM exit 0; trap USR1 report; ready", "child": "trap USR1 report", "reload": "trap USR1 report"},
			ops: `kill main USR1
				start
				fork main child
				kill main USR1
				kill control USR1
				kill all USR1
				reload
				kill control USR1
				kill all USR1
				kill control TERM
				kill main TERM
				kill all TERM
				kill main TERM`,
		},
		{
			name:    "stop: main is gone, and others are told twice",
			service: "Type=notify\nKillMode=control-group\nExecStopPost=/usr/bin/puppet stop-post {hub}",
			behave:  map[string]string{"child": "trap TERM report", "stop-post": "hold"},
			ops: `start
				fork main child
				stop
				exit control 0
				exit child 0`,
		},
		{
			name:    "stop: a failure, and others are told twice",
			service: "Type=notify\nRestart=on-failure\nRestartSec=10ms",
			behave:  map[string]string{"child": "trap TERM report"},
			ops: `start
				fork main child
				exit main 1
				exit child 0`,
		},
		{
			name:    "stop: daemon-reload in each step",
			service: "Type=notify\n" + commands,
			behave:  map[string]string{"main": "trap TERM report; ready", "stop": "hold", "stop-post": "hold"},
			ops: `start
				daemon-reload
				stop
				daemon-reload
				exit control 0
				daemon-reload
				exit main 0
				daemon-reload
				exit control 0
				daemon-reload
				start`,
		},
		{
			name:    "stop: daemon-reload brings new options",
			service: "Type=notify\nRestart=no",
			ops: `start
				daemon-reload Restart=on-failure|RestartSec=10ms|ExecStopPost=/usr/bin/puppet stop-post {hub}
				kill main KILL
				daemon-reload Type=simple|Restart=no|ExecReload=/usr/bin/puppet reload {hub}
				reload
				stop
				start`,
		},
	}
	for _, mode := range []string{"control-group", "mixed", "process", "none"} {
		all = append(all,
			&scenario{
				name:    "stop: KillMode=" + mode + ", children that end",
				service: "Type=notify\nKillMode=" + mode,
				ops:     "start\nfork main child\nfork main heir\nstop\nstart\nstop",
			},
			&scenario{
				name:    "stop: KillMode=" + mode + ", a child that does not",
				service: "Type=notify\nTimeoutStopSec=1s\nKillMode=" + mode,
				behave:  map[string]string{"child": "trap TERM ignore"},
				ops:     "start\nfork main child\n~stop\nfinish",
			},
			&scenario{
				name:    "stop: KillMode=" + mode + ", main ends by itself",
				service: "Type=notify\nTimeoutStopSec=1s\nExecStop=/usr/bin/puppet stop {hub}\nExecStopPost=/usr/bin/puppet stop-post {hub}\nKillMode=" + mode,
				behave:  map[string]string{"child": "trap TERM ignore"},
				ops:     "start\nfork main child\n~exit main 0\nwait ActiveState=inactive",
			},
			&scenario{
				name:    "stop: KillMode=" + mode + ", main fails",
				service: "Type=notify\nTimeoutStopSec=1s\nKillMode=" + mode,
				behave:  map[string]string{"child": "trap TERM ignore"},
				ops:     "start\nfork main child\n~exit main 1\nwait ActiveState=failed",
			},
			&scenario{
				name:    "stop: KillMode=" + mode + ", main does not end",
				service: "Type=notify\nTimeoutStopSec=1s\nKillMode=" + mode,
				behave:  map[string]string{"main": "trap TERM ignore; ready", "child": "trap TERM ignore"},
				ops:     "start\nfork main child\n~stop\nfinish",
			},
		)
	}
	return all
}
