// SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/control/command/commandtest"
	"github.com/holdfast-go/holdfast/reexec/internal/lastgood"
)

// launching is one run of the launcher whose programs are not executed.
type launching struct {
	dir, program string
	executed     []string
	variable     string
	argv         []string
	fail         map[string]error // of executing a path
}

func newLaunching(t *testing.T) *launching {
	t.Helper()
	dir := t.TempDir()
	l := &launching{dir: filepath.Join(dir, "state"), program: filepath.Join(dir, "myapp"), fail: map[string]error{}}
	l.install(t, "v1")
	return l
}

func (l *launching) install(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(l.program+".new", []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(l.program+".new", l.program); err != nil {
		t.Fatal(err)
	}
}

// executed ends the launcher as execve(2) does.
type executed struct{}

// run runs the launcher. What it prints is in out only if it could execute
// nothing.
func (l *launching) run(args ...string) (out commandtest.Output) {
	defer func() {
		if r := recover(); r != nil && r != any(executed{}) {
			panic(r)
		}
	}()
	l.executed, l.variable, l.argv = nil, "", nil
	if args == nil {
		args = []string{"--state=" + l.dir, "--", l.program, "-x", "--", "--state=/y"}
	}
	environ := []string{"A=b", lastgood.Variable + "=good,/elsewhere"}
	return commandtest.Run(func(stdout, stderr io.Writer) int {
		return launch(args, stdout, stderr, environ, func(path string, argv, environ []string) error {
			l.executed, l.argv, l.variable = append(l.executed, path), argv, ""
			for _, kv := range environ {
				if value, ok := strings.CutPrefix(kv, lastgood.Variable+"="); ok {
					l.variable += value
				}
			}
			if err := l.fail[path]; err != nil {
				return err
			}
			panic(executed{})
		})
	})
}

// keep makes what is installed the good one.
func (l *launching) keep(t *testing.T, version string) (path string) {
	t.Helper()
	d, err := lastgood.Open(l.dir)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(l.program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	id, err := lastgood.Identify(f)
	if err != nil {
		t.Fatal(err)
	}
	stamp, err := d.KeepCopy(f, id)
	if err != nil {
		t.Fatal(err)
	}
	l.update(t, func(r *lastgood.Record) { r.Proven(lastgood.Good{Identity: id, Version: version, Copy: stamp}, false) })
	return d.CopyOf(id)
}

func (l *launching) update(t *testing.T, change func(*lastgood.Record)) {
	t.Helper()
	d, err := lastgood.Open(l.dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Update(func(err error) { t.Error(err) }, func(r *lastgood.Record) error { change(r); return nil }); err != nil {
		t.Fatal(err)
	}
}

func (l *launching) want(t *testing.T, what string, paths ...string) {
	t.Helper()
	if !slices.Equal(l.executed, paths) {
		t.Errorf("%s: executed %q, want %q", what, l.executed, paths)
	}
	if !slices.Equal(l.argv, []string{l.program, "-x", "--", "--state=/y"}) {
		t.Errorf("%s: its arguments are %q", what, l.argv)
	}
	want := "file," + l.dir
	if paths[len(paths)-1] != l.program {
		want = "good," + l.dir
	}
	if l.variable != want {
		t.Errorf("%s: %s=%q, want %q", what, lastgood.Variable, l.variable, want)
	}
}

func TestLaunchChooses(t *testing.T) {
	l := newLaunching(t)
	for n := range lastgood.MaxAttempts + 2 {
		l.run()
		l.want(t, fmt.Sprintf("attempt %d, with nothing better", n), l.program)
	}
	good := l.keep(t, "1.0.0")
	for range lastgood.MaxAttempts + 2 {
		l.run()
		l.want(t, "the good one itself", l.program)
	}
	l.install(t, "v2")
	for range lastgood.MaxAttempts {
		l.run()
		l.want(t, "a new one", l.program)
	}
	for range 2 {
		l.run()
		l.want(t, "after all attempts", good)
	}
	l.install(t, "v3")
	l.run()
	l.want(t, "a newer one", l.program)
	l.install(t, "v2")
	l.run()
	l.want(t, "the failed one again", good)
	if err := os.Remove(l.program); err != nil {
		t.Fatal(err)
	}
	l.run()
	l.want(t, "no file", good)
	l.install(t, "v2")
	o := commandtest.Run(func(stdout, stderr io.Writer) int { return Retry([]string{"--state=" + l.dir}, stdout, stderr) })
	o.Want(t, ExitOK, "forgotten: failed at ", "")
	l.run()
	l.want(t, "after a retry", l.program)
	o = commandtest.Run(func(stdout, stderr io.Writer) int { return Retry([]string{"--state=" + l.dir}, stdout, stderr) })
	o.Want(t, ExitOK, "nothing was marked as failed\n", "")
}

// A script in front of the program starts it, and is told what that costs.
func TestLaunchScript(t *testing.T) {
	l := newLaunching(t)
	l.install(t, "#!/bin/sh\nexec /usr/lib/myapp/myapp \"$@\"\n")
	for range 2 {
		l.run()
		l.want(t, "a script", l.program)
	}
	l.fail[l.program] = syscall.ENOENT // its interpreter
	o := l.run()
	o.Want(t, ExitExec, "", "holdfast launch: "+l.program+" is a script: ")
	if want := "name the program itself in ExecStart="; !strings.Contains(o.Stderr, want) {
		t.Errorf("it said %q, want %q in it", o.Stderr, want)
	}
}

// What the kernel refuses at once needs no three attempts.
func TestLaunchFallsBackAtOnce(t *testing.T) {
	l := newLaunching(t)
	good := l.keep(t, "1.0.0")
	l.install(t, "v2")
	l.fail[l.program] = syscall.ENOEXEC
	l.run()
	l.want(t, "exec format error", l.program, good)
	elf, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	l.install(t, string(elf[:len(elf)/3]))
	l.run()
	l.want(t, "cut off", good)

	l.fail[good] = syscall.EACCES
	delete(l.fail, l.program)
	l.run()
	l.want(t, "a copy that cannot be executed either", good, l.program)
	l.fail[l.program] = syscall.ENOEXEC
	l.install(t, "v3")
	o := l.run()
	o.Want(t, ExitExec, "", "holdfast launch: "+l.program+" cannot be executed: exec format error; the last good version, 1.0.0 of ")
	if want := "holdfast launch: execute " + good + ": permission denied"; o.LastLine() != want {
		t.Errorf("last line %q, want %q", o.LastLine(), want)
	}
	if err := os.RemoveAll(l.dir); err != nil {
		t.Fatal(err)
	}
	l.run().Want(t, ExitExec, "", "execute "+l.program+": exec format error")
}

// Whatever is wrong with the record, the service starts.
func TestLaunchWithoutRecord(t *testing.T) {
	record := func(text string) func(*testing.T, *launching) {
		return func(t *testing.T, l *launching) {
			if err := os.WriteFile(filepath.Join(l.dir, "record.json"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, damage := range map[string]func(*testing.T, *launching){
		"garbage":         record("garbage"),
		"a later release": record(`{"format":99}`),
		"others may write": func(t *testing.T, l *launching) {
			if err := os.Chmod(l.dir, 0o777); err != nil {
				t.Fatal(err)
			}
		},
		"a file": func(t *testing.T, l *launching) {
			if err := errors.Join(os.RemoveAll(l.dir), os.WriteFile(l.dir, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		},
		"no directory": func(t *testing.T, l *launching) { l.dir += "/a/b" },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLaunching(t)
			l.keep(t, "1.0.0")
			damage(t, l)
			l.run()
			if !slices.Equal(l.executed, []string{l.program}) {
				t.Errorf("executed %q", l.executed)
			}
		})
	}
	l := newLaunching(t)
	t.Setenv("STATE_DIRECTORY", "")
	l.run("--", l.program)
	if !slices.Equal(l.executed, []string{l.program}) || l.variable != "" {
		t.Errorf("without a state directory: %q, %s=%q", l.executed, lastgood.Variable, l.variable)
	}
	t.Setenv("STATE_DIRECTORY", filepath.Dir(l.dir)+":/none")
	l.run(l.program)
	if want := "file," + filepath.Join(filepath.Dir(l.dir), "holdfast"); l.variable != want {
		t.Errorf("%s=%q, want %q", lastgood.Variable, l.variable, want)
	}
}

func TestLaunchUsage(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"", "name the PROGRAM"},
		{"--state=/x", "name the PROGRAM"},
		{"myapp", `PROGRAM "myapp": must be an absolute path`},
		{"--wait /bin/true", "flag provided but not defined: --wait"},
	} {
		o := commandtest.Run(func(stdout, stderr io.Writer) int { return Launch(strings.Fields(tt.args), stdout, stderr) })
		o.Want(t, ExitUsage, "", tt.want)
	}
	for _, tt := range []struct{ args, want string }{
		{"", "name the UNIT"},
		{"a b", `one UNIT at a time: "b" is too many`},
		{"--state=/x a", `UNIT "a" and --state="/x": use one of them`},
		{"../x", "is a path"},
	} {
		o := commandtest.Run(func(stdout, stderr io.Writer) int { return Retry(strings.Fields(tt.args), stdout, stderr) })
		o.Want(t, ExitUsage, "", tt.want)
	}
	o := commandtest.Run(func(stdout, stderr io.Writer) int { return Retry([]string{"none-such"}, stdout, stderr) })
	o.Want(t, ExitFailed, "", `there is no record /var/lib/none-such.holdfast: is it started by "holdfast launch"?`)
}

// The launcher becomes the program: PID, descriptors, environment and name stay.
func TestLaunchExecutes(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "state")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(self, "launch", "--state="+dir, "--", "/bin/sh", "-c", `echo "$$ $0 $HOLDFAST_LAUNCH $NOTIFY_SOCKET $1"; echo passed >&3`, "/bin/sh", "last")
	cmd.Env = append(os.Environ(), envMain+"=1", "NOTIFY_SOCKET=/run/notify")
	cmd.ExtraFiles = []*os.File{w}
	out, err := cmd.Output()
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%d /bin/sh file,%s /run/notify last\n", cmd.Process.Pid, dir); string(out) != want {
		t.Errorf("it says %q, want %q", out, want)
	}
	if text, err := io.ReadAll(r); string(text) != "passed\n" || err != nil {
		t.Errorf("descriptor 3 got %q, %v", text, err)
	}
}
