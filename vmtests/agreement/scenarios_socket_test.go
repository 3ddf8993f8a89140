// SPDX-License-Identifier: Apache-2.0

package agreement_test

import "github.com/holdfast-go/holdfast/vmtests/agreement"

// serving has main answer connections.
var serving = map[string]string{"main": "trap TERM exit 0; serve; ready"}

// socketScenarios show socket units and what they do with their service.
var socketScenarios = []*scenario{
	{
		name:    "socket: a connection starts the service",
		service: "Type=notify",
		socket:  "ListenStream=/run/{name}.sock",
		sockets: unixSocket("{name}.socket"),
		behave:  serving,
		ops: `connect {name}.socket
			start {name}.socket
			connect {name}.socket
			connect {name}.socket
			stop
			connect {name}.socket
			stop {name}.socket
			connect {name}.socket
			stop
			connect {name}.socket`,
	},
	{
		name:    "socket: the service does not start the socket, and keeps it from starting",
		service: "Type=notify",
		socket:  "ListenStream=/run/{name}.sock",
		ops:     "start\nstart {name}.socket\nstop\nstart {name}.socket\nstart\nstart {name}.socket\nrestart {name}.socket\nstop",
	},
	{
		name:    "socket: Sockets= brings it along",
		service: "Type=notify\nSockets={name}.socket",
		socket:  "ListenStream=/run/{name}.sock",
		ops:     "start\nstop\nstop {name}.socket",
	},
	{
		name:    "socket: several addresses, in order, with a name",
		service: "Type=notify",
		socket:  "ListenStream=/run/{name}.b\nListenDatagram=/run/{name}.a\nListenSequentialPacket=/run/{name}.c\nListenFIFO=/run/{name}.d\nListenStream=127.0.0.1:8001\nListenDatagram=127.0.0.1:8001\nListenStream=@{name}\nFileDescriptorName=all",
		ops:     "start {name}.socket\nstart\nread /run/{name}.b\nread /run/{name}.d\nstop\nstop {name}.socket\nread /run/{name}.b\nread /run/{name}.d",
	},
	{
		name:    "socket: modes, links, and RemoveOnStop=",
		service: "Type=notify",
		socket:  "ListenStream=/run/{name}/deep/sock\nSocketMode=0600\nDirectoryMode=0750\nSymlinks=/run/{name}/link\nRemoveOnStop=yes",
		ops: `start {name}.socket
			read /run/{name}
			read /run/{name}/deep
			read /run/{name}/deep/sock
			read /run/{name}/link
			stop {name}.socket
			read /run/{name}
			read /run/{name}/deep`,
	},
	{
		name:    "socket: what waits in the queue stays over a restart",
		service: "Type=notify",
		socket:  "ListenStream=/run/{name}.sock\nFileDescriptorName=web",
		sockets: unixSocket("web"),
		ops:     "start {name}.socket\nconnect web\nrestart\nbehave main: trap TERM exit 0; serve; ready\nrestart",
	},
	{
		name:    "socket: FlushPending= throws away what waits in the queue",
		service: "Type=notify",
		socket:  "ListenStream=/run/{name}.sock\nFileDescriptorName=web\nFlushPending=yes",
		sockets: unixSocket("web"),
		ops:     "start {name}.socket\nconnect web\nstop",
	},
	{
		name:    "socket: a service that fails at the start, until its limit",
		unit:    "StartLimitIntervalSec=1h\nStartLimitBurst=3",
		service: "Type=notify",
		socket:  "ListenStream=/run/{name}.sock\nFileDescriptorName=web\nTriggerLimitIntervalSec=0",
		sockets: unixSocket("web"),
		behave:  map[string]string{"main": "exit 1"},
		ops:     "start {name}.socket\nconnect web\nconnect web",
	},
	{
		name:    "socket: the trigger limit",
		unit:    "StartLimitIntervalSec=0",
		service: "Type=notify",
		socket:  "ListenStream=/run/{name}.sock\nFileDescriptorName=web\nTriggerLimitIntervalSec=1h\nTriggerLimitBurst=3",
		sockets: unixSocket("web"),
		behave:  map[string]string{"main": "exit 1"},
		ops:     "start {name}.socket\nconnect web\nconnect web\nreset-failed {name}.socket\nstart {name}.socket",
	},
	{
		name:    "socket: a crash leaves it listening",
		service: "Type=notify\nRestart=on-failure\nRestartSec=10ms",
		socket:  "ListenStream=/run/{name}.sock\nFileDescriptorName=web",
		sockets: unixSocket("web"),
		behave:  serving,
		ops:     "start {name}.socket\nstart\nkill main KILL\nconnect web\nexit main 0\nconnect web",
	},
	{
		name:    "socket: restart of the socket while the service runs",
		service: "Type=notify",
		socket:  "ListenStream=/run/{name}.sock\nFileDescriptorName=web",
		sockets: unixSocket("web"),
		behave:  serving,
		ops:     "start {name}.socket\nstart\nstop {name}.socket\nconnect web\nstart {name}.socket\nrestart\nstop\nstart {name}.socket\nconnect web",
	},
	{
		name:    "socket: daemon-reload while it listens and while it runs",
		service: "Type=notify",
		socket:  "ListenStream=/run/{name}.sock\nFileDescriptorName=web",
		sockets: unixSocket("web"),
		behave:  serving,
		ops:     "start {name}.socket\ndaemon-reload\nconnect web\ndaemon-reload\nconnect web\nrestart\nconnect web\nstop\ndaemon-reload\nconnect web",
	},
	{
		name:    "socket: a path that cannot be bound",
		service: "Type=notify",
		socket:  "ListenStream=/run/{name}.first\nListenStream=/run/{name}.file/sock",
		ops:     "start {name}.socket\nread /run/{name}.file\nstop {name}.socket",
	},
	{
		name:    "socket: over TCP",
		service: "Type=notify",
		socket:  "ListenStream=127.0.0.1:8002\nFileDescriptorName=web\nNoDelay=yes\nKeepAlive=yes\nReusePort=yes\nBacklog=5",
		sockets: map[string]agreement.Address{"web": {Network: "tcp", Address: "127.0.0.1:8002"}},
		behave:  serving,
		ops:     "start {name}.socket\nconnect web\nstop\nconnect web\nstop",
	},
	{
		name:    "socket: start of the service fails the socket's job, too",
		unit:    "StartLimitIntervalSec=1h\nStartLimitBurst=1",
		service: "Type=notify",
		socket:  "ListenStream=/run/{name}.sock\nFileDescriptorName=web",
		sockets: unixSocket("web"),
		behave:  map[string]string{"main": "trap TERM exit 0; serve; ready"},
		ops:     "start {name}.socket\nstart\nstop\nconnect web",
	},
}
