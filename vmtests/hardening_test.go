// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests"
)

// probeUnit runs as our services do. It says in its runtime directory what it sees of the machine.
const probeUnit = `[Service]
Type=notify
NotifyAccess=all
ExecStart=/bin/sh /usr/lib/probe/probe.sh
PIDFile=/run/probe/main.pid
RuntimeDirectory=probe
StateDirectory=probe
DynamicUser=yes
PrivateUsers=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
UMask=0077
`

const probeScript = `
cd "$RUNTIME_DIRECTORY"
{
	echo "uid=$(id -u)"
	echo "user=$(id -un)"
	for name in CapEff CapBnd Seccomp NoNewPrivs; do
		echo "$name=$(sed -n "s/^$name:[[:space:]]*//p" /proc/self/status)"
	done
	for dir in /usr /etc /run /var /home /root; do
		if (: >"$dir/written") 2>/dev/null; then echo "$dir=writable"; else echo "$dir=protected"; fi
	done
	: >"$STATE_DIRECTORY/written" && echo "state=writable"
	echo "tmp=$(ls -A /tmp)"
	: >/tmp/written && echo "private_tmp=writable"
	echo "uid_map=$(tr -s ' ' ' ' </proc/self/uid_map | tr '\n' ';')"
	if unshare --user true 2>/dev/null; then echo "unshare=allowed"; else echo "unshare=refused"; fi
} >report.new
mv report.new report
mkfifo go told
sh -c 'read -r word <go; echo $$ >main.pid; echo $$ >told; exec sleep infinity' &
echo $$ >main.pid
systemd-notify --ready --status="probe is ready"
exec sleep infinity
`

// TestHardenedServiceRuns shows that containers keep what a hardened unit asks for, so that a story about
// such a unit means what it says.
func TestHardenedServiceRuns(t *testing.T) { everyVersion(t, testHardening) }

func testHardening(t *testing.T, m *vmtests.Machine) {
	ctx := t.Context()
	for name, text := range map[string]string{
		"/etc/systemd/system/probe.service": probeUnit,
		"/usr/lib/probe/probe.sh":           probeScript,
		"/tmp/of-others":                    "",
	} {
		if err := m.WriteFile(ctx, name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Run(ctx, "systemctl", "start", "probe"); err != nil {
		t.Fatal(err)
	}
	props, err := m.Props(ctx, "probe.service", "ActiveState", "SubState", "MainPID", "StatusText", "NRestarts")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := m.ReadFile(ctx, "/run/probe/main.pid")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"ActiveState": "active",
		"SubState":    "running",
		"MainPID":     strings.TrimSpace(string(pid)),
		"StatusText":  "probe is ready",
		"NRestarts":   "0",
	} {
		if props[name] != want {
			t.Errorf("%s: got %q, want %q", name, props[name], want)
		}
	}

	text, err := m.ReadFile(ctx, "/run/probe/report")
	if err != nil {
		t.Fatal(err)
	}
	report := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		report[name] = value
	}
	// DynamicUser= takes its users from this range: systemd.exec(5).
	if uid, err := strconv.Atoi(report["uid"]); err != nil || uid < 61184 || uid > 65519 {
		t.Errorf("uid: got %q, want one of 61184 to 65519", report["uid"])
	}
	for name, want := range map[string]string{
		"user":        "probe",
		"CapEff":      "0000000000000000",
		"CapBnd":      "0000000000000000",
		"Seccomp":     "2", // SECCOMP_MODE_FILTER
		"NoNewPrivs":  "1",
		"/usr":        "protected",
		"/etc":        "protected",
		"/run":        "protected",
		"/var":        "protected",
		"/home":       "protected",
		"/root":       "protected",
		"state":       "writable",
		"tmp":         "",
		"private_tmp": "writable",
		"unshare":     "refused",
	} {
		if got, ok := report[name]; !ok || got != want {
			t.Errorf("the service sees %s=%q, want %q", name, got, want)
		}
	}
	if strings.Contains(report["uid_map"], "4294967295") || report["uid_map"] == "" {
		t.Errorf("uid_map: got %q, want that of a user namespace of its own", report["uid_map"])
	}
	// A PIDFile= that a dynamic user wrote is believed: when the main process dies, the process that it
	// names becomes main, and nothing is restarted.
	next, err := m.Output(ctx, "sh", "-c", "echo >/run/probe/go; cat /run/probe/told")
	if err != nil {
		t.Fatal(err)
	}
	main, err := strconv.Atoi(props["MainPID"])
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Kill(ctx, main, "KILL"); err != nil {
		t.Fatal(err)
	}
	props, err = m.WaitProps(ctx, "probe.service", []string{"MainPID", "ActiveState", "NRestarts"}, func(p map[string]string) bool {
		return p["MainPID"] != strconv.Itoa(main)
	})
	if err != nil || props["MainPID"] != next || props["ActiveState"] != "active" || props["NRestarts"] != "0" {
		t.Errorf("after the death of the main process: got %v (%v), want MainPID=%s, active, NRestarts=0", props, err, next)
	}
	if err := m.Run(ctx, "systemctl", "stop", "probe"); err != nil {
		t.Error(err)
	}
	if _, err := m.ReadFile(ctx, "/run/probe/report"); err == nil {
		t.Error("RuntimeDirectory= is still there after the stop")
	}
}
