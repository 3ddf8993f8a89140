// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec/reexectest"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/prepare"
	"github.com/holdfast-go/holdfast/vmtests/internal/procs"
)

// A plain service is processes and nothing around them but their keeper, which reaps as PID 1 does.
type plain struct {
	bench  *bench
	peer   peer
	dir    string
	addr   string
	keeper *exec.Cmd
	stdin  io.Closer     // its end ends all
	ended  chan struct{} // closed when the keeper has ended
	act    func(ctx context.Context, p *plain, begin func()) error
}

// startPlain executes a peer.
func startPlain(b *bench, p peer, protocol string, act func(context.Context, *plain, func()) error) (_ *plain, err error) {
	dir, err := os.MkdirTemp(b.dir, p.name+"-")
	if err != nil {
		return nil, err
	}
	s := &plain{bench: b, peer: p, dir: dir, addr: reexectest.FreeAddress(), ended: make(chan struct{}), act: act}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	argv, err := p.argv(b, p, protocol, dir, s.addr)
	if err != nil {
		return nil, err
	}
	said, err := os.Create(filepath.Join(dir, "output"))
	if err != nil {
		return nil, err
	}
	defer said.Close()
	s.keeper = exec.Command(b.file("keep", 1), argv...)
	s.keeper.Stdout, s.keeper.Stderr, s.keeper.Dir = said, said, dir
	if s.stdin, err = s.keeper.StdinPipe(); err != nil {
		return nil, err
	}
	if err := s.keeper.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(s.ended)
		_ = s.keeper.Wait() // output tells
	}()
	return s, nil
}

// startBySignal returns a way to start a toy service that is upgraded by a signal to its oldest process.
func startBySignal(sig unix.Signal) func(context.Context, *bench, peer, string) (service, error) {
	return func(_ context.Context, b *bench, p peer, protocol string) (service, error) {
		return startPlain(b, p, protocol, func(_ context.Context, s *plain, begin func()) error {
			return s.signal(sig, begin)
		})
	}
}

// signal sends sig to the service's only child of the keeper: the main process, whatever its parent was.
func (s *plain) signal(sig unix.Signal, begin func()) error {
	pids, err := procs.Descendants(s.keeper.Process.Pid)
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return fmt.Errorf("%s: no process is left\n%s", s.peer.name, s.output(context.Background()))
	}
	begin()
	return unix.Kill(pids[0], sig)
}

func (s *plain) address() string { return s.addr }

func (s *plain) install(_ context.Context, version int) error {
	if s.peer.missing != nil {
		return nil // of a package: the same binary again
	}
	return install(s.bench.file(s.peer.program, version), filepath.Join(s.dir, "toy"))
}

func (s *plain) upgrade(ctx context.Context, begin func()) error { return s.act(ctx, s, begin) }

func (s *plain) processes() ([]int, error) { return procs.Descendants(s.keeper.Process.Pid) }

func (s *plain) startLoad(context.Context) (*loader, error) {
	return startLoader(exec.Command(s.bench.file("load", 1)))
}

func (s *plain) output(context.Context) string {
	text, err := os.ReadFile(filepath.Join(s.dir, "output"))
	if err != nil {
		return err.Error()
	}
	return prepare.LastLines(string(text), 10)
}

func (s *plain) close() error {
	err := s.stdin.Close()
	if errors.Is(err, os.ErrClosed) {
		err = nil // nothing was left already
	}
	<-s.ended
	return errors.Join(err, os.RemoveAll(s.dir))
}

// install copies a program as a package manager does: under a new name that then takes the old one's place.
func install(from, to string) error {
	next := to + ".new"
	// Not os.WriteFile in this process: a child that is forked meanwhile would hold the file open, and
	// executing it be refused as "text file busy".
	if out, err := exec.Command("cp", "--", from, next).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w: %s", from, err, out)
	}
	return os.Rename(next, to)
}

// nginx

func startNginx(_ context.Context, b *bench, p peer, protocol string) (service, error) {
	return startPlain(b, p, protocol, func(ctx context.Context, s *plain, begin func()) error {
		pidFile := filepath.Join(s.dir, "nginx.pid")
		master, err := readPID(pidFile)
		if err != nil {
			return err
		}
		begin()
		if err := unix.Kill(master, unix.SIGUSR2); err != nil {
			return err
		}
		err = poll(ctx, func() (bool, error) {
			old, err := readPID(pidFile + ".oldbin")
			if err != nil || old != master {
				return false, ignoreMissing(err)
			}
			next, err := readPID(pidFile)
			return err == nil && next != master, ignoreMissing(err)
		})
		if err != nil {
			return fmt.Errorf("wait for the PID files of both masters: %w", err)
		}
		return unix.Kill(master, unix.SIGQUIT)
	})
}

func readPID(file string) (int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	if len(text) == 0 {
		return 0, os.ErrNotExist // about to be written
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// poll waits until done reports true.
func poll(ctx context.Context, done func() (bool, error)) error {
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func nginxArgv(b *bench, _ peer, protocol, dir, address string) ([]string, error) {
	backend, err := b.backend()
	if err != nil {
		return nil, err
	}
	listen, user := address, ""
	if protocol == "tls" {
		listen += fmt.Sprintf(" ssl http2;\n ssl_certificate %s;\n ssl_certificate_key %s;\n ssl_session_ticket_key %s",
			b.certFile(), b.keyFile(), b.ticketFile())
	}
	if os.Geteuid() == 0 {
		user = "user root;\n"
	}
	// What differs from the defaults: no limit ends a keep-alive connection before the upgrade does, the
	// ticket key is the same in all generations, and the paths are in dir.
	config := user + fmt.Sprintf(`worker_processes 1;
worker_rlimit_nofile 65536;
worker_shutdown_timeout %dms;
pid %s/nginx.pid;
error_log %[2]s/error.log;
events { worker_connections 16384; }
http {
 access_log off;
 client_body_temp_path %[2]s/body; proxy_temp_path %[2]s/proxy;
 fastcgi_temp_path %[2]s/fastcgi; uwsgi_temp_path %[2]s/uwsgi; scgi_temp_path %[2]s/scgi;
 keepalive_timeout 1h;
 keepalive_requests 1000000000;
 upstream backend { server %[3]s; keepalive 64; keepalive_requests 1000000000; }
 server {
 listen %[4]s;
 location / {
  proxy_pass http://backend;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_hide_header X-Toy-Pid;
  add_header X-Toy-Pid $pid always;
 }
 }
}
`, b.drain.Milliseconds(), dir, backend, listen)
	file := filepath.Join(dir, "nginx.conf")
	path, err := packaged("nginx")
	return []string{path, "-c", file}, errors.Join(err, os.WriteFile(file, []byte(config), 0o644))
}

// HAProxy

// haproxyReady is what the master says when it takes signals: what its unit would hear as READY=1.
const haproxyReady = "Loading success."

func startHAProxy(_ context.Context, b *bench, p peer, protocol string) (service, error) {
	reloads := 0
	return startPlain(b, p, protocol, func(ctx context.Context, s *plain, begin func()) error {
		if err := poll(ctx, func() (bool, error) {
			text, err := os.ReadFile(filepath.Join(s.dir, "output"))
			return strings.Count(string(text), haproxyReady) > reloads, err
		}); err != nil {
			return fmt.Errorf("wait until the master is ready: %w", err)
		}
		reloads++
		return s.signal(unix.SIGUSR2, begin)
	})
}

func haproxyArgv(b *bench, _ peer, protocol, dir, address string) ([]string, error) {
	backend, err := b.backend()
	if err != nil {
		return nil, err
	}
	bind := address
	if protocol == "tls" {
		bind += fmt.Sprintf(" ssl crt %s alpn h2,http/1.1 tls-ticket-keys %s", b.bothFile(), b.ticketsFile())
	}
	config := fmt.Sprintf(`global
 maxconn 8000
 hard-stop-after %dms
defaults
 mode http
 timeout connect 5s
 timeout client 1h
 timeout server 1h
 timeout http-keep-alive 1h
 option idle-close-on-response
frontend clients
 bind %s
 http-response set-header X-Toy-Pid %%pid
 default_backend toy
backend toy
 server toy %s
`, b.drain.Milliseconds(), bind, backend)
	file := filepath.Join(dir, "haproxy.cfg")
	path, err := packaged("haproxy")
	return []string{path, "-W", "-f", file}, errors.Join(err, os.WriteFile(file, []byte(config), 0o644))
}
