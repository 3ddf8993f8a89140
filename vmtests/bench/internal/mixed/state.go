// SPDX-License-Identifier: Apache-2.0

package mixed

import (
	"encoding/json"
	"net/http"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests/internal/mark"
	"github.com/holdfast-go/holdfast/vmtests/internal/procs"
)

// A State is what one generation has in use.
type State struct {
	PID        int `json:"pid"`
	Version    int `json:"version"`
	Generation int `json:"generation"`

	Descriptors int `json:"descriptors"`
	// Connections are the descriptors that are sockets with a peer: the clients', and one to each neighbour
	// that lives.
	Connections int          `json:"connections"`
	Goroutines  int          `json:"goroutines"`
	Heap        int64        `json:"heap_bytes"` // after a collection
	Memory      procs.Memory `json:"memory"`
}

// look looks at this process.
func look() (State, error) {
	version, _ := mark.Mine()
	s := State{PID: os.Getpid(), Version: version, Goroutines: runtime.NumGoroutine()}
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return s, err
	}
	s.Descriptors = len(names) - 1 // without that of the directory
	for _, name := range names {
		fd, err := strconv.Atoi(name.Name())
		if err != nil {
			return s, err
		}
		if _, err := unix.Getpeername(fd); err == nil {
			s.Connections++
		}
	}
	// Twice: what is in a sync.Pool survives one.
	runtime.GC()
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	s.Heap = int64(memory.HeapAlloc)
	s.Memory, err = procs.MemoryOf([]int{s.PID})
	return s, err
}

// stateHandler answers with the state as JSON.
func stateHandler(generation int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		s, err := look()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		s.Generation = generation
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s) // the client is gone
	}
}
