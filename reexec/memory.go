// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"bytes"
	"os"
	"runtime/metrics"
	"strconv"

	"github.com/holdfast-go/holdfast/reexec/control"
)

// memoryNow is what this process has. It does not stop the world, and costs some
// microseconds.
func memoryNow() *control.Memory {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	m := &control.Memory{Resident: resident()}
	if sample[0].Value.Kind() == metrics.KindUint64 {
		m.Heap = sample[0].Value.Uint64()
	}
	return m
}

// resident is in the second field of proc_pid_statm(5), in pages; 0 where proc is
// not there.
func resident() uint64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(text)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}
