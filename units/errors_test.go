// SPDX-License-Identifier: Apache-2.0

package units_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/units"
)

func TestRenderRefuses(t *testing.T) {
	address := func(a string) func(*units.Options) {
		return func(o *units.Options) { o.Sockets[0].Address = a }
	}
	line := func(l string) func(*units.Options) {
		return func(o *units.Options) { o.ServiceLines = []string{l} }
	}
	exec := func(path string) func(*units.Options) { return func(o *units.Options) { o.Exec = path } }
	for _, tt := range []struct {
		name   string
		change func(*units.Options)
		want   string
	}{
		{"no name", func(o *units.Options) { o.Name = "" }, `Name "": is required`},
		{"name with a space", func(o *units.Options) { o.Name = "my app" }, `Name "my app": must consist of letters`},
		{"name with @", func(o *units.Options) { o.Name = "my@app" }, `would need escaping (systemd-escape(1))`},
		{"name with /", func(o *units.Options) { o.Name = "../app" }, `Name "../app": must consist of`},
		{"name with %", func(o *units.Options) { o.Name = "%n" }, `Name "%n": must consist of`},
		{"name with -", func(o *units.Options) { o.Name = "-app" }, `begin with none of the last two`},
		{"name with suffix", func(o *units.Options) { o.Name = "myapp.service" }, `must be without the suffix`},
		{"long name", func(o *units.Options) { o.Name = strings.Repeat("x", 49) }, `has 49 bytes: must have at most 48`},
		{"no exec", exec(""), `Exec "": is required`},
		{"relative exec", exec("bin/myapp"), `must be an absolute path`},
		{"exec with a space", exec("/usr/bin/my app"), `must be an absolute path of letters`},
		{"exec not clean", exec("/usr/bin/../myapp"), `must be a clean path: "/usr/myapp"`},
		{"exec in /", exec("/myapp"), `lies in /`},
		{"exec in /home", exec("/home/me/myapp"), `the service cannot see /home (ProtectHome=yes): install it elsewhere`},
		{"exec in /tmp", exec("/tmp/myapp"), `PrivateTmp=yes`},
		{"holdfast relative", func(o *units.Options) { o.Holdfast = "holdfast" }, `Holdfast "holdfast": must be an absolute path`},
		{"exec directory /", func(o *units.Options) { o.ExecDirectories = []string{"/usr", "/"} }, `ExecDirectories[1] "/": would allow everything`},
		{"argument of two lines", func(o *units.Options) { o.Args = []string{"a", "b\nUser=root"} }, `Args[1] "b\nUser=root": must be one line`},
		{"argument with a specifier", func(o *units.Options) { o.Args = []string{"%H"} }, `Args[0] "%H": only the specifiers %t and %i may be used: write %% for a percent sign`},
		{"argument with a lone percent sign", func(o *units.Options) { o.Args = []string{"100%"} }, `write %% for a percent sign`},
		{"instance without a template", func(o *units.Options) { o.Args = []string{"%i"} }, `this is no template: set Template`},
		{"argument not UTF-8", func(o *units.Options) { o.Args = []string{"\xff"} }, `must be UTF-8`},
		{"description of two lines", func(o *units.Options) { o.Description = "a\nb" }, `Description "a\nb": must be one line`},
		{"description that continues", func(o *units.Options) { o.Description = `a\` }, `must not end with a backslash`},
		{"documentation", func(o *units.Options) { o.Documentation = []string{"README"} }, `Documentation[0] "README": must be a URI`},
		{"no socket name", func(o *units.Options) { o.Sockets[0].Name = "" }, `Sockets[0].Name "": is required`},
		{"socket name with :", func(o *units.Options) { o.Sockets[0].Name = "a:b" }, `Sockets[0].Name "a:b": must consist of`},
		{"socket type", func(o *units.Options) { o.Sockets[0].Type = "ListenFIFO" }, `Sockets[0].Type "ListenFIFO": must be`},
		{"no address", address(""), `Sockets[0].Address "": is required`},
		{"address with a host name", address("localhost:80"), `systemd resolves no host names`},
		{"address without a port", address("127.0.0.1"), `must be IP:PORT`},
		{"address with port 0", address("127.0.0.1:0"), `must be IP:PORT`},
		{"port 0", address("0"), `must be IP:PORT`},
		{"port 65536", address("65536"), `must be IP:PORT`},
		{"address of Go", address(":8080"), `must be IP:PORT`},
		{"relative path", address("my.sock"), `must be IP:PORT`},
		{"path not clean", address("/run/../my.sock"), `must be IP:PORT`},
		{"path with a space", address("/run/my sock"), `must be IP:PORT`},
		{"lone @", address("@"), `must be IP:PORT`},
		{"vsock without a port", address("vsock:2"), `must be IP:PORT`},
		{"sequential packets over IP", func(o *units.Options) { o.Sockets[0].Type = units.SequentialPacket }, `is for Unix sockets`},
		{"the same address twice", func(o *units.Options) { o.Sockets = append(o.Sockets, o.Sockets[0]) }, `Sockets[1].Address "127.0.0.1:8080": is there twice`},
		{"zone without %%", address("[fe80::1%eth0]:80"), `write %% for a percent sign`},
		{"address that instances share", func(o *units.Options) { o.Template = true }, `must contain %i: two instances cannot bind the same address`},
		{"state that instances share", func(o *units.Options) {
			*o = template()
			o.StateDirectory = "myapp"
		}, `StateDirectory "myapp": must contain %i`},
		{"absolute state directory", func(o *units.Options) { o.StateDirectory = "/var/lib/myapp" }, `must be a clean relative path`},
		{"state directory above", func(o *units.Options) { o.StateDirectory = "../myapp" }, `must be a clean relative path`},
		{"launcher", func(o *units.Options) { o.Launcher = "yes" }, `Launcher "yes": must be on or off`},
		{"negative timeout", func(o *units.Options) { o.Probation = -time.Second }, `Probation "-1s": must be from 1ms to 24h`},
		{"endless drain", func(o *units.Options) { o.DrainTimeout = 25 * time.Hour }, `DrainTimeout "25h0m0s": must be from 1ms to 24h`},
		{"no descriptor store", func(o *units.Options) { o.FileDescriptorStoreMax = -1 }, `FileDescriptorStoreMax "-1": must be positive`},
		{"line without =", line("Nice"), `ServiceLines[0] "Nice": must be Key=value`},
		{"line of two lines", line("Nice=1\nUser=root"), `must be one line`},
		{"line with a section", line("[Install]=x"), `must be Key=value`},
		{"line that continues", line(`Nice=1\`), `must not end with a backslash`},
		{"line with OOMPolicy=", line("OOMPolicy=stop"), `OOMPolicy= must stay as it is rendered: any other value ends the old version, which serves, with a new one`},
		{"line with KillMode=", line("KillMode=mixed"), `KillMode= must stay as it is rendered: any other value kills or leaks the generation`},
		{"line with PrivatePIDs=", line("PrivatePIDs=yes"), `the death of the old version would kill the new one`},
		{"line with a file in ExecPaths=", line("ExecPaths=/usr/bin/myapp"), `use ExecDirectories`},
		{"line that the version does not know", line("FileDescriptorStorePreserve=no"), `FileDescriptorStorePreserve= needs systemd 254 or later, and the units are for 252`},
		{"unit line with a start limit", func(o *units.Options) { o.UnitLines = []string{"StartLimitBurst=5"} }, `UnitLines[0] "StartLimitBurst=5"`},
		{"socket line with Accept=", func(o *units.Options) { o.SocketLines = []string{"Accept=yes"} }, `the service accepts itself`},
		{"mode", func(o *units.Options) { o.Mode = "reload" }, `Mode "reload": must be overlap, in-place or restart`},
		{"reload of what is restarted", func(o *units.Options) { o.Mode, o.Flavour, o.Systemd = units.Restart, units.NotifyReload, 257 }, `Flavour "notify-reload": a service that is restarted has no reload`},
		{"soft-reboot of a user", func(o *units.Options) { o.Systemd, o.User, o.SoftReboot = 257, true, true }, `SoftReboot "true": the manager of a user ends`},
		{"flavour", func(o *units.Options) { o.Flavour = "restart" }, `Flavour "restart": must be exec-reload or notify-reload`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := small()
			tt.change(&o)
			files, err := units.Render(o)
			if err == nil {
				t.Fatalf("rendered:\n%s", join(files))
			}
			var fault *units.OptionError
			if !errors.As(err, &fault) {
				t.Errorf("error %v is no *OptionError", err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q, want it to contain %q", err, tt.want)
			}
		})
	}
}

func TestRenderVersions(t *testing.T) {
	for _, tt := range []struct {
		systemd int
		flavour units.Flavour
		soft    bool
		want    string
	}{
		{253, units.ExecReload, true, "systemctl soft-reboot needs systemd 254 or later, and the units are for 253: leave out SoftReboot"},
		{0, units.ExecReload, false, "Holdfast needs systemd 239 or later, and the units are for 0: name the version of the target"},
		{238, units.ExecReload, false, "needs systemd 239"},
		{252, units.NotifyReload, false, "Type=notify-reload needs systemd 253 or later, and the units are for 252: use the flavour exec-reload; only RHEL 9.4 and later have it in their 252, and for these render for 253"},
	} {
		_, err := units.Render(with(small(), func(o *units.Options) { o.Systemd, o.Flavour, o.SoftReboot = tt.systemd, tt.flavour, tt.soft }))
		var version *units.VersionError
		if !errors.As(err, &version) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%d, %s: error %v, want a *VersionError with %q", tt.systemd, tt.flavour, err, tt.want)
		}
	}
}

// The advice for RHEL 9.4, whose 252 has Type=notify-reload and nothing else of
// 253, holds: what is rendered for 253 has nothing else of 253 either.
func TestRendered253SuitsRHEL(t *testing.T) {
	at := func(version int) string {
		text := join(render(t, with(full(), func(o *units.Options) { o.Systemd = version })))
		return strings.ReplaceAll(text, "for systemd 253", "for systemd 252")
	}
	if a, b := at(252), at(253); a != b {
		t.Errorf("252 and 253 differ: %s", firstDifference(b, a))
	}
}

func TestRenderReportsAllFaults(t *testing.T) {
	_, err := units.Render(units.Options{Systemd: 252, DrainTimeout: -1, UnitLines: []string{"x"}})
	for _, want := range []string{`Name ""`, `Exec ""`, "DrainTimeout", "UnitLines[0]"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
}

// Rendering does not change what the caller passed.
func TestRenderLeavesOptions(t *testing.T) {
	o := small()
	render(t, o)
	if o.Sockets[0].Type != "" {
		t.Errorf("Sockets[0].Type is %q now", o.Sockets[0].Type)
	}
}
