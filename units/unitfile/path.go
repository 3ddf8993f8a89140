// SPDX-License-Identifier: Apache-2.0

package unitfile

import (
	"errors"
	"fmt"
	"strings"
)

// CleanPath removes what has no meaning in a path, as systemd does: doubled
// slashes, "." components and slashes at the end. ".." stays.
func CleanPath(path string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." {
			continue
		}
		if b.Len() > 0 || path[0] == '/' {
			b.WriteByte('/')
		}
		b.WriteString(part)
	}
	if b.Len() == 0 && path != "" && path[0] == '/' {
		return "/"
	}
	return b.String()
}

// CheckPath reports what makes a path unfit for an option: control characters,
// a length that the kernel refuses, ".." components, being relative or not.
func CheckPath(path string, absolute bool) error {
	switch {
	case path == "":
		return errors.New("the path is empty")
	case !validUTF8(path) || strings.Contains(path, "\x00"):
		return errors.New("the path is not valid UTF-8")
	case absolute && path[0] != '/':
		return fmt.Errorf("%q is not an absolute path", path)
	case !absolute && path[0] == '/':
		return fmt.Errorf("%q is an absolute path, and the option wants a relative one", path)
	case len(path) >= 4096:
		return fmt.Errorf("the path has %d bytes, more than the kernel takes", len(path))
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == ".." {
			return fmt.Errorf(`%q has a ".." in it`, path)
		}
		if len(part) > 255 {
			return fmt.Errorf("a component of the path has %d bytes, more than the kernel takes", len(part))
		}
	}
	return nil
}
