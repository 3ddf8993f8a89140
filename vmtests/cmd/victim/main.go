// SPDX-License-Identifier: Apache-2.0

// Victim is the service that the fault campaign breaks in every way. It answers on four sockets, one from a
// socket unit and three that it binds itself, and counts for its clients. A mark at the end of its binary
// (package mark) says which version it is and what is wrong with that; see faults in fault.go.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/vmtests/internal/mark"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		slog.Error("victim", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	options := reexec.Options{Name: "victim"}
	flags := flag.NewFlagSet("victim", flag.ContinueOnError)
	flags.DurationVar(&options.Probation, "probation", 80*time.Millisecond, "how long a new version is on trial")
	flags.DurationVar(&options.Beat, "beat", 20*time.Millisecond, "interval of its signs of life")
	flags.DurationVar(&options.StartTimeout, "start-timeout", 10*time.Second, "how long a new version may take to be ready")
	flags.DurationVar(&options.CheckTimeout, "check-timeout", 10*time.Second, "how long its pre-check may take")
	flags.DurationVar(&options.DrainTimeout, "drain", 5*time.Second, "how long an old version may finish what it has")
	mode := flags.String("mode", "overlap", "how one version follows another: overlap, inplace or restart")
	logTo := flags.String("log", "", "`socket` of datagrams that gets what is logged, too")
	if err := flags.Parse(args); err != nil {
		return err
	}
	modes := map[string]reexec.Mode{"overlap": reexec.Overlap, "inplace": reexec.InPlace, "restart": reexec.Restart}
	var ok bool
	if options.Mode, ok = modes[*mode]; !ok {
		return fmt.Errorf("-mode=%s: must be overlap, inplace or restart", *mode)
	}
	options.Logger = newLogger(*logTo)
	version, name := mark.Mine()
	options.Version = strconv.Itoa(version)
	wrong, err := lookUp(name)
	if err != nil {
		return err
	}
	if wrong.prepare != nil {
		wrong.prepare(&options)
	}
	if wrong.start != nil && os.Getenv("HOLDFAST_CHECK") == "" {
		wrong.start()
	}
	if wrong.onWire != nil && os.Getenv(handoverVariable) != "" {
		if err := interpose(wrong.onWire); err != nil {
			return err
		}
	}
	svc, err := reexec.New(options)
	if err != nil {
		return err
	}
	if err := serve(svc, version); err != nil {
		return err
	}
	return svc.Run(ctx)
}

// The sockets that the service binds itself; the one called http is the socket unit's.
var bound = []struct{ name, network, address string }{
	{"own", "tcp", "127.0.0.1:8081"},
	{"own-unix", "unix", "/var/lib/victim/own.sock"},
}

func serve(svc *reexec.Service, version int) error {
	count, err := newCounter(svc)
	if err != nil {
		return err
	}
	handler := handle(svc, version, count)
	ln, err := svc.Listen("http", "tcp", "127.0.0.1:8080")
	if err != nil {
		return err
	}
	svc.Serve(&http.Server{Handler: handler}, ln)
	for _, b := range bound {
		if ln, err = svc.Listen(b.name, b.network, b.address); err != nil {
			return err
		}
		svc.Serve(&http.Server{Handler: handler}, ln)
	}
	conn, err := svc.ListenPacket("own-udp", "udp", "127.0.0.1:8082")
	if err != nil {
		return err
	}
	go echoDatagrams(conn) // ends when Run ends the reading
	return nil
}

// handle answers: an echo, an echo that takes its time (/slow?for=100ms), the count after one more (/add),
// and who this is (/state).
func handle(svc *reexec.Service, version int, count *counter) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body) // an error is the client's, which went away
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		d, err := time.ParseDuration(r.FormValue("for"))
		if err != nil || d < 0 || d > time.Minute {
			http.Error(w, fmt.Sprintf("for=%q: must be a duration up to a minute", r.FormValue("for")), http.StatusBadRequest)
			return
		}
		select {
		case <-time.After(d):
			_, _ = io.Copy(w, r.Body)
		case <-r.Context().Done():
		}
	})
	mux.Handle("POST /add", count)
	mux.HandleFunc("/state", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(svc.Status())
	})
	pid := strconv.Itoa(os.Getpid())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Myapp-Version", strconv.Itoa(version))
		w.Header().Set("X-Myapp-Pid", pid)
		mux.ServeHTTP(w, r)
	})
}

// echoDatagrams answers each datagram with itself.
func echoDatagrams(conn net.PacketConn) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			slog.Warn("read a datagram", "error", err)
			continue
		}
		if _, err := conn.WriteTo(buf[:n], from); err != nil {
			slog.Warn("answer a datagram", "to", from, "error", err)
		}
	}
}
