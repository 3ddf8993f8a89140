// SPDX-License-Identifier: Apache-2.0

// Command press is an HTTP service that reads its configuration again at SIGHUP: the
// page that it prints, the file that it logs to, and whether it takes orders at all.
// No request sees half of a new configuration, and a bad one changes nothing.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/holdfast-go/holdfast/reexec"
	"github.com/holdfast-go/holdfast/reexec/config"
)

// settings is the file.
type settings struct {
	Edition int    `json:"edition"`
	Page    string `json:"page"`   // a template
	Orders  string `json:"orders"` // path of the log; empty: none
	Closed  bool   `json:"closed"`
}

func (s *settings) validate() error {
	if s.Edition < 1 {
		return fmt.Errorf("edition=%d: must be 1 or more", s.Edition)
	}
	return nil
}

func load(path string) (s settings, err error) {
	f, err := os.Open(path)
	if err != nil {
		return s, err
	}
	defer f.Close()
	dec := json.NewDecoder(f)
	dec.DisallowUnknownFields() // what is misspelt is no configuration
	if err := dec.Decode(&s); err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func main() {
	path := flag.String("config", "/etc/press/press.json", "the configuration")
	probation := flag.Duration("probation", 5*time.Second, "how long a new version is on trial")
	flag.Parse()
	ctx := context.Background()

	cfg := config.New(func(context.Context) (settings, error) { return load(*path) }, (*settings).validate)
	page := config.NewPart(cfg, "page", func(s *settings) string { return s.Page },
		func(_ context.Context, text string) (*template.Template, error) {
			return template.New("page").Option("missingkey=error").Parse(text)
		}, nil)
	orders := config.NewPart(cfg, "orders", func(s *settings) string { return s.Orders }, openOrders,
		func(_ context.Context, w io.WriteCloser) error { return w.Close() })

	service, err := reexec.New(reexec.Options{
		Name: "press", Probation: *probation,
		// A version that cannot read the configuration does not even start.
		Check: func(ctx context.Context) error { return errors.Join(cfg.Reload(ctx), cfg.Close(ctx)) },
	})
	if err != nil {
		log.Fatal(err)
	}
	service.OnReload("configuration", cfg) // before it is read: a SIGHUP is not lost
	if err := cfg.Reload(ctx); err != nil {
		log.Fatal(err)
	}

	var layers config.Middlewares[http.Handler]
	layers.Register("door", func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if cfg.FromContext(r.Context()).Value().Closed {
				http.Error(w, "closed", http.StatusServiceUnavailable)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s := cfg.FromContext(r.Context())
		_, _ = io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, 1<<20))
		if _, err := fmt.Fprintf(orders.In(s), "edition %d\n", s.Value().Edition); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Edition", fmt.Sprint(s.Value().Edition))
		if err := page.In(s).Execute(w, s.Value()); err != nil {
			log.Print(err)
		}
	})

	listener, err := service.Listen("http", "tcp", "127.0.0.1:8080")
	if err != nil {
		log.Fatal(err)
	}
	service.Serve(&http.Server{Handler: cfg.Handler(config.HTTP(&layers, mux))}, listener)
	if err := errors.Join(service.Run(ctx), cfg.Close(ctx)); err != nil {
		log.Fatal(err)
	}
}

// openOrders opens the log, to which several processes may append.
func openOrders(_ context.Context, path string) (io.WriteCloser, error) {
	if path == "" {
		path = os.DevNull
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
}
