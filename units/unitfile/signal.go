// SPDX-License-Identifier: Apache-2.0

package unitfile

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The real-time signals as libc counts them, which keeps the first two.
const (
	sigRTMin = 34
	sigRTMax = 64
)

// ParseSignal reads a signal: its number, its name with or without "SIG",
// RTMIN+n or RTMAX-n.
func ParseSignal(text string) (syscall.Signal, error) {
	wrong := fmt.Errorf("%q is not a signal: write a name such as SIGTERM, or a number from 1 to %d", text, sigRTMax)
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		if n < 1 || n > sigRTMax {
			return 0, wrong
		}
		return syscall.Signal(n), nil
	}
	name := strings.TrimPrefix(text, "SIG")
	for prefix, base := range map[string]int{"RTMIN": sigRTMin, "RTMAX": sigRTMax} {
		offset, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		n := 0
		if offset != "" {
			var err error
			if n, err = strconv.Atoi(offset); err != nil || offset[0] != '+' && offset[0] != '-' {
				return 0, wrong
			}
		}
		if n < -sigRTMax || n > sigRTMax || base+n < sigRTMin || base+n > sigRTMax {
			return 0, wrong
		}
		return syscall.Signal(base + n), nil
	}
	if n := unix.SignalNum("SIG" + name); n > 0 && n < 32 {
		return n, nil
	}
	return 0, wrong
}
