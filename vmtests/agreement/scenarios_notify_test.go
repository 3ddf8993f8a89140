// SPDX-License-Identifier: Apache-2.0

package agreement_test

import "github.com/holdfast-go/holdfast/vmtests/agreement"

// unixSocket is where the socket unit listens that has this FileDescriptorName=.
func unixSocket(name string) map[string]agreement.Address {
	return map[string]agreement.Address{name: {Network: "unix", Address: "/run/{name}.sock"}}
}

// everySender has every kind of process send a message while the service reloads.
const everySender = `start
	fork main child
	fork main heir
	notify main STATUS=of main
	notify child STATUS=of a child
	notify heir STATUS=of an heir
	reload
	notify control STATUS=of the control process
	notify child STATUS=of a child again
	exit control 0
	push child memfd a FDNAME=a
	push main memfd b FDNAME=b`

// notifyScenarios show who may send what.
var notifyScenarios = []*scenario{
	{
		name:    "notify: NotifyAccess=main",
		service: "Type=notify\nNotifyAccess=main\nFileDescriptorStoreMax=4\nExecReload=/usr/bin/puppet reload {hub}",
		behave:  map[string]string{"reload": "hold"},
		ops:     everySender,
	},
	{
		name:    "notify: NotifyAccess=exec",
		service: "Type=notify\nNotifyAccess=exec\nFileDescriptorStoreMax=4\nExecReload=/usr/bin/puppet reload {hub}",
		behave:  map[string]string{"reload": "hold"},
		ops:     everySender,
	},
	{
		name:    "notify: NotifyAccess=all",
		service: "Type=notify\nNotifyAccess=all\nFileDescriptorStoreMax=4\nExecReload=/usr/bin/puppet reload {hub}",
		behave:  map[string]string{"reload": "hold"},
		ops:     everySender,
	},
	{
		name:    "notify: NotifyAccess=none",
		service: "Type=simple\nNotifyAccess=none\nExecReload=/usr/bin/puppet reload {hub}",
		behave:  map[string]string{"reload": "hold"},
		ops:     everySender,
	},
	{
		name:    "notify: NotifyAccess=none with a store is main",
		service: "Type=simple\nNotifyAccess=none\nFileDescriptorStoreMax=4\nExecReload=/usr/bin/puppet reload {hub}",
		behave:  map[string]string{"reload": "hold"},
		ops:     everySender,
	},
	{
		name:    "notify: NotifyAccess= of a service without notify",
		service: "Type=simple\nExecReload=/usr/bin/puppet reload {hub}",
		behave:  map[string]string{"reload": "hold"},
		ops:     everySender,
	},
	{
		name:    "notify: NOTIFYACCESS= until the next start",
		since:   254,
		service: "Type=notify\nNotifyAccess=main\nExecReload=/usr/bin/puppet reload {hub}",
		behave:  map[string]string{"reload": "hold"},
		ops: `start
			fork main child
			notify child STATUS=refused
			notify main NOTIFYACCESS=all
			notify child STATUS=accepted
			notify child NOTIFYACCESS=exec
			notify child STATUS=refused again
			reload
			notify control STATUS=control
			exit control 0
			notify main NOTIFYACCESS=bogus
			notify main NOTIFYACCESS=
			notify main NOTIFYACCESS=none
			notify main STATUS=never
			daemon-reload
			notify main STATUS=never either
			restart
			notify main STATUS=main again`,
	},
	{
		name:    "notify: NOTIFYACCESS= is nothing before 254",
		until:   253,
		service: "Type=notify\nNotifyAccess=main",
		ops: `start
			fork main child
			notify main NOTIFYACCESS=all|STATUS=asked
			notify child STATUS=refused`,
	},
	{
		name:    "notify: malformed messages",
		service: "Type=notify\nNotifyAccess=all",
		behave:  map[string]string{"main": "trap TERM exit 0"},
		ops: `start
			notify main STATUS={long}
			notify main READY=1|STATUS=a{nul}b
			notify main
			notify main READY
			notify main =1
			notify main READY=
			notify main READY=0
			notify main READY=true
			notify main READY=1{space}
			notify main {space}READY=1
			notify main ready=1
			notify main STATUS={ff}
			notify main STATUS=fine|
			notify main ||STATUS=empty lines
			notify main STATUS=one|STATUS=two
			notify main STATUS=
			notify main ERRNO=5|STATUS=errno
			notify main ERRNO=0
			notify main ERRNO=7
			notify main ERRNO=-1
			notify main ERRNO=4096
			notify main ERRNO=99999999999
			notify main ERRNO=x
			notify main ERRNO=
			notify main BUSERROR=org.example.Failed
			notify main X_MINE=1|READY=1`,
	},
	{
		name:    "notify: a status stays until the next start",
		service: "Type=notify\nNotifyAccess=all\nRestart=on-failure\nRestartSec=10ms",
		behave:  map[string]string{"main": "trap TERM exit 0; notify READY=1"},
		ops: `start
			notify main STATUS=mine|ERRNO=3
			stop
			start
			notify main STATUS=mine|ERRNO=3
			kill main KILL
			notify main STATUS=mine|ERRNO=3
			restart`,
	},
	{
		name:    "notify: READY in Type=simple and again in Type=notify",
		service: "Type=simple\nNotifyAccess=all",
		behave:  map[string]string{"main": "trap TERM exit 0"},
		ops: `start
			notify main READY=1|STATUS=ready
			notify main READY=1`,
	},
	{
		name:    "notify: STOPPING stops, and main may take its time",
		service: "Type=notify\nNotifyAccess=main\nRestart=on-failure\nExecStop=/usr/bin/puppet stop {hub}\nExecStopPost=/usr/bin/puppet stop-post {hub}",
		ops: `start
			notify main STOPPING=1|STATUS=going
			notify main READY=1|STATUS=back
			notify main STATUS=last
			exit main 0`,
	},
	{
		name:    "notify: STOPPING, then a failure",
		service: "Type=notify\nNotifyAccess=main\nRestart=on-failure\nRestartSec=10ms",
		ops: `start
			notify main STOPPING=1
			exit main 1`,
	},
	{
		name:    "notify: STOPPING takes no longer than TimeoutStopSec=",
		service: "Type=notify\nNotifyAccess=main\nTimeoutStopSec=1s",
		behave:  map[string]string{"main": "trap TERM report; ready"},
		ops: `start
			~notify main STOPPING=1
			wait ActiveState=failed`,
	},
	{
		name:    "notify: STOPPING before READY",
		service: "Type=notify\nNotifyAccess=main",
		behave:  map[string]string{"main": "trap TERM exit 0"},
		ops: `start
			notify main STOPPING=1
			notify main READY=1
			stop`,
	},
	{
		name:    "notify: a process that does not belong to the service",
		service: "Type=notify\nNotifyAccess=all",
		ops: `start
			fork stage outsider
			notify outsider STATUS=from outside`,
	},
	{
		name:    "notify: WATCHDOG=trigger",
		service: "Type=notify\nNotifyAccess=main\nWatchdogSignal=TERM\nRestart=on-watchdog\nRestartSec=10ms",
		behave:  map[string]string{"main": "trap TERM report; ready"},
		ops: `start
			notify main WATCHDOG=1
			notify main WATCHDOG=trigger
			exit main 0`,
	},
	{
		name:    "notify: the watchdog strikes",
		service: "Type=notify\nNotifyAccess=main\nWatchdogSec=1s\nWatchdogSignal=TERM\nExecStopPost=/usr/bin/puppet stop-post {hub}",
		behave:  map[string]string{"main": "trap TERM exit 0; ready"},
		ops: `~start
			wait ActiveState=failed`,
	},
	{
		name:    "notify: the watchdog strikes, and Restart=on-watchdog",
		service: "Type=notify\nNotifyAccess=main\nWatchdogSec=1s\nWatchdogSignal=KILL\nRestart=on-watchdog\nRestartSec=10ms",
		behave:  map[string]string{"main": "trap TERM exit 0; ready"},
		ops: `start
			~notify main WATCHDOG=1
			wait NRestarts=1
			stop`,
	},
	{
		name:    "notify: pings keep the watchdog off",
		service: "Type=notify\nNotifyAccess=main\nWatchdogSec=2s\nWatchdogSignal=TERM",
		ops: `start
			~pass 1200ms
			~notify main WATCHDOG=1
			~pass 1200ms
			~notify main WATCHDOG=1
			pass 1200ms
			notify main WATCHDOG=1
			stop`,
	},
	{
		name:    "notify: WATCHDOG_USEC= sets and ends the watchdog",
		service: "Type=notify\nNotifyAccess=main\nWatchdogSec=2s\nWatchdogSignal=TERM",
		ops: `start
			~notify main WATCHDOG_USEC=60000000
			pass 2200ms
			notify main WATCHDOG_USEC=x
			~notify main WATCHDOG_USEC=300000
			wait ActiveState=failed`,
	},
	{
		name:    "notify: RESTART_RESET",
		since:   258,
		service: "Type=notify\nNotifyAccess=main\nRestart=always\nRestartSec=10ms",
		ops: `start
			exit main 1
			exit main 1
			notify main RESTART_RESET=1
			exit main 1`,
	},
	{
		name:    "notify: several states in one message",
		service: "Type=notify\nNotifyAccess=main",
		ops: `start
			notify main READY=1|RELOADING=1|MONOTONIC_USEC={now}
			notify main RELOADING=1|MONOTONIC_USEC={now}
			notify main RELOADING=1|READY=1
			notify main READY=1
			notify main STOPPING=1|RELOADING=1
			notify main RELOADING=1|STOPPING=1`,
	},
	{
		name:    "notify: EXTEND_TIMEOUT_USEC at the start",
		service: "Type=notify\nNotifyAccess=main\nTimeoutStartSec=1s",
		behave:  map[string]string{"main": "trap TERM exit 0; notify EXTEND_TIMEOUT_USEC=9000000"},
		ops: `~start
			pass 1500ms
			notify main EXTEND_TIMEOUT_USEC=10000
			notify main READY=1`,
	},
	{
		name:    "notify: without EXTEND_TIMEOUT_USEC the start times out",
		service: "Type=notify\nNotifyAccess=main\nTimeoutStartSec=1s\nExecStopPost=/usr/bin/puppet stop-post {hub}",
		behave:  map[string]string{"main": "trap TERM exit 0"},
		ops: `~start
			wait ActiveState=failed`,
	},
	{
		name:    "notify: EXTEND_TIMEOUT_USEC at the end",
		service: "Type=notify\nNotifyAccess=main\nTimeoutStopSec=1s",
		behave:  map[string]string{"main": "trap TERM report; ready", "TERM": "notify EXTEND_TIMEOUT_USEC=9000000|STATUS=extended"},
		ops: `start
			~stop
			pass 1500ms
			exit main 0`,
	},
}
