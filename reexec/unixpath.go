// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
)

// removeStale removes the path of a Unix socket that nobody has open any more:
// a process that was killed leaves its paths behind, and bind(2) refuses them.
// It returns whether the path is in use.
func removeStale(network, path string) (inUse bool, err error) {
	if !isUnixPath(network, path) {
		return false, nil
	}
	st, err := os.Lstat(path)
	if err != nil || st.Mode().Type() != fs.ModeSocket {
		return false, nil // bind(2) has the word
	}
	conn, err := net.Dial(network, path)
	if err == nil {
		_ = conn.Close()
	}
	// Anything but a refusal may be a living service: a full queue, another
	// kind of socket, or another user's.
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return true, nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("remove what a process that was killed left behind: %w", err)
	}
	return false, nil
}

// isUnixPath says whether the address is a path, and not an abstract name.
func isUnixPath(network, address string) bool {
	return strings.HasPrefix(network, "unix") && address != "" && address[0] != '@' && address[0] != 0
}

// ownership says whose the paths of our Unix sockets are when we close them.
type ownership uint8

const (
	// ours: nobody else uses them, so they are removed.
	ours ownership = iota
	// predecessors: what we got from the predecessor is its own; what we bound
	// is removed.
	predecessors
	// successors: all are used on.
	successors
)
