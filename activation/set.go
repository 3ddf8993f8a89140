// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Set holds the descriptors that were passed to this process. It is safe for concurrent use.
type Set struct {
	mu      sync.Mutex
	entries []*entry            // in the order of arrival, duplicates included
	named   map[string][]*entry // without duplicates
	reason  error               // why there are no entries
	fromEnv bool
	stored  []string // names added by DeclareStored
	closed  bool
}

// entry is one descriptor. The Set owns fd as long as the entry is neither claimed nor a duplicate.
type entry struct {
	info      Info
	fd        int
	id        identity
	claimedBy place // nil until then
	duplicate bool
}

func newEntry(index, fd int, name string, id identity) *entry {
	return &entry{fd: fd, id: id, info: Info{
		Name: name, Index: index, FD: fd, Kind: id.kind, Network: id.network, Addr: id.addr, Dev: id.dev, Ino: id.ino,
	}}
}

// Info describes one descriptor of a [Set].
type Info struct {
	Name  string // of LISTEN_FDNAMES; may be empty
	Index int    // position in the order of arrival, from 0
	FD    int    // number of the descriptor in the Set; after a claim the number may mean something else
	Kind  Kind
	// Network is "tcp" (also for MPTCP), "udp" (also for UDP-Lite), "unix", "unixgram", "unixpacket", "vsock"
	// (stream), "vsockpacket", "vsockgram", "netlink", "sctp", "ip" or "family N". It is empty if the
	// descriptor is not a socket.
	Network string
	// Addr is the local address of a socket as package net writes it, and of anything else the path that
	// /proc/self/fd has for it. It is empty for a socket without an address.
	Addr   string
	Source Source
	// Dev and Ino are those of fstat(2). For a socket they name the socket itself.
	Dev, Ino uint64
	// Aliases are the names of further copies of this same socket that arrived and were closed. A copy that
	// has the name of an entry of the file descriptor store does not belong there: remove it with
	// FDSTOREREMOVE=1.
	Aliases []string
	Claimed bool
}

// String describes the descriptor for a log: fd 3 "http", listener (tcp 127.0.0.1:80), from socket unit.
func (i Info) String() string {
	return fmt.Sprintf("fd %d %q, %s, from %v", i.FD, i.Name, i.what(), i.Source)
}

func (i Info) what() string {
	where := strings.TrimSpace(i.Network + " " + i.Addr)
	if where == "" {
		return i.Kind.String()
	}
	return i.Kind.String() + " (" + where + ")"
}

// Passed is a descriptor outside a [Set]: one that goes in, or came out unclaimed.
type Passed struct {
	File   *os.File
	Name   string
	Source Source // 0 means SourcePredecessor in NewSet
}

// NewSet makes a Set of descriptors that came another way than the environment: from a predecessor.
//
// It takes over the files: on success all are closed, and the Set holds close-on-exec copies in their place;
// the Set does not change their blocking mode until they are claimed. On an error the files stay open and the
// caller's. A missing or closed file is an error that names its position.
func NewSet(passed []Passed) (*Set, error) {
	set := &Set{}
	if len(passed) == 0 {
		set.reason = fmt.Errorf("%w: the predecessor had none", ErrNotActivated)
	}
	for i, p := range passed {
		e, err := copyOf(i, p)
		if err != nil {
			_ = set.Close()
			return nil, fmt.Errorf("take over descriptor %d (%q): %w", i, p.Name, err)
		}
		set.entries = append(set.entries, e)
	}
	for _, p := range passed {
		// The copy holds what matters; there is no data of ours that closing could lose.
		_ = p.File.Close()
	}
	set.dropDuplicates()
	set.index()
	return set, nil
}

func copyOf(index int, p Passed) (*entry, error) {
	if p.File == nil {
		return nil, errors.New("no file")
	}
	fd, err := duplicate(p.File)
	if err != nil {
		return nil, err
	}
	id, err := identify(fd)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	e := newEntry(index, fd, p.Name, id)
	e.info.Source = p.Source
	if p.Source == 0 {
		e.info.Source = SourcePredecessor
	}
	return e, nil
}

// duplicate does not use (*os.File).Fd, which may turn the description, and with it the copy of a process
// that still serves, to blocking mode.
func duplicate(conn syscall.Conn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	dup, dupErr := -1, error(nil)
	if err := raw.Control(func(fd uintptr) { dup, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, firstDescriptor) }); err != nil {
		return -1, err
	}
	return dup, os.NewSyscallError("fcntl", dupErr)
}

// recogniseConnection corrects the kind of a connection of Accept=yes whose client has gone already: the
// kernel then has no peer to name. A socket unit passes no unconnected socket, so it can be nothing else.
func (s *Set) recogniseConnection() {
	if len(s.entries) == 0 {
		return
	}
	if first := s.entries[0]; first.info.Kind == KindSocket && first.id.stream && !s.isStored(first.info.Name) {
		first.info.Kind = KindConn
	}
}

func (s *Set) isStored(name string) bool {
	_, _, ok := ParseStoreName(name)
	return ok || name == storedByDefault || slices.Contains(s.stored, name)
}

func (s *Set) assignSources() {
	for i, source := range sourcesOf(s.entries, s.isStored) {
		s.entries[i].info.Source = source
	}
}

// dropDuplicates closes all copies of a socket but one. Only sockets are compared: their inode and their open
// file description belong together one to one, while files, FIFOs and devices can be opened many times, and
// all eventfds share one inode.
func (s *Set) dropDuplicates() {
	type inode struct{ dev, ino uint64 }
	kept := make(map[inode]*entry)
	for _, e := range s.entries {
		if !e.id.socket {
			continue
		}
		key := inode{e.id.dev, e.id.ino}
		first, ok := kept[key]
		if !ok {
			kept[key] = e
			continue
		}
		keep, drop := first, e
		if e.info.Source == SourceSocket && first.info.Source != SourceSocket {
			keep, drop = e, first
			kept[key] = e
		}
		keep.info.Aliases = append(append(keep.info.Aliases, drop.info.Name), drop.info.Aliases...)
		drop.info.Aliases = nil
		drop.duplicate = true
		_ = unix.Close(drop.fd)
	}
}

// index lets a claim look at the entries of its name only: a service may have a thousand names.
func (s *Set) index() {
	s.named = make(map[string][]*entry)
	for _, e := range s.entries {
		if !e.duplicate {
			s.named[e.info.Name] = append(s.named[e.info.Name], e)
		}
	}
}

// names returns every name once, in the order of arrival.
func (s *Set) names() []string {
	var names []string
	for _, e := range s.entries {
		if of := s.named[e.info.Name]; len(of) > 0 && of[0] == e {
			names = append(names, e.info.Name)
		}
	}
	return names
}

// Reason returns nil if descriptors were passed, and otherwise an error that wraps [ErrNotActivated] and tells
// why not: which variable is not set, or names another process.
func (s *Set) Reason() error { return s.reason }

// All describes all descriptors in the order of arrival, claimed or not. A socket that arrived several times is
// listed once.
func (s *Set) All() []Info { return s.list(func(*entry) bool { return true }) }

// Unclaimed describes what nobody has claimed yet. A service that has claimed all it knows should log the rest:
// each entry is a unit option that has no effect, or a name that was misspelt.
func (s *Set) Unclaimed() []Info { return s.list((*entry).unclaimed) }

func (e *entry) unclaimed() bool { return e.claimedBy == nil }

func (s *Set) list(include func(*entry) bool) []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	var infos []Info
	for _, e := range s.entries {
		if e.duplicate || !include(e) {
			continue
		}
		info := e.info
		info.Aliases = slices.Clone(info.Aliases)
		info.Claimed = !e.unclaimed()
		infos = append(infos, info)
	}
	return infos
}

// DeclareStored says that descriptors with one of these names come from the file descriptor store, in addition
// to "stored" and name@seq. It corrects [Info.Source] of a Set of [FromEnv] and has no other effect.
func (s *Set) DeclareStored(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.fromEnv {
		return
	}
	s.stored = append(s.stored, names...)
	s.assignSources()
}

// TakeUnclaimed claims everything that nobody has claimed yet, of whatever kind, and returns it in the order of
// arrival. The files belong to the caller. Their blocking mode is as it came.
func (s *Set) TakeUnclaimed() []Passed {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	var taken []Passed
	for _, e := range s.entries {
		if e.duplicate || !e.unclaimed() {
			continue
		}
		e.claimedBy = caller()
		taken = append(taken, Passed{File: os.NewFile(uintptr(e.fd), e.info.Name), Name: e.info.Name, Source: e.info.Source})
	}
	return taken
}

// Stored is a descriptor that [Set.TakeStored] has handed out. Its FD is the number that the File has.
type Stored struct {
	Info
	File *os.File
}

// TakeStored claims those entries of the file descriptor store that nobody has claimed yet and that match, of
// whatever kind, and returns them in the order of arrival: [SourceStore], or what [NewSet] was told so. The files
// belong to the caller. Their blocking mode is as it came, and is shared with systemd's copy.
//
// A service that keeps its store in order looks at Aliases, too, also at those of [Set.All]: an entry that is
// a further copy of a socket is closed already, and is listed there only.
func (s *Set) TakeStored(match func(name string) bool) []Stored {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	var taken []Stored
	for _, e := range s.entries {
		if e.duplicate || !e.unclaimed() || e.info.Source != SourceStore || !match(e.info.Name) {
			continue
		}
		e.claimedBy = caller()
		info := e.info
		info.Aliases, info.Claimed = slices.Clone(info.Aliases), true
		taken = append(taken, Stored{info, os.NewFile(uintptr(e.fd), e.info.Name)})
	}
	return taken
}

// Close closes what nobody has claimed. What was claimed stays open. Later claims are an [ErrClosed]; the lists
// stay as they are. Closing again does nothing.
//
// To close the Set of [FromEnv] is to decide for the whole process.
func (s *Set) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var errs []error
	for _, e := range s.entries {
		if e.duplicate || !e.unclaimed() {
			continue
		}
		if err := unix.Close(e.fd); err != nil {
			errs = append(errs, fmt.Errorf("close descriptor %d (%q): %w", e.fd, e.info.Name, err))
		}
	}
	return errors.Join(errs...)
}
