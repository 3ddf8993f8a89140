// SPDX-License-Identifier: Apache-2.0

package lastgood

import (
	"fmt"
	"path/filepath"
	"strings"
)

// Variable tells a service that it was launched, and where the record is. Its
// value is "file," or "good," and the directory. Only the process that was
// launched and its successors have it, for which it begins with "file,".
const Variable = "HOLDFAST_LAUNCH"

const (
	launchedFile = "file,"
	launchedGood = "good,"
)

// Launched is the value of [Variable].
type Launched struct {
	Directory string
	// Good says that the copy of the good version runs in place of the
	// service's file.
	Good bool
}

func (l Launched) String() string {
	if l.Good {
		return launchedGood + l.Directory
	}
	return launchedFile + l.Directory
}

// ParseLaunched reads the value of [Variable].
func ParseLaunched(value string) (Launched, error) {
	dir, good := strings.CutPrefix(value, launchedGood)
	file := false
	if !good {
		dir, file = strings.CutPrefix(value, launchedFile)
	}
	if !good && !file || !filepath.IsAbs(dir) {
		return Launched{}, fmt.Errorf("%s=%q: must be \"file,\" or \"good,\" and an absolute path", Variable, value)
	}
	return Launched{Directory: dir, Good: good}, nil
}

// ForSuccessor is the value of [Variable] for the next version.
func ForSuccessor(value string) string {
	if dir, ok := strings.CutPrefix(value, launchedGood); ok {
		return launchedFile + dir
	}
	return value
}
