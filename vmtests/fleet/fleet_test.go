// SPDX-License-Identifier: Apache-2.0

package fleet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/packages"
)

// made are the packages of all stories, each made once.
var made packages.Builder

// Packages of Debian beyond those of every machine. The controller is a host with more, so that both have one image
// where they have one systemd.
var (
	hostPackages       = []string{"openssh-server", "python3", "python3-apt"}
	controllerPackages = append(hostPackages[:len(hostPackages):len(hostPackages)], "ansible-core", "haproxy", "openssh-client", "socat")
)

// sixHosts are what the systemd of each host is.
var sixHosts = []vmtests.Version{
	vmtests.Systemd257, vmtests.Systemd252, vmtests.Systemd262, vmtests.Systemd247, vmtests.Systemd252, vmtests.Systemd257,
}

const controllerSystemd = vmtests.Systemd257

// A host is a machine of the fleet.
type host struct {
	*vmtests.Machine
	name     string
	settings string // of myapp
	version  vmtests.Version
	setup    vmtests.Setup
}

func (h *host) address() string { return h.setup.Address.Addr().String() }

// url is where the service is for who does not know the load balancer.
func (h *host) url() string { return "http://" + h.address() + ":8080" }

// A fleet is hosts and the machine outside from which they are upgraded and used.
type fleet struct {
	t          *testing.T
	ctx        context.Context
	controller *vmtests.Machine
	hosts      []*host
	repository *packages.Repository
}

const controllerAddress = "198.18.0.1"

// bootFleet boots hosts with these versions of systemd, named host1 and on, and a controller that may log in on them.
func bootFleet(t *testing.T, versions ...vmtests.Version) *fleet {
	t.Helper()
	f := &fleet{t: t, ctx: t.Context()}
	network, err := vmtests.NewNetwork(f.ctx)
	if errors.Is(err, vmtests.ErrNotRoot) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	prefix := func(last int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf("198.18.0.%d/24", last)) }
	for i, v := range versions {
		h := &host{
			name: fmt.Sprintf("host%d", i+1), version: v, settings: "probation = 2s",
			setup: vmtests.Setup{Packages: hostPackages, Network: network, Address: prefix(11 + i)},
		}
		if v == controllerSystemd {
			h.setup.Packages = controllerPackages
		}
		f.hosts = append(f.hosts, h)
	}
	f.each("boot", func(h *host) error { return f.boot(h) }, func() error {
		f.controller, err = vmtests.BootSetup(f.ctx, controllerSystemd, vmtests.Setup{Packages: controllerPackages, Network: network, Address: prefix(1)})
		return err
	})
	f.controller.CloseAfter(t)
	for _, h := range f.hosts {
		h.CloseAfter(t)
	}
	f.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/.ssh/id_ed25519")
	key := f.run("cat", "/root/.ssh/id_ed25519.pub")
	known := make([]string, len(f.hosts))
	f.each("sshd", func(h *host) error { return h.admit(f.ctx, key) })
	for i, h := range f.hosts {
		hostKey, err := h.ReadFile(f.ctx, "/etc/ssh/ssh_host_ed25519_key.pub")
		if err != nil {
			t.Fatal(err)
		}
		known[i] = h.address() + " " + string(hostKey)
	}
	f.write("/root/.ssh/known_hosts", strings.Join(known, ""))
	return f
}

// boot boots the machine of a host.
func (f *fleet) boot(h *host) (err error) {
	start := time.Now()
	h.Machine, err = vmtests.BootSetup(f.ctx, h.version, h.setup)
	if err == nil {
		f.t.Logf("%s: %v, %s, booted in %v", h.name, h.version, h.Name, time.Since(start).Round(time.Millisecond))
	}
	return err
}

// admit lets whoever has the key log in as root, and gives the host a key of its own: that of the image is anybody's.
func (h *host) admit(ctx context.Context, key string) error {
	if err := h.WriteFile(ctx, "/root/.ssh/authorized_keys", []byte(key+"\n"), 0o600); err != nil {
		return err
	}
	return h.Run(ctx, "sh", "-ec", `rm -f /etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
systemctl restart ssh.service`)
}

// each does something on all hosts at once, and other things beside it, and fails the test if one of them fails.
func (f *fleet) each(what string, do func(*host) error, others ...func() error) {
	f.t.Helper()
	var (
		running sync.WaitGroup
		mu      sync.Mutex
		errs    []error
	)
	begin := func(name string, do func() error) {
		running.Go(func() {
			if err := do(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("%s: %s: %w", name, what, err))
			}
		})
	}
	for _, h := range f.hosts {
		begin(h.name, func() error { return do(h) })
	}
	for _, other := range others {
		begin("controller", other)
	}
	running.Wait()
	if err := errors.Join(errs...); err != nil {
		// What has booted must go, and is not in the test's care yet.
		if what == "boot" {
			err = errors.Join(err, f.close())
		}
		f.t.Fatal(err)
	}
}

func (f *fleet) close() error {
	var errs []error
	for _, h := range f.hosts {
		if h.Machine != nil {
			errs = append(errs, h.Close())
		}
	}
	if f.controller != nil {
		errs = append(errs, f.controller.Close())
	}
	return errors.Join(errs...)
}

// run runs a command on the controller.
func (f *fleet) run(argv ...string) string {
	f.t.Helper()
	out, err := f.controller.Output(f.ctx, argv...)
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

func (f *fleet) write(name, content string) {
	f.t.Helper()
	if err := f.controller.WriteFile(f.ctx, name, []byte(content), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// serve sets up what the controller has for the hosts: a repository of packages, and Ansible with the collection and an
// inventory.
func (f *fleet) serve() {
	f.t.Helper()
	repository, err := packages.NewRepository(f.ctx, f.t.TempDir())
	if err != nil {
		f.t.Fatal(err)
	}
	holdfast, err := made.HoldfastDeb(good1.Version)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := repository.Add(f.ctx, holdfast); err != nil {
		f.t.Fatal(err)
	}
	f.repository = repository
	f.publish(good1)
	f.run("systemd-run", "--quiet", "--unit=repository", "--socket-property=ListenStream="+controllerAddress+":8000", "python3", "-c", repositoryServer)

	f.write("/etc/ansible/ansible.cfg", ansibleConfig)
	f.write("/root/inventory.yml", inventory(f.hosts))
	f.write("/root/leave.yml", drainTask("drain"))
	f.write("/root/join.yml", drainTask("ready"))
	f.unpack("../../packaging/ansible", "/root/.ansible/collections/ansible_collections/holdfast_go/holdfast")
}

// unpack copies a directory of the checkout to the controller.
func (f *fleet) unpack(from, to string) {
	f.t.Helper()
	var archive, said bytes.Buffer
	cmd := exec.CommandContext(f.ctx, "tar", "-C", from, "--exclude=*_test.go", "-cf", "-", ".")
	cmd.Stdout, cmd.Stderr = &archive, &said
	if err := cmd.Run(); err != nil {
		f.t.Fatalf("pack %s: %v\n%s", from, err, said.String())
	}
	f.run("mkdir", "-p", to)
	p, err := f.controller.Start(f.ctx, vmtests.Command{Args: []string{"tar", "-C", to, "--no-same-owner", "-xf", "-"}, Stdin: &archive})
	if err == nil {
		err = p.Wait()
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// repositoryServer has its socket from systemd, so nobody comes too early.
const repositoryServer = `
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from socket import socket
server = ThreadingHTTPServer(None, partial(SimpleHTTPRequestHandler, directory="` + packages.RepositoryDir + `"), bind_and_activate=False)
server.socket = socket(fileno=3)
server.serve_forever()
`

// publish adds a release to the repository.
func (f *fleet) publish(r packages.Release) {
	f.t.Helper()
	deb, err := made.Deb(r)
	if err == nil {
		err = f.repository.Add(f.ctx, deb)
	}
	if err == nil {
		err = f.repository.Publish(f.ctx, f.controller)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// admin is what the administrator of the fleet has set on each host before anything of ours is installed.
func (f *fleet) admin() {
	f.t.Helper()
	key := f.run("cat", packages.RepositoryKey)
	f.each("settings", func(h *host) error {
		return errors.Join(
			h.Run(f.ctx, "sh", "-c", "rm -f /etc/apt/sources.list.d/*"),
			h.WriteFile(f.ctx, packages.RepositoryKey, []byte(key+"\n"), 0o644),
			h.WriteFile(f.ctx, "/etc/apt/sources.list", []byte("deb [signed-by="+packages.RepositoryKey+"] http://"+controllerAddress+":8000 ./\n"), 0o644),
			h.WriteFile(f.ctx, "/etc/systemd/system/myapp.socket.d/fleet.conf", []byte("[Socket]\nListenStream=\nListenStream=8080\n"), 0o644),
		)
	})
}

// install installs the package of myapp as it is in the repository, before there are clients.
func (f *fleet) install() {
	f.t.Helper()
	f.each("install", func(h *host) error {
		return errors.Join(
			h.Run(f.ctx, "apt-get", "-qq", "update"),
			h.Run(f.ctx, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "install", "--no-install-recommends", "myapp"),
			h.Run(f.ctx, "sh", "-ec", `echo "$1" >>/etc/myapp/myapp.conf; systemctl restart myapp.service`, "sh", h.settings),
		)
	})
}

// balance starts the load balancer. It takes a host for good until it has looked twice, so all must serve.
func (f *fleet) balance() {
	f.t.Helper()
	f.write("/etc/haproxy/haproxy.cfg", balancer(f.hosts))
	f.run("systemctl", "restart", "haproxy.service")
}

// waitBalancer waits until the load balancer has said something of a host since it was started.
func (f *fleet) waitBalancer(h *host, says string) {
	f.t.Helper()
	f.run("timeout", "120", "bash", "-c", `grep -q -m1 -F -- "$1" <(journalctl --no-pager -f -n all -o cat -u haproxy.service)`, "-", "Server fleet/"+h.name+" "+says)
}

// balancer is the configuration of haproxy. It sends no request twice, so that none is lost unseen.
func balancer(hosts []*host) string {
	text := &strings.Builder{}
	text.WriteString(`global
	log stdout format raw daemon notice
	user haproxy
	group haproxy
	stats socket /run/haproxy/admin.sock mode 600 level admin
defaults
	log global
	mode http
	retries 0
	timeout connect 5s
	timeout client 2m
	timeout server 2m
	timeout check 30s
frontend clients
	bind ` + controllerAddress + `:80
	default_backend fleet
backend fleet
	balance roundrobin
	option httpchk GET /readyz
	default-server check inter 1s fall 2 rise 1
`)
	for _, h := range hosts {
		fmt.Fprintf(text, "\tserver %s %s:8080\n", h.name, h.address())
	}
	return text.String()
}

// drainTask is the file of tasks by which the play has the load balancer send a host no more requests, or again.
func drainTask(state string) string {
	return `---
- name: Set the state of the host in haproxy to ` + state + `
  ansible.builtin.shell:
    cmd: echo "set server fleet/{{ inventory_hostname }} state ` + state + `" | socat - /run/haproxy/admin.sock
  register: fleet_haproxy
  changed_when: true
  # What haproxy says about it is what is wrong.
  failed_when: fleet_haproxy.stdout != '' or fleet_haproxy.rc != 0
  delegate_to: localhost
`
}

// A host that lost its power says nothing any more: without ServerAliveInterval= ssh would wait for it for a quarter of
// an hour.
const ansibleConfig = `[defaults]
inventory = /root/inventory.yml
forks = 6
interpreter_python = /usr/bin/python3
[ssh_connection]
pipelining = True
ssh_args = -o ControlMaster=auto -o ControlPersist=60s -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=4
`

func inventory(hosts []*host) string {
	text := &strings.Builder{}
	text.WriteString("fleet:\n  hosts:\n")
	for _, h := range hosts {
		fmt.Fprintf(text, "    %s:\n      ansible_host: %s\n", h.name, h.address())
	}
	text.WriteString("  vars:\n    ansible_user: root\n")
	return text.String()
}

func TestMain(m *testing.M) {
	code := m.Run()
	if err := made.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
