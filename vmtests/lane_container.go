// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/internal/command"
)

// bootTimeout bounds the start of a container, which takes a second, on a busy machine.
const bootTimeout = 2 * time.Minute

// Boot boots systemd of version v in a container and returns once "systemctl is-system-running --wait"
// says running. The machine has a network of its own with nothing but the loopback device, its own
// control groups, and a root file system that starts from the image and is gone after [Machine.Close].
//
// When the image is not in the cache, Boot builds it first; see [ContainerImage]. Without root the error
// is [ErrNotRoot], where a program is missing it is a [*MissingError].
func Boot(ctx context.Context, v Version) (*Machine, error) {
	return bootContainer(ctx, v, Setup{})
}

// BootPolkit is [Boot] with polkit and sudo in the machine. The others have no polkit: there root alone may ask
// for what needs it.
func BootPolkit(ctx context.Context, v Version) (*Machine, error) {
	return bootContainer(ctx, v, Setup{Packages: polkitPackages(v)})
}

// BootWith is [Boot] with more packages of Debian in the machine; see [ImageWith].
func BootWith(ctx context.Context, v Version, packages ...string) (*Machine, error) {
	return bootContainer(ctx, v, Setup{Packages: packages})
}

func bootContainer(ctx context.Context, v Version, setup Setup) (*Machine, error) {
	return bootImage(ctx, v, setup, func(ctx context.Context) (*Image, error) { return ImageWith(ctx, v, nil, setup.Packages...) })
}

func bootImage(ctx context.Context, v Version, setup Setup, find func(context.Context) (*Image, error)) (*Machine, error) {
	if err := RequireContainers(); err != nil {
		return nil, err
	}
	if err := setup.check(); err != nil {
		return nil, err
	}
	if err := Sweep(ctx); err != nil {
		return nil, err
	}
	image, err := find(ctx)
	if err != nil {
		return nil, err
	}
	c := &container{image: image, setup: setup, said: &tail{limit: 64 << 10}}
	m := &Machine{Version: v, lane: c}
	if err := c.boot(ctx, m); err != nil {
		err = fmt.Errorf("boot %v in a container: %w", v, err)
		if said := strings.TrimSpace(c.console()); said != "" {
			err = fmt.Errorf("%w\nits console:\n%s", err, said)
		}
		return nil, errors.Join(err, c.close())
	}
	return m, nil
}

// A container is the lane of systemd-nspawn(1). All its processes are below one unshare(1), which has
// PID and mount namespaces of its own and dies with this process: so the kernel cleans up in any case.
//
//	holdfast-vmtests-NAME/           control group of the machine
//	    owner/                       unshare
//	    machine/supervisor/          systemd-nspawn
//	    machine/payload/             the delegated tree: what systemd inside sees as "/"
//	    machine/payload/commands/N/  what Machine.Start started, a group each
type container struct {
	image    *Image
	setup    Setup
	dir      *runDir
	group    cgroup
	owner    *owned // unshare
	leader   int    // PID here of the container's PID 1
	depth    int    // of the leader's PID namespace below ours
	commands cgroup
	count    atomic.Int64
	said     *tail
}

// startScript runs in the namespaces of unshare and becomes systemd-nspawn. Everything that nspawn would
// leave behind when it is killed, it leaves in file systems that vanish with the mount namespace.
const startScript = `set -e
group=$1 image=$2 upper=$3 work=$4
shift 4
mkdir -p /run/systemd/nspawn
mount -t tmpfs -o mode=0755 tmpfs /run/systemd/nspawn
mkdir /run/systemd/nspawn/image
if [ "$upper" ]; then
	mount -t overlay -o "lowerdir=$image,upperdir=$upper,workdir=$work" overlay /run/systemd/nspawn/image
else
	mount --bind "$image" /run/systemd/nspawn/image
fi
mount -t tmpfs -o mode=1777 tmpfs /tmp
echo 0 >"$group/cgroup.procs"
if [ "$(stat --file-system --format=%T /sys/fs/cgroup)" != cgroup2fs ]; then
	# A hybrid hierarchy: without this nspawn makes groups in the old name=systemd hierarchy too, and leaves them.
	umount --recursive /sys/fs/cgroup
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
exec systemd-nspawn "$@"`

func (c *container) boot(ctx context.Context, m *Machine) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("not running after %v", bootTimeout))
	defer cancel()
	c.dir, err = newRunDir(ctx, fmt.Sprintf("systemd%d", int(m.Version)))
	if err != nil {
		return err
	}
	m.Name = c.dir.name
	root, err := cgroup2Mount()
	if err != nil {
		return err
	}
	c.group, err = createCgroup(cgroupDir(root, m.Name))
	if err != nil {
		return err
	}
	own, err := c.group.child("owner")
	if err != nil {
		return err
	}
	group, err := c.group.child("machine")
	if err != nil {
		return err
	}
	ready, err := listenReady(filepath.Join(c.dir.path, "notify"))
	if err != nil {
		return err
	}
	defer ready.Close()

	volatile, upper, work := "overlay", "", ""
	if c.setup.Disk != nil {
		volatile, upper, work = "no", c.setup.Disk.upper(), c.setup.Disk.work()
	}
	argv := confined("sh", "-c", startScript, "sh", string(group), filepath.Join(c.image.Dir, "root"), upper, work,
		"--quiet", "--machine="+m.Name, "--directory=/run/systemd/nspawn/image", "--volatile="+volatile,
		"--private-network", "--capability=CAP_SYS_RESOURCE", // on a real machine PID 1 may raise limits
		"--register=no", "--keep-unit", "--settings=no", "--link-journal=no",
		"--resolv-conf=off", "--timezone=off", "--console=pipe", "--notify-ready=yes", "--boot",
		// On hosts with a hybrid hierarchy systemd would take that for its own without the option.
		"systemd.unified_cgroup_hierarchy=1")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"),
		"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1",
		"NOTIFY_SOCKET=" + ready.LocalAddr().String(),
	}
	cmd.Stdout, cmd.Stderr = c.said, c.said
	ownDir, err := os.Open(string(own))
	if err != nil {
		return err
	}
	defer ownDir.Close()
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(ownDir.Fd())}
	if c.owner, err = startOwned(cmd); err != nil {
		return err
	}
	if err := c.waitReady(ctx, ready); err != nil {
		return err
	}
	if err := c.findLeader(group); err != nil {
		return err
	}
	if c.commands, err = cgroup(filepath.Join(string(group), "payload")).child("commands"); err != nil {
		return err
	}
	if err := m.waitRunning(ctx); err != nil {
		return err
	}
	if c.setup.Network == nil {
		return nil
	}
	if err := c.setup.Network.attach(ctx, c.leader, c.setup.Address); err != nil {
		return err
	}
	return m.configureNetwork(ctx, c.setup.Address)
}

// listenReady opens the socket on which nspawn passes on the READY=1 of the systemd inside.
func listenReady(name string) (*net.UnixConn, error) {
	return net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
}

func (c *container) waitReady(ctx context.Context, ready *net.UnixConn) error {
	defer context.AfterFunc(ctx, func() { ready.Close() })()
	go func() { // ends with close(), at the latest
		<-c.owner.done
		ready.Close()
	}()
	message := make([]byte, 4096)
	for {
		n, err := ready.Read(message)
		if err != nil {
			select {
			case <-c.owner.done:
				return fmt.Errorf("systemd-nspawn ended: %w", c.ownerError())
			default:
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		if slices.Contains(strings.Split(string(message[:n]), "\n"), "READY=1") {
			return nil
		}
	}
}

func (c *container) ownerError() error {
	if c.owner.err == nil {
		return errors.New("exit status 0")
	}
	return c.owner.err
}

// findLeader finds the container's PID 1. It is one PID namespace below nspawn, which in turn is PID 1
// of the one that unshare made.
func (c *container) findLeader(group cgroup) error {
	pids, err := group.procs()
	if err != nil {
		return err
	}
	ours, err := namespacePIDs(os.Getpid())
	if err != nil {
		return err
	}
	for _, pid := range pids {
		inner, err := namespacePIDs(pid)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if len(inner) == len(ours)+2 && inner[len(inner)-1] == 1 {
			c.leader, c.depth = pid, len(inner)-len(ours)
			return nil
		}
	}
	return fmt.Errorf("%s: no process is PID 1 of the container", group)
}

// namespacePIDs returns the PIDs of a process in its PID namespaces, from that of /proc inwards.
func namespacePIDs(pid int) ([]int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		if errors.Is(err, syscall.ESRCH) {
			err = fmt.Errorf("process %d: %w", pid, fs.ErrNotExist)
		}
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		list, ok := strings.CutPrefix(line, "NSpid:")
		if !ok {
			continue
		}
		var pids []int
		for word := range strings.FieldsSeq(list) {
			n, err := strconv.Atoi(word)
			if err != nil {
				return nil, fmt.Errorf("NSpid of process %d: %w", pid, err)
			}
			pids = append(pids, n)
		}
		return pids, nil
	}
	return nil, fmt.Errorf("process %d: status has no NSpid", pid)
}

func (c *container) hostPID(guest int) (int, error) {
	pids, err := c.group.procs()
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		if inner, err := namespacePIDs(pid); err == nil && len(inner) > c.depth && inner[c.depth] == guest {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("process %d inside: %w", guest, fs.ErrNotExist)
}

func (c *container) guestPID(host int) (int, error) {
	inner, err := namespacePIDs(host)
	if err != nil {
		return 0, err
	}
	ours, errOurs := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", c.leader))
	its, errIts := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", host))
	if err := errors.Join(errOurs, errIts); err != nil {
		return 0, err
	}
	if ours != its {
		return 0, fmt.Errorf("process %d is not in PID namespace %s of the container", host, ours)
	}
	return inner[c.depth], nil
}

func (c *container) reboot(context.Context, bool, func(context.Context) error) error {
	return fmt.Errorf("reboot of a container: %w: use a virtual machine", errors.ErrUnsupported)
}

func (c *container) reset(ctx context.Context) error { return c.reboot(ctx, true, nil) }

func (c *container) console() string { return c.said.String() }

func (c *container) close() error {
	var errs []error
	if c.owner != nil {
		select {
		case <-c.owner.done:
		default:
			errs = append(errs, c.owner.cmd.Process.Kill())
			<-c.owner.done
		}
	}
	if c.group != "" {
		errs = append(errs, endCgroup(context.Background(), c.group))
	}
	if c.dir != nil {
		errs = append(errs, c.dir.remove())
	}
	return errors.Join(append(errs, c.image.Close())...)
}

// A containerCommand is nsenter(1) and its child. Those and all they start are in group.
type containerCommand struct {
	running *command.Running
	guest   int
	group   cgroup
}

// start enters all namespaces of the container. The shell tells its PID inside before it becomes the command.
func (c *container) start(_ context.Context, cmd Command) (remote, error) {
	group, err := c.commands.child(strconv.FormatInt(c.count.Add(1), 10))
	if err != nil {
		return nil, err
	}
	r, err := c.enter(group, cmd)
	if err != nil {
		return nil, errors.Join(err, group.remove())
	}
	return r, nil
}

func (c *container) enter(group cgroup, inside Command) (*containerCommand, error) {
	groupDir, err := os.Open(string(group))
	if err != nil {
		return nil, err
	}
	defer groupDir.Close()
	pidReader, pidWriter, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer pidReader.Close()
	defer pidWriter.Close()

	cmd := exec.Command("nsenter", append([]string{
		"--target=" + strconv.Itoa(c.leader), "--all", "--",
		"/bin/sh", "-c", `echo $$ >&3; exec 3>&-; ulimit -n "$(ulimit -Hn)"; exec "$@"`, "sh",
	}, inside.Args...)...)
	cmd.Env = append(slices.Clone(commandEnv), inside.Env...)
	cmd.ExtraFiles = []*os.File{pidWriter}
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(groupDir.Fd())}
	running, err := command.Start(cmd, command.Streams{Stdin: inside.Stdin, Stdout: inside.Stdout, Stderr: inside.Stderr})
	if err != nil {
		return nil, err
	}
	pidWriter.Close()
	line, err := bufio.NewReader(pidReader).ReadString('\n')
	if err == nil {
		var guest int
		if guest, err = strconv.Atoi(strings.TrimSpace(line)); err == nil {
			return &containerCommand{running: running, guest: guest, group: group}, nil
		}
	}
	// Not even the shell ran: the container is going down, or nsenter said why.
	killErr := group.kill()
	status, waitErr := running.Wait()
	return nil, errors.Join(fmt.Errorf("enter the container: nsenter ended with %+v: %w", status, err), waitErr, killErr)
}

func (r *containerCommand) pid() int { return r.guest }

func (r *containerCommand) wait() (command.Status, error) {
	status, err := r.running.Wait()
	_ = r.group.remove() // fails while something it started goes on
	return status, err
}

func (r *containerCommand) kill() error { return r.group.kill() }
