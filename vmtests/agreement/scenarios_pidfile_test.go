// SPDX-License-Identifier: Apache-2.0

package agreement_test

const pidFile = "NotifyAccess=main\nPIDFile=%t/{name}/pid\nRuntimeDirectory={name}\nRestart=on-failure\nRestartSec=10ms\n"

// pidFileScenarios show when PIDFile= is read.
var pidFileScenarios = []*scenario{
	{
		name:    "PIDFile=: the process that it names takes over when main dies",
		service: "Type=notify\n" + pidFile,
		behave:  map[string]string{"main": "trap TERM exit 0; write pid {self}; ready", "heir": "trap TERM report"},
		ops: `start
			fork main heir
			write main pid {heir}
			die main KILL
			notify heir STATUS=took over
			read /run/{name}/pid
			stop
			exit heir 0
			read /run/{name}/pid`,
	},
	{
		name:    "PIDFile=: main that ends well is followed, too",
		service: "Type=notify\n" + pidFile,
		ops: `start
			fork main heir
			write main pid {heir}
			exit main 0
			stop`,
	},
	{
		name:    "PIDFile=: a child becomes an orphan first",
		service: "Type=notify\n" + pidFile,
		behave:  map[string]string{"child": "trap TERM report"},
		ops: `start
			fork main child
			write main pid {child}
			die main KILL
			stop
			exit child 0`,
	},
	{
		name:    "PIDFile=: nobody, nonsense, itself, the manager, and one outside",
		service: "Type=notify\n" + pidFile,
		ops: `start
			write main pid {gone}
			die main KILL
			write main pid nonsense
			die main KILL
			write main pid {self}
			die main KILL
			write main pid {manager}
			die main KILL
			stop`,
	},
	{
		name:    "PIDFile=: it is read after ExecReload=",
		service: "Type=notify\nExecReload=/usr/bin/puppet reload {hub}\n" + pidFile,
		behave:  map[string]string{"heir": "trap TERM exit 0"},
		ops: `start
			fork main heir
			write main pid {heir}
			reload
			write heir pid {main#1}
			behave reload: exit 1
			reload
			exit heir 0
			stop`,
	},
	{
		name:   "PIDFile=: a child that it names after ExecReload= is an alien",
		chance: ending, why: whyEnding,
		service: "Type=notify\nExecReload=/usr/bin/puppet reload {hub}\n" + pidFile,
		behave:  map[string]string{"child": "trap TERM ignore"},
		ops: `start
			fork main child
			write main pid {child}
			reload
			exit main#1 0
			stop`,
	},
	{
		name:    "PIDFile=: ExecStartPost= needs it",
		service: "Type=notify\nExecStartPost=/usr/bin/puppet start-post {hub}\nTimeoutStartSec=2s\n" + pidFile,
		ops: `start
			~write main pid {self}
			wait SubState=running
			stop`,
	},
	{
		name:    "PIDFile=: ExecStartPost= finds another process",
		service: "Type=notify\nExecStartPost=/usr/bin/puppet start-post {hub}\n" + pidFile,
		behave:  map[string]string{"main": "trap TERM exit 0; fork heir; write pid {heir}; ready"},
		ops:     "start\nstop",
	},
	{
		name:    "PIDFile=: a spontaneous reload, and main dies",
		service: "Type=notify\nTimeoutStartSec=60\n" + pidFile,
		ops: `start
			fork main heir
			write main pid {heir}
			notify main RELOADING=1|MONOTONIC_USEC={now}
			die main KILL
			notify heir STATUS=took over
			notify heir READY=1
			stop`,
	},
	{
		name:    "PIDFile=: main dies during ExecReload=",
		service: "Type=notify\nExecReload=/usr/bin/puppet reload {hub}\n" + pidFile,
		behave:  map[string]string{"reload": "hold"},
		ops: `start
			fork main heir
			write main pid {heir}
			reload
			die main KILL
			exit control 0
			stop`,
	},
	{
		name:    "PIDFile=: Type=notify-reload, main dies in the reload",
		since:   253,
		service: "Type=notify-reload\n" + pidFile,
		behave:  notifyReload("hold"),
		ops: `start
			fork main heir
			write main pid {heir}
			reload
			die main KILL
			notify heir RELOADING=1|MONOTONIC_USEC={now}
			notify heir READY=1
			stop`,
	},
	{
		name:    "PIDFile=: stop in the middle, KillMode=mixed",
		service: "Type=notify\nKillMode=mixed\nTimeoutStopSec=1s\n" + pidFile,
		behave:  map[string]string{"heir": "trap TERM ignore"},
		ops: `start
			fork main heir
			write main pid {heir}
			~stop
			finish`,
	},
	{
		name:    "PIDFile=: stop in the middle, KillMode=control-group",
		service: "Type=notify\n" + pidFile,
		behave:  map[string]string{"heir": "trap TERM report"},
		ops: `start
			fork main heir
			write main pid {heir}
			stop
			exit heir 0`,
	},
}
