// SPDX-License-Identifier: Apache-2.0

package agreement_test

import "fmt"

// restartScenarios show what is started again, and when not.
func restartScenarios() []*scenario {
	// How main ends: well, badly, by signals that count as well or badly, and so that nobody meant it.
	causes := []struct{ name, ops string }{
		{"exit 0", "exit main 0"},
		{"exit 1", "exit main 1"},
		{"SIGTERM", "die main TERM"},
		{"SIGPIPE", "die main PIPE"},
		{"SIGKILL", "die main KILL"},
		{"SIGABRT", "die main ABRT"},
		{"stop", "stop"},
	}
	var all []*scenario
	for _, restart := range []string{"no", "on-success", "on-failure", "on-abnormal", "on-watchdog", "on-abort", "always"} {
		ops := ""
		for _, c := range causes {
			ops += "start\n" + c.ops + "\n"
		}
		all = append(all,
			&scenario{
				name:    "restart: Restart=" + restart,
				unit:    "StartLimitIntervalSec=0",
				service: "Type=notify\nRestartSec=10ms\nRestart=" + restart + "\nExecStop=/usr/bin/puppet stop {hub}\nExecStopPost=/usr/bin/puppet stop-post {hub}",
				ops:     ops,
			},
			&scenario{
				name:    "restart: Restart=" + restart + ", times out at the start",
				unit:    "StartLimitIntervalSec=1h\nStartLimitBurst=2",
				service: "Type=notify\nRestartSec=10ms\nTimeoutStartSec=1s\nRestart=" + restart,
				behave:  map[string]string{"main": "trap TERM exit 0"},
				ops:     "~start\nwait ActiveState=failed",
			},
		)
	}
	all = append(all,
		&scenario{
			name:    "restart: SuccessExitStatus=",
			unit:    "StartLimitIntervalSec=0",
			service: "Type=notify\nRestart=on-failure\nRestartSec=10ms\nSuccessExitStatus=3 TEMPFAIL SIGKILL",
			ops: `start
				exit main 3
				start
				exit main 75
				start
				die main KILL
				start
				exit main 4`,
		},
		&scenario{
			name:    "restart: RestartPreventExitStatus= and RestartForceExitStatus=",
			unit:    "StartLimitIntervalSec=0",
			service: "Type=notify\nRestart=on-failure\nRestartSec=10ms\nRestartPreventExitStatus=4 SIGSEGV\nRestartForceExitStatus=0 5 SIGTERM",
			ops: `start
				exit main 4
				start
				die main SEGV
				start
				exit main 0
				die main TERM
				exit main 5
				exit main 6
				stop`,
		},
		&scenario{
			name:    "restart: the start limit",
			unit:    "StartLimitIntervalSec=1h\nStartLimitBurst=3",
			service: "Type=notify\nRestart=always\nRestartSec=10ms\nExecStopPost=/usr/bin/puppet stop-post {hub}",
			ops: `start
				exit main 1
				exit main 0
				exit main 1
				start
				restart
				reset-failed
				start`,
		},
		&scenario{
			name:    "restart: the start limit counts starts by hand, not restarts of what runs",
			unit:    "StartLimitIntervalSec=1h\nStartLimitBurst=3",
			service: "Type=notify",
			ops:     "start\nrestart\nstop\nstart\nrestart\nstop\nstart\nreset-failed\nrestart",
		},
		&scenario{
			name:    "restart: the start limit fails the socket, too",
			unit:    "StartLimitIntervalSec=1h\nStartLimitBurst=2",
			service: "Type=notify\nRestart=always\nRestartSec=10ms",
			socket:  "ListenStream=/run/{name}.sock\nFileDescriptorName=web\nTriggerLimitIntervalSec=0",
			sockets: unixSocket("web"),
			behave:  map[string]string{"main": "exit 1"},
			ops: `start {name}.socket
				start
				connect web
				start {name}.socket
				reset-failed
				reset-failed {name}.socket
				behave main: trap TERM exit 0; serve; ready
				start {name}.socket
				connect web`,
		},
		&scenario{
			name:    "restart: stop and start while it waits to be restarted",
			service: "Type=notify\nRestart=always\nRestartSec=1h",
			ops: `start
				exit main 1
				stop
				start
				exit main 1
				start
				exit main 1
				restart
				exit main 1
				try-restart
				exit main 1
				reload-or-restart
				exit main 1
				daemon-reload
				stop`,
		},
		&scenario{
			name:    "restart: RestartMode=direct",
			since:   254,
			unit:    "StartLimitIntervalSec=1h\nStartLimitBurst=3",
			service: "Type=notify\nRestart=on-failure\nRestartMode=direct\nRestartSec=10ms\nFileDescriptorStoreMax=4\nRuntimeDirectory={name}",
			ops: `start
				push main memfd a FDNAME=a
				exit main 1
				exit main 1
				exit main 1`,
		},
		&scenario{
			name:    "restart: during ExecStop= and ExecStopPost=",
			service: "Type=notify\n" + commands,
			behave:  map[string]string{"stop": "hold", "stop-post": "hold"},
			ops: `start
				restart
				exit control 0
				exit control 1
				stop
				start
				exit control 0
				restart
				exit control 0
				exit control 0
				exit control 0`,
		},
		&scenario{
			name:    "restart: several jobs at once",
			service: "Type=notify\n" + commands,
			behave:  map[string]string{"main": "trap TERM report"},
			ops: `start
				reload
				restart
				stop
				start
				exit main 0
				notify main READY=1
				stop
				try-restart
				exit main 0`,
		},
		&scenario{
			name:    "restart: RestartKillSignal=",
			service: "Type=notify\nRestartKillSignal=USR1",
			behave:  map[string]string{"main": "trap TERM exit 0; trap USR1 exit 0; ready"},
			ops:     "start\nrestart\ntry-restart\nreload-or-restart\nstop",
		},
		&scenario{
			name:    "restart: left-over processes",
			service: "Type=notify\nKillMode=process\nRestart=on-failure\nRestartSec=10ms",
			behave:  map[string]string{"main": "trap TERM exit 0; ready", "child": "trap TERM ignore"},
			ops: `start
				fork main child
				kill main KILL
				fork main child
				restart
				stop
				start
				notify child STATUS=a left-over speaks
				stop`,
		},
	)
	for _, code := range []int{2, 77, 126, 203, 255} {
		all = append(all, &scenario{
			name:    fmt.Sprintf("restart: ExecStopPost= hears of exit status %d", code),
			service: "Type=notify\nExecStopPost=/usr/bin/puppet stop-post {hub}",
			ops:     fmt.Sprintf("start\nexit main %d", code),
		})
	}
	return all
}
