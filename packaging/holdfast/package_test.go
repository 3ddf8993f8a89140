// SPDX-License-Identifier: Apache-2.0

package holdfast

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// machine is where the script finds everything below a directory, and stand-ins for what it
// calls, which write down how they were called.
type machine struct {
	t   *testing.T
	dir string
	env []string
}

// standIn answers by files: "systemctl show --value -p X U" by answers/X.U, is-enabled by
// answers/enabled.U, everything else with nothing; and exits with what is in exit/NAME.VERB.
const standIn = `#!/bin/sh
name=${0##*/} verb=$1
[ "$name" != deb-systemd-helper ] || [ "$1" != --quiet ] || verb=$2
case "$name $*" in
"systemctl show "*) cat "$MACHINE/answers/$4.$5" 2>/dev/null; exit ;;
"systemctl is-enabled "*) cat "$MACHINE/answers/enabled.$2" 2>/dev/null || { echo disabled; exit 1; }; exit ;;
esac
echo "$name $*" >>"$MACHINE/calls"
cat "$MACHINE/says/$name.$verb" >&2 2>/dev/null
exit "$(cat "$MACHINE/exit/$name.$verb" 2>/dev/null || echo 0)"
`

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, dir: t.TempDir()}
	script, err := os.ReadFile("package")
	if err != nil {
		t.Fatal(err)
	}
	text := string(script)
	for _, setting := range []string{"etc=/etc", "run=/run", "var=/var/lib", "proc=/proc", "policy=/usr/sbin/policy-rc.d", "sysusers_d=/usr/lib/sysusers.d"} {
		name, path, _ := strings.Cut(setting, "=")
		if strings.Count(text, "\n"+setting+"\n") != 1 {
			t.Fatalf("package lacks the line %s", setting)
		}
		text = strings.Replace(text, "\n"+setting+"\n", "\n"+name+"="+m.dir+path+"\n", 1)
	}
	const dirs = `unit_dirs="/etc/systemd/system /run/systemd/system /usr/local/lib/systemd/system /usr/lib/systemd/system /lib/systemd/system"`
	if !strings.Contains(text, dirs) {
		t.Fatal("package lacks the directories of units")
	}
	text = strings.Replace(text, dirs, strings.ReplaceAll(strings.ReplaceAll(dirs, " /", " "+m.dir+"/"), `"/`, `"`+m.dir+`/`), 1)
	m.write("package", text)
	for _, name := range []string{"systemctl", "holdfast", "deb-systemd-helper", "systemd-sysusers"} {
		m.write("bin/"+name, standIn)
	}
	m.write("run/systemd/system/.there", "")
	m.env = append(os.Environ(), "PATH="+filepath.Join(m.dir, "bin")+":"+os.Getenv("PATH"), "MACHINE="+m.dir, "DPKG_ROOT=")
	return m
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

func (m *machine) write(name, text string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.path(name)), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(m.path(name), []byte(text), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) remove(name string) {
	m.t.Helper()
	if err := os.RemoveAll(m.path(name)); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) exists(name string) bool {
	_, err := os.Lstat(m.path(name))
	return err == nil
}

// run has the script do something, and returns what it called, what it said, and its status.
func (m *machine) run(args ...string) (calls []string, said string, code int) {
	m.t.Helper()
	m.remove("calls")
	cmd := exec.CommandContext(m.t.Context(), "sh", append([]string{m.path("package")}, args...)...)
	cmd.Env = m.env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		m.t.Fatal(err)
	}
	if stdout.Len() > 0 {
		// debconf would take it for commands.
		m.t.Errorf("package %q wrote to the standard output: %s", args, &stdout)
	}
	text, err := os.ReadFile(m.path("calls"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		m.t.Fatal(err)
	}
	return slices.Collect(strings.Lines(string(text))), strings.ReplaceAll(stderr.String(), m.dir, ""), cmd.ProcessState.ExitCode()
}

const (
	service = "[Unit]\nDescription=one\nRequires=myapp.socket\n\n[Service]\nType=notify\n" +
		"ExecStart=/usr/bin/holdfast launch --state=%S/myapp.holdfast -- DIR/usr/bin/myapp -config=x\n" +
		"ExecReload=/usr/bin/holdfast reload --socket=%t/myapp/control.sock\nSystemCallFilter=@system-service\nSystemCallFilter=~@privileged\n" +
		"\n[Install]\nWantedBy=multi-user.target\nAlso=myapp.socket\n"
	socket = "[Socket]\nListenStream=127.0.0.1:8080\nFileDescriptorName=http\nBacklog=4096\n"
	units  = "usr/lib/systemd/system/"
)

// installed is a machine with version 1 of myapp, that runs.
func installed(t *testing.T) *machine {
	m := newMachine(t)
	m.write(units+"myapp.service", strings.ReplaceAll(service, "DIR", m.dir))
	m.write(units+"myapp.socket", socket)
	// Others' are left alone.
	m.write(units+"dbus.socket", "[Socket]\nListenStream=/run/dbus\n")
	m.write("usr/lib/sysusers.d/myapp.conf", "u myapp -\n")
	m.write("usr/bin/myapp", "version 1")
	m.running("myapp.service", "active")
	m.running("myapp.socket", "active")
	m.write("answers/MainPID.myapp.service", "42\n")
	m.write("answers/InvocationID.myapp.service", "id-1\n")
	m.write("run/myapp/.there", "")
	if err := os.MkdirAll(m.path("proc/42"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.write("old/myapp", "version 1")
	if err := os.Symlink(m.path("old/myapp"), m.path("proc/42/exe")); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *machine) running(unit, state string) {
	m.write("answers/ActiveState."+unit, state+"\n")
	m.write("answers/enabled."+unit, "enabled\n")
}

// startedAnew is a restart of the service with what is in usr/bin.
func (m *machine) startedAnew(id string) {
	m.write("answers/InvocationID.myapp.service", id+"\n")
	m.remove("proc/42/exe")
	if err := os.Symlink(m.path("usr/bin/myapp"), m.path("proc/42/exe")); err != nil {
		m.t.Fatal(err)
	}
}

// mark has the file in usr/bin counted as failed by the launcher.
func (m *machine) mark() {
	m.t.Helper()
	sum, err := exec.CommandContext(m.t.Context(), "sha256sum", m.path("usr/bin/myapp")).Output()
	if err != nil {
		m.t.Fatal(err)
	}
	m.write("var/lib/myapp.holdfast/record.json", "{\n\t\"good\": {\n\t\t\"sha256\": \"0000\"\n\t},\n\t\"failed\": [\n\t\t{\n\t\t\t\"sha256\": \""+strings.Fields(string(sum))[0]+"\",\n\t\t}\n\t],\n\t\"seen\": {}\n}\n")
}

const (
	reloaded = "systemctl --system daemon-reload\n"
	hot      = "holdfast upgrade --direct --quiet --soak=10s myapp\n"
	restart  = "systemctl restart myapp.service\n"
	wait     = "holdfast wait --timeout=60s myapp\n"
	start    = "systemctl start myapp.socket\nsystemctl start myapp.service\n"
)

// calm are the calls that each postinst configure begins with.
var calm = []string{
	"systemd-sysusers myapp.conf\n",
	"deb-systemd-helper unmask myapp.socket\n", "deb-systemd-helper --quiet was-enabled myapp.socket\n", "deb-systemd-helper enable myapp.socket\n",
	"deb-systemd-helper unmask myapp.service\n", "deb-systemd-helper --quiet was-enabled myapp.service\n", "deb-systemd-helper enable myapp.service\n",
}

func checkRun(t *testing.T, calls []string, want string, said string, wantSaid []string, code, wantCode int) {
	t.Helper()
	if got := strings.Join(calls, ""); got != want {
		t.Errorf("it called\n%swant\n%s", got, want)
	}
	for _, text := range wantSaid {
		if !strings.Contains(said, text) {
			t.Errorf("it said %q, want %q in it", said, text)
		}
	}
	if len(wantSaid) == 0 && said != "" {
		t.Errorf("it said %q, want nothing", said)
	}
	if code != wantCode {
		t.Errorf("exit status %d, want %d", code, wantCode)
	}
}

// TestUpgradeOfThePackage is what a new version of the package does to a service that is in
// some state, for dpkg and for rpm.
func TestUpgradeOfThePackage(t *testing.T) {
	edit := func(unit, old, new string) func(*machine) {
		return func(m *machine) {
			text, err := os.ReadFile(m.path(units + unit))
			if err != nil || !strings.Contains(string(text), old) {
				m.t.Fatalf("%s lacks %q (%v)", unit, old, err)
			}
			m.write(units+unit, strings.Replace(string(text), old, new, 1))
		}
	}
	for name, c := range map[string]struct {
		before, unpack, after func(*machine)
		want                  string // the calls after those of calm
		said                  []string
		code                  int
	}{
		"hot": {want: reloaded + hot, said: []string{"myapp: upgraded; no connection was closed, and the new version has been watched for 10s"}},
		"the file runs already": {
			after: func(m *machine) { m.startedAnew("id-1") },
			want:  reloaded, said: []string{"myapp: runs what is installed"},
		},
		"disabled, and runs": {
			before: func(m *machine) { m.remove("answers/enabled.myapp.service") },
			want:   reloaded + hot, said: []string{"upgraded"},
		},
		"refused": {
			after: func(m *machine) {
				m.write("exit/holdfast.upgrade", "1")
				m.write("says/holdfast.upgrade", "it panicked\n")
				m.mark()
			},
			want: reloaded + hot,
			said: []string{
				"it panicked\n", "THE NEW VERSION IS INSTALLED AND DOES NOT RUN. The one before serves on; a restart or a reboot starts that, too.",
				"type: holdfast upgrade myapp.", "journalctl -eu myapp",
			},
		},
		"refused for nothing that the file is": {
			after: func(m *machine) { m.write("exit/holdfast.upgrade", "1") },
			want:  reloaded + hot, said: []string{"a restart or a reboot starts the NEW one"},
		},
		"refused, ON_FAILURE=fail": {
			after: func(m *machine) {
				m.write("exit/holdfast.upgrade", "1")
				m.write("etc/holdfast/package.conf", "ON_FAILURE=fail\n")
			},
			want: reloaded + hot, said: []string{"DOES NOT RUN"}, code: 1,
		},
		"down": {
			after: func(m *machine) { m.write("exit/holdfast.upgrade", "7") },
			want:  reloaded + hot, said: []string{"THE UPGRADE FAILED AND THE SERVICE IS DOWN", "systemctl status myapp"},
		},
		"no answer": {
			after: func(m *machine) { m.write("exit/holdfast.upgrade", "8") },
			want:  reloaded + hot, said: []string{"exit status 8", "holdfast status myapp"},
		},
		"stopped": {
			before: func(m *machine) { m.running("myapp.service", "inactive") },
			want:   reloaded, said: []string{"does not run: left alone"},
		},
		"stopped and disabled": {
			before: func(m *machine) {
				m.running("myapp.service", "inactive")
				m.remove("answers/enabled.myapp.service")
			},
			want: reloaded, said: []string{"does not run: left alone"},
		},
		"masked": {
			before: func(m *machine) {
				m.running("myapp.service", "inactive")
				m.write("answers/enabled.myapp.service", "masked\n")
			},
			want: reloaded, said: []string{"is masked: left alone"},
		},
		"failed": {
			before: func(m *machine) { m.running("myapp.service", "failed") },
			after:  func(m *machine) { m.startedAnew("id-2") },
			want:   reloaded + restart + wait, said: []string{"it has failed before", "restarted"},
		},
		"failed and disabled": {
			before: func(m *machine) {
				m.running("myapp.service", "failed")
				m.remove("answers/enabled.myapp.service")
			},
			want: reloaded, said: []string{"has failed before, and is disabled"},
		},
		"frozen": {
			before: func(m *machine) { m.write("var/lib/holdfast/frozen/myapp.service.json", "{}") },
			want:   reloaded, said: []string{"its upgrades are frozen"},
		},
		"manual": {
			before: func(m *machine) { m.write("etc/holdfast/package.d/myapp.conf", " UPGRADE = manual \n") },
			want:   reloaded, said: []string{"does not run yet. Type: holdfast upgrade myapp\n"},
		},
		"no knob": {
			before: func(m *machine) { m.write("etc/holdfast/package.conf", "UPGRADE=always\n") },
			want:   reloaded, said: []string{"UPGRADE=always in /etc/holdfast: use auto, manual or restart", "does not run yet"},
		},
		"manual, where it takes a restart": {
			before: func(m *machine) { m.write("etc/holdfast/package.conf", "UPGRADE=manual\n") },
			unpack: edit("myapp.service", "Type=notify", "Type=notify\nEnvironment=A=1"),
			want:   reloaded, said: []string{"Because myapp.service changed in Environment, type: systemctl restart myapp\n"},
		},
		"UPGRADE=restart": {
			before: func(m *machine) {
				m.write("etc/holdfast/package.conf", "UPGRADE=auto\n")
				m.write("etc/holdfast/package.d/myapp.conf", "UPGRADE=restart\n")
			},
			want: reloaded + restart + wait, said: []string{"is restarted: UPGRADE=restart", "myapp: restarted\n"},
		},
		"SOAK": {
			before: func(m *machine) { m.write("etc/holdfast/package.conf", "# SOAK=1m\nSOAK=2s\n") },
			want:   reloaded + strings.Replace(hot, "10s", "2s", 1), said: []string{"watched for 2s"},
		},
		"SOAK is no time": {
			before: func(m *machine) { m.write("etc/holdfast/package.conf", "SOAK=2s --ratio=0\n") },
			want:   reloaded + hot, said: []string{"SOAK=2s --ratio=0 in /etc/holdfast: use a time such as 10s"},
		},
		"another description, reload and order": {
			unpack: func(m *machine) {
				text := strings.NewReplacer("=one", "=two", "reload --socket", "reload  --timeout=9s --socket", "Type=notify\n", "# a comment\n\n").Replace(service)
				m.write(units+"myapp.service", strings.ReplaceAll(strings.Replace(text, "\n[Install]", "Restart = always\nType=notify\n[Install]", 1), "DIR", m.dir))
			},
			want: reloaded + hot, said: []string{"upgraded"},
		},
		"order within a name": {
			unpack: edit("myapp.service", "SystemCallFilter=@system-service\nSystemCallFilter=~@privileged\n", "SystemCallFilter=~@privileged\nSystemCallFilter=@system-service\n"),
			want:   reloaded + restart + wait, said: []string{"is restarted: myapp.service changed in "},
		},
		"an argument": {
			unpack: edit("myapp.service", "-config=x", "-config=x \\\n -listen=y"),
			want:   reloaded + restart + wait, said: []string{"is restarted: myapp.service changed in ExecStart"},
		},
		"a drop-in of the package": {
			unpack: func(m *machine) {
				m.write(units+"myapp.service.d/limits.conf", "[Service]\nLimitNOFILE=4096\n")
			},
			want: reloaded + restart + wait, said: []string{"changed in LimitNOFILE"},
		},
		"a drop-in that the administrator has replaced": {
			before: func(m *machine) { m.write("etc/systemd/system/myapp.service.d/limits.conf", "") },
			unpack: func(m *machine) {
				m.write(units+"myapp.service.d/limits.conf", "[Service]\nLimitNOFILE=4096\n")
			},
			want: reloaded + hot, said: []string{"upgraded"},
		},
		"a unit that the administrator has replaced": {
			before: func(m *machine) {
				m.write("etc/systemd/system/myapp.service", strings.ReplaceAll(service, "DIR", m.dir))
			},
			unpack: edit("myapp.service", "Type=notify", "Type=notify\nEnvironment=A=1"),
			want:   reloaded + hot, said: []string{"upgraded"},
		},
		"a longer backlog": {
			unpack: edit("myapp.socket", "Backlog=4096", "Backlog=128"),
			want:   reloaded + hot, said: []string{"upgraded"},
		},
		"another name of a descriptor": {
			unpack: edit("myapp.socket", "=http", "=web"),
			want:   reloaded + restart + wait, said: []string{"myapp.socket changed in FileDescriptorName"},
		},
		"another address": {
			unpack: edit("myapp.socket", ":8080", ":8081"),
			want:   reloaded + "systemctl restart myapp.socket myapp.service\n" + wait,
			said:   []string{"ATTENTION: the addresses of myapp.socket changed", "refused"},
		},
		"another address, and stopped": {
			before: func(m *machine) { m.running("myapp.service", "inactive") },
			unpack: edit("myapp.socket", ":8080", ":8081"),
			want:   reloaded + "systemctl restart myapp.socket\n", said: []string{"does not run"},
		},
		"one more socket": {
			unpack: func(m *machine) {
				m.write(units+"myapp-admin.socket", "[Socket]\nService=myapp.service\nListenStream=/run/myapp-admin\n")
			},
			want: reloaded + restart + wait, said: []string{"myapp-admin.socket is new"},
		},
		"one socket less": {
			before: func(m *machine) {
				m.write(units+"myapp-admin.socket", "[Socket]\nService=myapp.service\nListenStream=/run/myapp-admin\n")
			},
			unpack: func(m *machine) { m.remove(units + "myapp-admin.socket") },
			want:   reloaded + "systemctl stop myapp-admin.socket\n" + hot, said: []string{"upgraded"},
		},
		"a restart fails, and the last good version comes": {
			unpack: edit("myapp.service", "Type=notify", "Type=exec"),
			after: func(m *machine) {
				m.write("exit/systemctl.restart", "1")
				m.mark()
			},
			want: reloaded + restart + wait, said: []string{"is restarted: myapp.service changed in Type", "THE NEW VERSION IS INSTALLED AND DOES NOT RUN: the last good one was started instead"},
		},
		"a restart, where the file has failed before": {
			unpack: edit("myapp.service", "Type=notify", "Type=exec"),
			after:  (*machine).mark,
			want:   reloaded + restart + wait, said: []string{"DOES NOT RUN: the last good one was started instead"},
		},
		"a restart at the second attempt": {
			unpack: edit("myapp.service", "Type=notify", "Type=exec"),
			after: func(m *machine) {
				m.write("exit/systemctl.restart", "1")
				m.startedAnew("id-2")
			},
			want: reloaded + restart + wait, said: []string{"not at the first attempt"},
		},
		"a restart, and nothing comes": {
			unpack: edit("myapp.service", "Type=notify", "Type=exec"),
			after: func(m *machine) {
				m.write("exit/systemctl.restart", "1")
				m.write("exit/holdfast.wait", "3")
				m.write("answers/ActiveState.myapp.service", "activating\n")
			},
			want: reloaded + restart + wait, said: []string{"THE SERVICE IS DOWN"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, format := range []string{"deb", "rpm"} {
				m := installed(t)
				do := func(f func(*machine)) {
					if f != nil {
						f(m)
					}
				}
				quiet := func(args ...string) {
					t.Helper()
					calls, said, code := m.run(args...)
					checkRun(t, calls, "", said, nil, code, 0)
				}
				do(c.before)
				first, want := []string{"deb", "preinst", "myapp", "upgrade", "1", "2"}, c.want
				if format == "rpm" {
					first = []string{"rpm", "pre", "myapp", "2"}
				} else {
					quiet("deb", "prerm", "myapp", "upgrade", "2")
				}
				quiet(first...)
				do(c.unpack)
				m.write("new", "version 2")
				if err := os.Rename(m.path("new"), m.path("usr/bin/myapp")); err != nil {
					t.Fatal(err)
				}
				do(c.after)
				if format == "rpm" {
					calls, said, code := m.run("rpm", "post", "myapp", "2")
					checkRun(t, calls, calm[0], said, nil, code, 0)
					quiet("rpm", "preun", "myapp", "1")
					quiet("rpm", "postun", "myapp", "1")
					calls, said, code = m.run("rpm", "posttrans", "myapp", "2")
					checkRun(t, withoutMarks(t, calls), want, said, c.said, code, c.code)
					continue
				}
				quiet("deb", "postrm", "myapp", "upgrade", "2")
				calls, said, code := m.run("deb", "postinst", "myapp", "configure", "1")
				calls = slices.DeleteFunc(calls, func(call string) bool {
					return slices.Contains(calm, call) || strings.HasPrefix(call, "deb-systemd-helper ") && strings.Contains(call, "myapp-admin.socket")
				})
				checkRun(t, calls, want, said, c.said, code, c.code)
			}
		})
	}
}

// withoutMarks returns what posttrans called after it has taken back the marks that the version before may have set:
// first of all, so that systemd's file triggers find none, whatever becomes of the rest.
func withoutMarks(t *testing.T, calls []string) []string {
	t.Helper()
	if len(calls) == 0 {
		return nil // systemd does not run
	}
	const mark = "systemctl set-property "
	if want := mark + "myapp.service Markers=-needs-restart -needs-reload\n"; calls[0] != want {
		t.Errorf("posttrans called %q first, want %q", calls[0], want)
	}
	i := slices.IndexFunc(calls, func(call string) bool { return !strings.HasPrefix(call, mark) })
	return calls[max(i, 0):]
}

// A restart that was due and did not happen stays due, until the service is started anew.
func TestRestartStaysDue(t *testing.T) {
	m := installed(t)
	m.write("etc/holdfast/package.conf", "UPGRADE=manual\n")
	m.run("deb", "preinst", "myapp", "upgrade", "1", "2")
	m.write(units+"myapp.service", strings.ReplaceAll(service, "DIR", m.dir)+"[Service]\nEnvironment=A=1\n")
	if _, said, _ := m.run("deb", "postinst", "myapp", "configure", "1"); !strings.Contains(said, "systemctl restart myapp") {
		t.Errorf("the first: %s", said)
	}
	m.run("deb", "preinst", "myapp", "upgrade", "2", "3")
	if _, said, _ := m.run("deb", "postinst", "myapp", "configure", "2"); !strings.Contains(said, "systemctl restart myapp") {
		t.Errorf("the second has forgotten it: %s", said)
	}
	m.write("answers/InvocationID.myapp.service", "id-2\n")
	m.run("deb", "preinst", "myapp", "upgrade", "3", "4")
	if _, said, _ := m.run("deb", "postinst", "myapp", "configure", "3"); strings.Contains(said, "systemctl restart") {
		t.Errorf("it has been started anew: %s", said)
	}
}

// TestAdoption: the version before was one without Holdfast.
func TestAdoption(t *testing.T) {
	for name, seen := range map[string]bool{"seen by preinst": true, "not seen, for holdfast comes with it": false} {
		t.Run(name, func(t *testing.T) {
			m := installed(t)
			m.write(units+"myapp.service", "[Service]\nExecStart="+m.dir+"/usr/bin/myapp\n[Install]\nWantedBy=multi-user.target\n")
			m.remove(units + "myapp.socket")
			if seen {
				m.run("deb", "preinst", "myapp", "upgrade", "1", "2")
			}
			m.write(units+"myapp.service", strings.ReplaceAll(service, "DIR", m.dir))
			m.write(units+"myapp.socket", socket)
			calls, said, code := m.run("deb", "postinst", "myapp", "configure", "1")
			checkRun(t, calls[len(calm):], reloaded+restart+wait, said, []string{"is restarted: "}, code, 0)
		})
	}
}

// TestLeaving: the version that comes next is one without a socket unit. The socket is
// closed, so that it can bind the address; by then systemd has read its unit.
func TestLeaving(t *testing.T) {
	for _, format := range []string{"deb", "rpm"} {
		m := installed(t)
		if format == "deb" {
			m.run("deb", "prerm", "myapp", "upgrade", "0")
		} else {
			m.run("rpm", "preun", "myapp", "1")
		}
		m.write(units+"myapp.service", "[Service]\nExecStart=/usr/bin/myapp\n")
		m.remove(units + "myapp.socket")
		args, want := []string{"deb", "postrm", "myapp", "upgrade", "0"}, reloaded+"systemctl stop myapp.socket\n"
		if format == "rpm" {
			// There the macros of the version before restart it.
			args, want = []string{"rpm", "postun", "myapp", "1"}, want+reloaded+"systemctl try-restart myapp.service\n"
		}
		calls, said, code := m.run(args...)
		checkRun(t, calls, want, said, nil, code, 0)
	}
}

func TestFirstInstall(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(*machine)
		want string
		said []string
		code int
	}{
		"enabled":              {want: reloaded + start},
		"service not enabled":  {set: func(m *machine) { m.remove("answers/enabled.myapp.service") }, want: reloaded + "systemctl start myapp.socket\n"},
		"masked before":        {set: func(m *machine) { m.write("answers/enabled.myapp.service", "masked\n") }, want: reloaded + "systemctl start myapp.socket\n"},
		"systemd does not run": {set: func(m *machine) { m.remove("run/systemd") }},
		"it does not start": {
			set:  func(m *machine) { m.write("exit/systemctl.start", "1") },
			want: reloaded + start, said: []string{"myapp.service did not start; see: systemctl status myapp.service"},
		},
		"ON_FAILURE=fail": {
			set: func(m *machine) {
				m.write("exit/systemctl.start", "1")
				m.write("etc/holdfast/package.conf", "ON_FAILURE=fail")
			},
			want: reloaded + "systemctl start myapp.socket\n", said: []string{"myapp.socket did not start"}, code: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			for format, args := range map[string][]string{
				"deb": {"deb", "postinst", "myapp", "configure", ""}, "rpm": {"rpm", "post", "myapp", "1"},
			} {
				m := installed(t)
				m.running("myapp.service", "inactive")
				m.running("myapp.socket", "inactive")
				if c.set != nil {
					c.set(m)
				}
				if format == "rpm" {
					m.run("rpm", "pre", "myapp", "1")
				} else {
					m.run("deb", "preinst", "myapp", "install")
				}
				calls, said, code := m.run(args...)
				begin := calm
				if format == "rpm" {
					begin = []string{calm[0], "systemctl --no-reload preset myapp.socket myapp.service\n"}
				}
				checkRun(t, calls, strings.Join(begin, "")+c.want, said, c.said, code, c.code)
				if format == "rpm" {
					calls, said, code = m.run("rpm", "posttrans", "myapp", "1")
					checkRun(t, calls, "", said, nil, code, 0)
				}
			}
		})
	}
}

// TestPolicy: policy-rc.d is asked before anything is started, upgraded or stopped.
func TestPolicy(t *testing.T) {
	m := installed(t)
	m.write("usr/sbin/policy-rc.d", "#!/bin/sh\necho \"$@\" >>\"$MACHINE/asked\"\nexit 101\n")
	m.run("deb", "preinst", "myapp", "upgrade", "1", "2")
	m.write("new", "version 2")
	if err := os.Rename(m.path("new"), m.path("usr/bin/myapp")); err != nil {
		t.Fatal(err)
	}
	calls, said, code := m.run("deb", "postinst", "myapp", "configure", "1")
	checkRun(t, calls, strings.Join(calm, "")+reloaded, said, []string{"is not upgraded: policy-rc.d forbids it. Later: systemctl reload myapp\n"}, code, 0)
	m.running("myapp.service", "inactive")
	calls, said, code = m.run("deb", "postinst", "myapp", "configure")
	checkRun(t, calls, strings.Join(calm, "")+reloaded, said, []string{"myapp.socket is not started: policy-rc.d", "myapp.service is not started: policy-rc.d"}, code, 0)
	calls, said, code = m.run("deb", "prerm", "myapp", "remove")
	checkRun(t, calls, "", said, []string{"is not stopped: policy-rc.d forbids it"}, code, 0)
	asked, err := os.ReadFile(m.path("asked"))
	if want := "myapp.service restart\nmyapp.socket start\nmyapp.service start\nmyapp.service stop\n"; err != nil || string(asked) != want {
		t.Errorf("it asked %q (%v), want %q", asked, err, want)
	}

	m = installed(t)
	m.write("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 104\n")
	if calls, _, _ := m.run("deb", "prerm", "myapp", "remove"); len(calls) != 1 {
		t.Errorf("with 104 it called %q", calls)
	}
}

// TestRootOfDpkg: with DPKG_ROOT the machine that dpkg runs on is left alone.
func TestRootOfDpkg(t *testing.T) {
	m := installed(t)
	other := t.TempDir()
	m.env = append(m.env, "DPKG_ROOT="+other)
	for _, args := range [][]string{
		{"preinst", "myapp", "upgrade", "1", "2"},
		{"prerm", "myapp", "upgrade", "2"},
		{"postrm", "myapp", "upgrade", "2"},
		{"prerm", "myapp", "remove"},
		{"postrm", "myapp", "remove"},
	} {
		calls, said, code := m.run(append([]string{"deb"}, args...)...)
		checkRun(t, calls, "", said, nil, code, 0)
	}
	for _, version := range []string{"", "1"} {
		calls, said, code := m.run("deb", "postinst", "myapp", "configure", version)
		checkRun(t, calls, strings.Join(calm[4:], ""), said, nil, code, 0)
	}
}

func TestRemoval(t *testing.T) {
	fill := func(m *machine) {
		for _, name := range []string{"myapp.holdfast/good", "private/myapp.holdfast/good", "holdfast/history/myapp.service/1.json", "holdfast/frozen/myapp.service.json", "holdfast/locks/myapp.service"} {
			m.write("var/lib/"+name, "")
		}
		m.write("var/lib/holdfast/history/myapp2.service/1.json", "")
		for _, unit := range []string{"myapp.service", "myapp.socket"} {
			m.write("var/lib/systemd/deb-systemd-helper-enabled/"+unit+".dsh-also", "")
		}
	}
	gone := func(m *machine) {
		t.Helper()
		for _, name := range []string{"run/holdfast/package/myapp", "var/lib/myapp.holdfast", "var/lib/private/myapp.holdfast", "var/lib/holdfast/history/myapp.service", "var/lib/holdfast/frozen/myapp.service.json", "var/lib/holdfast/locks/myapp.service"} {
			if m.exists(name) {
				t.Errorf("%s is left", name)
			}
		}
		if !m.exists("var/lib/holdfast/history/myapp2.service/1.json") {
			t.Error("the history of another service is gone")
		}
	}

	m := installed(t)
	fill(m)
	m.run("deb", "preinst", "myapp", "upgrade", "1", "2")
	calls, said, code := m.run("deb", "prerm", "myapp", "remove")
	checkRun(t, calls, "systemctl stop myapp.service myapp.socket\n", said, nil, code, 0)
	m.remove(units + "myapp.service")
	m.remove(units + "myapp.socket")
	calls, said, code = m.run("deb", "postrm", "myapp", "remove")
	checkRun(t, calls, reloaded, said, nil, code, 0)
	if !m.exists("var/lib/myapp.holdfast/good") {
		t.Error("remove has removed what purge removes")
	}
	calls, said, code = m.run("deb", "postrm", "myapp", "purge")
	checkRun(t, calls, "deb-systemd-helper purge myapp.service\ndeb-systemd-helper purge myapp.socket\n", said, nil, code, 0)
	gone(m)

	m = installed(t)
	fill(m)
	calls, said, code = m.run("rpm", "preun", "myapp", "0")
	checkRun(t, calls, "systemctl stop myapp.service myapp.socket\nsystemctl --no-reload disable myapp.service myapp.socket\n", said, nil, code, 0)
	m.remove(units + "myapp.service")
	m.remove(units + "myapp.socket")
	calls, said, code = m.run("rpm", "postun", "myapp", "0")
	checkRun(t, calls, reloaded, said, nil, code, 0)
	gone(m)
}

// TestAborted: dpkg puts back what there was.
func TestAborted(t *testing.T) {
	m := installed(t)
	calls, said, code := m.run("deb", "postinst", "myapp", "abort-remove")
	checkRun(t, calls, strings.Join(calm[1:], "")+reloaded+start, said, nil, code, 0)
	for _, action := range []string{"abort-upgrade", "abort-deconfigure"} {
		calls, said, code = m.run("deb", "postinst", "myapp", action, "2")
		checkRun(t, calls, strings.Join(calm[1:], ""), said, nil, code, 0)
	}
	for _, action := range []string{"abort-install", "abort-upgrade", "failed-upgrade"} {
		calls, said, code = m.run("deb", "postrm", "myapp", action, "2")
		checkRun(t, calls, "", said, nil, code, 0)
	}
}

// TestReinstall: after a removal without purge dpkg gives the old version to postinst, and
// the service is to start again.
func TestReinstall(t *testing.T) {
	m := installed(t)
	m.running("myapp.service", "inactive")
	m.run("deb", "preinst", "myapp", "install", "1")
	calls, said, code := m.run("deb", "postinst", "myapp", "configure", "1")
	checkRun(t, calls, strings.Join(calm, "")+reloaded+start, said, nil, code, 0)
}

func TestNeedrestart(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(*machine)
		want string
		said string
	}{
		"a library was replaced": {want: hot, said: "upgraded"},
		"the version has failed": {set: (*machine).mark, said: "is left alone: the version that is installed has failed already"},
		"UPGRADE=manual":         {set: func(m *machine) { m.write("etc/holdfast/package.conf", "UPGRADE=manual\n") }, said: "is left alone: UPGRADE=manual"},
		"frozen":                 {set: func(m *machine) { m.write("var/lib/holdfast/frozen/myapp.service.json", "{}") }, said: "is left alone: its upgrades are frozen"},
		"not of Holdfast":        {set: func(m *machine) { m.write(units+"myapp.service", "[Service]\nExecStart=/usr/bin/myapp\n") }, want: restart},
	} {
		t.Run(name, func(t *testing.T) {
			m := installed(t)
			if c.set != nil {
				c.set(m)
			}
			calls, said, code := m.run("deb", "needrestart", "myapp.service")
			var wantSaid []string
			if c.said != "" {
				wantSaid = []string{c.said}
			}
			checkRun(t, calls, c.want, said, wantSaid, code, 0)
		})
	}

	m := installed(t)
	m.write(units+"web@.service", strings.ReplaceAll(service, "DIR", m.dir))
	calls, said, code := m.run("deb", "needrestart", "web@1.service")
	checkRun(t, calls, strings.Replace(hot, "myapp", "web@1", 1), said, []string{"web@1: upgraded"}, code, 0)
}

func TestUsage(t *testing.T) {
	m := newMachine(t)
	for want, args := range map[string][]string{
		"2 arguments":                    {"deb", "postinst"},
		"deb posttrans: no such script":  {"deb", "posttrans", "myapp", "2"},
		"apk post: no such script":       {"apk", "post", "myapp", "1"},
		"my/app: no name of a service":   {"deb", "postinst", "my/app", "configure"},
		"myapp@: no name of a service":   {"deb", "postinst", "myapp@.service", "configure"},
		": no name of a service":         {"rpm", "post", "", "1"},
		"myapp@1: no name of a service;": {"rpm", "post", "myapp@1", "1"},
	} {
		calls, said, code := m.run(args...)
		checkRun(t, calls, "", said, []string{"package: " + want}, code, 2)
	}
}

// TestShellcheck reads the scripts with shellcheck, where it is installed.
func TestShellcheck(t *testing.T) {
	scripts, err := filepath.Glob("../nfpm/scripts/*")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("scripts: %q, %v", scripts, err)
	}
	args := append([]string{"package", "needrestart", "../install"}, scripts...)
	if _, err := exec.LookPath("shellcheck"); err != nil {
		if os.Geteuid() == 0 {
			t.Fatal("shellcheck is not installed: sh packaging/install")
		}
		t.Skip("shellcheck is not installed: as root, sh packaging/install installs it")
	}
	if out, err := exec.CommandContext(t.Context(), "shellcheck", args...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
