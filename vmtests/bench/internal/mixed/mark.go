// SPDX-License-Identifier: Apache-2.0

package mixed

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
)

// A Fault is what is wrong with a version.
type Fault string

// Faults.
const (
	Sound      Fault = ""
	BadCheck   Fault = "check"  // the pre-check fails
	BadStart   Fault = "start"  // it ends before it is ready
	FallingIll Fault = "health" // it is not healthy any more soon after it was ready
)

// A mark at the end of a binary makes it another version. To link each one would take longer than to run it.
const (
	markPrefix = "\nmixed-version="
	markFormat = markPrefix + "%08d %-8s"
	markLength = len(markPrefix) + 8 + 1 + 8
)

// Mark returns what to add to the binary.
func Mark(version int, fault Fault) []byte {
	return fmt.Appendf(nil, markFormat, version, string(fault))
}

// mark is what this binary is: version 1, and sound, where it has none.
var mark = sync.OnceValues(func() (version int, fault Fault) {
	file, err := os.Open("/proc/self/exe")
	if err != nil {
		return 1, Sound
	}
	defer file.Close()
	if _, err := file.Seek(-int64(markLength), io.SeekEnd); err != nil {
		return 1, Sound
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return 1, Sound
	}
	return parseMark(string(text))
})

func parseMark(text string) (version int, fault Fault) {
	said, ok := strings.CutPrefix(text, markPrefix)
	if !ok {
		return 1, Sound
	}
	number, name, _ := strings.Cut(said, " ")
	version, err := strconv.Atoi(number)
	if err != nil {
		return 1, Sound
	}
	return version, Fault(strings.TrimSpace(name))
}
