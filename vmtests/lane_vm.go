// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/internal/command"
	"github.com/holdfast-go/holdfast/vmtests/internal/guest"
	"github.com/holdfast-go/holdfast/vmtests/internal/qmp"
)

// vmBootTimeout bounds the start of a virtual machine, which takes half a minute under emulation, on a busy machine.
const vmBootTimeout = 5 * time.Minute

// guestPort is the name of the virtio-serial port that commands go through.
const guestPort = "holdfast"

// BootVM boots systemd of version v, which is one of [VMVersions], on a kernel of its own in a virtual
// machine, and returns once "systemctl is-system-running --wait" says running. It has one CPU, 1 GiB of memory, no network but the loopback
// device, and a disk that starts from the image and is gone after [Machine.Close]. Where KVM works it
// boots in seconds; elsewhere QEMU emulates the processor, about ten times slower.
//
// Errors are as for [Boot]; on other architectures than amd64 it is [errors.ErrUnsupported].
func BootVM(ctx context.Context, v Version) (*Machine, error) {
	return bootVMSetup(ctx, v, Setup{})
}

func bootVMSetup(ctx context.Context, v Version, setup Setup) (*Machine, error) {
	if err := RequireVMs(); err != nil {
		return nil, err
	}
	if err := setup.check(); err != nil {
		return nil, err
	}
	if setup.Disk != nil {
		return nil, fmt.Errorf("disk of a virtual machine: %w: it has one, which Reset keeps", errors.ErrUnsupported)
	}
	if err := Sweep(ctx); err != nil {
		return nil, err
	}
	image, err := VMImageWith(ctx, v, nil, setup.Packages...)
	if err != nil {
		return nil, err
	}
	accelerator, err := accelerator(ctx, image)
	if err != nil {
		return nil, errors.Join(err, image.Close())
	}
	m, err := bootVM(ctx, v, setup, image, accelerator)
	if err == nil || accelerator == tcg || ctx.Err() != nil {
		return m, err
	}
	// Nested KVM can work for one kernel and fail the next.
	probed.set(tcg)
	image, imageErr := VMImageWith(ctx, v, nil, setup.Packages...)
	if imageErr != nil {
		return nil, errors.Join(err, imageErr)
	}
	m, emulated := bootVM(ctx, v, setup, image, tcg)
	if emulated != nil {
		return nil, errors.Join(err, emulated)
	}
	return m, nil
}

func bootVM(ctx context.Context, version Version, setup Setup, image *Image, accelerator string) (*Machine, error) {
	v := &vm{image: image, setup: setup, said: &tail{limit: 64 << 10}}
	m := &Machine{Version: version, lane: v}
	if err := v.boot(ctx, m, accelerator); err != nil {
		err = fmt.Errorf("boot %v in a virtual machine (%s): %w", version, accelerator, err)
		if said := strings.TrimSpace(v.console()); said != "" {
			err = fmt.Errorf("%w\nits console:\n%s", err, said)
		}
		return nil, errors.Join(err, v.close())
	}
	return m, nil
}

// A vm is the lane of QEMU.
type vm struct {
	image   *Image
	setup   Setup
	dir     *runDir
	qemu    *owned
	monitor *qmp.Client
	said    *tail

	mu     sync.Mutex
	client *guest.Client // of the guest's program; another after each reboot
}

func (v *vm) boot(ctx context.Context, m *Machine, accelerator string) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, vmBootTimeout, fmt.Errorf("not running after %v", vmBootTimeout))
	defer cancel()
	if v.dir, err = newRunDir(ctx, "vm"); err != nil {
		return err
	}
	m.Name = v.dir.name
	program, err := Build(ctx, v.dir.path, guestPackage, "-ldflags=-s -w")
	if err != nil {
		return err
	}
	if err := padToSector(program); err != nil {
		return err
	}
	// QEMU connects to us, so there is no moment to wait for. Once it greets, the port is there to connect to.
	monitor, port := filepath.Join(v.dir.path, "monitor"), v.port()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: monitor, Net: "unix"})
	if err != nil {
		return err
	}
	defer listener.Close()
	cmd := exec.Command("qemu-system-x86_64", slices.Concat(
		qemuBase(v.image, accelerator, "root="+rootPartition+" rootwait rootfstype=ext4 rw systemd.hostname="+m.Name),
		[]string{
			// The root's disk is the second one: whoever counts on /dev/nvme0n1 fails at once, not in one boot of many.
			"-drive", "id=guest,if=none,format=raw,readonly=on,file=" + program, "-device", "nvme,drive=guest,serial=" + guestSerial,
			"-drive", "id=root,if=none,format=raw,snapshot=on,file=" + filepath.Join(v.image.Dir, diskFile), "-device", "nvme,serial=root,drive=root",
			"-chardev", "socket,id=port,server=on,wait=off,path=" + port, "-device", "virtio-serial-pci", "-device", "virtserialport,id=port,chardev=port,name=" + guestPort, // events are of what has an id
			"-chardev", "socket,id=monitor,path=" + monitor, "-mon", "chardev=monitor,mode=control",
			"-device", "virtio-rng-pci",
		})...)
	if v.setup.Network != nil {
		tap, err := v.setup.Network.tap(ctx)
		if err != nil {
			return err
		}
		defer tap.Close() // QEMU has it then
		cmd.ExtraFiles = []*os.File{tap}
		cmd.Args = append(cmd.Args, "-netdev", "tap,id=net,fd=3", "-device", "virtio-net-pci,netdev=net,romfile=,mac="+hardwareAddress(v.setup.Address))
	}
	cmd.Stdout, cmd.Stderr = v.said, v.said
	if v.qemu, err = startOwned(cmd); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { v.qemu.cmd.Process.Kill() })
	go func() { // ends with close(), at the latest
		<-v.qemu.done
		listener.Close()
	}()
	conn, err := listener.Accept()
	if err == nil {
		v.monitor, err = qmp.New(conn) // QEMU's end ends it too
	}
	if err == nil {
		err = v.dial()
	}
	if !stop() {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	if err := m.waitRunning(ctx); err != nil || v.setup.Network == nil {
		return err
	}
	return m.configureNetwork(ctx, v.setup.Address)
}

// waitRunning waits until systemd has started all that it starts at boot.
func (m *Machine) waitRunning(ctx context.Context) error {
	state, err := m.Systemctl(ctx, "is-system-running", "--wait")
	if state != "running" {
		return fmt.Errorf("systemd says %q (%v); failed units: %s", state, err, m.failedUnits(ctx))
	}
	return nil
}

// port is the host's end of the virtio-serial port.
func (v *vm) port() string { return filepath.Join(v.dir.path, "port") }

// dial waits until the guest's program is there. It ends with QEMU.
func (v *vm) dial() error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: v.port(), Net: "unix"})
	if err != nil {
		return err
	}
	client, err := guest.Dial(conn)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.client = client
	return nil
}

// hangUp ends the connection to a guest's program that has ended.
func (v *vm) hangUp() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	err := v.client.Close()
	v.client = nil
	return err
}

// reboot lets trigger reboot the machine, and returns once the guest's program is there again. Either its
// kernel boots anew, or systemd starts user space anew on the same kernel.
func (v *vm) reboot(ctx context.Context, kernel bool, trigger func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, vmBootTimeout, fmt.Errorf("not running after %v", vmBootTimeout))
	defer cancel()
	if kernel {
		if err := v.onReset(ctx, "reset"); err != nil {
			return err
		}
	}
	seen := v.monitor.Seen()
	// The guest's program ends first, by itself or with its kernel. Who waits for an answer of it is told by
	// nobody: the stream goes on with the next one.
	triggered, closed := make(chan error, 1), make(chan error, 1)
	go func() { triggered <- trigger(ctx) }()
	go func() {
		_, err := v.monitor.Wait(ctx, seen, portClosed)
		closed <- err
	}()
	for ended := false; !ended; {
		select {
		case err := <-triggered:
			if err != nil {
				return err
			}
			triggered = nil
		case err := <-closed:
			if err != nil {
				return err
			}
			ended = true
		}
	}
	if kernel {
		if _, err := v.monitor.Wait(ctx, seen, func(e qmp.Event) bool { return e.Name == "RESET" }); err != nil {
			return err
		}
	}
	if err := v.hangUp(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { v.qemu.cmd.Process.Kill() }) // only that unblocks the dialling
	err := v.dial()
	if !stop() {
		return context.Cause(ctx)
	}
	if err == nil && kernel {
		// Not before: the firmware resets the machine once more.
		err = v.onReset(ctx, "shutdown")
	}
	return err
}

// onReset says what becomes of the machine when its kernel resets it: "reset" or "shutdown". The latter is the
// rule, so that a panic ends the machine.
func (v *vm) onReset(ctx context.Context, action string) error {
	return v.monitor.Execute(ctx, "set-action", map[string]any{"reboot": action})
}

// portClosed says whether a program in the guest has let go of the port.
func portClosed(e qmp.Event) bool {
	var change struct {
		Open bool `json:"open"`
	}
	return e.Name == "VSERPORT_CHANGE" && json.Unmarshal(e.Data, &change) == nil && !change.Open
}

// reset is the reset button.
func (v *vm) reset(ctx context.Context) error {
	return v.reboot(ctx, true, func(ctx context.Context) error { return v.monitor.Execute(ctx, "system_reset", nil) })
}

// qemuBase returns the arguments for a machine without disks that boots the image's kernel, with its
// console on standard output. Kernel panics and reboots end it, see vm.onReset.
func qemuBase(image *Image, accelerator, kernelCommandLine string) []string {
	// With emulation by QEMU 7.2 the kernel has been seen to die in its memory allocator right after a
	// CMPXCHG16B. Where the processor does not have it, the kernel goes another way.
	processor := "qemu64,-cx16"
	if accelerator == kvm {
		processor = "host"
	}
	return []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35", "-accel", accelerator, "-cpu", processor,
		// Emulation of several has been seen to panic.
		"-smp", "1", "-m", "1024", "-nic", "none", "-serial", "stdio",
		"-kernel", filepath.Join(image.Dir, kernelFile),
		"-append", "console=ttyS0 panic=-1 " + kernelCommandLine,
	}
}

// padToSector makes the size of a file one that any disk can have. Programs do not mind.
func padToSector(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	const page = 4096
	return os.Truncate(name, (info.Size()+page-1)/page*page)
}

// QEMU's names of what runs the guest's instructions: the processor itself, or emulation.
const (
	kvm = "kvm"
	tcg = "tcg"
)

// probed remembers which accelerator works on this machine.
var probed accelerators

type accelerators struct {
	mu    sync.Mutex
	works string
}

func (a *accelerators) set(works string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.works = works
}

// accelerator returns kvm where that works and tcg elsewhere.
//
// That /dev/kvm is there says little: nested in another virtual machine it may fail at an instruction
// that the kernel needs, and leave QEMU hanging. So a kernel must boot up to where it finds no disk.
func accelerator(ctx context.Context, image *Image) (string, error) {
	probed.mu.Lock()
	defer probed.mu.Unlock()
	if probed.works != "" {
		return probed.works, nil
	}
	works, err := kvmWorks(ctx, image)
	if err != nil {
		return "", err
	}
	probed.works = tcg
	if works {
		probed.works = kvm
	}
	return probed.works, nil
}

// kvmTimeout is many times what a kernel takes with KVM to find that it has no disk.
const kvmTimeout = 20 * time.Second

func kvmWorks(ctx context.Context, image *Image) (bool, error) {
	if file, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
		return false, nil // not there, or not for us
	} else {
		file.Close()
	}
	ctx, cancel := context.WithTimeout(ctx, kvmTimeout)
	defer cancel()
	var once sync.Once
	verdict := make(chan bool, 1)
	said := &tail{limit: 64 << 10}
	watch := writerFunc(func(text []byte) (int, error) {
		said.Write(text)
		for sign, works := range map[string]bool{"Unable to mount root fs": true, "KVM internal error": false} {
			if strings.Contains(said.String(), sign) {
				once.Do(func() { verdict <- works })
			}
		}
		return len(text), nil
	})
	cmd := exec.Command("qemu-system-x86_64", qemuBase(image, kvm, "")...)
	cmd.Stdout, cmd.Stderr = watch, watch
	qemu, err := startOwned(cmd)
	if err != nil {
		return false, err
	}
	works := false
	select {
	case works = <-verdict:
	case <-qemu.done: // at once, when QEMU cannot use it at all
		select {
		case works = <-verdict:
		default:
		}
	case <-ctx.Done():
	}
	qemu.cmd.Process.Kill()
	<-qemu.done
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return false, err
	}
	return works, nil
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(text []byte) (int, error) { return f(text) }

func (v *vm) start(_ context.Context, c Command) (remote, error) {
	v.mu.Lock()
	client := v.client
	v.mu.Unlock()
	if client == nil {
		return nil, errors.New("the machine reboots")
	}
	p, err := client.Start(guest.Command{
		Args: c.Args, Env: slices.Concat(commandEnv, c.Env),
		Streams: command.Streams{Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr},
	})
	if err != nil {
		return nil, err
	}
	return vmCommand{p}, nil
}

type vmCommand struct{ process *guest.Process }

func (c vmCommand) pid() int                      { return c.process.PID }
func (c vmCommand) wait() (command.Status, error) { return c.process.Wait() }
func (c vmCommand) kill() error                   { return c.process.Kill() }

func (v *vm) hostPID(int) (int, error) {
	return 0, fmt.Errorf("PID in a virtual machine: %w: it has a kernel of its own", errors.ErrUnsupported)
}

func (v *vm) guestPID(pid int) (int, error) { return v.hostPID(pid) }

func (v *vm) console() string { return v.said.String() }

func (v *vm) close() error {
	var errs []error
	if v.qemu != nil {
		select {
		case <-v.qemu.done:
		default:
			errs = append(errs, v.qemu.cmd.Process.Kill())
			<-v.qemu.done
		}
	}
	if v.monitor != nil {
		errs = append(errs, v.monitor.Close())
	}
	if v.client != nil {
		errs = append(errs, v.client.Close())
	}
	if v.dir != nil {
		errs = append(errs, v.dir.remove())
	}
	return errors.Join(append(errs, v.image.Close())...)
}
