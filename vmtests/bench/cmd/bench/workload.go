// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/load"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/toy"
)

// A workload is a kind of client.
type workload struct {
	name     string
	title    string
	protocol string // of package toy
	mode     string // of package load
	delay    time.Duration
}

// distance is how far away distant clients are, each way.
const distance = 25 * time.Millisecond

var workloads = []workload{
	{"new", "a connection for each POST", toy.HTTP, load.New, 0},
	{"keepalive", "keep-alive, POSTs that are not sent again", toy.HTTP, load.KeepAlive, 0},
	{"distant", "keep-alive, 25 ms away each way", toy.HTTP, load.KeepAlive, distance},
	{"tls", "keep-alive over TLS", toy.TLS, load.KeepAlive, 0},
	{"idle", "idle keep-alive connections", toy.HTTP, load.Idle, 0},
	{"http2", "HTTP/2 streams, 25 ms away each way", toy.TLS, load.HTTP2, distance},
	{"session", "sessions of lines over TCP", toy.Line, load.Line, 0},
	{"udp", "datagrams", toy.UDP, load.UDP, 0},
}

// choose returns those of all that list names, in the order of all. Empty means all.
func choose[T any](flag, list string, all []T, name func(T) string) ([]T, error) {
	if list == "" {
		return all, nil
	}
	want := make(map[string]bool)
	for word := range strings.SplitSeq(list, ",") {
		want[strings.TrimSpace(word)] = true
	}
	var chosen []T
	var names []string
	for _, one := range all {
		names = append(names, name(one))
		if want[name(one)] {
			chosen = append(chosen, one)
			delete(want, name(one))
		}
	}
	for word := range want {
		return nil, fmt.Errorf("-%s: %q: must be of %s", flag, word, strings.Join(names, ","))
	}
	return chosen, nil
}
