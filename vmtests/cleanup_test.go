// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests"
)

// traces returns where a machine shows on the host, as far as it does.
func traces(t *testing.T, name string) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{
		"/run/holdfast-vmtests/" + name,
		"/sys/fs/cgroup/*" + name,
		"/sys/fs/cgroup/*/*" + name, // also in the old hierarchies
		"/run/systemd/nspawn/*/*" + name,
	} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, files...)
	}
	return append(found, mountsOfMachines()...)
}

// waitGone waits until the process behind pidfd has ended.
func waitGone(t *testing.T, pidfd int) {
	t.Helper()
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1)
		if err == nil {
			return
		}
		if err != unix.EINTR {
			t.Fatal(err)
		}
	}
}

func openPidfd(t *testing.T, pid int) int {
	t.Helper()
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pidfd) })
	return pidfd
}

func TestCloseLeavesNothing(t *testing.T) {
	everyVersion(t, func(t *testing.T, m *vmtests.Machine) {
		ctx := t.Context()
		leader, err := m.HostPID(1)
		if err != nil {
			t.Fatal(err)
		}
		if pid, err := m.GuestPID(leader); err != nil || pid != 1 {
			t.Errorf("GuestPID(%d): got %d (%v), want 1", leader, pid, err)
		}
		if _, err := m.GuestPID(os.Getpid()); err == nil {
			t.Error("GuestPID of a process outside: got no error")
		}
		if _, err := m.HostPID(1 << 30); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("HostPID of nothing: got error %v", err)
		}
		if found := traces(t, m.Name); len(found) == 0 {
			t.Error("no traces of a running machine: this test looks in the wrong places")
		}
		// Of what the command left in the background, PID 1 inside is the parent.
		if err := m.Run(ctx, "sh", "-c", "sleep infinity >/dev/null 2>&1 &"); err != nil {
			t.Fatal(err)
		}
		p, err := m.Start(ctx, vmtests.Command{Args: []string{"sleep", "infinity"}})
		if err != nil {
			t.Fatal(err)
		}
		sleeper, err := m.HostPID(p.PID)
		if err != nil {
			t.Fatal(err)
		}
		pidfds := []int{openPidfd(t, leader), openPidfd(t, sleeper)}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		for _, pidfd := range pidfds {
			waitGone(t, pidfd)
		}
		if found := traces(t, m.Name); len(found) > 0 {
			t.Errorf("left behind: %q", found)
		}
		if err := p.Wait(); err == nil {
			t.Error("Wait for a command of a closed machine: got no error")
		}
		if err := m.Run(ctx, "true"); err == nil {
			t.Error("Run in a closed machine: got no error")
		}
		if err := m.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}

// TestOwnerKilled: a machine ends with its process, even when that can do nothing about it any more.
func TestOwnerKilled(t *testing.T) {
	bystander := vmtests.BootTest(t, vmtests.Systemd247)
	for _, test := range []struct {
		name string
		end  func(owner *exec.Cmd) error
	}{
		{"SIGKILL", func(owner *exec.Cmd) error { return owner.Process.Kill() }},
		{"SIGTERM", func(owner *exec.Cmd) error { return owner.Process.Signal(syscall.SIGTERM) }},
		{"SIGQUIT", func(owner *exec.Cmd) error { return owner.Process.Signal(syscall.SIGQUIT) }},
		{"exit without Close", func(owner *exec.Cmd) error { return owner.Stdin.(*os.File).Close() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx := t.Context()
			owner := exec.CommandContext(ctx, "/proc/self/exe")
			owner.Env = append(os.Environ(), roleVariable+"=252")
			out, err := owner.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			stay, hold, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer hold.Close()
			owner.Stdin = stay
			if err := owner.Start(); err != nil {
				t.Fatal(err)
			}
			stay.Close()
			owner.Stdin = hold
			var name string
			var leader int
			if _, err := fmt.Fscanf(out, "booted %s %d\n", &name, &leader); err != nil {
				t.Fatalf("start an owner: %v", errors.Join(err, owner.Process.Kill(), owner.Wait()))
			}
			pidfd := openPidfd(t, leader)
			if err := test.end(owner); err != nil {
				t.Fatal(err)
			}
			_ = owner.Wait() // says how it ended, which we know
			waitGone(t, pidfd)

			if err := vmtests.Sweep(ctx); err != nil {
				t.Fatal(err)
			}
			if found := traces(t, name); len(found) > 0 {
				t.Errorf("left behind: %q", found)
			}
			if err := bystander.Run(ctx, "systemctl", "is-active", "--quiet", "dbus"); err != nil {
				t.Errorf("a machine of a living process: %v", err)
			}
		})
	}
}

func TestMachinesAreSeparate(t *testing.T) {
	ctx := t.Context()
	one, two := vmtests.BootTest(t, vmtests.Systemd257), vmtests.BootTest(t, vmtests.Systemd257)
	if err := one.WriteFile(ctx, "/etc/of-one", []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := two.ReadFile(ctx, "/etc/of-one"); err == nil {
		t.Error("one machine sees a file of the other")
	}
	for _, file := range []string{"/etc/machine-id", "/proc/sys/kernel/hostname", "/proc/sys/kernel/random/boot_id"} {
		a, errA := one.ReadFile(ctx, file)
		b, errB := two.ReadFile(ctx, file)
		if err := errors.Join(errA, errB); err != nil || string(a) == string(b) || len(a) < 10 {
			t.Errorf("%s: got %q and %q (%v), want one for each", file, a, b, err)
		}
	}
	// The same port on both: the loopback devices are two.
	const listen = `[Socket]
ListenStream=127.0.0.1:7
Accept=yes
`
	for _, m := range []*vmtests.Machine{one, two} {
		for name, text := range map[string]string{"lane.socket": listen, "lane@.service": "[Service]\nExecStart=true\n"} {
			if err := m.WriteFile(ctx, "/etc/systemd/system/"+name, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.Run(ctx, "systemctl", "start", "lane.socket"); err != nil {
			t.Error(err)
		}
		links, err := m.Output(ctx, "ip", "-oneline", "link")
		if err != nil || strings.Count(links, "\n") != 0 || !strings.Contains(links, "LOOPBACK,UP") {
			t.Errorf("network devices: got %q (%v), want lo only, up", links, err)
		}
	}
}

func TestRequireNamesWhatIsMissing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip(vmtests.ErrNotRoot)
	}
	if err := vmtests.RequireContainers(); err != nil {
		t.Fatalf("with everything installed: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	err := vmtests.RequireContainers()
	var missing *vmtests.MissingError
	if !errors.As(err, &missing) {
		t.Fatalf("got %v, want a MissingError", err)
	}
	for _, name := range []string{"mmdebstrap", "systemd-container", "util-linux"} {
		if !slices.Contains(missing.Packages, name) {
			t.Errorf("packages: got %q, want %s among them", missing.Packages, name)
		}
	}
	if text := err.Error(); !strings.Contains(text, "make vmtests-prepare") || !strings.Contains(text, "systemd-nspawn(1)") {
		t.Errorf("got %q, want the program and the command to install it", text)
	}
	if _, err := vmtests.Boot(t.Context(), vmtests.Systemd257); !errors.As(err, &missing) {
		t.Errorf("Boot: got %v, want a MissingError", err)
	}
}

// TestOthersSkip: the tests skip for users other than root, and only then, and say why.
func TestOthersSkip(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip(vmtests.ErrNotRoot)
	}
	// Others may not enter the directory in which go test keeps its binary.
	dir, err := os.MkdirTemp("", "vmtests-*")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "test"), program, 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "test"), "-test.run=^TestVersionIsTheOneAskedFor$", "-test.v")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := strings.Count(string(out), "real systemd needs root"); got != 4 || strings.Count(string(out), "--- SKIP") != 4 {
		t.Errorf("want four skips with their reason, got:\n%s", out)
	}
}
