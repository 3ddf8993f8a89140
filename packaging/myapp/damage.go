// SPDX-License-Identifier: Apache-2.0

//go:build damage

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec"
)

// damageKind is set by the linker, see [damage]; damageAfter is when, counted
// from the first request, for those that serve first.
var (
	damageKind  string
	damageAfter = "300ms"
)

// damage makes this build one of the bad versions that an upgrade meets:
//
//	crash-at-start      panics as a successor, after the pre-check
//	crash-in-init       panics before main, also in the pre-check
//	crash-in-probation  serves, then ends with a fatal error
//	panic-in-probation  serves, then panics
//	crash-always        panics whenever it is to serve, also under systemd
//	exit-always         exits with status 0 whenever it is to serve
//	hang-at-start       never becomes ready
//	hang-in-check       never answers the pre-check
//	hang-in-probation   serves, then stops itself with SIGSTOP
//	eat-at-start        as a successor, takes memory until the kernel ends it
//	eat-memory          serves, then takes memory until the kernel ends it
//	fail-requests       serves, then answers 500, which it counts on /metrics
//	ill-at-start        is never healthy
//	ill-in-probation    serves, then says that it is not healthy
//	ill-with-cache      the same, but only where the environment has MYAPP_CACHE
func damage(options *reexec.Options, server *http.Server) {
	after, err := time.ParseDuration(damageAfter)
	if err != nil {
		panic(err)
	}
	checking := os.Getenv("HOLDFAST_CHECK") != "" || options.CheckOnly
	var first atomic.Int64 // when the first request came
	due := func() bool {
		t := first.Load()
		return t != 0 && time.Since(time.Unix(0, t)) >= after
	}
	onRequest := func(do func()) {
		next := server.Handler
		server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			first.CompareAndSwap(0, time.Now().UnixNano())
			if due() {
				do()
			}
			next.ServeHTTP(w, r)
		})
	}
	switch damageKind {
	case "crash-at-start":
		if !checking {
			panic("damaged on purpose: crash at start")
		}
	case "crash-always":
		if !checking {
			panic("damaged on purpose: crash at every start")
		}
	case "exit-always":
		if !checking {
			os.Exit(0)
		}
	case "crash-in-probation":
		ledger := openLedger()
		onRequest(func() { ledger.writeAndCrash() })
	case "panic-in-probation":
		// net/http recovers from a panic in a handler.
		onRequest(func() { go panic("damaged on purpose: panic in probation") })
	case "hang-at-start":
		options.Health = func(ctx context.Context) error {
			<-ctx.Done()
			select {}
		}
	case "hang-in-check":
		options.Check = func(context.Context) error { select {} }
	case "hang-in-probation":
		onRequest(func() { _ = unix.Kill(os.Getpid(), unix.SIGSTOP) })
	case "eat-at-start":
		if !checking && os.Getenv("HOLDFAST_HANDOVER") != "" {
			eat()
		}
	case "eat-memory":
		onRequest(sync.OnceFunc(func() { go eat() }))
	case "fail-requests":
		onRequest(func() {})
		next := server.Handler
		var requests, failed atomic.Int64
		server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/metrics":
				fmt.Fprintf(w, "# TYPE myapp_requests_total counter\nmyapp_requests_total{code=\"200\"} %d\nmyapp_requests_total{code=\"500\"} %d\n", requests.Load()-failed.Load(), failed.Load())
				return
			case due():
				requests.Add(1)
				failed.Add(1)
				http.Error(w, "damaged on purpose: no database", http.StatusInternalServerError)
				return
			}
			requests.Add(1)
			next.ServeHTTP(w, r)
		})
	case "ill-at-start":
		options.Health = func(context.Context) error { return errors.New("damaged on purpose: never healthy") }
	case "ill-in-probation", "ill-with-cache":
		if damageKind == "ill-with-cache" && os.Getenv("MYAPP_CACHE") == "" {
			break
		}
		onRequest(func() {})
		options.Health = func(context.Context) error {
			if due() {
				return errors.New("damaged on purpose: the database is gone")
			}
			return nil
		}
	case "crash-in-init", "":
	default:
		panic(fmt.Sprintf("damageKind=%q: unknown", damageKind))
	}
}

func init() {
	if damageKind == "crash-in-init" {
		panic("damaged on purpose: crash in an init function")
	}
}

// eat takes memory until the kernel ends this process.
func eat() {
	const meal = 4 << 20
	for eaten := [][]byte{}; ; {
		b := make([]byte, meal)
		for i := 0; i < meal; i += os.Getpagesize() {
			b[i] = 1 // now it is there
		}
		eaten = append(eaten, b)
	}
}

// ledger is where a process that is about to crash writes the ports of the
// clients it holds at that instant: a uint16 each, in network byte order.
type ledger struct{ fd int }

const ledgerName = "ledger"

func openLedger() *ledger {
	// With one processor and raw system calls, nothing else of this process
	// runs while the ledger is written: no connection is accepted in between.
	runtime.GOMAXPROCS(1)
	path := filepath.Join(os.Getenv("RUNTIME_DIRECTORY"), ledgerName)
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o644)
	if err != nil {
		panic(err)
	}
	return &ledger{fd}
}

func (l *ledger) writeAndCrash() {
	const descriptors = 4096
	var ports [descriptors]uint16
	n := 0
	for fd := range uintptr(descriptors) {
		var addr unix.RawSockaddrInet4
		size := uint32(unsafe.Sizeof(addr))
		_, _, errno := unix.RawSyscall(unix.SYS_GETPEERNAME, fd, uintptr(unsafe.Pointer(&addr)), uintptr(unsafe.Pointer(&size)))
		if errno == 0 && addr.Family == unix.AF_INET {
			ports[n] = addr.Port // as it is on the wire
			n++
		}
	}
	_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(l.fd), uintptr(unsafe.Pointer(&ports)), uintptr(n*2))
	if errno != 0 {
		panic(errno)
	}
	// net/http recovers from a panic in a handler; from this nobody does, and
	// no other goroutine gets to run before it.
	new(sync.Mutex).Unlock()
}
