// SPDX-License-Identifier: Apache-2.0

package check

// rule is one thing that is looked at.
type rule struct {
	option  string
	section string
	of      scope
	since   int // the first version of systemd that knows the option; 0 for all
	check   func(s *subject)
}

// rules are all of them, in the order of systemd's manual pages.
var rules = []rule{
	// systemd.unit(5)
	{"StartLimitIntervalSec", "Unit", any_, 0, startLimit},
	{"PropagatesReloadTo", "Unit", hot, 0, propagatesReload},
	{"ReloadPropagatedFrom", "Unit", hot, 0, reloadPropagated},
	{"Requires", "Unit", holdfast, 0, requiresSockets},

	// systemd.service(5)
	{"Type", "Service", any_, 0, serviceType},
	{"ExitType", "Service", hot, 250, exitType},
	{"RemainAfterExit", "Service", any_, 0, remainAfterExit},
	{"GuessMainPID", "Service", holdfast, 0, guessMainPID},
	{"PIDFile", "Service", any_, 0, pidFile},
	{"NotifyAccess", "Service", holdfast, 0, notifyAccess},
	{"ExecStart", "Service", holdfast, 0, execStart},
	{"ExecReload", "Service", any_, 0, execReload},
	{"TimeoutStartSec", "Service", hot, 0, timeoutStart},
	{"TimeoutStopSec", "Service", holdfast, 0, timeoutStop},
	{"WatchdogSec", "Service", holdfast, 0, watchdog},
	{"Restart", "Service", any_, 0, restartOf},
	{"RestartPreventExitStatus", "Service", holdfast, 0, restartPrevent},
	{"OOMPolicy", "Service", overlap, 243, oomPolicy},
	{"FileDescriptorStoreMax", "Service", holdfast, 0, storeMax},
	{"FileDescriptorStorePreserve", "Service", holdfast, 254, storePreserve},

	// systemd.kill(5)
	{"KillMode", "Service", any_, 0, killMode},
	{"SendSIGKILL", "Service", any_, 0, sendSIGKILL},

	// systemd.exec(5)
	{"ExecPaths", "Service", hot | other, 248, execPaths},
	{"NoExecPaths", "Service", holdfast, 248, noExecPaths},
	{"DynamicUser", "Service", holdfast, 257, dynamicUser},
	{"BindPaths", "Service", hot | other, 0, bindPaths},
	{"BindReadOnlyPaths", "Service", hot | other, 0, bindPaths},
	{"RootImage", "Service", hot, 0, rootImage},
	{"ExtensionImages", "Service", hot, 248, extensions},
	{"ExtensionDirectories", "Service", hot, 251, extensions},
	{"RuntimeDirectory", "Service", holdfast, 0, runtimeDirectory},
	{"RuntimeDirectoryMode", "Service", holdfast, 0, runtimeDirectoryMode},
	{"RuntimeDirectoryPreserve", "Service", any_, 0, runtimeDirectoryPreserve},
	{"StateDirectory", "Service", holdfast, 0, stateDirectory},
	{"EnvironmentFile", "Service", hot, 0, environmentFile},
	{"LoadCredential", "Service", hot, 247, credential},
	{"LoadCredentialEncrypted", "Service", hot, 250, credential},
	{"ImportCredential", "Service", hot, 254, credential},
	{"PrivatePIDs", "Service", any_, 257, privatePIDs},
	{"NoNewPrivileges", "Service", holdfast, 0, noNewPrivileges},
	{"RestrictAddressFamilies", "Service", any_, 0, addressFamilies},
	{"SystemCallFilter", "Service", hot, 0, systemCalls},
	{"LimitNOFILE", "Service", hot, 0, limitNOFILE},
	{"LimitNPROC", "Service", overlap, 0, limitNPROC},

	// systemd.resource-control(5)
	{"TasksMax", "Service", overlap, 0, tasksMax},
	{"MemoryMax", "Service", overlap, 0, memoryMax},
	{"MemoryHigh", "Service", overlap, 0, memoryHigh},
	{"Delegate", "Service", overlap, 0, delegate},

	// systemd.socket(5) and systemd.unit(5), of the socket units
	{"Accept", "Socket", any_, 0, accept},
	{"FileDescriptorName", "Socket", any_, 0, descriptorName},
	{"Service", "Socket", any_, 0, socketService},
	{"ReusePort", "Socket", holdfast, 0, reusePort},
	{"FlushPending", "Socket", any_, 247, flushPending},
	{"RemoveOnStop", "Socket", holdfast, 0, removeOnStop},
	{"TriggerLimitIntervalSec", "Socket", holdfast, 0, triggerLimit},
	{"BindsTo", "Unit", any_, 0, socketBoundTo},
	{"PartOf", "Unit", any_, 0, socketBoundTo},
	{"Requires", "Unit", any_, 0, socketBoundTo},
	{"Conflicts", "Unit", any_, 0, conflicts},

	// the running unit: systemd's properties
	{"NeedDaemonReload", "", any_, 0, needDaemonReload},
	{"RestartPending", "", hot, 0, restartPending},
	{"ActiveState", "", any_, 0, activeState},
}
