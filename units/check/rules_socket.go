// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

func accept(s *subject) {
	for _, u := range s.sockets {
		if !u.yes("Socket", "Accept", false) {
			continue
		}
		at, _ := u.last("Socket", "Accept")
		if s.is(other) {
			s.report(Note, at, "systemd starts a process for each connection: a new file is the upgrade, for the next connection; those that are open keep the version that they have")
			continue
		}
		s.report(Error, at, "systemd accepts, and starts a process for each connection: there is no listener to hand over; the service accepts itself", "Accept=no")
	}
}

func descriptorName(s *subject) {
	var unnamed []*unit
	for _, u := range s.sockets {
		if _, set := u.last("Socket", "FileDescriptorName"); !set && !u.yes("Socket", "Accept", false) {
			unnamed = append(unnamed, u)
		}
	}
	if s.is(other) && (len(unnamed) == 0 || len(s.sockets) < 2) {
		return
	}
	for _, u := range unnamed {
		at := setting{file: u.file()}
		if s.is(other) {
			s.report(Note, at, fmt.Sprintf("the service has %d socket units, whose order systemd does not promise: only a name tells their sockets apart", len(s.sockets)), "FileDescriptorName="+socketName(u, s.service))
			continue
		}
		s.report(Warning, at, fmt.Sprintf("the service asks for its sockets by name, and this one is called %q: if it asks for another, it binds the address itself, which is in use", u.name), "FileDescriptorName="+socketName(u, s.service))
	}
}

// socketName is what to call a socket: what its unit has after the name of the service.
func socketName(u, service *unit) string {
	if part, ok := strings.CutPrefix(u.name.Prefix, service.name.Prefix+"-"); ok && part != "" {
		return part
	}
	return "http"
}

// socketService: Sockets= of a service does not say to the socket what it starts.
func socketService(s *subject) {
	for _, u := range s.sockets {
		if u.startsService(s.service.name) || u.yes("Socket", "Accept", false) {
			continue
		}
		at, _ := u.last("Socket", "Service")
		started, err := s.files.load(s.ctx, u.service())
		switch {
		case err != nil:
			s.report(Error, at, fmt.Sprintf("the socket starts %s, which is not there: systemd refuses to open it", u.service()), "Service="+nameIn(s.service.name, s.service.name))
		case started.name != s.service.name:
			s.report(Note, at, fmt.Sprintf("a connection starts %s, and not %s, which takes the socket when it is started otherwise", u.service(), s.service.name))
		}
	}
}

func reusePort(s *subject) {
	for _, u := range s.sockets {
		if u.yes("Socket", "ReusePort", false) {
			at, _ := u.last("Socket", "ReusePort")
			s.report(Note, at, "others of the same user may bind the port, too; whoever of them closes it resets the connections that wait there. The socket of systemd needs it only for lanes of its own")
		}
	}
}

func flushPending(s *subject) {
	for _, u := range s.sockets {
		if u.yes("Socket", "FlushPending", false) {
			at, _ := u.last("Socket", "FlushPending")
			s.report(Warning, at, "who has connected while no version ran, in a restart or after a crash, is thrown away instead of being answered by the next one", "FlushPending=no")
		}
	}
}

func removeOnStop(s *subject) {
	for _, u := range s.sockets {
		if !u.yes("Socket", "RemoveOnStop", false) {
			continue
		}
		at, _ := u.last("Socket", "RemoveOnStop")
		if slices.ContainsFunc(u.listens(), func(l setting) bool { return path.IsAbs(u.expand(l.value)) }) {
			s.report(Note, at, "a restart of the socket unit takes its path away for a moment: clients find none, instead of waiting")
		}
	}
}

func triggerLimit(s *subject) {
	for _, u := range s.sockets {
		if u.yes("Socket", "Accept", false) {
			continue
		}
		at, _ := u.last("Socket", "TriggerLimitIntervalSec")
		interval, ok := u.span("Socket", "TriggerLimitIntervalSec")
		if !ok {
			interval = 2 * time.Second
		}
		burst := u.value("Socket", "TriggerLimitBurst", "20")
		if interval == 0 || burst == "0" {
			continue
		}
		s.report(Warning, at, fmt.Sprintf("after %s starts in %s systemd closes the socket for good: a version that ends at once while clients wait gets there", burst, span(interval)), "TriggerLimitIntervalSec=0")
	}
}

// socketBoundTo: what is done to the service is done to its socket.
func socketBoundTo(s *subject) {
	for _, u := range s.sockets {
		for _, at := range u.all("Unit", s.rule.option) {
			if u.yes("Socket", "Accept", false) || !slices.Contains(strings.Fields(u.expand(at.value)), s.service.name.String()) {
				continue
			}
			why := "a restart of the service restarts the socket with it: it is closed for a moment, nobody can connect, and those that wait are reset"
			if s.rule.option == "BindsTo" {
				why = "the socket is closed whenever the service ends, in a restart or after a crash: nobody can connect, and those that wait are reset"
			}
			s.report(Warning, at, why+"; remove it: the service names the socket, not the other way round")
		}
	}
}

func conflicts(s *subject) {
	level, why := Error, "the start of one stops the other: a connection starts the service, and that closes the socket"
	if s.is(other) {
		level, why = Note, "the start of one stops the other: a service that was started by itself has no socket that waits for it in a restart"
	}
	for _, u := range s.sockets {
		for _, at := range u.all("Unit", "Conflicts") {
			if slices.Contains(strings.Fields(u.expand(at.value)), s.service.name.String()) {
				s.report(level, at, why)
			}
		}
		for _, at := range s.service.all("Unit", "Conflicts") {
			if slices.Contains(strings.Fields(s.service.expand(at.value)), u.name.String()) {
				s.report(level, at, why)
			}
		}
	}
}
