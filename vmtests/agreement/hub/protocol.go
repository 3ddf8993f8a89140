// SPDX-License-Identifier: Apache-2.0

// Package hub directs puppets: services that do what they are told (vmtests/cmd/puppet). Each puppet that
// starts dials the [Hub] and says what it found ([Hello]); from then on it obeys [Command] values until it
// ends. So its start, what it does and its end are events, whoever started it.
//
// Hub and puppets speak JSON, one value a line, over a stream socket. They must be in one PID namespace.
package hub

// A Hello is what a puppet found when it started.
type Hello struct {
	Role   string // first argument: "main", "child", "reload", ...
	PID    int
	Parent int
	Args   []string // without the address of the hub
	Env    []string // sorted
	Dir    string
	Umask  string // as in /proc/self/status
	// Files are standard input, output and error, and then each descriptor that came through execve(2).
	Files []File
}

// A File is a descriptor of a puppet.
type File struct {
	Number   int
	Kind     string // "memfd", "unix stream listening", "tcp4 stream", "pipe", "null", ...
	Dev, Ino uint64
	NonBlock bool
	Content  string `json:",omitempty"` // of a memfd
}

// A Command is one thing for a puppet to do.
type Command struct {
	ID int64
	Do Verb

	Label string `json:",omitempty"` // of a descriptor of the puppet
	Kind  string `json:",omitempty"` // Make: what; Fork: the role
	// Payload is a notify message, byte for byte; Labels are the descriptors to go with it. With Barrier, the
	// answer comes when the manager has read the message.
	Payload []byte   `json:",omitempty"`
	Labels  []string `json:",omitempty"`
	Barrier bool     `json:",omitempty"`

	Signal int    `json:",omitempty"` // Die, Trap
	Then   string `json:",omitempty"` // Trap: one of the Then constants
	Code   int    `json:",omitempty"` // Exit; Trap with ThenExit
	Number int    `json:",omitempty"` // Adopt: a descriptor of Hello
	Path   string `json:",omitempty"` // WriteFile: relative to the runtime directory
	Text   string `json:",omitempty"` // WriteFile
}

// Verb says what a Command is about.
type Verb string

// Verbs. Exit and Die have no answer: the connection ends.
const (
	Notify    Verb = "notify"
	Make      Verb = "make"  // makes a descriptor of Kind and keeps it as Label
	Adopt     Verb = "adopt" // keeps descriptor Number as Label
	Close     Verb = "close" // closes Label; of a pipe, the end that the puppet kept too
	HangUp    Verb = "hang-up"
	Fork      Verb = "fork" // starts a puppet: a child, or with Kind "heir" one that is its parent's child (CLONE_PARENT)
	Trap      Verb = "trap"
	Serve     Verb = "serve" // answers each connection to the listening sockets passed, with its PID
	WriteFile Verb = "write-file"
	Exit      Verb = "exit"
	Die       Verb = "die"
)

// What a signal does that is trapped. The hub hears of it with ThenReport and ThenExit.
const (
	ThenDefault = "default"
	ThenIgnore  = "ignore"
	ThenReport  = "report"
	ThenExit    = "exit"
)

// A Report is what a puppet says: first its Hello, then answers and events.
type Report struct {
	Hello  *Hello `json:",omitempty"`
	Answer int64  `json:",omitempty"` // ID of the command
	Error  string `json:",omitempty"` // why the command failed
	PID    int    `json:",omitempty"` // Fork
	Made   *File  `json:",omitempty"` // Make, Adopt
	Signal int    `json:",omitempty"` // a signal that came
	Served string `json:",omitempty"` // name of the socket a connection was answered on
}
