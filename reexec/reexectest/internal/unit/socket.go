// SPDX-License-Identifier: Apache-2.0

package unit

import (
	"os"
	"time"
)

// Socket is a socket unit, with systemd's defaults filled in.
type Socket struct {
	Name        string // "myapp.socket"
	Instance    string
	Description string

	Listen  []Listen // in the order of the file: that of the descriptors passed
	Service string   // the service that it starts; with Accept=, the template "myapp@.service"

	FileDescriptorName string // the unit's name unless set; "connection" with Accept=
	Accept             bool
	Backlog            int    // -1 is as much as the kernel lets
	BindIPv6Only       string // default both ipv6-only
	SocketProtocol     string // udplite sctp mptcp; empty for that of the type
	SocketMode         os.FileMode
	DirectoryMode      os.FileMode
	Symlinks           []string // relocated
	RemoveOnStop       bool
	FlushPending       bool
	Writable           bool // of ListenSpecial=

	ReusePort, FreeBind, Transparent, Broadcast bool
	NoDelay, KeepAlive                          bool
	KeepAliveTime, KeepAliveInterval            time.Duration // whole seconds; 0 is the kernel's
	KeepAliveProbes                             int
	DeferAccept                                 time.Duration
	PassCredentials, PassSecurity, PassPIDFD    bool
	PassPacketInfo                              bool
	AcceptFileDescriptors                       bool   // SO_PASSRIGHTS
	Timestamping                                string // off us ns
	ReceiveBuffer, SendBuffer, PipeSize         int    // bytes; 0 is the kernel's
	Priority, IPTOS, IPTTL                      *int
	TCPCongestion                               string

	//lint:ignore ST1011 the name of the option
	TimeoutSec              time.Duration
	MaxConnections          int
	MaxConnectionsPerSource int           // 0 for no limit
	TriggerLimitInterval    time.Duration // 0 for no limit
	TriggerLimitBurst       int           // 0 for no limit
	PollLimitInterval       time.Duration // 0 for no limit; so it is before 255
	PollLimitBurst          int
	DeferTrigger            string // no yes patient
	DeferTriggerMax         time.Duration

	PassFileDescriptorsToExec bool
	StartLimitInterval        time.Duration
	StartLimitBurst           int
	DefaultDependencies       bool

	ExecStartPre, ExecStartPost, ExecStopPre, ExecStopPost []Command
}

// Listen is one Listen option.
type Listen struct {
	Kind    string // ListenStream ListenDatagram ListenSequentialPacket ListenFIFO ListenSpecial
	Address string // as written, specifiers filled in; of a path relocated

	File string // where it stands, for messages
	Line int
}
