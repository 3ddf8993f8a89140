// SPDX-License-Identifier: Apache-2.0

package upgrade1

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxText      = 1024
	maxErrorText = 8 << 10 // several units may be at fault
)

// printable bounds a text of another process and escapes what could change a terminal. The bus
// ends the connection of who sends a string that is not UTF-8, or has a NUL.
func printable(s string, limit int) string {
	var b strings.Builder
	for i, r := range s {
		var part string
		switch {
		case r == '\n':
			part = "; "
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)):
			part = fmt.Sprintf(`\x%02x`, s[i])
		case unicode.IsPrint(r):
			part = string(r)
		case r < 0x80:
			part = fmt.Sprintf(`\x%02x`, r)
		default:
			part = fmt.Sprintf(`\u%04x`, r)
		}
		if b.Len()+len(part) > limit-len("…") {
			b.WriteString("…")
			break
		}
		b.WriteString(part)
	}
	return b.String()
}
