// SPDX-License-Identifier: Apache-2.0

package unit

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/units/unitfile"
)

// specifierSince are the specifiers that are newer than OldestSystemd.
var specifierSince = map[byte]int{
	'g': 240, 'G': 240, 'l': 246, 'a': 247, 'B': 247, 'o': 247, 'w': 247, 'W': 247, 'A': 249, 'M': 249,
	'd': 251, 'q': 251, 'y': 251, 'Y': 251, 'D': 256,
}

// specifierReason says why one has no value here.
var specifierReason = map[byte]string{
	'c': "names a control group, and the service has none of its own",
	'r': "names a control group, and the service has none of its own",
	'R': "names a control group, and the service has none of its own",
}

// specifiers returns what each specifier stands for in the unit.
func (s Specifiers) specifiers(n unitfile.Name) map[byte]string {
	host := s.Host
	if host == "" {
		host, _ = os.Hostname() // an empty one is a value too
	}
	runtimeDir := cmp.Or(s.Runtime, "/run")
	fragments := cmp.Or(s.Fragments, "/etc/systemd/system")
	label, _, _ := strings.Cut(host, ".")
	f := n.Prefix
	if n.Instance != "" {
		f = n.Instance
	}
	f = unitfile.UnescapeName(f)
	if !strings.HasPrefix(f, "/") {
		f = "/" + f
	}
	values := map[byte]string{
		'n': n.String(), 'N': n.Stem(),
		'p': n.Prefix, 'P': unitfile.UnescapeName(n.Prefix),
		'i': n.Instance, 'I': unitfile.UnescapeName(n.Instance),
		'j': n.LastPart(), 'J': unitfile.UnescapeName(n.LastPart()),
		'f': f,
		'y': fragments + "/" + n.File().String(), 'Y': fragments,

		't': runtimeDir,
		'S': cmp.Or(s.State, "/var/lib"),
		'C': cmp.Or(s.Cache, "/var/cache"),
		'L': cmp.Or(s.Logs, "/var/log"),
		'E': cmp.Or(s.Configuration, "/etc"),
		'D': "/usr/share",
		'd': cmp.Or(s.Credentials, runtimeDir+"/credentials/"+n.String()),
		'T': cmp.Or(s.Tmp, "/tmp"),
		'V': cmp.Or(s.VarTmp, "/var/tmp"),
		'h': cmp.Or(s.Home, "/root"),
		'u': cmp.Or(s.User, "root"),
		'U': cmp.Or(s.UID, "0"),
		'g': cmp.Or(s.Group, "root"),
		'G': cmp.Or(s.GID, "0"),
		's': cmp.Or(s.Shell, "/bin/sh"),

		'H': host, 'l': label, 'q': host,
		'm': cmp.Or(s.MachineID, readID("/etc/machine-id")),
		'b': cmp.Or(s.BootID, readID("/proc/sys/kernel/random/boot_id")),
		'v': cmp.Or(s.Kernel, kernel()),
		'a': architecture(),
	}
	release := osRelease()
	for c, key := range map[byte]string{
		'o': "ID", 'w': "VERSION_ID", 'W': "VARIANT_ID", 'B': "BUILD_ID", 'M': "IMAGE_ID", 'A': "IMAGE_VERSION",
	} {
		values[c] = release[key]
	}
	return values
}

// architecture is systemd's word for what this runs on.
func architecture() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86-64"
	case "386":
		return "x86"
	}
	return runtime.GOARCH
}

// readID reads a file with a 128-bit ID; the digits alone count.
func readID(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return strings.Repeat("0", 32) // systemd has an ID or does not boot
	}
	return strings.ReplaceAll(string(bytes.TrimSpace(b)), "-", "")
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// osRelease reads os-release(5); a machine without one has no values.
func osRelease() map[string]string {
	values := make(map[string]string)
	for _, path := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		env, err := unitfile.ParseEnvironmentFile(string(b), NewestSystemd)
		if err != nil {
			continue
		}
		for _, e := range env {
			key, value, _ := strings.Cut(e, "=")
			values[key] = value
		}
		break
	}
	return values
}

// expand fills in specifiers.
func (c *context) expand(text string) (string, error) {
	return unitfile.ExpandSpecifiers(text, func(s byte) (string, error) {
		value, ok := c.specifiers[s]
		switch since := specifierSince[s]; {
		case specifierReason[s] != "":
			return "", fmt.Errorf("%%%c %s", s, specifierReason[s])
		case !ok:
			return "", fmt.Errorf(`%%%c is no specifier: write "%%%%%c" for the two characters`, s, s)
		case since > c.systemd:
			return "", fmt.Errorf("%%%c is a specifier since systemd %d, and this is %d", s, since, c.systemd)
		}
		return value, nil
	})
}
