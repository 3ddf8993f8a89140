// SPDX-License-Identifier: Apache-2.0

package unit

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/units/unitfile"
)

// limitKind says how the value of a limit is written.
type limitKind int

const (
	limitCount limitKind = iota
	limitBytes
	limitSeconds
	limitMicroseconds
	limitNice
)

// limits are the options of setrlimit(2).
var limits = map[string]struct {
	resource int
	kind     limitKind
}{
	"LimitCPU":        {unix.RLIMIT_CPU, limitSeconds},
	"LimitFSIZE":      {unix.RLIMIT_FSIZE, limitBytes},
	"LimitDATA":       {unix.RLIMIT_DATA, limitBytes},
	"LimitSTACK":      {unix.RLIMIT_STACK, limitBytes},
	"LimitCORE":       {unix.RLIMIT_CORE, limitBytes},
	"LimitRSS":        {unix.RLIMIT_RSS, limitBytes},
	"LimitNOFILE":     {unix.RLIMIT_NOFILE, limitCount},
	"LimitAS":         {unix.RLIMIT_AS, limitBytes},
	"LimitNPROC":      {unix.RLIMIT_NPROC, limitCount},
	"LimitMEMLOCK":    {unix.RLIMIT_MEMLOCK, limitBytes},
	"LimitLOCKS":      {unix.RLIMIT_LOCKS, limitCount},
	"LimitSIGPENDING": {unix.RLIMIT_SIGPENDING, limitCount},
	"LimitMSGQUEUE":   {unix.RLIMIT_MSGQUEUE, limitBytes},
	"LimitNICE":       {unix.RLIMIT_NICE, limitNice},
	"LimitRTPRIO":     {unix.RLIMIT_RTPRIO, limitCount},
	"LimitRTTIME":     {unix.RLIMIT_RTTIME, limitMicroseconds},
}

// limit reads "both" or "soft:hard".
func (s *serviceLoader) limit(a unitfile.Assignment) error {
	kind := limits[a.Key]
	soft, hard, two := strings.Cut(a.Value, ":")
	l := Rlimit{Name: a.Key, Resource: kind.resource}
	var err error
	if l.Soft, err = kind.kind.parse(soft); err != nil {
		return err
	}
	l.Hard = l.Soft
	if two {
		if l.Hard, err = kind.kind.parse(hard); err != nil {
			return err
		}
	}
	if l.Soft > l.Hard {
		return fmt.Errorf("the soft limit %s is above the hard limit %s", soft, hard)
	}
	s.Limits = slices.DeleteFunc(s.Limits, func(other Rlimit) bool { return other.Name == l.Name })
	s.Limits = append(s.Limits, l)
	return nil
}

func (k limitKind) parse(text string) (uint64, error) {
	if text == "infinity" {
		return math.MaxUint64, nil
	}
	switch k {
	case limitBytes:
		return unitfile.ParseSize(text)
	case limitSeconds, limitMicroseconds:
		unit := time.Second
		if k == limitMicroseconds {
			unit = time.Microsecond
		}
		d, err := unitfile.ParseTimespan(text, unit)
		if d == Infinity {
			return math.MaxUint64, err
		}
		return uint64((d + unit - 1) / unit), err
	case limitNice:
		// With a sign it is a nice value, without one the kernel's 1 to 40.
		n, err := unitfile.ParseInt(text, 16)
		switch {
		case err != nil:
			return 0, err
		case strings.HasPrefix(text, "+") || strings.HasPrefix(text, "-"):
			if n < -20 || n > 19 {
				return 0, fmt.Errorf("%q is not a nice value: they go from -20 to +19", text)
			}
			return uint64(20 - n), nil
		case n < 0 || n > 40:
			return 0, fmt.Errorf("%q is out of range: 1 to 40, or a nice value with a sign", text)
		}
		return uint64(n), nil
	}
	return unitfile.ParseUnsigned(text, 64)
}
