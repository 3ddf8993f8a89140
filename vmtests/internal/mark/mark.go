// SPDX-License-Identifier: Apache-2.0

// Package mark makes other versions of a binary by adding a few bytes to its end. To link each version would
// take longer than to run it.
package mark

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
)

// A mark at the end of a binary. Its length never changes, so that the binary can find it.
const (
	prefix      = "\nholdfast-mark="
	faultLength = 32
	format      = prefix + "%08d %-32s"
	length      = len(prefix) + 8 + 1 + faultLength
)

// Of returns what to add to a binary to make it a version, from 1 to 99999999, with a fault that its program
// knows, of at most 32 bytes and without spaces, or none.
func Of(version int, fault string) []byte {
	return fmt.Appendf(nil, format, version, fault)
}

// Mine is the mark of this process's binary: version 1 without a fault where it has none.
var Mine = sync.OnceValues(func() (version int, fault string) {
	file, err := os.Open("/proc/self/exe")
	if err != nil {
		return 1, ""
	}
	defer file.Close()
	if _, err := file.Seek(-int64(length), io.SeekEnd); err != nil {
		return 1, ""
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return 1, ""
	}
	return parse(string(text))
})

func parse(text string) (version int, fault string) {
	said, ok := strings.CutPrefix(text, prefix)
	if !ok {
		return 1, ""
	}
	number, name, _ := strings.Cut(said, " ")
	version, err := strconv.Atoi(number)
	if err != nil {
		return 1, ""
	}
	return version, strings.TrimSpace(name)
}
