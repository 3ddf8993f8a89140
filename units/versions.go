// SPDX-License-Identifier: Apache-2.0

package units

import "fmt"

const (
	// OldestSystemd is the oldest version of systemd that is rendered for
	// (RHEL 8 has it).
	OldestSystemd = 239
	// NewestSystemd is the newest version whose options are known here. What
	// is rendered for it suits later versions too.
	NewestSystemd = 262

	// notifyReloadSince is the first version with Type=notify-reload.
	notifyReloadSince = 253
)

// since is the first version of systemd that knows an option. An older one
// would warn "Unknown key name" at every load and go without it.
//
// The numbers are those of "Added in version" in the manual pages of systemd
// 262: systemd.unit(5), systemd.service(5), systemd.exec(5), systemd.kill(5) and
// systemd.socket(5). Where a page dates a whole group by its oldest member, or
// not at all, the number is that of NEWS. 1 stands for "without a date": older
// than the notes, which begin with 183.
var since = map[string]int{
	// systemd.unit(5)
	"Description":           1,
	"Documentation":         1,
	"Requires":              1,
	"After":                 1,
	"StartLimitIntervalSec": 230, // in [Unit] and by this name; NEWS 230
	"WantedBy":              1,
	"DefaultDependencies":   1,
	"Conflicts":             1,
	"Before":                1,
	"Also":                  1,

	// systemd.service(5)
	"Type":                        1,
	"NotifyAccess":                1,
	"PIDFile":                     1,
	"ExecStart":                   1,
	"ExecReload":                  1,
	"ReloadSignal":                253,
	"Restart":                     1,
	"RestartSec":                  1,
	"TimeoutStartSec":             188,
	"TimeoutStopSec":              188,
	"WatchdogSec":                 1,
	"OOMPolicy":                   243,
	"FileDescriptorStoreMax":      219,
	"FileDescriptorStorePreserve": 254,
	"Sockets":                     1,

	// systemd.kill(5)
	"KillMode": 187,

	// systemd.exec(5)
	"Environment":             1,
	"DynamicUser":             232, // NEWS 232; StateDirectory= under it: NEWS 235
	"RuntimeDirectory":        211,
	"StateDirectory":          235, // NEWS 235; the page dates RuntimeDirectory=
	"UMask":                   1,
	"NoNewPrivileges":         187,
	"CapabilityBoundingSet":   1,
	"ProtectSystem":           232, // "strict"; NEWS 232
	"ProtectHome":             214,
	"PrivateTmp":              1,
	"PrivateDevices":          209,
	"PrivateUsers":            232,
	"PrivateIPC":              248,
	"ProtectProc":             247,
	"ProcSubset":              247,
	"ProtectHostname":         242,
	"ProtectClock":            245,
	"ProtectKernelTunables":   232,
	"ProtectKernelModules":    232,
	"ProtectKernelLogs":       244,
	"ProtectControlGroups":    232,
	"NoExecPaths":             248, // NEWS 248; the page dates InaccessiblePaths=
	"ExecPaths":               248, // likewise
	"MemoryDenyWriteExecute":  231,
	"LockPersonality":         235,
	"RestrictAddressFamilies": 211,
	"RestrictNamespaces":      233,
	"RestrictRealtime":        231,
	"RestrictSUIDSGID":        242,
	"RemoveIPC":               232,
	"SystemCallArchitectures": 209,
	"SystemCallErrorNumber":   209,
	"SystemCallFilter":        239, // the set @system-service; NEWS 239

	// systemd.socket(5)
	"ListenStream":            1,
	"ListenDatagram":          1,
	"ListenSequentialPacket":  1,
	"FileDescriptorName":      227,
	"Service":                 1,
	"Backlog":                 1,
	"TriggerLimitIntervalSec": 230,
	"DeferTrigger":            258,
}

// softRebootSince is the first version that can start user space anew on the same kernel.
const softRebootSince = 254

// A VersionError says that the systemd rendered for is too old.
type VersionError struct {
	What    string // "Type=notify-reload"
	Since   int    // the first version that has it
	Systemd int    // the version asked for
	Hint    string // what to do instead
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("%s needs systemd %d or later, and the units are for %d: %s", e.What, e.Since, e.Systemd, e.Hint)
}
