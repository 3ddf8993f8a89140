// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests/internal/load"
)

// A Network is an Ethernet of machines, with nobody else on it: not the host either. It is a bridge in a network
// namespace that only this process has open, so the kernel removes it with this process. Its machines have
// addresses of 198.18.0.0/15, which RFC 2544 sets aside for tests, and which the load generator may be sent to.
type Network struct {
	namespace *os.File
	ports     atomic.Int64
}

const bridge = "bridge"

// NewNetwork makes a network without machines. The caller closes it after the machines that are attached to it.
func NewNetwork(ctx context.Context) (*Network, error) {
	if os.Geteuid() != 0 {
		return nil, ErrNotRoot
	}
	n := new(Network)
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		var err error
		n.namespace, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err == nil {
		err = n.ip(ctx, "link", "add", "name", bridge, "type", "bridge")
	}
	if err == nil {
		err = n.ip(ctx, "link", "set", bridge, "up")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a network: %w", err), n.Close())
	}
	return n, nil
}

// Close removes the network.
func (n *Network) Close() error { return n.namespace.Close() }

// onThread runs f on a thread of its own, which ends with it: so f may change what a thread has for itself.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and not unlocked: the thread ends with the goroutine
		if unix.Gettid() == os.Getpid() {
			// But the first one never ends, and what it has, the process is said to have. Kept busy, it is not chosen again.
			done <- onThread(f)
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}

// ip runs ip(8) in the namespace of the network.
func (n *Network) ip(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=/proc/self/fd/3", "--", "ip"}, args...)...)
	cmd.ExtraFiles = []*os.File{n.namespace}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// attach gives the container whose PID 1 is leader a network device.
func (n *Network) attach(ctx context.Context, leader int, address netip.Prefix) error {
	port := n.port()
	if err := n.ip(ctx, "link", "add", "name", port, "type", "veth",
		"peer", "name", "host0", "address", hardwareAddress(address), "netns", strconv.Itoa(leader)); err != nil {
		return err
	}
	return n.plug(ctx, port)
}

// tap makes a network device whose other end is the returned file. It is gone when nobody has the file open.
func (n *Network) tap(ctx context.Context) (*os.File, error) {
	port := n.port()
	var tap *os.File
	err := onThread(func() error {
		if err := unix.Setns(int(n.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns", err)
		}
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
		}
		tap = os.NewFile(uintptr(fd), "/dev/net/tun")
		request, err := unix.NewIfreq(port)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		return os.NewSyscallError("TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, request))
	})
	if err == nil {
		err = n.plug(ctx, port)
	}
	if err != nil && tap != nil {
		err = errors.Join(err, tap.Close())
	}
	if err != nil {
		return nil, err
	}
	return tap, nil
}

func (n *Network) port() string { return fmt.Sprintf("port%d", n.ports.Add(1)) }

func (n *Network) plug(ctx context.Context, port string) error {
	return n.ip(ctx, "link", "set", port, "master", bridge, "up")
}

// hardwareAddress is the same for the same address, so that a machine that boots again is known to the others.
func hardwareAddress(address netip.Prefix) string {
	ip := address.Addr().As4()
	return fmt.Sprintf("02:00:%02x:%02x:%02x:%02x", ip[0], ip[1], ip[2], ip[3])
}

func checkAddress(address netip.Prefix) error {
	if !address.Addr().Is4() || !load.TestNetwork.Contains(address.Addr()) {
		return fmt.Errorf("address %s on a network: must be one of %s, with the length of its subnet", address, load.TestNetwork)
	}
	return nil
}

// configureNetwork gives the device that a machine has on the network its address.
func (m *Machine) configureNetwork(ctx context.Context, address netip.Prefix) error {
	const script = `for device in /sys/class/net/*; do
	[ "$(cat "$device/address")" = "$1" ] || continue
	ip address add "$2" dev "${device##*/}"
	exec ip link set "${device##*/}" up
done
echo "no network device has the hardware address $1" >&2
exit 1`
	return m.Run(ctx, "sh", "-e", "-c", script, "sh", hardwareAddress(address), address.String())
}
