// SPDX-License-Identifier: Apache-2.0

package activation_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/activation"
	"github.com/holdfast-go/holdfast/activation/activationtest"
)

func init() {
	maps.Copy(roles, map[string]func() any{
		"describe":     describe,
		"echo":         echo,
		"modules":      modules,
		"poller":       poller,
		"unset":        unset,
		"inherit":      inherit,
		"inherited":    func() any { return survivors() },
		"not open":     notOpen,
		"declare":      declare,
		"pass through": passThrough,
	})
}

// description is what a service found in its environment.
type description struct {
	Set      []activation.Info
	Strings  []string
	Reason   string
	Err      string
	Var      string // of an EnvError
	Survives []int  // descriptors that a child would get, from 3 on
	Again    bool   // a second call gave the same
}

func describe() any {
	set, err := activation.FromEnv()
	d := description{Err: text(err), Survives: survivors()}
	if envErr := (*activation.EnvError)(nil); errors.As(err, &envErr) {
		d.Var = envErr.Var
	}
	again, againErr := activation.FromEnv()
	d.Again = set == again && err == againErr
	if set != nil {
		d.Set, d.Reason = set.All(), text(set.Reason())
		for _, info := range d.Set {
			d.Strings = append(d.Strings, info.String())
		}
	}
	return d
}

// survivors lists the descriptors from 3 on that are not close-on-exec.
func survivors() []int {
	var all []int
	for _, entry := range must(os.ReadDir("/proc/self/fd")) {
		fd := must(strconv.Atoi(entry.Name()))
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); fd >= 3 && err == nil && flags&unix.FD_CLOEXEC == 0 {
			all = append(all, fd)
		}
	}
	return all
}

// descriptors opens what the openers call by these names, to pass as name=opener. A name with an @ goes to the store.
func descriptors(t *testing.T, named ...string) []activationtest.Descriptor {
	t.Helper()
	var all []activationtest.Descriptor
	for _, n := range named {
		name, opener, _ := strings.Cut(n, "=")
		file := kindFile(t, opener)
		t.Cleanup(func() { _ = file.Close() })
		all = append(all, activationtest.Descriptor{Name: name, Conn: file, Stored: strings.Contains(name, "@")})
	}
	return all
}

func TestFromEnvDescribesEverything(t *testing.T) {
	passed := descriptors(t, "web=tcp4 listener", "web=unix listener", "=udp", "admin.socket=unix seqpacket listener", "log=FIFO",
		"state@7=memfd", "client@8=unix stream connection", "config=regular file")
	d := play[description](t, "describe", activationtest.Options{Descriptors: passed})
	if d.Err != "" || d.Reason != "" || !d.Again {
		t.Fatalf("error %q, reason %q, the same again: %t", d.Err, d.Reason, d.Again)
	}
	want := []activation.Info{
		{Name: "web", Kind: activation.KindListener, Network: "tcp", Source: activation.SourceSocket},
		{Name: "web", Kind: activation.KindListener, Network: "unix", Source: activation.SourceSocket},
		{Name: "", Kind: activation.KindPacket, Network: "udp", Source: activation.SourceSocket},
		{Name: "admin.socket", Kind: activation.KindListener, Network: "unixpacket", Source: activation.SourceSocket},
		{Name: "log", Kind: activation.KindFIFO, Source: activation.SourceSocket},
		{Name: "state@7", Kind: activation.KindMemfd, Source: activation.SourceStore},
		{Name: "client@8", Kind: activation.KindConn, Network: "unix", Source: activation.SourceStore},
		{Name: "config", Kind: activation.KindRegular, Source: activation.SourceOther},
	}
	if len(d.Set) != len(want) {
		t.Fatalf("%q, want %d descriptors", d.Strings, len(want))
	}
	for i, w := range want {
		got := d.Set[i]
		if got.Name != w.Name || got.Kind != w.Kind || got.Network != w.Network || got.Source != w.Source || got.Index != i || got.FD != 3+i || got.Claimed {
			t.Errorf("descriptor %d: %+v, want %+v", i, got, w)
		}
	}
	if len(d.Survives) > 0 {
		t.Errorf("descriptors %v would reach the children of the service", d.Survives)
	}
}

func TestFromEnvWithoutDescriptors(t *testing.T) {
	d := play[description](t, "describe", activationtest.Options{})
	if d.Err != "" || len(d.Set) > 0 || d.Reason != "no descriptors were passed: LISTEN_PID is not set" || !d.Again {
		t.Errorf("%+v, want an empty set and why", d)
	}
}

// A process inherits the variables of its parent, but they are not for it: sd_listen_fds(3) returns 0.
func TestFromEnvOfAnotherProcess(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVar+"=describe", fmt.Sprintf("LISTEN_PID=%d", os.Getpid()), "LISTEN_FDS=2", "LISTEN_FDNAMES=a:b")
	d := finish[description](t, cmd)
	if d.Err != "" || len(d.Set) > 0 || !strings.Contains(d.Reason, fmt.Sprintf(`LISTEN_PID="%d" names another process`, os.Getpid())) {
		t.Errorf("%+v, want an empty set and why", d)
	}
}

func TestFromEnvWithPidfdNumber(t *testing.T) {
	cmd := command(t, "describe", activationtest.Options{Descriptors: descriptors(t, "web=tcp4 listener"), PIDFDID: true})
	out, err := cmd.Output()
	if err != nil {
		stderr := string(err.(*exec.ExitError).Stderr)
		if strings.Contains(stderr, "needs Linux 6.9") {
			t.Skip(stderr)
		}
		t.Fatal(err, stderr)
	}
	if !strings.Contains(string(out), `"Reason":""`) || !strings.Contains(string(out), `"Name":"web"`) {
		t.Errorf("with its own LISTEN_PIDFDID the service found %s", out)
	}
}

func TestFromEnvRefusesMalformedVariables(t *testing.T) {
	// A colon in a name makes one name more than there are descriptors.
	d := play[description](t, "describe", activationtest.Options{Descriptors: descriptors(t, "a:b=tcp4 listener", "c=udp")})
	if d.Var != "LISTEN_FDNAMES" || !strings.HasPrefix(d.Err, `LISTEN_FDNAMES="a:b:c": must be 2 names`) || !d.Again {
		t.Errorf("%+v, want an error for LISTEN_FDNAMES, also from the second call", d)
	}
	if len(d.Survives) > 0 {
		t.Errorf("in spite of the error, descriptors %v would reach the children of the service", d.Survives)
	}
}

func notOpen() any {
	if err := unix.Close(4); err != nil {
		return must("", err)
	}
	return describe()
}

func TestFromEnvRefusesDescriptorsThatAreNotOpen(t *testing.T) {
	d := play[description](t, "not open", activationtest.Options{Descriptors: descriptors(t, "a=tcp4 listener", "b=udp")})
	if want := `LISTEN_FDS="2": descriptor 4 cannot be used: fcntl: bad file descriptor`; d.Var != "LISTEN_FDS" || d.Err != want {
		t.Errorf("%q, want %q", d.Err, want)
	}
}

func TestFromEnvShowsDuplicatesOnce(t *testing.T) {
	passed := descriptors(t, "web=tcp4 listener", "other@1=unix listener")
	stolen := activationtest.Descriptor{Name: "stolen@2", Conn: passed[0].Conn, Stored: true}
	d := play[description](t, "describe", activationtest.Options{Descriptors: append(passed, stolen)})
	if len(d.Set) != 2 || d.Set[0].Name != "web" || d.Set[0].Source != activation.SourceSocket || !slices.Equal(d.Set[0].Aliases, []string{"stolen@2"}) {
		t.Errorf("%q, want the socket unit's copy, and the store's as its alias", d.Strings)
	}
}

func declare() any {
	set := must(activation.FromEnv())
	before := set.All()
	set.DeclareStored("cache", "more")
	return [][]activation.Info{before, set.All()}
}

func TestDeclareStored(t *testing.T) {
	got := play[[2][]activation.Info](t, "declare", activationtest.Options{
		Descriptors: descriptors(t, "web=tcp4 listener", "cache=unix listener", "config=regular file", "more=udp"),
	})
	for i, want := range [2][]activation.Source{
		{activation.SourceSocket, activation.SourceSocket, activation.SourceSocket, activation.SourceSocket},
		{activation.SourceSocket, activation.SourceStore, activation.SourceOther, activation.SourceStore},
	} {
		for j, source := range want {
			if got[i][j].Source != source {
				t.Errorf("call %d: %s comes from %v, want %v", i, got[i][j].Name, got[i][j].Source, source)
			}
		}
	}
}

// echo claims everything, whatever its kind, and answers one message on each with the name in front.
func echo() any {
	set := must(activation.FromEnv())
	for _, info := range set.All() {
		switch info.Kind {
		case activation.KindListener:
			ln := must(set.Listener(info.Name))
			answer(must(ln.Accept()), info.Name)
			must("", ln.Close())
		case activation.KindConn:
			answer(must(set.Conn(info.Name)), info.Name)
		case activation.KindPacket:
			conn := must(set.PacketConn(info.Name))
			buf := make([]byte, 100)
			n, from, err := conn.ReadFrom(buf)
			must(n, err)
			must(conn.WriteTo(append([]byte(info.Name+" "), buf[:n]...), from))
			must("", conn.Close())
		case activation.KindFIFO:
			file := must(set.File(info.Name))
			line := make([]byte, 100)
			n := must(file.Read(line))
			fmt.Fprintf(os.Stderr, "%s %s\n", info.Name, line[:n])
			must("", file.Close())
		default:
			file := must(set.File(info.Name))
			content := must(io.ReadAll(io.NewSectionReader(file, 0, 100)))
			fmt.Fprintf(os.Stderr, "%s %s\n", info.Name, content)
			must("", file.Close())
		}
	}
	return set.Unclaimed()
}

func answer(conn net.Conn, name string) {
	buf := make([]byte, 100)
	n := must(conn.Read(buf))
	must(conn.Write(append([]byte(name+" "), buf[:n]...)))
	must("", conn.Close())
}

// converse is the client of an echo on a socket: what it gets back.
func converse(t *testing.T, conn net.Conn) string {
	t.Helper()
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Error(err)
	}
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	if err != nil {
		t.Error(err)
	}
	return string(buf[:n])
}

func dial(t *testing.T, network, address string) net.Conn {
	t.Helper()
	var dialer net.Dialer
	if network == "unixgram" {
		// The answer needs an address to go to.
		dialer.LocalAddr = &net.UnixAddr{Net: network, Name: filepath.Join(t.TempDir(), "client")}
	}
	conn, err := dialer.DialContext(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// addresses returns where the sockets listen, "" for other descriptors.
func addresses(t *testing.T, passed []activationtest.Descriptor) []string {
	t.Helper()
	var all []string
	for _, d := range passed {
		set := newSet(t, activation.Passed{File: duplicate(t, d.Conn.(*os.File)), Name: d.Name})
		all = append(all, set.All()[0].Addr)
	}
	return all
}

func TestEveryKindWorksInAService(t *testing.T) {
	for _, c := range []struct{ opener, network string }{
		{"tcp4 listener", "tcp"},
		{"mptcp listener", "tcp"},
		{"unix listener", "unix"},
		{"unix abstract listener", "unix"},
		{"unix seqpacket listener", "unixpacket"},
		{"udp", "udp"},
		{"unix datagram", "unixgram"},
	} {
		t.Run(c.opener, func(t *testing.T) {
			passed := descriptors(t, "it="+c.opener)
			conn := dial(t, c.network, addresses(t, passed)[0])
			cmd := command(t, "echo", activationtest.Options{Descriptors: passed})
			answered := make(chan string, 1)
			go func() { answered <- converse(t, conn) }()
			if left := finish[[]activation.Info](t, cmd); len(left) > 0 {
				t.Errorf("unclaimed: %v", left)
			}
			if got := <-answered; got != "it hello" {
				t.Errorf("answer %q, want %q", got, "it hello")
			}
		})
	}

	// Accept=yes: systemd has accepted, the service gets the connection.
	for name, sockType := range map[string]int{"unix stream connection": unix.SOCK_STREAM, "unix seqpacket connection": unix.SOCK_SEQPACKET} {
		t.Run(name, func(t *testing.T) {
			fds, err := unix.Socketpair(unix.AF_UNIX, sockType|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			theirs := os.NewFile(uintptr(fds[0]), "theirs")
			defer theirs.Close()
			ours := os.NewFile(uintptr(fds[1]), "ours")
			conn, err := net.FileConn(ours)
			_ = ours.Close()
			if err != nil {
				t.Fatal(err)
			}
			cmd := command(t, "echo", activationtest.Options{Descriptors: []activationtest.Descriptor{{Name: "connection", Conn: theirs}}})
			answered := make(chan string, 1)
			go func() { answered <- converse(t, conn) }()
			finish[[]activation.Info](t, cmd)
			if got := <-answered; got != "connection hello" {
				t.Errorf("answer %q, want %q", got, "connection hello")
			}
		})
	}

	for _, opener := range []string{"FIFO", "regular file", "memfd"} {
		t.Run(opener, func(t *testing.T) {
			passed := descriptors(t, "it="+opener)
			file := passed[0].Conn.(*os.File)
			if _, err := unix.Write(int(file.Fd()), []byte("hello")); err != nil {
				t.Fatal(err)
			}
			cmd := command(t, "echo", activationtest.Options{Descriptors: passed})
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "it hello\n") {
				t.Errorf("the service read %q, %v; want hello", out, err)
			}
		})
	}
}

// The client of a connection of Accept=yes may be gone before the service looks: still a connection.
func TestConnectionWhoseClientIsGone(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client := dial(t, "tcp", ln.Addr().String()).(*net.TCPConn)
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// A close without linger is a reset; the socket has no peer once it has arrived.
	if err := client.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	_ = client.Close()
	awaitReset(t, conn.(*net.TCPConn))

	d := play[description](t, "describe", activationtest.Options{
		Descriptors: []activationtest.Descriptor{{Name: "connection", Conn: conn.(*net.TCPConn)}},
	})
	if len(d.Set) != 1 || d.Set[0].Kind != activation.KindConn || d.Set[0].Source != activation.SourceConnection {
		t.Errorf("%q, want a connection of Accept=yes", d.Strings)
	}
}

func awaitReset(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var pollErr error
	if err := raw.Control(func(fd uintptr) {
		for {
			if _, pollErr = unix.Poll([]unix.PollFd{{Fd: int32(fd)}}, -1); pollErr != unix.EINTR {
				return
			}
		}
	}); err != nil || pollErr != nil {
		t.Fatal(err, pollErr)
	}
}

// claimsOf is what two parts of one program found.
type claimsOf struct {
	Web, Admin       string // addresses
	WebErr, AdminErr string // of claiming the other's
	Unclaimed        []string
}

// modules are two parts of one program that know nothing of each other.
func modules() any {
	var result claimsOf
	web := func() { // the first
		set := must(activation.FromEnv())
		ln := must(set.Listener("web"))
		defer ln.Close()
		result.Web = ln.Addr().String()
	}
	admin := func() { // the second, after the first has finished
		set := must(activation.FromEnv())
		ln := must(set.Listener("admin"))
		defer ln.Close()
		result.Admin = ln.Addr().String()
		_, err := set.Listener("web")
		result.WebErr = text(err)
	}
	web()
	admin()
	set := must(activation.FromEnv())
	_, err := set.Files("admin")
	result.AdminErr = text(err)
	result.Unclaimed = names(set.Unclaimed())
	return result
}

func TestTwoModules(t *testing.T) {
	passed := descriptors(t, "web=tcp4 listener", "admin=unix listener", "typo=udp", "state@1=memfd")
	addrs := addresses(t, passed)
	got := play[claimsOf](t, "modules", activationtest.Options{Descriptors: passed})
	if got.Web != addrs[0] || got.Admin != addrs[1] {
		t.Errorf("claimed %q and %q, want %q and %q", got.Web, got.Admin, addrs[0], addrs[1])
	}
	if !strings.HasPrefix(got.WebErr, `listener "web" is already claimed, at activation/env_test.go:`) {
		t.Errorf("claiming the other's: %q", got.WebErr)
	}
	if !strings.Contains(got.AdminErr, "claim it with Listeners") {
		t.Errorf("claiming the other's as a file: %q", got.AdminErr)
	}
	if want := []string{"typo", "state@1"}; !slices.Equal(got.Unclaimed, want) {
		t.Errorf("unclaimed: %q, want %q", got.Unclaimed, want)
	}
}

// polled is how a listener that arrived in blocking mode behaves.
type polled struct{ Deadline, Closed, PacketDeadline, PacketClosed bool }

// poller needs the runtime's poller: on a blocking descriptor none of its calls would return.
func poller() any {
	set := must(activation.FromEnv())
	ln := must(set.Listener("web")).(*net.TCPListener)
	packets := must(set.PacketConn("dns"))
	var result polled

	must("", ln.SetDeadline(time.Now().Add(time.Millisecond)))
	_, err := ln.Accept()
	result.Deadline = errors.Is(err, os.ErrDeadlineExceeded)
	must("", ln.SetDeadline(time.Time{}))
	must("", packets.SetDeadline(time.Now().Add(time.Millisecond)))
	_, _, err = packets.ReadFrom(make([]byte, 1))
	result.PacketDeadline = errors.Is(err, os.ErrDeadlineExceeded)
	must("", packets.SetDeadline(time.Time{}))

	accepted, read := make(chan error), make(chan error)
	go func() {
		_, err := ln.Accept()
		accepted <- err
	}()
	go func() {
		_, _, err := packets.ReadFrom(make([]byte, 1))
		read <- err
	}()
	must("", ln.Close())
	must("", packets.Close())
	result.Closed = errors.Is(<-accepted, net.ErrClosed)
	result.PacketClosed = errors.Is(<-read, net.ErrClosed)
	return result
}

// systemd clears O_NONBLOCK at each start, on the description that it shares with the service.
func TestBlockingSocketsWorkWithThePoller(t *testing.T) {
	passed := descriptors(t, "web=tcp4 listener", "dns=udp")
	for range 2 { // the second start finds the flag that the first has set, and clears it again
		got := play[polled](t, "poller", activationtest.Options{Descriptors: passed})
		if want := (polled{true, true, true, true}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		for _, d := range passed {
			if !isNonblocking(t, d.Conn) {
				t.Errorf("%s was left in blocking mode", d.Name)
			}
		}
	}
}

// A connection that waits while the service is down is served by its next start.
func TestConnectionWaitsForTheNextStart(t *testing.T) {
	passed := descriptors(t, "web=tcp4 listener")
	addr := addresses(t, passed)[0]
	for range 3 {
		conn := dial(t, "tcp", addr)
		cmd := command(t, "echo", activationtest.Options{Descriptors: passed})
		answered := make(chan string, 1)
		go func() { answered <- converse(t, conn) }()
		finish[[]activation.Info](t, cmd)
		if got := <-answered; got != "web hello" {
			t.Errorf("answer %q", got)
		}
	}
}

// unsetResult is the environment before and after UnsetEnv.
type unsetResult struct {
	Before, After []string
	Listener      string
}

func listenVariables() []string {
	var all []string
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "LISTEN_") {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

func unset() any {
	var result unsetResult
	result.Before = listenVariables()
	must("", activation.UnsetEnv())
	result.After = listenVariables()
	// UnsetEnv has read the variables before it removed them.
	result.Listener = must(must(activation.FromEnv()).Listener("web")).Addr().String()
	return result
}

func TestUnsetEnv(t *testing.T) {
	passed := descriptors(t, "web=tcp4 listener")
	got := play[unsetResult](t, "unset", activationtest.Options{Descriptors: passed})
	if want := []string{"LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID"}; !slices.Equal(got.Before, want) || len(got.After) > 0 {
		t.Errorf("before %q, after %q; want %q and nothing", got.Before, got.After, want)
	}
	if got.Listener != addresses(t, passed)[0] {
		t.Errorf("listener at %q after UnsetEnv", got.Listener)
	}
}

// inherit starts a child of its own, which reports what it got.
func inherit() any {
	set := must(activation.FromEnv())
	claimed := must(set.Listener("web"))
	defer claimed.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVar+"=inherited")
	cmd.Stderr = os.Stderr
	return string(must(cmd.Output()))
}

func TestNothingReachesTheChildren(t *testing.T) {
	passed := descriptors(t, "web=tcp4 listener", "unclaimed=udp", "log=FIFO", "state@1=memfd")
	if got := play[string](t, "inherit", activationtest.Options{Descriptors: passed}); strings.TrimSpace(got) != "null" {
		t.Errorf("a child of the service inherited %s", got)
	}
}

// passThrough does what a predecessor does: it gives a process of its own all it has, claimed or not.
func passThrough() any {
	set := must(activation.FromEnv())
	ln := must(set.Listener("web")).(*net.TCPListener)
	passed := []activation.Passed{{File: must(ln.File()), Name: "web", Source: activation.SourceSocket}}
	must("", ln.Close())
	next := must(activation.NewSet(append(passed, set.TakeUnclaimed()...)))
	answer(must(must(next.Listener("web")).Accept()), "next")
	return next.Unclaimed()
}

func TestFromSetToSet(t *testing.T) {
	passed := descriptors(t, "web=tcp4 listener", "dns=udp", "state@1=memfd")
	conn := dial(t, "tcp", addresses(t, passed)[0])
	cmd := command(t, "pass through", activationtest.Options{Descriptors: passed})
	answered := make(chan string, 1)
	go func() { answered <- converse(t, conn) }()
	left := finish[[]activation.Info](t, cmd)
	if got := <-answered; got != "next hello" {
		t.Errorf("answer %q, want it from the second set", got)
	}
	if !slices.Equal(names(left), []string{"dns", "state@1"}) || left[0].Source != activation.SourceSocket || left[1].Source != activation.SourceStore {
		t.Errorf("%v, want dns and state@1 with their sources", left)
	}
}
