// SPDX-License-Identifier: Apache-2.0

package unitfile

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
)

// ParseBool reads a boolean.
func ParseBool(text string) (bool, error) {
	switch strings.ToLower(text) {
	case "1", "yes", "y", "true", "t", "on":
		return true, nil
	case "0", "no", "n", "false", "f", "off":
		return false, nil
	}
	return false, fmt.Errorf("%q is not a boolean: write yes or no", text)
}

// ParseUnsigned reads a number of up to so many bits, which may be hexadecimal
// (0x) or octal (0).
func ParseUnsigned(text string, bits int) (uint64, error) {
	n, err := parseInteger(text, bits, false)
	return uint64(n), err
}

// ParseInt reads a number of up to so many bits with an optional sign.
func ParseInt(text string, bits int) (int64, error) {
	n, err := parseInteger(text, bits, true)
	return int64(n), err
}

func parseInteger(text string, bits int, signed bool) (uint64, error) {
	s := strings.TrimPrefix(text, "+")
	var (
		n   uint64
		err error
	)
	switch {
	case strings.Contains(s, "_") || strings.HasPrefix(strings.TrimPrefix(s, "-"), "+"):
		err = strconv.ErrSyntax
	case signed:
		var i int64
		i, err = strconv.ParseInt(s, 0, bits)
		n = uint64(i)
	default:
		n, err = strconv.ParseUint(s, 0, bits)
	}
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, fmt.Errorf("%q is out of range", text)
	case err != nil:
		return 0, fmt.Errorf("%q is not a number", text)
	}
	return n, nil
}

// ParseMode reads an access mode, which is octal.
func ParseMode(text string) (os.FileMode, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(text, "+"), 8, 16)
	if err != nil || n > 0o7777 {
		return 0, fmt.Errorf("%q is not an access mode: write octal digits, such as 0660", text)
	}
	mode := os.FileMode(n & 0o777)
	for bit, m := range map[uint64]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
		if n&bit != 0 {
			mode |= m
		}
	}
	return mode, nil
}

// ParseSize reads a number of bytes with the suffixes K, M, G, T, P, E to the
// base 1024. Like a time span it may be a sum, in descending order: "1G 512M".
func ParseSize(text string) (uint64, error) {
	wrong := fmt.Errorf("%q is not a size: write a number with K, M, G, T, P or E (to the base 1024)", text)
	const suffixes = "BKMGTPE"
	s := strings.Trim(text, whitespace)
	if s == "" {
		return 0, wrong
	}
	var sum uint64
	last := len(suffixes)
	for s != "" {
		whole, rest := cutDigits(s)
		fraction := ""
		if r, ok := strings.CutPrefix(rest, "."); ok {
			fraction, rest = cutDigits(r)
			if fraction == "" {
				return 0, wrong
			}
		}
		if whole == "" {
			return 0, wrong
		}
		rest = strings.TrimLeft(rest, whitespace)
		power, spelled := 0, false
		if rest != "" {
			if i := strings.IndexByte(suffixes, rest[0]); i >= 0 {
				power, spelled, rest = i, true, rest[1:]
			}
		}
		if !spelled && rest != "" || power >= last {
			return 0, wrong
		}
		last = power
		s = strings.TrimLeft(rest, whitespace)
		n, err := strconv.ParseUint(whole, 10, 64)
		unit := uint64(1) << (10 * power)
		if err != nil || n > math.MaxUint64/unit || n*unit > math.MaxUint64-sum {
			return 0, fmt.Errorf("%q is out of range", text)
		}
		sum += n * unit
		if fraction != "" {
			f, err := strconv.ParseFloat("0."+fraction, 64)
			if err != nil {
				return 0, wrong
			}
			part := uint64(f * float64(unit))
			if part > math.MaxUint64-sum {
				return 0, fmt.Errorf("%q is out of range", text)
			}
			sum += part
		}
	}
	return sum, nil
}
