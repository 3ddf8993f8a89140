// SPDX-License-Identifier: Apache-2.0

package check_test

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/holdfast-go/holdfast/units"
	"github.com/holdfast-go/holdfast/units/check"
)

const unitDir = "usr/lib/systemd/system/"

// rendered is a machine with the units of myapp, each changed by edit.
func rendered(t *testing.T, o units.Options, edit func(name, text string) string) fs.FS {
	t.Helper()
	files, err := units.Render(o)
	if err != nil {
		t.Fatal(err)
	}
	root := make(fstest.MapFS)
	for _, f := range files {
		text := f.Content
		if edit != nil {
			text = edit(f.Name, text)
		}
		root[unitDir+f.Name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	}
	for _, program := range []string{"usr/bin/myapp", "usr/bin/holdfast"} {
		root[program] = &fstest.MapFile{Data: []byte("\x7fELF"), Mode: 0o755}
	}
	return root
}

// kinds are options for all kinds of units that are rendered.
func kinds() map[string]units.Options {
	kinds := make(map[string]units.Options)
	one := []units.Socket{{Name: "http", Address: "127.0.0.1:8080"}}
	for _, systemd := range []int{239, 247, 252, 253, 254, 257, 258, 262} {
		for _, mode := range []units.Mode{units.Overlap, units.InPlace, units.Restart} {
			o := units.Options{Name: "myapp", Exec: "/usr/bin/myapp", Systemd: systemd, Mode: mode, Sockets: one}
			name := fmt.Sprintf("%d %s", systemd, mode)
			kinds[name] = o
			kinds[name+" without launcher"] = with(o, func(o *units.Options) { o.Launcher = units.LauncherOff })
			kinds[name+" without sockets"] = with(o, func(o *units.Options) { o.Sockets = nil })
			kinds[name+" with state"] = with(o, func(o *units.Options) { o.StateDirectory = "myapp" })
			kinds[name+" quick"] = with(o, func(o *units.Options) {
				o.CheckTimeout, o.StartTimeout, o.Probation, o.DrainTimeout = time.Second, time.Second, time.Millisecond, time.Second
			})
			kinds[name+" slow"] = with(o, func(o *units.Options) {
				o.CheckTimeout, o.StartTimeout, o.Probation, o.DrainTimeout = time.Minute, time.Hour, time.Hour, time.Hour
			})
			kinds[name+" for a user"] = with(o, func(o *units.Options) { o.User = true })
			kinds[name+" with many sockets"] = with(o, func(o *units.Options) {
				o.Sockets = append(slices.Clone(o.Sockets), units.Socket{Name: "admin", Address: "/run/myapp.sock"}, units.Socket{Name: "dns", Type: units.Datagram, Address: "127.0.0.1:53"})
			})
			kinds[name+" template"] = with(o, func(o *units.Options) {
				o.Template = true
				o.Sockets = []units.Socket{{Name: "http", Address: "127.0.0.1:808%i"}, {Name: "admin", Address: "@myapp-%i"}}
			})
			if mode != units.Restart && systemd >= 253 {
				kinds[name+" notify-reload"] = with(o, func(o *units.Options) { o.Flavour = units.NotifyReload })
			}
			if systemd >= 254 {
				kinds[name+" soft-reboot"] = with(o, func(o *units.Options) { o.SoftReboot = true })
			}
		}
	}
	return kinds
}

func with(o units.Options, change func(o *units.Options)) units.Options {
	change(&o)
	return o
}

func instance(o units.Options) string {
	if o.Template {
		return "myapp@1.service"
	}
	return "myapp.service"
}

// TestRenderedUnitsAreFit: nothing is wrong with what package units renders, for the systemd that it
// is rendered for and for the newest one.
func TestRenderedUnitsAreFit(t *testing.T) {
	for name, o := range kinds() {
		t.Run(name, func(t *testing.T) {
			for _, systemd := range []int{o.Systemd, units.NewestSystemd} {
				if o.Systemd < 248 {
					// What newer ones take for OOMPolicy= (243) and ExecPaths= (248) it cannot say.
					systemd = o.Systemd
				}
				r, err := check.Files(t.Context(), rendered(t, o, nil), instance(o), check.Options{Systemd: systemd, Mode: o.Mode})
				if err != nil {
					t.Fatal(err)
				}
				if !r.Holdfast || r.Mode != o.Mode || !r.Fit() {
					t.Errorf("systemd %d: Holdfast %v, mode %q, fit %v; want true, %q, true", systemd, r.Holdfast, r.Mode, r.Fit(), o.Mode)
				}
				if len(r.Findings) > 0 {
					t.Errorf("systemd %d: %s", systemd, text(r))
				}
			}
		})
	}
}

// TestModeIsSeen: without being told, the mode is the one that the unit was rendered for.
func TestModeIsSeen(t *testing.T) {
	for name, o := range kinds() {
		// Such a unit is as any other one's: nothing in it is of Holdfast.
		if o.Mode == units.Restart && o.Launcher == units.LauncherOff {
			continue
		}
		t.Run(name, func(t *testing.T) {
			r, err := check.Files(t.Context(), rendered(t, o, nil), instance(o), check.Options{Systemd: o.Systemd})
			if err != nil {
				t.Fatal(err)
			}
			if !r.Holdfast || r.Mode != o.Mode || r.Count(check.Error)+r.Count(check.Warning) > 0 {
				t.Errorf("Holdfast %v, mode %q, want true and %q\n%s", r.Holdfast, r.Mode, o.Mode, text(r))
			}
		})
	}
}

// A mutation is a change of a rendered unit.
type mutation struct {
	rule    string // the option that the finding names
	level   check.Level
	of      []units.Mode // those for which it is one; all without
	systemd int          // 257 without
	file    string       // the unit; the service without
	without string       // lines that begin so are left out
	add     string       // lines for the section of the unit's type
	addUnit string       // lines for [Unit]
	options func(o *units.Options)
	machine func(root fstest.MapFS)
}

var mutations = map[string]mutation{
	"start limit":                 {rule: "StartLimitIntervalSec", level: check.Warning, without: "StartLimitIntervalSec="},
	"start limit of old":          {rule: "StartLimitIntervalSec", level: check.Warning, without: "StartLimitIntervalSec=", add: "StartLimitInterval=30s\nStartLimitBurst=3"},
	"propagates reload":           {rule: "PropagatesReloadTo", level: check.Note, of: hot, addUnit: "PropagatesReloadTo=other.service"},
	"reload from others":          {rule: "ReloadPropagatedFrom", level: check.Warning, of: hot, addUnit: "ReloadPropagatedFrom=other.service"},
	"sockets not required":        {rule: "Requires", level: check.Warning, without: "Requires="},
	"type simple":                 {rule: "Type", level: check.Warning, without: "Type=", add: "Type=simple"},
	"no type":                     {rule: "Type", level: check.Warning, without: "Type="},
	"type forking":                {rule: "Type", level: check.Error, without: "Type=", add: "Type=forking"},
	"type oneshot":                {rule: "Type", level: check.Error, without: "Type=", add: "Type=oneshot"},
	"notify-reload too early":     {rule: "Type", level: check.Error, systemd: 252, without: "Type=", add: "Type=notify-reload\nReloadSignal=SIGUSR2"},
	"notify-reload with SIGHUP":   {rule: "Type", level: check.Error, of: hot, without: "Type=", add: "Type=notify-reload"},
	"notify-reload with a reload": {rule: "Type", level: check.Warning, of: hot, without: "Type=", add: "Type=notify-reload\nReloadSignal=SIGUSR2"},
	"exit type":                   {rule: "ExitType", level: check.Error, of: overlapping, add: "ExitType=cgroup"},
	"exit type in place":          {rule: "ExitType", level: check.Warning, of: inPlace, add: "ExitType=cgroup"},
	"remain after exit":           {rule: "RemainAfterExit", level: check.Warning, add: "RemainAfterExit=yes"},
	"guess main":                  {rule: "GuessMainPID", level: check.Note, add: "GuessMainPID=yes"},
	"no PID file":                 {rule: "PIDFile", level: check.Error, of: overlapping, without: "PIDFile="},
	"another PID file":            {rule: "PIDFile", level: check.Error, of: overlapping, without: "PIDFile=", add: "PIDFile=/run/myapp.pid"},
	"notify access none":          {rule: "NotifyAccess", level: check.Error, without: "NotifyAccess=,Type=,FileDescriptorStoreMax=,WatchdogSec=", add: "NotifyAccess=none"},
	"notify access all":           {rule: "NotifyAccess", level: check.Warning, without: "NotifyAccess=", add: "NotifyAccess=all"},
	"shell":                       {rule: "ExecStart", level: check.Warning, of: hot, options: noLauncher, without: "ExecStart=", add: `ExecStart=/bin/sh -c "exec /usr/bin/myapp"`},
	"bare name":                   {rule: "ExecStart", level: check.Warning, of: hot, options: noLauncher, without: "ExecStart=", add: "ExecStart=myapp"},
	"other argv[0]":               {rule: "ExecStart", level: check.Warning, of: hot, options: noLauncher, without: "ExecStart=", add: "ExecStart=@/usr/bin/myapp myapp"},
	"copy mounted noexec":         {rule: "DynamicUser", level: check.Warning, without: "NoExecPaths=,ExecPaths="},
	"launch of nothing":           {rule: "ExecStart", level: check.Error, without: "ExecStart=", add: "ExecStart=/usr/bin/holdfast launch --state=%S/myapp.holdfast"},
	"no reload":                   {rule: "ExecReload", level: check.Error, of: hot, without: "ExecReload="},
	"kill -HUP":                   {rule: "ExecReload", level: check.Error, of: hot, without: "ExecReload=", add: "ExecReload=/bin/kill -HUP $MAINPID"},
	"kill -s 12":                  {rule: "ExecReload", level: check.Warning, of: hot, without: "ExecReload=", add: "ExecReload=/bin/kill -s 12 ${MAINPID}"},
	"kill in a shell":             {rule: "ExecReload", level: check.Error, of: hot, without: "ExecReload=", add: `ExecReload=/bin/sh -c "kill -HUP $MAINPID"`},
	"its own file":                {rule: "ExecReload", level: check.Warning, of: hot, without: "ExecReload=", add: "ExecReload=/usr/bin/myapp reload"},
	"reload may fail":             {rule: "ExecReload", level: check.Warning, of: hot, without: "ExecReload=", add: "ExecReload=-/usr/bin/holdfast reload --socket=%t/myapp/control.sock --timeout=60s"},
	"another control socket":      {rule: "ExecReload", level: check.Error, of: hot, without: "ExecReload=", add: "ExecReload=/usr/bin/holdfast reload --socket=/run/other/control.sock --timeout=60s"},
	"reload of restart":           {rule: "ExecReload", level: check.Warning, of: restart, add: "ExecReload=/usr/bin/holdfast reload --socket=%t/myapp/control.sock"},
	"start timeout":               {rule: "TimeoutStartSec", level: check.Error, of: hot, without: "TimeoutStartSec=", add: "TimeoutStartSec=10"},
	"start timeout of client":     {rule: "TimeoutStartSec", level: check.Warning, of: overlapping, without: "TimeoutStartSec=", add: "TimeoutSec=50"},
	"no start timeout":            {rule: "TimeoutStartSec", level: check.Warning, of: hot, options: notifyReload, without: "TimeoutStartSec=", add: "TimeoutStartSec=infinity"},
	"stop timeout":                {rule: "TimeoutStopSec", level: check.Warning, without: "TimeoutStopSec=", add: "TimeoutStopSec=5s"},
	"watchdog":                    {rule: "WatchdogSec", level: check.Warning, without: "WatchdogSec=", add: "WatchdogSec=500ms"},
	"no restart":                  {rule: "Restart", level: check.Warning, without: "Restart="},
	"restart on abort":            {rule: "Restart", level: check.Warning, without: "Restart=", add: "Restart=on-abort"},
	"no restart after a panic":    {rule: "RestartPreventExitStatus", level: check.Warning, add: "RestartPreventExitStatus=2"},
	"OOM policy":                  {rule: "OOMPolicy", level: check.Warning, of: overlapping, without: "OOMPolicy=", add: "OOMPolicy=stop"},
	"no OOM policy":               {rule: "OOMPolicy", level: check.Warning, of: overlapping, without: "OOMPolicy="},
	"no store":                    {rule: "FileDescriptorStoreMax", level: check.Warning, of: hot, without: "FileDescriptorStoreMax="},
	"store of 0":                  {rule: "FileDescriptorStoreMax", level: check.Error, of: restart, without: "FileDescriptorStoreMax=", add: "FileDescriptorStoreMax=0"},
	"store not kept":              {rule: "FileDescriptorStorePreserve", level: check.Warning, without: "FileDescriptorStorePreserve=", add: "FileDescriptorStorePreserve=no"},
	"kill mode mixed":             {rule: "KillMode", level: check.Error, of: overlapping, without: "KillMode=", add: "KillMode=mixed"},
	"kill mode process":           {rule: "KillMode", level: check.Error, of: overlapping, without: "KillMode=", add: "KillMode=process"},
	"kill mode process elsewhere": {rule: "KillMode", level: check.Warning, of: []units.Mode{units.InPlace, units.Restart}, without: "KillMode=", add: "KillMode=process"},
	"no SIGKILL":                  {rule: "SendSIGKILL", level: check.Warning, add: "SendSIGKILL=no"},
	"a file to execute":           {rule: "ExecPaths", level: check.Error, of: hot, without: "ExecPaths=", add: "ExecPaths=/usr/bin/myapp /usr/bin/holdfast %S/myapp.holdfast"},
	"a link to execute": {rule: "ExecPaths", level: check.Error, of: hot, options: func(o *units.Options) { o.Exec = "/opt/myapp/current/myapp" }, machine: func(root fstest.MapFS) {
		root["opt/myapp/current"] = &fstest.MapFile{Data: []byte("v1"), Mode: fs.ModeSymlink | 0o777}
		root["opt/myapp/v1/myapp"] = &fstest.MapFile{Data: []byte("\x7fELF"), Mode: 0o755}
	}},
	"nothing to execute":     {rule: "NoExecPaths", level: check.Error, of: hot, without: "ExecPaths=", add: "ExecPaths=/usr/sbin %S/myapp.holdfast"},
	"no last good":           {rule: "NoExecPaths", level: check.Warning, without: "ExecPaths=", add: "ExecPaths=/usr/bin"},
	"bind of the file":       {rule: "BindReadOnlyPaths", level: check.Error, of: hot, add: "TemporaryFileSystem=/usr/bin:ro\nBindReadOnlyPaths=/usr/bin/myapp /usr/bin/holdfast"},
	"bind of another file":   {rule: "BindPaths", level: check.Error, of: hot, add: "BindPaths=-/opt/myapp/v1:/usr/bin/myapp:norbind"},
	"image":                  {rule: "RootImage", level: check.Error, of: hot, add: "RootImage=/var/lib/machines/myapp.raw"},
	"extension image":        {rule: "ExtensionImages", level: check.Warning, of: hot, add: "ExtensionImages=/var/lib/extensions/myapp.raw"},
	"extension directory":    {rule: "ExtensionDirectories", level: check.Warning, of: hot, add: "ExtensionDirectories=/var/lib/extensions/myapp"},
	"no runtime directory":   {rule: "RuntimeDirectory", level: check.Error, of: hot, without: "RuntimeDirectory="},
	"none without a reload":  {rule: "RuntimeDirectory", level: check.Warning, of: restart, without: "RuntimeDirectory="},
	"open runtime directory": {rule: "RuntimeDirectoryMode", level: check.Error, add: "RuntimeDirectoryMode=0775"},
	"socket in the runtime directory": {rule: "RuntimeDirectoryPreserve", level: check.Warning, options: func(o *units.Options) {
		o.Sockets = []units.Socket{{Name: "http", Address: "/run/myapp/http.sock"}}
	}},
	"no state directory":           {rule: "StateDirectory", level: check.Warning, without: "StateDirectory="},
	"another state directory":      {rule: "StateDirectory", level: check.Warning, without: "StateDirectory=", add: "StateDirectory=myapp"},
	"environment file":             {rule: "EnvironmentFile", level: check.Note, of: hot, add: "EnvironmentFile=/etc/default/myapp"},
	"credential":                   {rule: "LoadCredential", level: check.Note, of: hot, add: "LoadCredential=key:/etc/myapp/key"},
	"credential of 262":            {rule: "LoadCredential", level: check.Note, of: hot, systemd: 262, add: "LoadCredential=key:/etc/myapp/key"},
	"encrypted credential":         {rule: "LoadCredentialEncrypted", level: check.Note, of: hot, add: "LoadCredentialEncrypted=key:/etc/myapp/key"},
	"imported credential":          {rule: "ImportCredential", level: check.Note, of: hot, add: "ImportCredential=myapp.*"},
	"private PIDs":                 {rule: "PrivatePIDs", level: check.Error, add: "PrivatePIDs=yes"},
	"private PIDs without sockets": {rule: "PrivatePIDs", level: check.Error, of: overlapping, options: func(o *units.Options) { o.Sockets = nil }, add: "PrivatePIDs=yes"},
	"setuid":                       {rule: "NoNewPrivileges", level: check.Warning, machine: func(root fstest.MapFS) { root["usr/bin/myapp"].Mode |= fs.ModeSetuid }},
	"address families":             {rule: "RestrictAddressFamilies", level: check.Error, without: "RestrictAddressFamilies=", add: "RestrictAddressFamilies=AF_INET AF_INET6"},
	"address families refused":     {rule: "RestrictAddressFamilies", level: check.Error, without: "RestrictAddressFamilies=", add: "RestrictAddressFamilies=~AF_UNIX"},
	"address families taken":       {rule: "RestrictAddressFamilies", level: check.Error, add: "RestrictAddressFamilies=~AF_UNIX"},
	"address families none":        {rule: "RestrictAddressFamilies", level: check.Error, add: "RestrictAddressFamilies=none"},
	"system calls":                 {rule: "SystemCallFilter", level: check.Error, of: hot, without: "SystemCallFilter=", add: "SystemCallFilter=@basic-io @network-io"},
	"system calls taken":           {rule: "SystemCallFilter", level: check.Error, of: hot, add: "SystemCallFilter=~@process"},
	"one system call refused":      {rule: "SystemCallFilter", level: check.Error, of: overlapping, without: "SystemCallFilter=", add: "SystemCallFilter=~pidfd_open:EPERM"},
	"few files":                    {rule: "LimitNOFILE", level: check.Warning, of: hot, add: "LimitNOFILE=64:128"},
	"few processes":                {rule: "LimitNPROC", level: check.Error, of: overlapping, add: "LimitNPROC=10"},
	"few tasks":                    {rule: "TasksMax", level: check.Error, of: overlapping, add: "TasksMax=12"},
	"some tasks":                   {rule: "TasksMax", level: check.Warning, of: overlapping, add: "TasksMax=40"},
	"little memory":                {rule: "MemoryMax", level: check.Warning, of: overlapping, add: "MemoryMax=16M"},
	"little memory of old":         {rule: "MemoryMax", level: check.Warning, of: overlapping, add: "MemoryLimit=16M"},
	"memory slowed down":           {rule: "MemoryHigh", level: check.Warning, of: overlapping, add: "MemoryHigh=16M"},
	"delegate":                     {rule: "Delegate", level: check.Note, of: overlapping, add: "Delegate=cpu memory"},

	"no name":           {rule: "FileDescriptorName", level: check.Warning, file: "myapp.socket", without: "FileDescriptorName="},
	"another service":   {rule: "Service", level: check.Error, file: "myapp-http.socket", options: twoSockets, without: "Service="},
	"port for others":   {rule: "ReusePort", level: check.Note, file: "myapp.socket", add: "ReusePort=yes"},
	"flush":             {rule: "FlushPending", level: check.Warning, file: "myapp.socket", add: "FlushPending=yes"},
	"path removed":      {rule: "RemoveOnStop", level: check.Note, file: "myapp.socket", add: "ListenStream=/run/myapp.sock\nRemoveOnStop=yes"},
	"trigger limit":     {rule: "TriggerLimitIntervalSec", level: check.Warning, file: "myapp.socket", without: "TriggerLimitIntervalSec="},
	"socket bound":      {rule: "BindsTo", level: check.Warning, file: "myapp.socket", addUnit: "BindsTo=myapp.service"},
	"socket part":       {rule: "PartOf", level: check.Warning, file: "myapp.socket", addUnit: "PartOf=myapp.service"},
	"socket requires":   {rule: "Requires", level: check.Warning, file: "myapp.socket", addUnit: "Requires=myapp.service"},
	"socket conflicts":  {rule: "Conflicts", level: check.Error, file: "myapp.socket", addUnit: "Conflicts=myapp.service"},
	"service conflicts": {rule: "Conflicts", level: check.Error, addUnit: "Conflicts=myapp.socket"},
	"systemd ignores":   {rule: "", level: check.Warning, add: "no assignment"},
}

var (
	hot         = []units.Mode{units.Overlap, units.InPlace}
	overlapping = []units.Mode{units.Overlap}
	inPlace     = []units.Mode{units.InPlace}
	restart     = []units.Mode{units.Restart}
)

func noLauncher(o *units.Options)   { o.Launcher = units.LauncherOff }
func notifyReload(o *units.Options) { o.Flavour = units.NotifyReload }
func twoSockets(o *units.Options) {
	o.Sockets = append(slices.Clone(o.Sockets), units.Socket{Name: "admin", Address: "127.0.0.1:8081"})
}

// apply changes one of the units.
func (m mutation) apply(name, text string) string {
	file := m.file
	if file == "" {
		file = "myapp.service"
	}
	if name != file {
		return text
	}
	section := "[Service]\n"
	if strings.HasSuffix(name, ".socket") {
		section = "[Socket]\n"
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		left := false
		for prefix := range strings.SplitSeq(m.without, ",") {
			left = left || prefix != "" && strings.HasPrefix(line, prefix)
		}
		if !left {
			b.WriteString(line)
		}
	}
	// At the end, where it is the last word on the option.
	text, install, _ := strings.Cut(b.String(), "\n[Install]\n")
	if m.add != "" {
		text += section + m.add + "\n"
	}
	if m.addUnit != "" {
		text += "[Unit]\n" + m.addUnit + "\n"
	}
	return text + "\n[Install]\n" + install
}

// TestMutations: each rule finds the mutation that it is for, and that one alone; and with the
// lines that it says to write in a drop-in, it finds nothing.
func TestMutations(t *testing.T) {
	seen := make(map[string]bool)
	for name, m := range mutations {
		seen[m.rule] = true
		modes := m.of
		if modes == nil {
			modes = []units.Mode{units.Overlap, units.InPlace, units.Restart}
		}
		for _, mode := range modes {
			t.Run(name+" "+string(mode), func(t *testing.T) {
				o := units.Options{
					Name: "myapp", Exec: "/usr/bin/myapp", Systemd: max(m.systemd, 252), Mode: mode,
					Sockets: []units.Socket{{Name: "http", Address: "127.0.0.1:8080"}},
				}
				if m.systemd == 0 {
					o.Systemd = 257
				}
				if m.options != nil {
					m.options(&o)
				}
				root := rendered(t, o, m.apply).(fstest.MapFS)
				if m.machine != nil {
					m.machine(root)
				}
				options := check.Options{Systemd: o.Systemd, Mode: mode}
				r, err := check.Files(t.Context(), root, "myapp", options)
				if err != nil {
					t.Fatal(err)
				}
				if len(r.Findings) == 0 {
					t.Fatalf("nothing was found, want %s %s=", m.level, m.rule)
				}
				var writes []string
				at := false
				for _, f := range r.Findings {
					if f.Option != m.rule && !alsoFound[m.rule][f.Option] {
						t.Errorf("found %s= as well:\n%s", f.Option, text(r))
					}
					if f.Option != m.rule {
						continue
					}
					at = at || f.Level == m.level
					for _, w := range f.Write {
						if !slices.Contains(writes, w) {
							writes = append(writes, w)
						}
					}
					if f.File == "" || f.Why == "" {
						t.Errorf("a finding without a file or a reason: %+v", f)
					}
				}
				if !at {
					t.Errorf("no finding of the level %s:\n%s", m.level, text(r))
				}
				// What it says to write mends it.
				if len(writes) == 0 {
					return
				}
				unit := r.Findings[slices.IndexFunc(r.Findings, func(f check.Finding) bool { return f.Option == m.rule })]
				base := unit.File[strings.LastIndexByte(unit.File, '/')+1:]
				var dropIn strings.Builder
				fmt.Fprintf(&dropIn, "[%s]\n", unit.Section)
				for _, w := range writes {
					key, _, ok := strings.Cut(w, "=")
					if !ok || strings.ContainsAny(key, " ()") {
						t.Errorf("write %q: is no line of a unit file", w)
					}
					if key == m.rule && !adds[key] {
						fmt.Fprintf(&dropIn, "%s=\n", key)
					}
					fmt.Fprintln(&dropIn, w)
				}
				root["etc/systemd/system/"+base+".d/mend.conf"] = &fstest.MapFile{Data: []byte(dropIn.String()), Mode: 0o644}
				again, err := check.Files(t.Context(), root, "myapp", options)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range again.Findings {
					if f.Option == m.rule {
						t.Errorf("with\n%s\nit is still found:\n%s", dropIn.String(), text(again))
					}
				}
			})
		}
	}
	for _, option := range check.RuleOptions() {
		if !seen[option] && !onlyRunning[option] && option != "Accept" {
			t.Errorf("there is no mutation for the rule %s=", option)
		}
	}
}

// adds are options of which another line adds to what is there, where others are written anew.
var adds = map[string]bool{"RestrictAddressFamilies": true, "SystemCallFilter": true}

// alsoFound are findings that come with another one, since they are of the same fault.
var alsoFound = map[string]map[string]bool{
	"Type":             {"NotifyAccess": true},
	"ExecStart":        {"NoExecPaths": true},
	"NotifyAccess":     {"Type": true, "FileDescriptorStoreMax": true},
	"RuntimeDirectory": {"PIDFile": true},
	"NoExecPaths":      {"ExecPaths": true},
	"StateDirectory":   {"NoExecPaths": true},
}

// onlyRunning are rules about what runs.
var onlyRunning = map[string]bool{"NeedDaemonReload": true, "RestartPending": true, "ActiveState": true}

// TestAccept: a service with one process for each connection is none that Holdfast upgrades.
func TestAccept(t *testing.T) {
	root := rendered(t, kinds()["257 overlap template"], func(_, text string) string {
		return strings.ReplaceAll(text, "FileDescriptorName=", "Accept=yes\nFileDescriptorName=")
	})
	r, err := check.Files(t.Context(), root, "myapp@1.service", check.Options{Systemd: 257})
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(r.Findings, func(f check.Finding) bool { return f.Option == "Accept" && f.Level == check.Error }); i < 0 || r.Fit() {
		t.Errorf("no error of Accept=yes:\n%s", text(r))
	}
}
