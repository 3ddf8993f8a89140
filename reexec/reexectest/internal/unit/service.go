// SPDX-License-Identifier: Apache-2.0

package unit

import (
	"math"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/units/unitfile"
)

// Infinity is a duration without an end: the value "infinity" of a time span,
// and that of a timeout that is switched off with 0.
const Infinity time.Duration = math.MaxInt64

// Service is a service unit: every option that has an effect here, with
// systemd's defaults filled in. Names of options and their values are systemd's.
type Service struct {
	Name        string // "myapp.service", "myapp@1.service"
	Instance    string // "1"; empty unless of a template
	Description string // the name, unless Description= says more

	Type         string // simple exec notify notify-reload oneshot forking
	NotifyAccess string // none main exec all, with what Type=, WatchdogSec= and FileDescriptorStoreMax= imply
	ExitType     string // main cgroup
	PIDFile      string // absolute and relocated; empty for none

	ExecCondition, ExecStartPre, ExecStart, ExecStartPost []Command
	ExecReload, ExecReloadPost, ExecStop, ExecStopPost    []Command

	// Timeouts are Infinity when there is none. RuntimeMax is Infinity, and
	// Watchdog 0, when off. TimeoutAbort is that of the watchdog's signal, and
	// is TimeoutStop unless set. RestartMaxDelay is Infinity when unset.
	TimeoutStart, TimeoutStop, TimeoutAbort time.Duration
	RuntimeMax, RuntimeRandomizedExtra      time.Duration
	Watchdog                                time.Duration
	TimeoutStartFailureMode                 string // terminate abort kill
	TimeoutStopFailureMode                  string // terminate abort kill

	Restart     string // no on-success on-failure on-abnormal on-watchdog on-abort always
	RestartMode string // normal direct debug
	//lint:ignore ST1011 the name of the option
	RestartSec                  time.Duration
	RestartMaxDelay             time.Duration
	RestartSteps                int
	RestartRandomizedDelay      time.Duration
	RestartPrevent              ExitSet // RestartPreventExitStatus=
	RestartForce                ExitSet // RestartForceExitStatus=
	SuccessExit                 ExitSet // SuccessExitStatus=, in addition to 0 and SIGHUP SIGINT SIGTERM SIGPIPE
	RemainAfterExit             bool
	GuessMainPID                bool
	StartLimitInterval          time.Duration // 0 for no limit
	StartLimitBurst             int           // 0 for no limit
	RefuseManualStart           bool
	RefuseManualStop            bool
	DefaultDependencies         bool
	Requires, BindsTo, PartOf   []string
	Wants                       []string
	Sockets                     []string // Sockets=, and the socket units whose Service= this is
	FileDescriptorStoreMax      int
	FileDescriptorStorePreserve string // no restart yes on-success

	KillMode                string // control-group mixed process none
	KillSignal              syscall.Signal
	RestartKillSignal       syscall.Signal // KillSignal unless set
	FinalKillSignal         syscall.Signal
	WatchdogSignal          syscall.Signal
	ReloadSignal            syscall.Signal
	SendSIGKILL, SendSIGHUP bool
	OOMPolicy               string // stop kill continue

	// RuntimeDirectory and the like are relative to %t, %S, %C, %L and %E.
	RuntimeDirectory, StateDirectory, CacheDirectory []string
	LogsDirectory, ConfigurationDirectory            []string
	RuntimeDirectoryMode, StateDirectoryMode         os.FileMode
	CacheDirectoryMode, LogsDirectoryMode            os.FileMode
	ConfigurationDirectoryMode                       os.FileMode
	DirectoryLinks                                   []DirectoryLink
	RuntimeDirectoryPreserve                         string // no yes restart
	TimeoutClean                                     time.Duration
	WorkingDirectory                                 string // relocated; empty unless set, which is "/"; "~" for the home directory
	WorkingDirectoryOptional                         bool   // of "-/dir"
	UMask                                            os.FileMode
	Environment                                      []string // NAME=value, the last of a name alone
	PassEnvironment, UnsetEnvironment                []string
	EnvironmentFiles                                 []EnvironmentFile // to be read at each start by unitfile.ParseEnvironmentFile
	ExecSearchPath                                   []string
	Limits                                           []Rlimit
	IgnoreSIGPIPE                                    bool
	NonBlocking                                      bool
	OpenFiles                                        []OpenFile

	StandardInput, StandardOutput, StandardError string // as written, paths relocated
	StandardInputData                            []byte // StandardInputText= and StandardInputData=
	SyslogIdentifier                             string
	SyslogLevel                                  int // 6, info, unless set
	SyslogLevelPrefix                            bool
}

// Command is one command of an Exec option.
type Command struct {
	Path          string   // absolute, or a bare name to be looked for
	Args          []string // with argv[0], quoting undone, specifiers filled in, variables not
	IgnoreFailure bool     // "-"
	ArgvZero      bool     // "@": Args[0] was given
	NoEnv         bool     // ":": variables are not filled in
	Privileged    bool     // "+": known, without effect
	NoSetuid      bool     // "!": known, without effect
	AmbientMagic  bool     // "!!": known, without effect

	File string // where it stands, for messages
	Line int
}

// Expand returns the arguments with the variables of the environment filled in,
// as systemd.service(5) has it for a command line: "$FOO" as a word of its own
// becomes the words of the value, "${FOO}" anywhere the value, "$$" a dollar.
func (c Command) Expand(env []string) []string {
	if c.NoEnv {
		return slices.Clone(c.Args)
	}
	return unitfile.ExpandArguments(c.Args, env)
}

// DirectoryLink is a symlink beside one of the directories that systemd makes
// for a service: "StateDirectory=dir:link" (250).
type DirectoryLink struct {
	Option     string // "StateDirectory"
	Path, Link string // both relative to %S
}

// EnvironmentFile is a file to be read at each start.
type EnvironmentFile struct {
	Path     string // relocated; may be a glob(7) pattern
	Optional bool
}

// OpenFile is a file that is opened and passed on.
type OpenFile struct {
	Path     string // relocated
	Name     string // its name in $LISTEN_FDNAMES
	ReadOnly bool
	Append   bool
	Truncate bool
	Graceful bool // a file that cannot be opened is left out
}

// Rlimit is one limit of setrlimit(2).
type Rlimit struct {
	Name       string // "LimitNOFILE"
	Resource   int    // RLIMIT_NOFILE
	Soft, Hard uint64 // math.MaxUint64 is no limit
}
