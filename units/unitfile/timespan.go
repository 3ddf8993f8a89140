// SPDX-License-Identifier: Apache-2.0

package unitfile

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Infinity is the time span "infinity".
const Infinity time.Duration = math.MaxInt64

const (
	day  = 24 * time.Hour
	year = 31557600 * time.Second // 365.25 days
)

// timeUnits are those of systemd.time(7); of two that begin alike, the longer
// stands first.
var timeUnits = []struct {
	name string
	unit time.Duration
}{
	{"seconds", time.Second},
	{"second", time.Second},
	{"sec", time.Second},
	{"s", time.Second},
	{"minutes", time.Minute},
	{"minute", time.Minute},
	{"min", time.Minute},
	{"months", year / 12},
	{"month", year / 12},
	{"M", year / 12},
	{"msec", time.Millisecond},
	{"ms", time.Millisecond},
	{"m", time.Minute},
	{"hours", time.Hour},
	{"hour", time.Hour},
	{"hr", time.Hour},
	{"h", time.Hour},
	{"days", day},
	{"day", day},
	{"d", day},
	{"weeks", 7 * day},
	{"week", 7 * day},
	{"w", 7 * day},
	{"years", year},
	{"year", year},
	{"y", year},
	{"usec", time.Microsecond},
	{"us", time.Microsecond},
	{"μs", time.Microsecond},
	{"µs", time.Microsecond},
}

// ParseTimespan reads a time span of systemd.time(7), such as "5min 20s". A
// number without a unit is in the default unit. What is below a microsecond is
// lost, as it is to systemd; what a Duration cannot hold, 292 years, is
// Infinity.
func ParseTimespan(text string, defaultUnit time.Duration) (time.Duration, error) {
	s := strings.Trim(text, whitespace)
	if s == "infinity" {
		return Infinity, nil
	}
	if s == "" {
		return 0, errors.New(`a time span is missing, such as "5min 20s"`)
	}
	var sum uint64 // microseconds
	add := func(n, unit uint64) bool {
		if unit != 0 && n >= math.MaxUint64/unit || n*unit >= math.MaxUint64-sum {
			return false
		}
		sum += n * unit
		return true
	}
	for s != "" {
		if s[0] == '-' {
			return 0, fmt.Errorf("%q is negative", text)
		}
		if s[0] == '+' && len(s) > 1 && s[1] >= '0' && s[1] <= '9' {
			s = s[1:]
		}
		whole, rest := cutDigits(s)
		fraction, point := "", strings.HasPrefix(rest, ".")
		if point {
			fraction, rest = cutDigits(rest[1:])
		}
		if whole == "" && fraction == "" || point && fraction == "" {
			return 0, fmt.Errorf(`%q is not a time span: write numbers with units, such as "5min 20s", or "infinity"`, text)
		}
		unit := defaultUnit
		trimmed := strings.TrimLeft(rest, whitespace)
		found := false
		for _, u := range timeUnits {
			if after, ok := strings.CutPrefix(trimmed, u.name); ok {
				unit, trimmed, found = u.unit, after, true
				break
			}
		}
		if !found && trimmed == rest && rest != "" {
			return 0, fmt.Errorf("%q is not a time span: there is no unit %q", text, excerpt(rest))
		}
		s = strings.TrimLeft(trimmed, whitespace)
		n := uint64(0)
		if whole != "" {
			var err error
			if n, err = strconv.ParseUint(whole, 10, 63); err != nil {
				return 0, fmt.Errorf("%q is more than systemd can count", text)
			}
		}
		micro := uint64(unit / time.Microsecond)
		ok := add(n, micro)
		for i := range len(fraction) {
			micro /= 10
			ok = ok && add(uint64(fraction[i]-'0'), micro)
		}
		if !ok {
			return 0, fmt.Errorf("%q is more than systemd can count", text)
		}
	}
	if sum > math.MaxInt64/1000 {
		return Infinity, nil
	}
	return time.Duration(sum) * time.Microsecond, nil
}

func cutDigits(s string) (digits, rest string) {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return s[:n], s[n:]
}
