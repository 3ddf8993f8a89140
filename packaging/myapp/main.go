// SPDX-License-Identifier: Apache-2.0

// Command myapp is the example service of Holdfast: an HTTP service whose
// sockets come from systemd and whose versions follow each other without a
// client noticing.
//
// Its version is set when it is built:
//
//	go build -ldflags "-X main.version=1.2.3" ./packaging/myapp
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/reexec/control"
	"github.com/holdfast-go/holdfast/reexec/metrics"
)

// version is set by the linker.
var version = "0.0.0-dev"

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		slog.Error("myapp", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("myapp", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:8080", "`address` to bind when systemd passes no socket named http")
	greeting := flags.String("greeting", "hello", "what GET / answers; may not be empty")
	probation := flags.Duration("probation", 5*time.Second, "how long a new version is on trial")
	beat := flags.Duration("beat", 500*time.Millisecond, "how often a new version on trial says that it is alive")
	checkTimeout := flags.Duration("check-timeout", 10*time.Second, "how long the check of a new version may take")
	start := flags.Duration("start-timeout", 30*time.Second, "how long a new version may take to be ready")
	drain := flags.Duration("drain", 30*time.Second, "how long an old version may finish what it has")
	var mode reexec.Mode
	flags.TextVar(&mode, "mode", reexec.Overlap, "how one version follows another: overlap, in-place or restart")
	config := flags.String("config", "", "`file` with further options, NAME = VALUE on a line")
	check := flags.Bool("check", false, "check the configuration and exit")
	showVersion := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if *showVersion {
		fmt.Println("myapp", version)
		return nil
	}
	if *config != "" {
		if err := readConfig(flags, *config); err != nil {
			return err
		}
	}

	options := reexec.Options{
		Name:         "myapp",
		Version:      version,
		Probation:    *probation,
		Beat:         *beat,
		CheckTimeout: *checkTimeout,
		StartTimeout: *start,
		DrainTimeout: *drain,
		Mode:         mode,
		CheckOnly:    *check,
		Check: func(context.Context) error {
			if *greeting == "" {
				return errors.New("-greeting is empty: say something")
			}
			return nil
		},
	}
	mux := http.NewServeMux()
	requests := prometheus.NewCounter(prometheus.CounterOpts{Name: "myapp_requests_total", Help: "Requests that were answered, or are being."})
	server := &http.Server{Handler: counted(requests, handler(mux, *greeting)), ReadHeaderTimeout: 10 * time.Second}
	damage(&options, server)

	service, err := reexec.New(options)
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(requests, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := metrics.Serve(service, registry); err != nil {
		return err
	}
	// A service that is not an example does not show these to everybody.
	for _, path := range []string{control.HealthzPath, control.ReadyzPath, control.UpdatezPath, control.MetricsPath} {
		mux.Handle(path, service.Handler())
	}
	http, err := service.Listen("http", "tcp", *listen)
	if err != nil {
		return err
	}
	service.Serve(server, http)
	return service.Run(ctx)
}

// counted counts requests before they are answered, so that nobody has an answer that is
// not counted.
func counted(requests prometheus.Counter, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Inc()
		next.ServeHTTP(w, r)
	})
}

// handler answers in ways that a test can tell apart: by whom, and what.
func handler(mux *http.ServeMux, greeting string) http.Handler {
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "%s from myapp %s\n", greeting, version)
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		// An error here is the client's: it went away.
		_, _ = io.Copy(w, r.Body)
	})
	mux.HandleFunc("GET /sleep", func(w http.ResponseWriter, r *http.Request) {
		d, err := time.ParseDuration(r.FormValue("for"))
		if err != nil || d < 0 || d > time.Hour {
			http.Error(w, fmt.Sprintf("for=%q: must be a duration such as 2s, at most 1h", r.FormValue("for")), http.StatusBadRequest)
			return
		}
		// The header goes out at once, so that a client knows it is being served.
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-time.After(d):
			fmt.Fprintf(w, "slept for %v\n", d)
		case <-r.Context().Done():
		}
	})
	pid := strconv.Itoa(os.Getpid())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Myapp-Version", version)
		w.Header().Set("X-Myapp-Pid", pid)
		mux.ServeHTTP(w, r)
	})
}
