// SPDX-License-Identifier: Apache-2.0

package unit

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/units/unitfile"
)

// socketLoader is a socket that is being read.
type socketLoader struct {
	context
	*Socket
}

func (l *loader) loadSocket(src source, n unitfile.Name) *Socket {
	s := &socketLoader{context: l.context(n), Socket: &Socket{
		Name: n.String(), Instance: n.Instance, Description: n.String(),
		Backlog: defaultBacklog(l.Systemd), BindIPv6Only: "default",
		SocketMode: 0o666, DirectoryMode: 0o755,
		AcceptFileDescriptors: true,
		Timestamping:          "off",
		TimeoutSec:            defaultTimeout,
		MaxConnections:        64,
		// As in systemd, infinity is what asks for the default.
		TriggerLimitInterval: Infinity, TriggerLimitBurst: math.MaxUint32,
		PollLimitInterval: Infinity, PollLimitBurst: math.MaxUint32,
		DeferTrigger: "no", DeferTriggerMax: Infinity,
		DefaultDependencies: true,
	}}
	faults := len(l.faults)
	s.read(src, "Socket", s.setters())
	s.complete()
	if len(l.faults) == faults {
		if err := s.verify(); err != nil {
			l.faults = append(l.faults, &Error{File: src.Name, Section: "Socket", Reason: systemdRefuses + err.Error()})
		}
	}
	return s.Socket
}

// defaultBacklog is SOMAXCONN of the C library of the time, or without bounds,
// which is of systemd 254 and of the updates of 252 and 253.
func defaultBacklog(systemd int) int {
	switch {
	case systemd < 245:
		return 128
	case systemd < 252:
		return 4096
	}
	return -1
}

func (s *socketLoader) setters() map[string]setter {
	set := map[string]setter{
		"Unit.Description":         s.text(&s.Description),
		"Unit.DefaultDependencies": s.boolean(&s.DefaultDependencies),
		// Checked, and nothing else: the one unit to name is the service.
		"Unit.Requires": s.units(new([]string), ""),
		"Unit.BindsTo":  s.units(new([]string), ""),
		"Unit.BindTo":   s.units(new([]string), ""),
		"Unit.PartOf":   s.units(new([]string), ""),
		"Unit.Wants":    s.units(new([]string), ""),

		"Unit.RefuseManualStart": s.boolean(new(bool)),
		"Unit.RefuseManualStop":  s.boolean(new(bool)),
	}
	s.startLimit(set, &s.StartLimitInterval, &s.StartLimitBurst)
	for option, f := range map[string]setter{
		"ListenStream":           s.listen,
		"ListenDatagram":         s.listen,
		"ListenSequentialPacket": s.listen,
		"ListenFIFO":             s.listen,
		"ListenSpecial":          s.listen,

		"SocketProtocol": s.choice(&s.SocketProtocol, "udplite", "sctp", "mptcp:257"),
		"BindIPv6Only":   s.bindIPv6Only,
		"Backlog":        s.backlog,
		"SocketMode":     s.mode(&s.SocketMode),
		"DirectoryMode":  s.mode(&s.DirectoryMode),
		"Symlinks":       s.paths(&s.Symlinks),
		"RemoveOnStop":   s.boolean(&s.RemoveOnStop),
		"Writable":       s.boolean(&s.Writable),

		"Accept":                  s.boolean(&s.Accept),
		"Service":                 s.service,
		"FileDescriptorName":      s.fileDescriptorName,
		"FlushPending":            s.boolean(&s.FlushPending),
		"MaxConnections":          s.unsigned(&s.MaxConnections),
		"MaxConnectionsPerSource": s.unsigned(&s.MaxConnectionsPerSource),

		"KeepAlive":            s.boolean(&s.KeepAlive),
		"KeepAliveTimeSec":     s.timespan(&s.KeepAliveTime, false),
		"KeepAliveIntervalSec": s.timespan(&s.KeepAliveInterval, false),
		"KeepAliveProbes":      s.unsigned(&s.KeepAliveProbes),
		"NoDelay":              s.boolean(&s.NoDelay),
		"DeferAcceptSec":       s.timespan(&s.DeferAccept, false),
		"ReceiveBuffer":        s.size(&s.ReceiveBuffer),
		"SendBuffer":           s.size(&s.SendBuffer),
		"PipeSize":             s.size(&s.PipeSize),
		"Priority":             s.integer(&s.Priority),
		"IPTOS":                s.ipTOS,
		"IPTTL":                s.integer(&s.IPTTL),
		"TCPCongestion": func(a unitfile.Assignment) error {
			s.TCPCongestion = a.Value
			return nil
		},
		"ReusePort":             s.boolean(&s.ReusePort),
		"FreeBind":              s.boolean(&s.FreeBind),
		"Transparent":           s.boolean(&s.Transparent),
		"Broadcast":             s.boolean(&s.Broadcast),
		"PassCredentials":       s.boolean(&s.PassCredentials),
		"PassPIDFD":             s.boolean(&s.PassPIDFD),
		"PassSecurity":          s.boolean(&s.PassSecurity),
		"PassPacketInfo":        s.boolean(&s.PassPacketInfo),
		"AcceptFileDescriptors": s.boolean(&s.AcceptFileDescriptors),
		"Timestamping":          s.timestamping,

		"PassFileDescriptorsToExec": s.boolean(&s.PassFileDescriptorsToExec),
		"TriggerLimitIntervalSec":   s.timespan(&s.TriggerLimitInterval, false),
		"TriggerLimitBurst":         s.unsigned(&s.TriggerLimitBurst),
		"PollLimitIntervalSec":      s.timespan(&s.PollLimitInterval, false),
		"PollLimitBurst":            s.unsigned(&s.PollLimitBurst),
		"DeferTrigger":              s.deferTrigger,
		"DeferTriggerMaxSec":        s.timespan(&s.DeferTriggerMax, true),
		"TimeoutSec":                s.timespan(&s.TimeoutSec, true),
		"ExecStartPre":              s.commands(&s.ExecStartPre),
		"ExecStartPost":             s.commands(&s.ExecStartPost),
		"ExecStopPre":               s.commands(&s.ExecStopPre),
		"ExecStopPost":              s.commands(&s.ExecStopPost),
	} {
		set["Socket."+option] = f
	}
	return set
}

// complete fills in what follows from other options.
func (s *socketLoader) complete() {
	s.TriggerLimitInterval, s.TriggerLimitBurst = s.rate(s.TriggerLimitInterval, s.TriggerLimitBurst, 20)
	s.PollLimitInterval, s.PollLimitBurst = s.rate(s.PollLimitInterval, s.PollLimitBurst, 15)
	if s.systemd < 255 {
		s.PollLimitInterval, s.PollLimitBurst = 0, 0
	}
	if s.StartLimitInterval == 0 || s.StartLimitBurst == 0 {
		s.StartLimitInterval, s.StartLimitBurst = 0, 0
	}
	switch {
	// A name for accepted connections is heeded since 257.
	case s.Accept && (s.FileDescriptorName == "" || s.systemd < 257):
		s.FileDescriptorName = "connection"
	case s.FileDescriptorName == "":
		s.FileDescriptorName = s.Name
	}
}

// rate fills in the defaults of a limit: so many in two seconds, ten times as
// many with Accept=yes.
func (s *socketLoader) rate(interval time.Duration, burst, limit int) (time.Duration, int) {
	if interval == Infinity {
		interval = 2 * time.Second
	}
	if burst == math.MaxUint32 {
		burst = limit
		if s.Accept {
			burst *= 10
		}
	}
	if interval == 0 || burst == 0 {
		return 0, 0
	}
	return interval, burst
}

// verify makes the checks that systemd makes when the unit is read.
func (s *socketLoader) verify() error {
	explicit := s.Service != ""
	if !explicit {
		n := s.name.WithKind("service")
		if s.Accept {
			n.Template, n.Instance = true, ""
		}
		s.Service = n.String()
	}
	nodes, accepting := 0, true
	for _, l := range s.Listen {
		if strings.HasPrefix(l.Address, "/") && l.Kind != "ListenSpecial" {
			nodes++
		}
		accepting = accepting && (l.Kind == "ListenStream" || l.Kind == "ListenSequentialPacket")
	}
	switch {
	case len(s.Listen) == 0:
		return errors.New("there is no Listen option such as ListenStream=")
	case s.MaxConnections == 0 && (s.Accept || s.systemd >= 257):
		return errors.New("with MaxConnections=0 there can be no connection")
	case s.Accept && !accepting:
		return errors.New("there is a socket that is neither of ListenStream= nor of ListenSequentialPacket=, which Accept=yes needs")
	case s.Accept && explicit:
		return errors.New("with Accept=yes there may be no Service=: it is the template with the name of the socket")
	case len(s.Symlinks) > 0 && nodes != 1:
		return fmt.Errorf("with Symlinks= there must be exactly one Unix socket or FIFO in the file system, and there are %d", nodes)
	}
	return nil
}

// maxUnixPath is what fits into sockaddr_un, with a NUL.
const maxUnixPath = 107

func (s *socketLoader) listen(a unitfile.Assignment) error {
	if a.Value == "" {
		s.Listen = nil
		return nil
	}
	l := Listen{Kind: a.Key, File: a.File, Line: a.Line}
	text := s.withoutVar(a)
	address, err := s.expand(text)
	if err != nil {
		return err
	}
	switch {
	case a.Key == "ListenFIFO" || a.Key == "ListenSpecial":
		l.Address, err = s.place(text)
	case strings.HasPrefix(address, "/"):
		if l.Address, err = s.place(text); err == nil && len(l.Address) > maxUnixPath {
			err = fmt.Errorf("the path %s has %d bytes, and a Unix socket has at most %d", l.Address, len(l.Address), maxUnixPath)
		}
	case strings.HasPrefix(address, "@"):
		if l.Address = address; len(address) > maxUnixPath || len(address) == 1 {
			err = fmt.Errorf("an abstract Unix socket has 1 to %d bytes after the @", maxUnixPath-1)
		}
	default:
		l.Address, err = parseAddress(address)
		if err == nil && a.Key == "ListenSequentialPacket" {
			err = errors.New("sequential packets are of Unix sockets only: write a path, or @ and a name")
		}
	}
	if err == nil {
		s.Listen = append(s.Listen, l)
	}
	return err
}

// parseAddress reads what is neither a path nor an abstract socket: a port, an
// IP address with a port, or vsock:CID:PORT. It returns the port in decimal, and
// the interface of an IPv6 address, which systemd wants last, as Go has it.
func parseAddress(address string) (string, error) {
	if rest, ok := strings.CutPrefix(address, "vsock:"); ok {
		cid, port, ok := strings.Cut(rest, ":")
		if _, err := unitfile.ParseUnsigned(port, 32); err != nil || !ok {
			return "", fmt.Errorf("%q is not an address: write vsock:CID:PORT", address)
		}
		if _, err := unitfile.ParseUnsigned(cid, 32); err != nil && cid != "" {
			return "", fmt.Errorf("%q is not an address: the CID is a number, or left out", address)
		}
		return address, nil
	}
	host, port, zone := "", address, ""
	if i := strings.LastIndexByte(address, ':'); i >= 0 {
		host, port = address[:i], address[i+1:]
		bare, bracketed := strings.CutPrefix(host, "[")
		closed := !bracketed
		if bracketed {
			bare, closed = strings.CutSuffix(bare, "]")
			port, zone, _ = strings.Cut(port, "%")
		}
		ip, err := netip.ParseAddr(bare)
		if err != nil || !closed || ip.Zone() != "" || ip.Is6() != bracketed {
			return "", fmt.Errorf("%q is not an address: write a port, IPV4:PORT, [IPV6]:PORT, a path, @ and a name, or vsock:CID:PORT", address)
		}
		if zone != "" {
			ip = ip.WithZone(zone)
		}
		host = ip.String() + ":"
		if bracketed {
			host = "[" + ip.String() + "]:"
		}
	}
	n, err := unitfile.ParseUnsigned(port, 16)
	if err != nil || n == 0 {
		return "", fmt.Errorf("%q is not an address: the port is %q, and they go from 1 to 65535", address, port)
	}
	return host + strconv.FormatUint(n, 10), nil
}

func (s *socketLoader) bindIPv6Only(a unitfile.Assignment) error {
	if on, err := unitfile.ParseBool(a.Value); err == nil {
		s.BindIPv6Only = "both"
		if on {
			s.BindIPv6Only = "ipv6-only"
		}
		return nil
	}
	return s.choice(&s.BindIPv6Only, "default", "both", "ipv6-only")(a)
}

func (s *socketLoader) backlog(a unitfile.Assignment) error {
	n, err := unitfile.ParseUnsigned(a.Value, 32)
	if err == nil {
		s.Backlog = int(n)
		if n > math.MaxInt32 { // negative for listen(2), which takes it for no bound
			s.Backlog = -1
		}
	}
	return err
}

func (s *socketLoader) service(a unitfile.Assignment) error {
	text, err := s.expand(a.Value)
	if err != nil {
		return err
	}
	n, err := unitfile.ParseName(text)
	if err != nil {
		return err
	}
	if n.Kind != "service" {
		return fmt.Errorf("%q is no service", text)
	}
	s.Socket.Service = text
	return nil
}

func (s *socketLoader) fileDescriptorName(a unitfile.Assignment) error {
	text, err := s.expand(a.Value)
	if err == nil && !validDescriptorName(text) {
		err = fmt.Errorf("%q is not the name of a descriptor: up to 255 printable ASCII characters, and no colon", text)
	}
	return assign(&s.FileDescriptorName)(text, err)
}

func (s *socketLoader) ipTOS(a unitfile.Assignment) error {
	named := map[string]int{"low-delay": 0x10, "throughput": 0x08, "reliability": 0x04, "low-cost": 0x02}
	if n, ok := named[a.Value]; ok {
		s.IPTOS = &n
		return nil
	}
	n, err := unitfile.ParseUnsigned(a.Value, 8)
	if err != nil {
		return fmt.Errorf("%q is no type of service: low-delay, throughput, reliability, low-cost, or a number up to 255", a.Value)
	}
	v := int(n)
	s.IPTOS = &v
	return nil
}

func (s *socketLoader) timestamping(a unitfile.Assignment) error {
	if on, err := unitfile.ParseBool(a.Value); err == nil {
		s.Timestamping = "off"
		if on {
			s.Timestamping = "ns"
		}
		return nil
	}
	switch a.Value {
	case "usec", "µs", "μs":
		s.Timestamping = "us"
		return nil
	case "nsec":
		s.Timestamping = "ns"
		return nil
	}
	return s.choice(&s.Timestamping, "off", "us", "ns")(a)
}

func (s *socketLoader) deferTrigger(a unitfile.Assignment) error {
	if on, err := unitfile.ParseBool(a.Value); err == nil {
		s.DeferTrigger = "no"
		if on {
			s.DeferTrigger = "yes"
		}
		return nil
	}
	return s.choice(&s.DeferTrigger, "no", "yes", "patient")(a)
}
