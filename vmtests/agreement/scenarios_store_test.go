// SPDX-License-Identifier: Apache-2.0

package agreement_test

import (
	"fmt"
	"strings"
)

// kinds of descriptors that are stored; what becomes of each is for the manager to say.
var kinds = []string{
	"memfd", "tcp-listening", "tcp-bound", "tcp-shutdown", "unix-listening", "unix-bound", "unix-datagram",
	"udp", "udp-refused", "pipe", "pipe-full", "socketpair", "eventfd", "null",
}

// storeScenarios show the rules of the file descriptor store.
func storeScenarios() []*scenario {
	all := []*scenario{
		{
			name:    "store: a duplicate keeps its first name",
			service: "Type=notify\nFileDescriptorStoreMax=4",
			ops: `start
				push main memfd m FDNAME=first|STATUS=1
				notify main [m] FDSTORE=1|FDNAME=second|STATUS=2
				restart
				notify main [m] FDSTORE=1|FDNAME=third|STATUS=3
				notify main FDSTOREREMOVE=1|FDNAME=first|STATUS=4
				notify main [m] FDSTORE=1|FDNAME=third|STATUS=5
				restart`,
		},
		{
			name:    "store: a full store refuses, also what it has already",
			service: "Type=notify\nFileDescriptorStoreMax=2",
			ops: `start
				push main memfd a FDNAME=a
				push main memfd b FDNAME=b
				push main memfd c FDNAME=c|STATUS=too many
				notify main [a] FDSTORE=1|FDNAME=again
				notify main FDSTOREREMOVE=1|FDNAME=a
				notify main [c] FDSTORE=1|FDNAME=c
				restart`,
		},
		{
			name:      "store: several descriptors in one message",
			service:   "Type=notify\nFileDescriptorStoreMax=8",
			unordered: true,
			ops: `start
				make main memfd a
				make main tcp-listening b
				make main tcp-bound c
				make main memfd d
				notify main [a,b,c,d] FDSTORE=1|FDNAME=all
				notify main [a,d] FDSTORE=1|FDNAME=twice
				restart`,
		},
		{
			name:    "store: switched off",
			service: "Type=notify",
			ops: `start
				push main memfd a FDNAME=a|STATUS=pushed
				restart`,
		},
		{
			name:    "store: newest first, turned round by each daemon-reload",
			service: "Type=notify\nFileDescriptorStoreMax=8",
			socket:  "ListenStream=/run/{name}.sock\nFileDescriptorName=web",
			ops: `start {name}.socket
				start
				push main memfd a FDNAME=a
				push main tcp-listening b FDNAME=b
				push main memfd c FDNAME=c
				restart
				daemon-reload
				restart
				daemon-reload
				push main memfd d FDNAME=d
				restart`,
		},
		{
			name:    "store: names",
			service: "Type=notify\nFileDescriptorStoreMax=20",
			ops: `start
				push main memfd a
				push main memfd b FDNAME=
				push main memfd c FDNAME=with:colon
				push main memfd d FDNAME={ff}
				push main memfd e FDNAME=with space
				push main memfd f FDNAME=` + strings.Repeat("x", 255) + `
				push main memfd g FDNAME=` + strings.Repeat("y", 256) + `
				push main memfd h FDNAME=one|FDNAME=two
				push main memfd i FDNAME=same
				push main memfd j FDNAME=same
				restart`,
		},
		{
			name:    "store: removal",
			service: "Type=notify\nFileDescriptorStoreMax=8",
			ops: `start
				push main memfd a FDNAME=same
				push main memfd b FDNAME=other
				push main memfd c FDNAME=same
				push main memfd d
				notify main FDSTOREREMOVE=1|STATUS=without a name
				notify main FDSTOREREMOVE=1|FDNAME=none
				notify main FDSTOREREMOVE=0|FDNAME=same
				notify main FDSTOREREMOVE=1|FDNAME=same
				notify main FDSTOREREMOVE=1|FDNAME=with:colon
				notify main FDSTOREREMOVE=1|FDNAME=stored
				make main memfd e
				notify main [e] FDSTOREREMOVE=1|FDSTORE=1|FDNAME=other
				restart`,
		},
		{
			name:    "store: FDSTORE without a descriptor, descriptors without FDSTORE",
			service: "Type=notify\nFileDescriptorStoreMax=8",
			ops: `start
				notify main FDSTORE=1|FDNAME=a|STATUS=none
				make main memfd a
				notify main [a] STATUS=with a descriptor
				notify main [a] FDSTORE=0|FDNAME=a|STATUS=zero
				notify main [a] FDSTORE=yes|FDNAME=a|STATUS=word
				restart`,
		},
		{
			name:    "store: a listener of the socket unit comes twice",
			service: "Type=notify\nFileDescriptorStoreMax=8",
			socket:  "ListenStream=/run/{name}.sock\nFileDescriptorName=web",
			behave:  map[string]string{"main": "trap TERM exit 0; serve; ready"},
			sockets: unixSocket("web"),
			ops: `start {name}.socket
				start
				adopt main 3 web
				notify main [web] FDSTORE=1|FDNAME=stolen
				restart
				connect web
				stop
				stop {name}.socket
				connect web`,
		},
		{
			name:    "store: kept over a crash with Restart=, dropped at the end",
			unit:    "StartLimitIntervalSec=1h\nStartLimitBurst=2",
			service: "Type=notify\nFileDescriptorStoreMax=8\nRestart=on-failure\nRestartSec=10ms",
			ops: `start
				push main memfd a FDNAME=a
				push main memfd b FDNAME=b
				kill main KILL
				exit main 1
				reset-failed
				start`,
		},
		{
			name:    "store: dropped at stop, kept by restart",
			service: "Type=notify\nFileDescriptorStoreMax=8",
			ops: `start
				push main memfd a FDNAME=a
				restart
				stop
				start`,
		},
		{
			name:    "store: pushed in every state",
			service: "Type=notify\nNotifyAccess=all\nFileDescriptorStoreMax=20\nExecStartPre=/usr/bin/puppet start-pre {hub}\nExecStartPost=/usr/bin/puppet start-post {hub}\nExecReload=/usr/bin/puppet reload {hub}\nExecStop=/usr/bin/puppet stop {hub}\nExecStopPost=/usr/bin/puppet stop-post {hub}",
			behave:  map[string]string{"start-pre": "hold", "start-post": "hold", "reload": "hold", "stop": "hold", "stop-post": "hold", "main": "trap TERM exit 0"},
			ops: `start
				push control memfd a FDNAME=start-pre
				exit control 0
				push main memfd b FDNAME=start
				notify main READY=1
				push control memfd c FDNAME=start-post
				exit control 0
				reload
				push control memfd d FDNAME=reload
				exit control 0
				restart
				push control memfd e FDNAME=stop
				exit control 0
				push control memfd f FDNAME=stop-post
				exit control 0
				exit control 0
				notify main READY=1
				exit control 0`,
		},
		{
			name:    "store: a lower limit by daemon-reload keeps some",
			service: "Type=notify\nFileDescriptorStoreMax=8",
			ops: `start
				push main memfd a FDNAME=a
				push main memfd b FDNAME=b
				push main memfd c FDNAME=c
				daemon-reload FileDescriptorStoreMax=2
				restart
				daemon-reload FileDescriptorStoreMax=8
				push main memfd d FDNAME=d
				restart`,
		},
		{
			name:    "store: switched off by daemon-reload",
			service: "Type=notify\nFileDescriptorStoreMax=8",
			ops: `start
				push main memfd a FDNAME=a
				push main memfd b FDNAME=b
				daemon-reload FileDescriptorStoreMax=0
				push main memfd c FDNAME=c
				restart`,
		},
		{
			name:    "store: hang-ups of what is stored",
			service: "Type=notify\nFileDescriptorStoreMax=20",
			ops: `start
				push main pipe watched FDNAME=watched
				push main pipe unwatched FDNAME=unwatched|FDPOLL=0
				push main socketpair pair FDNAME=pair
				hang-up main unwatched
				hang-up main watched
				hang-up main pair
				close main watched
				restart`,
		},
		{
			name:    "store: not for ExecStartPre= and ExecReload=",
			service: "Type=notify\nFileDescriptorStoreMax=8\nExecStartPre=/usr/bin/puppet start-pre {hub}\nExecReload=/usr/bin/puppet reload {hub}\nExecStopPost=/usr/bin/puppet stop-post {hub}",
			ops: `start
				push main memfd a FDNAME=a
				reload
				restart`,
		},
		{
			name:    "store: Clean while running, while stopped, while there is nothing",
			since:   254,
			service: "Type=notify\nFileDescriptorStoreMax=8\nFileDescriptorStorePreserve=yes",
			ops: `start
				push main memfd a FDNAME=a
				clean fdstore
				stop
				clean fdstore
				clean fdstore
				start`,
		},
		{
			name:    "store: Clean knows no fdstore before 254",
			until:   253,
			service: "Type=notify\nFileDescriptorStoreMax=8",
			ops: `start
				clean fdstore
				stop
				clean fdstore`,
		},
		{
			name:    "store: OpenFile= comes last",
			since:   253,
			service: "Type=notify\nFileDescriptorStoreMax=8\nOpenFile=/dev/null:null:read-only\nOpenFile=/dev/zero",
			socket:  "ListenStream=/run/{name}.sock\nFileDescriptorName=web",
			ops: `start {name}.socket
				start
				push main memfd a FDNAME=a
				restart`,
		},
	}
	for _, poll := range []string{"", "|FDPOLL=0"} {
		ops := "start\n"
		for _, kind := range kinds {
			ops += fmt.Sprintf("push main %s %s FDNAME=%s%s\n", kind, kind, kind, poll)
		}
		name := "watched"
		if poll != "" {
			name = "not watched"
		}
		all = append(all, &scenario{
			name:    "store: which kinds stay, " + name,
			service: "Type=notify\nFileDescriptorStoreMax=50",
			ops:     ops + "restart\ndaemon-reload\nrestart",
		})
	}
	for _, preserve := range []string{"no", "restart", "yes"} {
		all = append(all, &scenario{
			name:    "store: FileDescriptorStorePreserve=" + preserve,
			since:   254,
			service: "Type=notify\nFileDescriptorStoreMax=8\nFileDescriptorStorePreserve=" + preserve,
			ops: `start
				push main memfd a FDNAME=a
				push main memfd b FDNAME=b
				restart
				stop
				daemon-reload
				start
				kill main KILL
				reset-failed
				start
				stop`,
		})
	}
	all = append(all, &scenario{
		name:    "store: FileDescriptorStorePreserve=on-success",
		since:   261,
		service: "Type=notify\nFileDescriptorStoreMax=8\nFileDescriptorStorePreserve=on-success",
		ops: `start
			push main memfd a FDNAME=a
			restart
			stop
			start
			kill main KILL
			start`,
	})
	return all
}
