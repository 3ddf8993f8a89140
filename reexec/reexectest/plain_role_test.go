// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/activation"
	"github.com/holdfast-go/holdfast/notify"
)

// plain is an HTTP service that hands over to its next version without package
// reexec, as well as that can be done in a few lines: at SIGHUP it starts its
// own file again, as a child of the service manager, passes the listener,
// waits until the new process is ready, tells systemd, and drains. Each bug is
// one that services have.
type plain struct {
	bug      string
	next     bool          // it has a predecessor
	loading  time.Duration // before it can serve
	probe    time.Duration // how long a process lives that is forked before each upgrade
	ln       net.Listener
	notifier *notify.Notifier
	server   *http.Server
	served   chan error
	open     sync.WaitGroup // connections
	leading  atomic.Bool    // clients are led away
	leaked   []*os.File
}

// Descriptors of a successor.
const (
	plainListener = 3 + iota
	plainReady
	plainLeaked
)

// plainFile has a file that is no version of the test binary be this service.
const plainFile = "PLAIN_FILE"

// plainVariable says how many descriptors leaked to a successor.
const plainVariable = "PLAIN_SUCCESSOR"

func plainMain() {
	log.SetFlags(0)
	p := &plain{}
	flag.StringVar(&p.bug, "bug", "", "")
	flag.DurationVar(&p.loading, "loading", 0, "")
	flag.DurationVar(&p.probe, "probe", 0, "")
	listen := flag.String("listen", "", "")
	flag.Parse()
	if err := p.run(*listen); err != nil {
		log.Fatal(err)
	}
}

func (p *plain) run(listen string) (err error) {
	if p.notifier, err = notify.FromEnv(); err != nil {
		return err
	}
	leaks, next := os.LookupEnv(plainVariable)
	p.next = next
	if n, _ := strconv.Atoi(leaks); n > 0 {
		for i := range n {
			p.leaked = append(p.leaked, os.NewFile(uintptr(plainLeaked+i), "leaked"))
		}
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	terms := make(chan os.Signal, 1)
	if p.bug != "sudden" {
		signal.Notify(terms, syscall.SIGTERM)
	}
	if p.bug == "leaves" && !next || p.bug == "ignores" && !next {
		script := "while :; do sleep 1000; done"
		if p.bug == "ignores" {
			script = "trap '' TERM; " + script
		}
		if err := exec.Command("/bin/sh", "-c", script).Start(); err != nil {
			return err
		}
	}

	if p.bug == "early" { // says that it is ready, and is not
		p.sayReady()
	}
	time.Sleep(p.loading)
	if p.ln, err = p.listen(listen); err != nil {
		return err
	}
	p.server = &http.Server{Handler: p, ConnState: p.connState}
	p.served = make(chan error, 1)
	go func() { p.served <- p.server.Serve(p.ln) }()
	if p.bug != "early" {
		p.sayReady()
	}
	for {
		select {
		case <-hangups:
			gone, err := p.upgrade(listen)
			if err != nil {
				log.Printf("upgrade: %v", err)
				if p.bug == "keeps" {
					null, _ := os.Open(os.DevNull)
					p.leaked = append(p.leaked, null)
				}
			}
			if gone {
				return p.drain()
			}
		case <-terms:
			_ = p.notifier.Notify(notify.Stopping())
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			return p.server.Shutdown(ctx)
		}
	}
}

func (p *plain) listen(address string) (net.Listener, error) {
	switch {
	case p.next && !(p.bug == "closes" && address != ""):
		return net.FileListener(os.NewFile(plainListener, "listener"))
	case address != "":
		// The predecessor may need a moment to close it.
		for {
			ln, err := net.Listen("tcp", address)
			if err == nil || !p.next {
				return ln, err
			}
			time.Sleep(time.Millisecond)
		}
	}
	set, err := activation.FromEnv()
	if err != nil {
		return nil, err
	}
	return set.Listener("http")
}

func (p *plain) sayReady() {
	if !p.next {
		_ = p.notifier.Notify(notify.Ready())
		return
	}
	if p.bug == "speaks" {
		_ = p.notifier.Notify(notify.Ready())
	}
	ready := os.NewFile(plainReady, "ready")
	_, _ = io.WriteString(ready, "ready")
	_ = ready.Close()
}

// upgrade starts the next version. Gone says that this one is no longer needed.
func (p *plain) upgrade(listen string) (gone bool, err error) {
	ln, err := p.ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		return false, err
	}
	if p.probe > 0 {
		forkProbe(p.probe)
	}
	ready, theirs, err := os.Pipe()
	if err != nil {
		return false, err
	}
	defer ready.Close()
	if p.bug == "leaks" {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return false, err
		}
		p.leaked = append(p.leaked, null)
	}
	files := []uintptr{0, 1, 2, 0, theirs.Fd()}
	for _, f := range p.leaked {
		files = append(files, f.Fd())
	}
	attr := &syscall.ProcAttr{Files: files, Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_PARENT}}
	if p.bug == "forks" {
		attr.Sys.Cloneflags = 0
	}
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); name != plainVariable && !strings.HasPrefix(name, "LISTEN_") {
			attr.Env = append(attr.Env, kv)
		}
	}
	attr.Env = append(attr.Env, plainVariable+"="+strconv.Itoa(len(p.leaked)))
	pid := 0
	// Not (*os.File).Fd, which changes the blocking mode for all copies.
	if err := ln.Control(func(fd uintptr) {
		files[plainListener] = fd
		pid, err = syscall.ForkExec(os.Args[0], os.Args, attr)
	}); err != nil {
		return false, err
	}
	_ = theirs.Close()
	if err != nil {
		return false, err
	}
	if p.bug == "forks" {
		go func() { _, _ = syscall.Wait4(pid, nil, 0, nil) }()
	}
	switch p.bug {
	case "closes":
		_ = p.ln.Close()
	case "hasty":
		_ = p.notifier.Notify(notify.MainPID(pid))
	}
	text, err := io.ReadAll(ready)
	if err != nil || string(text) != "ready" {
		return false, fmt.Errorf("process %d did not become ready: %q, %v", pid, text, err)
	}
	if err := p.notifier.Notify(notify.MainPID(pid), notify.Ready()); err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return true, p.notifier.Barrier(ctx)
}

// forkProbe does what os.StartProcess does once in a process, to learn whether
// the kernel has pidfds: it forks a process that runs nothing else and ends.
// That one would be seen by chance only; this one lives longer.
func forkProbe(life time.Duration) {
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	limit := unix.NsecToTimespec(int64(life))
	// The child has no other threads: it may only make system calls.
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno == 0 && pid == 0 {
		_, _, _ = syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&limit)), 0, 0)
		for {
			_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	if errno == 0 {
		_, _ = syscall.Wait4(int(pid), nil, 0, nil)
	}
}

// drain answers what there is, leads the clients away and ends.
func (p *plain) drain() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if p.bug == "shutdown" {
		return p.server.Shutdown(ctx)
	}
	p.leading.Store(true)
	_ = p.ln.Close()
	<-p.served // nothing is accepted from here on
	empty := make(chan struct{})
	go func() { p.open.Wait(); close(empty) }()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return p.server.Close()
	}
}

func (p *plain) connState(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		p.open.Add(1)
	case http.StateClosed, http.StateHijacked:
		p.open.Done()
	}
}

func (p *plain) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if p.leading.Load() {
		w.Header().Set("Connection", "close")
	}
	w.Header().Set("X-Version", InstalledVersion())
	_, _ = w.Write(body)
}
