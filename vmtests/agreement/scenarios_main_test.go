// SPDX-License-Identifier: Apache-2.0

package agreement_test

// ignoring has children outlive SIGTERM, so that it is no matter of speed who dies by what.
var ignoring = map[string]string{"child": "trap TERM ignore", "main": "trap TERM exit 0; ready"}

// ending is how an alien ended: systemd does not wait for it, so that it hears of the end in time or not.
var ending = []string{"ActiveState", "SubState", "Result", "ExecMainCode", "ExecMainStatus"}

const whyEnding = "systemd does not wait for the end of an alien that it kills, and hears of it in time or not: 247, 252 and 257 do either"

// mainScenarios show which process is main, and what follows from that.
var mainScenarios = []*scenario{
	{
		name:    "main: MAINPID of every kind",
		service: "Type=notify\nNotifyAccess=all",
		ops: `start
			notify main MAINPID={self}|STATUS=itself
			notify main MAINPID={gone}|STATUS=nobody
			notify main MAINPID={manager}|STATUS=the manager
			notify main MAINPID=0|STATUS=zero
			notify main MAINPID=-5|STATUS=negative
			notify main MAINPID=x|STATUS=a word
			notify main MAINPID=|STATUS=nothing
			notify main MAINPID=99999999999999|STATUS=large
			notify main MAINPID=1|MAINPID=2|STATUS=two
			fork main heir
			notify main MAINPID={heir}|STATUS=an heir
			notify heir MAINPID={main#1}|STATUS=back
			stop`,
	},
	{
		name:    "main: MAINPID of a zombie",
		service: "Type=notify\nNotifyAccess=all",
		ops: `start
			fork main corpse
			exit corpse 0
			notify main MAINPID={corpse#1}|STATUS=a zombie
			stop`,
	},
	{
		name:    "main: MAINPID of a process outside, asked for by root",
		service: "Type=notify\nNotifyAccess=all",
		behave:  map[string]string{"outsider": "trap TERM ignore"},
		ops: `start
			fork stage outsider
			notify main MAINPID={outsider}|STATUS=outside
			notify main#1 MAINPID={main#1}|STATUS=back
			stop`,
	},
	{
		name:    "main: MAINPID of the control process",
		service: "Type=notify\nNotifyAccess=all\nExecReload=/usr/bin/puppet reload {hub}",
		behave:  map[string]string{"reload": "hold"},
		ops: `start
			reload
			notify control MAINPID={control}|STATUS=control
			notify main MAINPID={control}|STATUS=by main
			exit control 0
			stop`,
	},
	{
		name:    "main: MAINPID with NotifyAccess=main",
		service: "Type=notify\nNotifyAccess=main",
		ops: `start
			fork main heir
			notify heir MAINPID={heir}|STATUS=usurper
			notify main MAINPID={heir}|STATUS=given
			notify main#1 MAINPID={main#1}|STATUS=too late
			notify heir STATUS=I am main
			exit main#1 0
			notify heir MAINPID={heir}|READY=1
			stop`,
	},
	{
		name:    "main: MAINPID in every state",
		service: "Type=notify\nNotifyAccess=all\nExecStartPost=/usr/bin/puppet start-post {hub}\nExecReload=/usr/bin/puppet reload {hub}\nExecStop=/usr/bin/puppet stop {hub}\nExecStopPost=/usr/bin/puppet stop-post {hub}",
		behave:  map[string]string{"main": "trap TERM report; trap USR1 report", "heir": "trap TERM report", "start-post": "hold", "reload": "hold", "stop": "hold", "stop-post": "hold"},
		ops: `start
			fork main heir
			notify main MAINPID={heir}|STATUS=start
			notify heir MAINPID={main#1}
			notify main READY=1
			notify main MAINPID={heir}|STATUS=start-post
			notify heir MAINPID={main#1}
			exit control 0
			notify main MAINPID={heir}|STATUS=running
			notify heir MAINPID={main#1}
			reload
			notify main MAINPID={heir}|STATUS=reload
			notify heir MAINPID={main#1}
			exit control 0
			notify main RELOADING=1|MONOTONIC_USEC={now}
			notify main MAINPID={heir}|STATUS=reload-notify
			notify heir MAINPID={main#1}
			notify main READY=1
			stop
			notify main MAINPID={heir}|STATUS=stop
			notify heir MAINPID={main#1}
			exit control 0
			notify main MAINPID={heir}|STATUS=stop-sigterm
			notify heir MAINPID={main#1}
			exit main#1 0
			exit heir 0
			exit control 0`,
	},
	{
		name:    "main: an heir is a child of the manager, and stops with grace",
		service: "Type=notify\nNotifyAccess=main\nRestart=on-failure\nRestartSec=10ms",
		behave:  map[string]string{"heir": "trap TERM report"},
		ops: `start
			fork main heir
			notify main MAINPID={heir}|READY=1
			exit main#1 0
			stop
			notify heir STATUS=finishing
			exit heir 0`,
	},
	{
		name:    "main: an heir that dies as main is noticed",
		service: "Type=notify\nNotifyAccess=main\nRestart=on-failure\nRestartSec=10ms",
		ops: `start
			fork main heir
			notify main MAINPID={heir}|READY=1
			kill main KILL
			stop`,
	},
	{
		name:    "main: an heir that dies before it is main is nothing",
		service: "Type=notify\nNotifyAccess=main\nRestart=on-failure\nRestartSec=10ms",
		ops: `start
			fork main heir
			die heir KILL
			fork main heir
			exit heir 3
			notify main STATUS=still here
			stop`,
	},
	{
		name:   "main: an alien that is alone is killed without grace",
		chance: ending, why: whyEnding,
		service: "Type=notify\nNotifyAccess=all",
		behave:  ignoring,
		ops: `start
			fork main child
			notify main MAINPID={child}|READY=1
			exit main#1 0
			stop`,
	},
	{
		name:   "main: an alien that is alone is killed without grace, KillMode=mixed",
		chance: ending, why: whyEnding,
		service: "Type=notify\nNotifyAccess=all\nKillMode=mixed",
		behave:  ignoring,
		ops: `start
			fork main child
			notify main MAINPID={child}|READY=1
			exit main#1 0
			stop`,
	},
	{
		name:   "main: an alien that is alone is killed without grace, KillMode=process",
		chance: ending, why: whyEnding,
		service: "Type=notify\nNotifyAccess=all\nKillMode=process",
		behave:  ignoring,
		ops: `start
			fork main child
			notify main MAINPID={child}|READY=1
			exit main#1 0
			stop`,
	},
	{
		name:    "main: an alien beside its parent stops with grace",
		service: "Type=notify\nNotifyAccess=all",
		behave:  map[string]string{"child": "trap TERM report", "main": "trap TERM report; ready"},
		ops: `start
			fork main child
			notify main MAINPID={child}|READY=1
			stop
			exit child 0
			exit main#1 0`,
	},
	{
		name:   "main: an alien beside its parent, KillMode=mixed",
		chance: ending, why: whyEnding,
		service: "Type=notify\nNotifyAccess=all\nKillMode=mixed",
		// Of two that die at once, the parent might reap the child or not.
		behave: map[string]string{"corpse": "trap TERM ignore", "main": "trap TERM ignore; ready"},
		ops: `start
			fork main corpse
			notify main MAINPID={corpse}|READY=1
			stop`,
	},
	{
		name:    "main: an alien is none after daemon-reload",
		service: "Type=notify\nNotifyAccess=all",
		behave:  map[string]string{"child": "trap TERM report"},
		ops: `start
			fork main child
			notify main MAINPID={child}|READY=1
			exit main#1 0
			daemon-reload
			stop
			exit child 0`,
	},
	{
		name:    "main: an alien is none after MAINPID there and back",
		service: "Type=notify\nNotifyAccess=all",
		behave:  map[string]string{"child": "trap TERM report"},
		ops: `start
			fork main child
			notify main MAINPID={child}|READY=1
			exit main#1 0
			notify child#1 MAINPID={child#1}|STATUS=the same
			fork child child
			notify child#1 MAINPID={child#2}
			notify child#1 MAINPID={child#1}
			stop
			exit child#1 0`,
	},
	{
		name:    "main: nobody sees an alien die while its parent lives",
		service: "Type=notify\nNotifyAccess=all\nRestart=on-failure\nRestartSec=10ms",
		behave:  ignoring,
		ops: `start
			fork main child
			notify main MAINPID={child}|READY=1
			die child KILL
			reload
			exit main#1 0`,
	},
	{
		name:    "main: the parent of an alien takes the service back",
		service: "Type=notify\nNotifyAccess=all\nRestart=on-failure\nRestartSec=10ms",
		behave:  ignoring,
		ops: `start
			fork main child
			notify main MAINPID={child}|READY=1
			die child KILL
			notify main#1 MAINPID={main#1}|READY=1
			stop`,
	},
	{
		name:    "main: an orphan that dies as main is noticed",
		service: "Type=notify\nNotifyAccess=all\nRestart=on-failure\nRestartSec=10ms",
		behave:  ignoring,
		ops: `start
			fork main child
			notify main MAINPID={child}|READY=1
			exit main#1 0
			die child KILL
			stop`,
	},
	{
		name:    "main: MAINPID to an orphan, as after a double fork",
		service: "Type=notify\nNotifyAccess=all",
		behave:  map[string]string{"child": "trap TERM report"},
		ops: `start
			fork main child
			fork child child
			exit child#1 0
			notify main MAINPID={child#2}|READY=1
			exit main#1 0
			stop
			exit child#2 0`,
	},
	{
		name:    "main: children stay when main ends by itself",
		service: "Type=notify\nNotifyAccess=all",
		behave:  ignoring,
		ops: `start
			fork main child
			exit main 0
			die child KILL`,
	},
	{
		name:    "main: ExitType=cgroup waits for the last",
		since:   250,
		service: "Type=notify\nNotifyAccess=all\nExitType=cgroup\nRestart=on-failure\nRestartSec=10ms",
		behave:  ignoring,
		ops: `start
			fork main child
			exit main 0
			notify child STATUS=alone
			exit child 0`,
	},
	{
		name:    "main: ExitType=cgroup keeps a failure for later",
		since:   250,
		service: "Type=notify\nNotifyAccess=all\nExitType=cgroup\nExecReload=/usr/bin/puppet reload {hub}",
		behave:  map[string]string{"child": "trap TERM exit 0"},
		ops: `start
			fork main child
			exit main 1
			reload`,
	},
	{
		name:    "main: ExitType=cgroup and MAINPID of a child",
		since:   250,
		service: "Type=notify\nNotifyAccess=all\nExitType=cgroup",
		behave:  map[string]string{"child": "trap TERM report"},
		ops: `start
			fork main child
			exit main 0
			notify child MAINPID={child}
			stop
			exit child 0`,
	},
}
