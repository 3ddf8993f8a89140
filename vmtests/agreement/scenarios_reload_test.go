// SPDX-License-Identifier: Apache-2.0

package agreement_test

const execReload = "Type=notify\nNotifyAccess=main\nExecReload=/usr/bin/puppet reload {hub}\n"

// notifyReload traps the signal in main and in heirs, and answers it as told.
func notifyReload(answer string) map[string]string {
	return map[string]string{
		"main": "trap TERM exit 0; trap HUP report; ready", "heir": "trap TERM exit 0; trap HUP report", "HUP": answer,
	}
}

const wholeAnswer = "notify RELOADING=1|MONOTONIC_USEC={now}; ready"

// reloadScenarios show the reload.
var reloadScenarios = []*scenario{
	{
		name:    "reload: ExecReload= succeeds, fails, is killed, is missing",
		service: execReload,
		ops: `start
			reload
			behave reload: exit 1
			reload
			behave reload: die KILL
			reload
			behave reload: exit 0
			reload
			stop`,
	},
	{
		name:    "reload: an ExecReload= that cannot be executed",
		service: "Type=notify\nExecReload=/usr/bin/nonesuch",
		ops:     "start\nreload\nstop",
	},
	{
		name:    "reload: an ExecReload= that may fail",
		service: "Type=notify\nExecReload=-/usr/bin/puppet reload {hub}",
		behave:  map[string]string{"reload": "exit 1"},
		ops:     "start\nreload\nstop",
	},
	{
		name:    "reload: several ExecReload=",
		service: "Type=notify\nExecReload=/usr/bin/puppet first {hub}\nExecReload=/usr/bin/puppet second {hub}\nExecReload=/usr/bin/puppet third {hub}",
		behave:  map[string]string{"second": "exit 1"},
		ops:     "start\nreload\nbehave second: exit 0\nreload",
	},
	{
		name:    "reload: none is there",
		service: "Type=notify",
		ops:     "reload\nstart\nreload\nreload-or-restart\nstop\nreload\nreload-or-restart",
	},
	{
		name:    "reload: of a service that does not run",
		service: execReload,
		ops:     "reload\nreload-or-restart\nstop\nreload\ntry-restart",
	},
	{
		name:    "reload: a second one waits for the first",
		service: execReload,
		behave:  map[string]string{"reload": "hold"},
		ops: `start
			reload
			reload
			exit control 1
			reload
			exit control 0
			exit control 0`,
	},
	{
		name:    "reload: times out",
		service: execReload + "TimeoutStartSec=1s",
		ops: `start
			behave reload: hold
			~reload
			finish
			behave reload: exit 0
			reload`,
	},
	{
		name:    "reload: ended by stop",
		service: execReload + "ExecStop=/usr/bin/puppet stop {hub}",
		behave:  map[string]string{"reload": "hold"},
		ops:     "start\nreload\nstop",
	},
	{
		name:    "reload: ended by restart",
		service: execReload,
		behave:  map[string]string{"reload": "hold"},
		ops:     "start\nreload\nrestart\nstop",
	},
	{
		name:    "reload: start, try-restart and daemon-reload meanwhile",
		service: execReload,
		behave:  map[string]string{"reload": "hold"},
		ops: `start
			reload
			daemon-reload
			start
			exit control 0
			reload
			try-restart`,
	},
	{
		name:    "reload: main ends during ExecReload=, and Restart=",
		service: execReload + "Restart=on-failure\nRestartSec=10ms",
		behave:  map[string]string{"reload": "hold"},
		ops: `start
			reload
			kill main KILL
			exit control 0
			stop`,
	},
	{
		name:    "reload: main ends well during ExecReload=",
		service: execReload,
		behave:  map[string]string{"reload": "hold"},
		ops: `start
			reload
			exit main 0
			exit control 0`,
	},
	{
		name:    "reload: main moves during ExecReload=",
		service: execReload + "Restart=on-failure\nRestartSec=10ms",
		behave:  map[string]string{"reload": "hold"},
		ops: `start
			fork main heir
			reload
			notify main MAINPID={heir}|READY=1|STATUS=moved
			exit main#1 0
			exit control 0
			reload
			exit control 1
			stop`,
	},
	{
		name:    "reload: RELOADING and READY of its own accord",
		service: "Type=notify\nNotifyAccess=main",
		ops: `start
			notify main RELOADING=1|STATUS=reloading
			notify main RELOADING=1|STATUS=reloading again
			notify main READY=1|STATUS=done
			notify main RELOADING=1|MONOTONIC_USEC={now}
			notify main READY=1
			notify main RELOADING=0
			notify main RELOADING=1|READY=1
			stop`,
	},
	{
		name:    "reload: RELOADING, and main ends",
		service: "Type=notify\nNotifyAccess=main\nRestart=on-failure\nRestartSec=10ms\nTimeoutStartSec=1s",
		ops: `start
			notify main RELOADING=1|MONOTONIC_USEC={now}
			~kill main KILL
			~wait NRestarts=1
			wait SubState=running
			stop`,
	},
	{
		name:    "reload: RELOADING, and stop",
		service: "Type=notify\nNotifyAccess=main",
		ops:     "start\nnotify main RELOADING=1|MONOTONIC_USEC={now}\nstop",
	},
	{
		name:    "reload: RELOADING, and STOPPING, and READY",
		service: "Type=notify\nNotifyAccess=main",
		behave:  map[string]string{"main": "trap TERM report; ready"},
		ops: `start
			notify main RELOADING=1|MONOTONIC_USEC={now}
			notify main STOPPING=1
			notify main READY=1|STATUS=ready
			notify main RELOADING=1|MONOTONIC_USEC={now}
			exit main 0`,
	},
	{
		name:    "reload: RELOADING, and daemon-reload, and READY",
		service: "Type=notify\nNotifyAccess=main",
		ops:     "start\nnotify main RELOADING=1|MONOTONIC_USEC={now}\ndaemon-reload\nnotify main READY=1\nstop",
	},
	{
		name:    "reload: RELOADING, and a reload job",
		service: execReload,
		ops:     "start\nnotify main RELOADING=1|MONOTONIC_USEC={now}\nreload\nnotify main READY=1\nstop",
	},
	{
		name:    "reload: RELOADING while ExecReload= runs, READY after",
		service: execReload,
		behave:  map[string]string{"reload": "hold"},
		ops: `start
			reload
			notify main RELOADING=1|MONOTONIC_USEC={now}
			exit control 0
			notify main READY=1
			stop`,
	},
	{
		name:    "reload: RELOADING and READY while ExecReload= runs",
		service: execReload,
		behave:  map[string]string{"reload": "hold"},
		ops: `start
			reload
			notify main RELOADING=1|MONOTONIC_USEC={now}
			notify main READY=1
			exit control 0
			stop`,
	},
	{
		name:    "reload: RELOADING while ExecReload= runs, which fails",
		service: execReload,
		behave:  map[string]string{"reload": "hold"},
		ops: `start
			reload
			notify main RELOADING=1|MONOTONIC_USEC={now}
			exit control 1
			notify main READY=1
			stop`,
	},
	{
		name:    "reload: a spontaneous one times out",
		service: "Type=notify\nNotifyAccess=main\nTimeoutStartSec=1s",
		ops: `start
			~notify main RELOADING=1|MONOTONIC_USEC={now}
			~wait ReloadResult=timeout
			wait ActiveState=active
			stop`,
		since: 259,
	},
	{
		name:    "reload: ExecReloadPost=",
		since:   259,
		service: execReload + "ExecReloadPost=/usr/bin/puppet reload-post {hub}",
		behave:  map[string]string{"reload-post": "hold"},
		ops: `start
			reload
			exit control 0
			reload
			exit control 1
			behave reload: exit 1
			reload
			stop`,
	},
	{
		name:    "reload: Type=notify-reload",
		since:   253,
		service: "Type=notify-reload",
		behave:  notifyReload(wholeAnswer),
		ops:     "start\nreload\nreload\nreload-or-restart\nstop",
	},
	{
		name:    "reload: Type=notify-reload in two steps",
		since:   253,
		service: "Type=notify-reload",
		behave:  notifyReload("hold"),
		ops: `start
			reload
			notify main STATUS=slowly
			notify main RELOADING=1|MONOTONIC_USEC={now}
			daemon-reload
			notify main READY=1|STATUS=done
			stop`,
	},
	{
		name:    "reload: Type=notify-reload in one message",
		since:   253,
		service: "Type=notify-reload",
		behave:  notifyReload("notify RELOADING=1|MONOTONIC_USEC={now}|READY=1"),
		ops:     "start\nreload\nstop",
	},
	{
		name:    "reload: Type=notify-reload without or with a wrong time",
		since:   253,
		service: "Type=notify-reload\nTimeoutStartSec=3s",
		behave:  notifyReload("hold"),
		ops: `start
			reload
			notify main RELOADING=1
			notify main READY=1
			notify main RELOADING=1|MONOTONIC_USEC={past}
			notify main READY=1
			notify main RELOADING=1|MONOTONIC_USEC=x
			~notify main READY=1
			finish
			notify main READY=1
			stop`,
	},
	{
		name:    "reload: Type=notify-reload, nobody answers",
		since:   253,
		service: "Type=notify-reload\nTimeoutStartSec=1s",
		behave:  notifyReload("hold"),
		ops:     "start\n~reload\nfinish\nstop",
	},
	{
		name:    "reload: Type=notify-reload, RELOADING without READY",
		since:   259,
		service: "Type=notify-reload\nTimeoutStartSec=1s",
		behave:  notifyReload("notify RELOADING=1|MONOTONIC_USEC={now}"),
		ops:     "start\n~reload\nfinish\nstop",
	},
	{
		name:    "reload: Type=notify-reload, main moves",
		since:   253,
		service: "Type=notify-reload",
		behave:  notifyReload("hold"),
		ops: `start
			fork main heir
			reload
			notify main RELOADING=1|MONOTONIC_USEC={now}
			notify main MAINPID={heir}|READY=1
			exit main#1 0
			reload
			notify heir RELOADING=1|MONOTONIC_USEC={now}
			notify heir READY=1
			stop`,
	},
	{
		name:    "reload: Type=notify-reload, main ends in each step",
		since:   253,
		service: "Type=notify-reload\nRestart=on-failure\nRestartSec=10ms",
		behave:  notifyReload("hold"),
		ops: `start
			reload
			kill main KILL
			reload
			notify main RELOADING=1|MONOTONIC_USEC={now}
			kill main KILL
			reload
			exit main 0`,
	},
	{
		name:    "reload: Type=notify-reload, stop in each step",
		since:   253,
		service: "Type=notify-reload",
		behave:  notifyReload("hold"),
		ops: `start
			reload
			stop
			start
			reload
			notify main RELOADING=1|MONOTONIC_USEC={now}
			stop
			start
			reload
			restart
			stop`,
	},
	{
		name:    "reload: Type=notify-reload, STOPPING in each step",
		since:   253,
		service: "Type=notify-reload",
		behave:  notifyReload("hold"),
		ops: `start
			reload
			notify main STOPPING=1
			notify main READY=1
			exit main 0
			start
			reload
			notify main RELOADING=1|MONOTONIC_USEC={now}
			notify main STOPPING=1
			notify main READY=1
			exit main 0`,
	},
	{
		name:    "reload: Type=notify-reload, a second one waits",
		since:   253,
		service: "Type=notify-reload",
		behave:  notifyReload("hold"),
		ops: `start
			reload
			reload
			notify main RELOADING=1|MONOTONIC_USEC={now}
			notify main READY=1
			notify main RELOADING=1|MONOTONIC_USEC={now}
			notify main READY=1
			stop`,
	},
	{
		name:    "reload: Type=notify-reload of its own accord",
		since:   253,
		service: "Type=notify-reload",
		behave:  notifyReload(wholeAnswer),
		ops: `start
			notify main RELOADING=1|MONOTONIC_USEC={now}
			reload
			notify main READY=1
			notify main RELOADING=1
			notify main READY=1
			stop`,
	},
	{
		name:    "reload: Type=notify-reload with ExecReload=",
		since:   253,
		service: "Type=notify-reload\nNotifyAccess=all\nExecReload=/usr/bin/puppet reload {hub}",
		behave: map[string]string{
			"main": "trap TERM exit 0; trap HUP report; ready", "HUP": "hold", "reload": "hold",
		},
		ops: `start
			reload
			exit control 0
			notify main RELOADING=1|MONOTONIC_USEC={now}
			notify main READY=1
			behave reload: exit 1
			reload
			notify main RELOADING=1|MONOTONIC_USEC={now}
			notify main READY=1
			stop`,
	},
	{
		name:    "reload: Type=notify-reload with another signal",
		since:   253,
		service: "Type=notify-reload\nReloadSignal=USR2",
		behave: map[string]string{
			"main": "trap TERM exit 0; trap USR2 report; ready", "USR2": wholeAnswer,
		},
		ops: "start\nreload\nstop",
	},
	{
		name:    "reload: Type=notify-reload, the signal kills",
		since:   253,
		service: "Type=notify-reload\nRestart=on-failure\nRestartSec=10ms",
		behave:  map[string]string{"main": "trap TERM exit 0; ready"},
		ops:     "start\nreload\nstop",
	},
	{
		name:    "reload: Type=notify-reload, main ignores the signal",
		since:   253,
		service: "Type=notify-reload\nTimeoutStartSec=1s",
		behave:  map[string]string{"main": "trap TERM exit 0; trap HUP ignore; ready"},
		ops:     "start\n~reload\nfinish\nstop",
	},
}
