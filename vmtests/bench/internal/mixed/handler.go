// SPDX-License-Identifier: Apache-2.0

package mixed

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/toy"
	"github.com/holdfast-go/holdfast/vmtests/internal/mark"
)

// Paths of the HTTP servers. What is not among them echoes the body of a request.
const (
	SlowPath   = "/slow"        // echoes after ?for=DURATION
	UploadPath = "/upload"      // answers with the SHA-256 sum of the body in hexadecimal digits
	EventsPath = "/events"      // sends ?count=N server-sent events, which are the numbers from 1 on, one ?every=DURATION
	StatePath  = "/debug/state" // a [State]
)

// maxBody bounds what a request may send.
const maxBody = 64 << 20

// Handler serves all paths, as a version of that generation.
func Handler(generation int) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(SlowPath, slow)
	mux.HandleFunc(UploadPath, upload)
	mux.HandleFunc(EventsPath, events)
	mux.HandleFunc(StatePath, stateHandler(generation))
	mux.HandleFunc("/", echo)
	version, _ := mark.Mine()
	pid := strconv.Itoa(os.Getpid())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(toy.HeaderVersion, strconv.Itoa(version))
		w.Header().Set(toy.HeaderPID, pid)
		mux.ServeHTTP(w, r)
	})
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(body) // the client is gone
}

func slow(w http.ResponseWriter, r *http.Request) {
	d, err := time.ParseDuration(r.FormValue("for"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	wait(r, d)
	echo(w, r)
}

func upload(w http.ResponseWriter, r *http.Request) {
	sum := sha256.New()
	if _, err := io.Copy(sum, http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = io.WriteString(w, hex.EncodeToString(sum.Sum(nil))) // the client is gone
}

func events(w http.ResponseWriter, r *http.Request) {
	count, err := strconv.Atoi(r.FormValue("count"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	every, err := time.ParseDuration(r.FormValue("every"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	stream := http.NewResponseController(w)
	for i := range count {
		if _, err := fmt.Fprintf(w, "data: %d\n\n", i+1); err != nil {
			return
		}
		if err := stream.Flush(); err != nil {
			return
		}
		wait(r, every)
	}
}

// wait waits for d, or until the client is gone.
func wait(r *http.Request, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
	}
}
