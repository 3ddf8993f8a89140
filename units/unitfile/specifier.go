// SPDX-License-Identifier: Apache-2.0

package unitfile

import "strings"

// ExpandSpecifiers replaces "%x" by what value says of 'x', and "%%" by "%". A
// "%" before anything but a letter or a digit stays, as does one at the end.
func ExpandSpecifiers(text string, value func(specifier byte) (string, error)) (string, error) {
	i := strings.IndexByte(text, '%')
	if i < 0 {
		return text, nil
	}
	var b strings.Builder
	for ; i >= 0 && i+1 < len(text); i = strings.IndexByte(text, '%') {
		b.WriteString(text[:i])
		c := text[i+1]
		text = text[i+2:]
		switch {
		case c == '%':
			b.WriteByte('%')
		case c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z':
			v, err := value(c)
			if err != nil {
				return "", err
			}
			b.WriteString(v)
		default:
			b.WriteByte('%')
			b.WriteByte(c)
		}
	}
	b.WriteString(text)
	return b.String(), nil
}
