// SPDX-License-Identifier: Apache-2.0

package unit

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

const (
	// OldestSystemd and NewestSystemd are the versions whose options are known.
	OldestSystemd = 239
	NewestSystemd = 262
)

// Handling says what becomes of an option.
type Handling string

// The ways to handle an option.
const (
	Enforced    Handling = "enforced"       // it has the effect that it has in systemd
	NoEffect    Handling = "without effect" // it is accepted, and changes nothing
	Unsupported Handling = "unsupported"    // a unit that has it is not loaded
)

// Option is an option of systemd.
type Option struct {
	Section  string // Unit, Service, Socket or Install
	Name     string
	Since    int // the first version that has it; OldestSystemd for it and all before
	Until    int // the last version that has it; 0 for none
	Handling Handling
	Reason   string // why it is without effect or unsupported
}

// group is options that are handled alike, each with a ":" and its first
// version when that is after OldestSystemd, and a "-" and its last if it is gone.
type group struct {
	sections string
	handling Handling
	reason   string
	names    string
}

// conditions stand for Condition and Assert options.
const conditions = `PathExists PathExistsGlob PathIsDirectory PathIsSymbolicLink PathIsMountPoint PathIsReadWrite
	PathIsEncrypted:247 PathIsSocket:260 DirectoryNotEmpty FileNotEmpty FileIsExecutable NeedsUpdate FirstBoot
	Architecture Virtualization Host Fraction:261 MachineTag:261 KernelCommandLine KernelVersion Version:258
	Credential:252 Security Capability ACPower Memory:247 CPUFeature:251 CPUs:247 Environment:247 User Group
	ControlGroupController OSRelease:249 MemoryPressure:250 CPUPressure:250 IOPressure:250
	KernelModuleLoaded:258 Null:-246`

// groups are all options that systemd takes in these sections of services and
// sockets. The versions are those of its own tables: what the sources of 239 to
// 257 and the manager of 262 list, and NEWS for what came between them.
var groups = []group{
	{"Unit", Enforced, "", `Description StartLimitIntervalSec StartLimitInterval StartLimitBurst
		RefuseManualStart RefuseManualStop Requires BindsTo BindTo Wants PartOf`},
	{"Unit", NoEffect, "the order of units is nothing that one service and its sockets have", `After Before DefaultDependencies`},
	{"Unit", NoEffect, "there are no other units that it could name", `Requisite Upholds:249 Conflicts
		OnSuccess:249 OnFailure OnSuccessJobMode:249 OnFailureJobMode OnFailureIsolate
		PropagatesReloadTo PropagateReloadTo ReloadPropagatedFrom PropagateReloadFrom
		PropagatesStopTo:249 StopPropagatedFrom:249 JoinsNamespaceOf
		RequiresMountsFor WantsMountsFor:256 StopWhenUnneeded AllowIsolate IgnoreOnIsolate CollectMode
		SurviveFinalKillSignal:255`},
	{"Unit", NoEffect, "the host is not restarted or powered off for a test", `StartLimitAction FailureAction SuccessAction
		FailureActionExitStatus:240 SuccessActionExitStatus:240 RebootArgument JobTimeoutAction JobTimeoutRebootArgument`},
	{"Unit", NoEffect, "jobs have no time limit but those of the service", `JobTimeoutSec JobRunningTimeoutSec`},
	{"Unit", NoEffect, "it is for people", `Documentation SourcePath`},
	{"Unit", NoEffect, "systemd itself ignores it", `RequiresOverridable RequisiteOverridable IgnoreOnSnapshot`},
	{"Unit", NoEffect, "conditions are about the host, and are taken as met", conditional("Condition") + ` ConditionFirmware:249`},
	{"Unit", NoEffect, "assertions are about the host, and are taken as met", conditional("Assert")},

	{"Install", NoEffect, "the unit is not installed", `Alias WantedBy RequiredBy UpheldBy:254 Also DefaultInstance`},

	{"Service", Enforced, "", `Type ExitType:250 RemainAfterExit GuessMainPID PIDFile NotifyAccess
		ExecCondition:243 ExecStartPre ExecStart ExecStartPost ExecReload ExecReloadPost:259 ExecStop ExecStopPost
		Restart RestartSec RestartMode:254 RestartSteps:254 RestartMaxDelaySec:254 RestartRandomizedDelaySec:262
		RestartPreventExitStatus RestartForceExitStatus SuccessExitStatus
		TimeoutSec TimeoutStartSec TimeoutStopSec TimeoutAbortSec:243
		TimeoutStartFailureMode:246 TimeoutStopFailureMode:246 RuntimeMaxSec RuntimeRandomizedExtraSec:250 WatchdogSec
		StartLimitInterval StartLimitBurst Sockets NonBlocking OpenFile:253
		FileDescriptorStoreMax FileDescriptorStorePreserve:254
		KillMode KillSignal RestartKillSignal:244 FinalKillSignal:240 WatchdogSignal:240 ReloadSignal:253
		SendSIGKILL SendSIGHUP
		WorkingDirectory UMask Environment EnvironmentFile PassEnvironment UnsetEnvironment ExecSearchPath:250
		StandardInput StandardOutput StandardError StandardInputText StandardInputData
		SyslogIdentifier SyslogLevel SyslogLevelPrefix IgnoreSIGPIPE
		RuntimeDirectory RuntimeDirectoryMode RuntimeDirectoryPreserve StateDirectory StateDirectoryMode
		CacheDirectory CacheDirectoryMode LogsDirectory LogsDirectoryMode
		ConfigurationDirectory ConfigurationDirectoryMode TimeoutCleanSec:243
		LimitCPU LimitFSIZE LimitDATA LimitSTACK LimitCORE LimitRSS LimitNOFILE LimitAS LimitNPROC LimitMEMLOCK
		LimitLOCKS LimitSIGPENDING LimitMSGQUEUE LimitNICE LimitRTPRIO LimitRTTIME`},
	{"Service", Unsupported, "there is no message bus", `BusName`},
	{"Service", Unsupported, "there is no USB gadget", `USBFunctionDescriptors USBFunctionStrings`},
	{"Service", Unsupported, "programs run in the root directory of the host", `RootDirectory RootImage RootMStack:260`},
	{"Service", NoEffect, "the host is not restarted or powered off for a test", `FailureAction StartLimitAction RebootArgument`},
	{"Service", NoEffect, "memory is not watched: without a control group of its own, nobody tells of a process killed for want of it", `OOMPolicy:243`},
	{"Service", NoEffect, "every command runs as the user of the test, in the same root directory", `PermissionsStartOnly RootDirectoryStartOnly`},
	{"Service", NoEffect, "nothing is refreshed: there are no credentials and no extensions", `RefreshOnReload:260`},
	{"Service", NoEffect, "the kernel is not replaced", `LUOSession:262`},
	{"Service", NoEffect, "systemd itself ignores it", `BusPolicy SysVStartPriority`},

	{"Socket", Enforced, "", `ListenStream ListenDatagram ListenSequentialPacket ListenFIFO ListenSpecial
		SocketProtocol BindIPv6Only Backlog SocketMode DirectoryMode Symlinks RemoveOnStop Writable
		Accept Service FileDescriptorName FlushPending:247 MaxConnections MaxConnectionsPerSource
		KeepAlive KeepAliveTimeSec KeepAliveIntervalSec KeepAliveProbes NoDelay DeferAcceptSec
		ReceiveBuffer SendBuffer PipeSize IPTOS IPTTL Priority TCPCongestion ReusePort FreeBind Broadcast
		PassCredentials PassPIDFD:258 PassSecurity PassPacketInfo:246 AcceptFileDescriptors:258 Timestamping:247
		PassFileDescriptorsToExec:256 TriggerLimitIntervalSec TriggerLimitBurst
		PollLimitIntervalSec:255 PollLimitBurst:255 DeferTrigger:258 DeferTriggerMaxSec:258
		TimeoutSec ExecStartPre ExecStartPost ExecStopPre ExecStopPost`},
	{"Socket", Unsupported, "only stream, datagram and sequential packet sockets, FIFOs and special files are opened", `ListenNetlink
		ListenMessageQueue ListenUSBFunction MessageQueueMaxMessages MessageQueueMessageSize`},
	{"Socket", NoEffect, "it needs privileges that a test has not", `BindToDevice Mark Transparent SocketUser SocketGroup
		SELinuxContextFromNet SmackLabel SmackLabelIPIn SmackLabelIPOut`},
	{"Socket", NoEffect, "extended attributes of sockets are of newer kernels", `XAttrEntryPoint:262 XAttrListen:262 XAttrAccept:262`},
	{"Socket", NoEffect, "it is about the commands of the socket, which run as those of a plain service do", `KillMode KillSignal
		RestartKillSignal:244 FinalKillSignal:240 WatchdogSignal:240 SendSIGKILL SendSIGHUP
		WorkingDirectory UMask Environment EnvironmentFile PassEnvironment UnsetEnvironment ExecSearchPath:250
		StandardInput StandardOutput StandardError StandardInputText StandardInputData
		SyslogIdentifier SyslogLevel SyslogLevelPrefix IgnoreSIGPIPE
		RuntimeDirectory RuntimeDirectoryMode RuntimeDirectoryPreserve StateDirectory StateDirectoryMode
		CacheDirectory CacheDirectoryMode LogsDirectory LogsDirectoryMode
		ConfigurationDirectory ConfigurationDirectoryMode TimeoutCleanSec:243
		LimitCPU LimitFSIZE LimitDATA LimitSTACK LimitCORE LimitRSS LimitNOFILE LimitAS LimitNPROC LimitMEMLOCK
		LimitLOCKS LimitSIGPENDING LimitMSGQUEUE LimitNICE LimitRTPRIO LimitRTTIME
		RootDirectory RootImage RootMStack:260`},

	{"Service Socket", NoEffect, "the service runs as the user of the test", `User Group SupplementaryGroups DynamicUser
		SetLoginEnvironment:255 PAMName RemoveIPC`},
	{"Service Socket", NoEffect, "sandboxing needs privileges that a test has not", `NoNewPrivileges SecureBits
		CapabilityBoundingSet AmbientCapabilities Capabilities
		SystemCallFilter SystemCallArchitectures SystemCallErrorNumber SystemCallLog:247
		MemoryDenyWriteExecute LockPersonality Personality RestrictNamespaces DelegateNamespaces:258 RestrictRealtime
		RestrictSUIDSGID:242 RestrictAddressFamilies RestrictFileSystems:250
		ReadWritePaths ReadOnlyPaths InaccessiblePaths ReadWriteDirectories ReadOnlyDirectories InaccessibleDirectories
		ExecPaths:248 NoExecPaths:248 BindPaths BindReadOnlyPaths TemporaryFileSystem
		PrivateTmp PrivateDevices PrivateNetwork PrivateUsers PrivateMounts PrivateIPC:248 PrivatePIDs:257
		PrivateBPF:258 BPFDelegateCommands:258 BPFDelegateMaps:258 BPFDelegatePrograms:258 BPFDelegateAttachments:258
		NetworkNamespacePath:242 IPCNamespacePath:248 UserNamespacePath:259
		ProtectSystem ProtectHome ProtectProc:247 ProcSubset:247 ProtectHostname:242 ProtectClock:245
		ProtectKernelTunables ProtectKernelModules ProtectKernelLogs:244 ProtectControlGroups
		MountFlags MountAPIVFS BindLogSockets:257 KeyringMode
		SELinuxContext AppArmorProfile SmackProcessLabel`},
	{"Service Socket", NoEffect, "images are not mounted", `RootImageOptions:247 RootImagePolicy:254 RootEphemeral:254
		RootHash:246 RootHashSignature:246 RootVerity:246 MountImages:247 MountImagePolicy:254
		ExtensionImages:248 ExtensionImagePolicy:254 ExtensionDirectories:251`},
	{"Service Socket", NoEffect, "there are no credentials: $CREDENTIALS_DIRECTORY is not set", `SetCredential:247
		SetCredentialEncrypted:250 LoadCredential:247 LoadCredentialEncrypted:250 ImportCredential:254`},
	{"Service Socket", NoEffect, "there is no terminal", `TTYPath TTYReset TTYVHangup TTYVTDisallocate TTYRows:250
		TTYColumns:250 UtmpIdentifier UtmpMode`},
	{"Service Socket", NoEffect, "the journal is that of the test, which drops nothing", `SyslogFacility LogLevelMax
		LogRateLimitIntervalSec:240 LogRateLimitBurst:240 LogExtraFields LogFilterPatterns:253 LogNamespace:245`},
	{"Service Socket", NoEffect, "scheduling is that of the test", `Nice OOMScoreAdjust CoredumpFilter:246
		IOSchedulingClass IOSchedulingPriority CPUSchedulingPolicy CPUSchedulingPriority CPUSchedulingResetOnFork
		CPUAffinity NUMAPolicy:243 NUMAMask:243 TimerSlackNSec MemoryKSM:254 MemoryTHP:260`},
	{"Service Socket", NoEffect, "directories have no quota", `StateDirectoryAccounting:258 StateDirectoryQuota:258
		CacheDirectoryAccounting:258 CacheDirectoryQuota:258 LogsDirectoryAccounting:258 LogsDirectoryQuota:258`},
	{"Service Socket", NoEffect, "the service has no control group of its own, so its resources are not controlled", `Slice
		AllowedCPUs:244 StartupAllowedCPUs:250 AllowedMemoryNodes:244 StartupAllowedMemoryNodes:250 CPUSetPartition:261
		CPUAccounting CPUWeight StartupCPUWeight CPUShares StartupCPUShares CPUQuota CPUQuotaPeriodSec:242
		MemoryAccounting MemoryMin:240 DefaultMemoryMin:243 DefaultMemoryLow:243 DefaultStartupMemoryLow:254
		MemoryLow StartupMemoryLow:254 MemoryHigh StartupMemoryHigh:254 MemoryMax StartupMemoryMax:254
		MemorySwapMax StartupMemorySwapMax:254 MemoryZSwapMax:253 StartupMemoryZSwapMax:254 MemoryZSwapWriteback:256
		MemoryLimit MemoryPressureThresholdSec:254 MemoryPressureWatch:254
		CPUPressureThresholdSec:261 CPUPressureWatch:261 IOPressureThresholdSec:261 IOPressureWatch:261
		DeviceAllow DevicePolicy IOAccounting IOWeight StartupIOWeight IODeviceWeight
		IOReadBandwidthMax IOWriteBandwidthMax IOReadIOPSMax IOWriteIOPSMax IODeviceLatencyTargetSec:240
		BlockIOAccounting BlockIOWeight StartupBlockIOWeight BlockIODeviceWeight BlockIOReadBandwidth BlockIOWriteBandwidth
		TasksAccounting TasksMax Delegate DelegateSubgroup:254 DisableControllers:240
		IPAccounting IPAddressAllow IPAddressDeny IPIngressFilterPath:243 IPEgressFilterPath:243
		ManagedOOMSwap:247 ManagedOOMMemoryPressure:247 ManagedOOMMemoryPressureLimit:248
		ManagedOOMMemoryPressureLimitPercent:247-247 ManagedOOMMemoryPressureDurationSec:257 ManagedOOMPreference:248
		OOMRules:262 NetClass BPFProgram:249 SocketBindAllow:249 SocketBindDeny:249
		RestrictNetworkInterfaces:250 BindNetworkInterface:260 NFTSet:255 CoredumpReceive:255`},
}

func conditional(prefix string) string {
	names := strings.Fields(conditions)
	for i := range names {
		names[i] = prefix + names[i]
	}
	return strings.Join(names, " ")
}

// options are the groups, by section and name.
var options = func() map[[2]string]*Option {
	all := make(map[[2]string]*Option)
	for _, g := range groups {
		for section := range strings.FieldsSeq(g.sections) {
			for name := range strings.FieldsSeq(g.names) {
				name, versions, _ := strings.Cut(name, ":")
				since, until, _ := strings.Cut(versions, "-")
				o := &Option{Section: section, Name: name, Since: OldestSystemd, Handling: g.handling, Reason: g.reason}
				if since != "" {
					o.Since = number(since)
				}
				if until != "" {
					o.Until = number(until)
				}
				if all[[2]string{section, name}] != nil {
					panic("unit: option twice: " + section + "." + name)
				}
				all[[2]string{section, name}] = o
			}
		}
	}
	return all
}()

// names are those of the options of a section, sorted.
var names = func() map[string][]string {
	all := make(map[string][]string)
	for key := range options {
		all[key[0]] = append(all[key[0]], key[1])
	}
	for _, names := range all {
		slices.Sort(names)
	}
	return all
}()

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		panic("unit: version of an option: " + text)
	}
	return n
}

// Known returns every option that is known, by section and name.
func Known() []Option {
	var all []Option
	for _, o := range options {
		all = append(all, *o)
	}
	order := []string{"Unit", "Service", "Socket", "Install"}
	slices.SortFunc(all, func(a, b Option) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Section), slices.Index(order, b.Section)), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// similar returns the option of the section that is one edit away from a name,
// or the section that has the name, or nothing.
func similar(section, name string) (suggestion string) {
	var found []string
	for _, known := range names[section] {
		if oneEdit(known, name) {
			found = append(found, known+"=")
		}
	}
	if len(found) == 0 {
		for _, other := range []string{"Unit", "Service", "Socket", "Install"} {
			if options[[2]string{other, name}] != nil {
				return "it belongs into [" + other + "]"
			}
		}
		return ""
	}
	return "did you mean " + strings.Join(found, " or ") + "?"
}

// oneEdit reports whether b is a with one character more, less, changed, in
// another case, or swapped with the next.
func oneEdit(a, b string) bool {
	if len(a) > len(b)+1 || len(b) > len(a)+1 {
		return false
	}
	if strings.EqualFold(a, b) {
		return true
	}
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return len(a)+len(b) == 1 || len(a) == 1 && len(b) == 1 ||
		len(a) == 2 && len(b) == 2 && a[0] == b[1] && a[1] == b[0]
}
