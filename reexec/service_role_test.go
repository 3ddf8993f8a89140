// SPDX-License-Identifier: Apache-2.0

package reexec_test

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/reexec/internal/handover"
)

// planVariable is the path of the plan. A test rewrites the file between two
// generations, as a package manager puts another binary in place.
const planVariable = "HOLDFAST_TEST_PLAN"

// plan is what one version of the service does.
type plan struct {
	Name        string // default "service"
	Version     string
	Fingerprint string // Options.Fingerprint
	Downgrade   reexec.Downgrade
	Listeners   []planSocket  // the first one serves HTTP
	Streams     []planSocket  // each line is answered with itself and the PID
	Packets     []planSocket  // answered with the PID of who read
	AnswerAfter time.Duration // of a datagram
	AnswerAside bool          // in a goroutine for each
	Sessions    *planSocket   // sessions of lines, see serveSessions
	Directory   string        // Options.RuntimeDirectory

	Probation, Beat, StartTimeout, CheckTimeout, DrainTimeout time.Duration
	ReloadTimeout                                             time.Duration
	MaxDraining                                               int
	Mode                                                      reexec.Mode

	// What it does at a moment: "panic: why", "exit: why", "hang", "stage" (report to the
	// test and do as it says), or one of the moment's own.
	Check string // in the pre-check; "ignore": does not call New; "mute": no answer
	Early string // before New; "garbage", "close": on the handover socket; "hostile": see hostileSuccessors
	Built string // after New
	// HealthFile holds what the health check returns; "hang" means that it
	// does not. An empty or missing file is good health.
	HealthFile string
	Stages     string // socket of the test's stages
	NoFile     uint64 // RLIMIT_NOFILE
	CheckOnly  bool
	FillTo     int    // all descriptors below this one are in use
	Handover   int    // latest version of the handover that it speaks
	NoSessions bool   // handles none that another generation had
	Ballast    int    // bytes of state of each session
	Probes     bool   // has Service.Handler on the socket "probes.PID" of its own, from New on
	Worker     string // runs while it is main, and does as this says
	State      bool   // has a state, whose functions do as these say
	Save, Load string
	Config     string // path of what SIGHUP reads, see fileReloader
	// Certificate and Key are PEM. With them the first listener is for TLS.
	Certificate, Key []byte
}

type planSocket struct{ Name, Network, Address string }

func readPlan() (plan, error) {
	var p plan
	data, err := os.ReadFile(os.Getenv(planVariable))
	if err != nil {
		return p, err
	}
	return p, json.Unmarshal(data, &p)
}

func serviceMain() int {
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("self", os.Getpid())
	err := runService(log)
	if err != nil {
		log.Error("service ends", "error", err)
		return 1
	}
	log.Info("service ends")
	return 0
}

func runService(log *slog.Logger) error {
	p, err := readPlan()
	if err != nil {
		return err
	}
	if p.NoFile > 0 {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: p.NoFile, Max: p.NoFile}); err != nil {
			return err
		}
	}
	if p.Handover > 0 {
		handover.Ours.Latest = p.Handover
	}
	if inCheck := os.Getenv("HOLDFAST_CHECK") != ""; inCheck {
		switch p.Check {
		case "ignore":
			select {}
		case "mute":
			return nil
		}
	} else if err := p.do(p.Early, "early"); err != nil {
		return err
	}
	for p.FillTo > 0 {
		fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if fd >= p.FillTo {
			_ = unix.Close(fd)
			break
		}
	}
	service, err := reexec.New(reexec.Options{
		Name: cmp.Or(p.Name, "service"), Version: p.Version, Fingerprint: []byte(p.Fingerprint), Downgrade: p.Downgrade, RuntimeDirectory: p.Directory, CheckOnly: p.CheckOnly,
		Check:  func(context.Context) error { return p.do(p.Check, "check") },
		Health: p.health,
		Beat:   p.Beat, Probation: p.Probation, StartTimeout: p.StartTimeout,
		Mode: p.Mode, CheckTimeout: p.CheckTimeout, DrainTimeout: p.DrainTimeout, MaxDraining: p.MaxDraining,
		ReloadTimeout: p.ReloadTimeout,
		Logger:        log,
	})
	if err != nil {
		return err
	}
	if _, err := reexec.New(reexec.Options{Name: "service"}); !errors.Is(err, reexec.ErrTwice) {
		return fmt.Errorf("a second New: %v", err)
	}
	if p.Probes {
		path := filepath.Join(p.Directory, fmt.Sprintf("probes.%d", os.Getpid()))
		_ = os.Remove(path) // of the program that was executed in place
		ln, err := net.Listen("unix", path)
		if err != nil {
			return err
		}
		go func() { _ = http.Serve(ln, service.Handler()) }()
	}
	var config *fileReloader
	if p.Config != "" {
		if config, err = newFileReloader(p); err != nil {
			return err
		}
		service.OnReload("witness", witness{log})
		service.OnReload("file", config)
	}
	for i, l := range p.Listeners {
		ln, err := service.Listen(l.Name, l.Network, l.Address)
		if err != nil {
			return err
		}
		if i == 0 {
			srv := &http.Server{Handler: p.handler(service, config)}
			if p.Certificate != nil {
				certificate, err := tls.X509KeyPair(p.Certificate, p.Key)
				if err != nil {
					return err
				}
				srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
			}
			service.Serve(srv, ln)
		}
	}
	for _, l := range p.Streams {
		ln, err := service.Listen(l.Name, l.Network, l.Address)
		if err != nil {
			return err
		}
		go answerStreams(ln)
	}
	for _, l := range p.Packets {
		conn, err := service.ListenPacket(l.Name, l.Network, l.Address)
		if err != nil {
			return err
		}
		var answers sync.WaitGroup
		read := make(chan struct{})
		go func() {
			defer close(read)
			p.answerPackets(conn, &answers)
		}()
		service.OnDrain(l.Name, func(context.Context) error {
			if p.AnswerAside {
				<-read // no more are added
				answers.Wait()
			}
			return nil
		})
	}
	if p.Sessions != nil {
		ln, err := service.Listen(p.Sessions.Name, p.Sessions.Network, p.Sessions.Address)
		if err != nil {
			return err
		}
		serveSessions(service, p, ln, log)
	}
	if p.State {
		if _, err := service.State("text", reexec.Snapshot{
			Version: 1,
			Save:    func(io.Writer) error { return p.do(p.Save, "save") },
			Load:    func(uint32, []byte) error { return p.do(p.Load, "load") },
		}); err != nil {
			return err
		}
	}
	if p.Worker != "" {
		service.Go("worker", func(ctx context.Context) error {
			log.Info("worker begins")
			defer log.Info("worker ends")
			if p.Worker == "work" {
				<-ctx.Done()
				return nil
			}
			return p.do(p.Worker, "worker")
		})
	}
	if err := p.do(p.Built, "built"); err != nil {
		return err
	}
	return service.Run(context.Background())
}

// do acts as the plan says.
func (p plan) do(what, moment string) error {
	if what == "stage" {
		answer, err := p.stage(moment)
		if err != nil {
			return err
		}
		what = answer
	}
	verb, text, _ := strings.Cut(what, ": ")
	switch verb {
	case "", "ignore", "mute":
		return nil
	case "panic":
		panic(text)
	case "exit":
		return errors.New(text)
	case "hang":
		select {}
	case "garbage":
		// The handover socket is descriptor 3, see successor.go.
		if _, err := unix.Write(3, []byte(text)); err != nil {
			return err
		}
		select {}
	case "hostile":
		return beHostile(text)
	case "close":
		if err := unix.Close(3); err != nil {
			return err
		}
		select {}
	}
	return fmt.Errorf("plan says %q: no such thing", what)
}

func (p plan) health(ctx context.Context) error {
	if p.HealthFile == "" {
		return nil
	}
	said, err := os.ReadFile(p.HealthFile)
	switch {
	case errors.Is(err, os.ErrNotExist) || len(said) == 0:
		return nil
	case err != nil:
		return err
	case string(said) == "hang":
		<-ctx.Done()
		select {} // as a check does that knows no context
	}
	return errors.New(string(said))
}

// stage tells the test where this process is, and waits for its word.
func (p plan) stage(at string) (string, error) {
	conn, err := net.Dial("unix", p.Stages)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := json.NewEncoder(conn).Encode(stage{PID: os.Getpid(), At: at}); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// stage is a process that waits for the test.
type stage struct {
	PID  int
	At   string
	conn net.Conn
}

// who is the answer of GET /who.
type who struct {
	PID, Generation int
	Version         string
}

func (p plan) handler(service *reexec.Service, config *fileReloader) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /config", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, *config.now.Load()) })
	me := who{os.Getpid(), service.Generation(), service.Version()}
	mux.HandleFunc("GET /who", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(me) })
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Pid", fmt.Sprint(me.PID))
		_, _ = io.Copy(w, r.Body)
	})
	// A request that is answered when the test says so.
	mux.HandleFunc("GET /wait", func(w http.ResponseWriter, _ *http.Request) {
		if _, err := p.stage("wait"); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(me)
	})
	// Descriptors are on their way until the test says so.
	mux.HandleFunc("GET /crowd", func(w http.ResponseWriter, _ *http.Request) {
		if err := p.crowd(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	for _, path := range []string{"/healthz", "/readyz", "/updatez", "/metrics"} {
		mux.Handle(path, service.Handler())
	}
	mux.HandleFunc("GET /goroutines", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(runtime.NumGoroutine()) })
	mux.HandleFunc("GET /crash", func(http.ResponseWriter, *http.Request) {
		go panic("crash on demand") // net/http would recover from its own
		select {}
	})
	return mux
}

// crowd sends as many descriptors as this user may have on their way, and one
// message more. They are received when the test says so.
func (p plan) crowd() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	// The kernel drops what is still on its way.
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	rights := unix.UnixRights(slices.Repeat([]int{pair[0]}, 200)...)
	for err == nil {
		err = unix.Sendmsg(pair[0], []byte("x"), rights, nil, 0)
	}
	if !errors.Is(err, unix.ETOOMANYREFS) {
		return err
	}
	_, err = p.stage("crowd")
	return err
}

func answerStreams(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			for in := bufio.NewScanner(conn); in.Scan(); {
				if _, err := fmt.Fprintf(conn, "%s %d\n", in.Text(), os.Getpid()); err != nil {
					return
				}
			}
		}()
	}
}

func (p plan) answerPackets(conn net.PacketConn, aside *sync.WaitGroup) {
	buf := make([]byte, 64)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		answer := fmt.Appendf(nil, "%s %d", buf[:n], os.Getpid())
		write := func() {
			time.Sleep(p.AnswerAfter)
			_, _ = conn.WriteTo(answer, from)
		}
		if p.AnswerAside {
			aside.Go(write)
		} else {
			write()
		}
	}
}

// execMain starts the service the way systemd does: it passes descriptors 3
// and up, whose names are in LISTEN_FDNAMES, to this very process.
func execMain() int {
	environ := []string{}
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); name != roleVariable && name != "LISTEN_PID" {
			environ = append(environ, kv)
		}
	}
	environ = append(environ, roleVariable+"=service")
	if os.Getenv("LISTEN_FDS") != "" {
		environ = append(environ, fmt.Sprintf("LISTEN_PID=%d", os.Getpid()))
	}
	err := syscall.Exec(os.Args[0], os.Args, environ)
	fmt.Fprintln(os.Stderr, "exec:", err)
	return 1
}
