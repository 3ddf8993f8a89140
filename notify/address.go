// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// socketVariable is the variable in which the manager passes its address.
const socketVariable = "NOTIFY_SOCKET"

// Lengths of sun_path. A path is followed by a NUL byte and an abstract name,
// whose "@" stands for one, is not.
const (
	maxPath     = 107
	maxAbstract = 108
)

// address is a parsed $NOTIFY_SOCKET.
type address struct {
	text     string // as written in the variable
	family   int    // AF_UNIX or AF_VSOCK
	kind     int    // SOCK_DGRAM...; 0 for "vsock:": whatever the kernel has
	sockaddr unix.Sockaddr
}

// parseAddress reads an address as sd_notify(3) describes it. All its errors
// are *EnvError.
func parseAddress(value string) (address, error) {
	refuse := func(reason string) (address, error) {
		return address{}, &EnvError{Variable: socketVariable, Value: value, Reason: reason}
	}
	if strings.ContainsRune(value, 0) {
		return refuse("must not contain a NUL byte")
	}
	switch {
	case value == "/" || value == "@":
		return refuse("must have a name after the first character")
	case strings.HasPrefix(value, "/") && len(value) > maxPath:
		return refuse(fmt.Sprintf("must be at most %d bytes long", maxPath))
	case strings.HasPrefix(value, "@") && len(value) > maxAbstract:
		return refuse(fmt.Sprintf("must be at most %d bytes long", maxAbstract))
	case strings.HasPrefix(value, "/") || strings.HasPrefix(value, "@"):
		return address{
			text:     value,
			family:   unix.AF_UNIX,
			kind:     unix.SOCK_DGRAM,
			sockaddr: &unix.SockaddrUnix{Name: value},
		}, nil
	}

	scheme, rest, _ := strings.Cut(value, ":")
	kinds := map[string]int{
		"vsock":           0,
		"vsock-dgram":     unix.SOCK_DGRAM,
		"vsock-seqpacket": unix.SOCK_SEQPACKET,
		"vsock-stream":    unix.SOCK_STREAM,
	}
	kind, ok := kinds[scheme]
	if !ok {
		return refuse(`must be an absolute path, "@" and an abstract name, or "vsock:CID:PORT"`)
	}
	cidText, portText, ok := strings.Cut(rest, ":")
	if !ok {
		return refuse(fmt.Sprintf(`must have the form "%s:CID:PORT"`, scheme))
	}
	cid, err := parseCID(cidText)
	if err != nil {
		return refuse(err.Error())
	}
	port, err := strconv.ParseUint(portText, 10, 32)
	if err != nil || port == unix.VMADDR_PORT_ANY {
		return refuse("must have a port from 0 to 4294967294")
	}
	return address{
		text:     value,
		family:   unix.AF_VSOCK,
		kind:     kind,
		sockaddr: &unix.SockaddrVM{CID: cid, Port: uint32(port)},
	}, nil
}

// parseCID reads the context ID of a vsock address: a number, or one of the
// names that libsystemd has for the reserved ones.
func parseCID(text string) (uint32, error) {
	switch text {
	case "hypervisor":
		return unix.VMADDR_CID_HYPERVISOR, nil
	case "local":
		return unix.VMADDR_CID_LOCAL, nil
	case "host":
		return unix.VMADDR_CID_HOST, nil
	}
	cid, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, errors.New("must have a CID that is a number, hypervisor, local or host")
	}
	if cid == unix.VMADDR_CID_ANY {
		return 0, errors.New("must have a specific CID, not VMADDR_CID_ANY")
	}
	return uint32(cid), nil
}
