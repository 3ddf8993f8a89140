// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/activation"
	"github.com/holdfast-go/holdfast/notify"
	"github.com/holdfast-go/holdfast/reexec/control"
)

var (
	// ErrNoManager is wrapped by a [StoreError] without NOTIFY_SOCKET: there is no
	// systemd that could keep anything.
	ErrNoManager = errors.New("there is no service manager: NOTIFY_SOCKET is not set")

	// ErrStoreFull is wrapped by a [StoreError] when systemd had no room.
	ErrStoreFull = errors.New("the fd store has no room")
)

// StoreError says that systemd does not keep a descriptor, or does not remove
// it. What it kept before under the same key it still keeps.
type StoreError struct {
	Op   string // "store" or "remove"
	Name string // of the entry, without its sequence number
	Err  error  // wraps ErrNoManager, ErrStoreFull, ErrNotMain, notify.ErrHungUp or what the kernel says
	// Need is how many descriptors FileDescriptorStoreMax= has to allow at least,
	// where it is too small; else 0.
	Need int
	// Unheard: by what systemd has said in $FDSTORE there is room. It may not hear this
	// process (NotifyAccess=), or the limit was lowered after that.
	Unheard bool
}

func (e *StoreError) Error() string {
	text := fmt.Sprintf("reexec: %s %q in systemd's fd store: %v", e.Op, e.Name, e.Err)
	if e.Unheard {
		text += ", or systemd does not hear this process: $FDSTORE promised more, so look at NotifyAccess= first"
	}
	if e.Need > 0 {
		text += fmt.Sprintf(": set FileDescriptorStoreMax=%d or more in the .service unit", e.Need)
	}
	return text
}

// Unwrap returns the cause.
func (e *StoreError) Unwrap() error { return e.Err }

// fdStore is systemd's file descriptor store as this generation knows it. A nil
// one is that of a service without a manager: nothing can be stored.
//
// systemd says neither that it has stored something nor that it had no room.
// So the writing end of a pipe is stored last: systemd closes it if there is no
// room, and then there was perhaps none for what came before either.
type fdStore struct {
	notifier *notify.Notifier
	limit    int                         // FileDescriptorStoreMax= as $FDSTORE says; 0: not told
	heard    func(context.Context) error // returns when systemd hears this process

	writing chan struct{} // full while somebody writes

	mu      sync.Mutex
	main    bool // whether this generation may write
	seq     uint64
	entries map[string][]uint64 // key to the numbers under it, in their order
	doomed  []string            // entries that nobody wants, to be removed with the next write
	arrived map[string][]storedEntry
	foreign int              // entries that are not ours, as far as we know
	tight   bool             // once there was no room for a probe beside what is stored
	prompt  bool             // systemd is older than 254 and closes at once what it drops, if limit is 0
	refused map[string]error // by key: what systemd does not keep

	changed func(stored string, removed bool) // tells a successor
}

// storedEntry is an entry that this start found.
type storedEntry struct {
	key  string
	name string // key@seq
	seq  uint64
	file *os.File
	info activation.Info
}

// newFDStore returns nil if there is no manager.
func newFDStore(n *notify.Notifier) *fdStore {
	if !n.Enabled() {
		return nil
	}
	st := &fdStore{
		notifier: n,
		heard:    func(context.Context) error { return nil },
		writing:  make(chan struct{}, 1),
		entries:  map[string][]uint64{}, arrived: map[string][]storedEntry{}, refused: map[string]error{},
		changed: func(string, bool) {},
	}
	// systemd 254 and newer say it if there is a store at all (systemd.exec(5)).
	st.limit, _ = strconv.Atoi(os.Getenv("FDSTORE"))
	return st
}

// arrive takes what systemd has passed out of the set: all entries of ours. Of
// those of sockets and of what the service keeps, only the newest of each key
// stays; the frames of states all do, since the newest may be torn.
func (st *fdStore) arrive(set *activation.Set) {
	if st == nil {
		return
	}
	ours := func(name string) bool {
		_, _, _, ok := parseEntry(name)
		return ok
	}
	taken := set.TakeStored(ours)
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, info := range set.All() {
		// A further copy of a socket: it is closed, and is not to come again.
		for _, name := range info.Aliases {
			if ours(name) {
				st.addLocked(name)
				st.forgetLocked(name)
				st.doomed = append(st.doomed, name)
			}
		}
		if info.Source == activation.SourceStore && !ours(info.Name) {
			st.foreign++
		}
	}
	var found []storedEntry
	for _, t := range taken {
		_, key, seq, _ := parseEntry(t.Name)
		st.addLocked(t.Name)
		found = append(found, storedEntry{key, t.Name, seq, t.File, t.Info})
	}
	slices.SortStableFunc(found, func(a, b storedEntry) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(b.seq, a.seq))
	})
	for i, e := range found {
		kind, _, _, _ := parseEntry(e.name)
		if kind == storeProbe || kind != storeState && i > 0 && found[i-1].key == e.key {
			_ = e.file.Close()
			st.forgetLocked(e.name)
			st.doomed = append(st.doomed, e.name)
			continue
		}
		st.arrived[kind] = append(st.arrived[kind], e)
	}
}

// found returns the entries of a kind that this start brought, sorted by key
// and the newest of each first. The files are the caller's. The next call
// returns nothing.
func (st *fdStore) found(kind string) []storedEntry {
	if st == nil {
		return nil
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	found := st.arrived[kind]
	delete(st.arrived, kind)
	return found
}

// learn adds or removes what another generation says that systemd has.
func (st *fdStore) learn(stored string, removed bool) {
	if st == nil {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if removed {
		st.forgetLocked(stored)
	} else {
		st.addLocked(stored)
	}
}

func (st *fdStore) addLocked(stored string) {
	_, key, seq, ok := parseEntry(stored)
	if !ok {
		return
	}
	st.seq = max(st.seq, seq)
	if at, found := slices.BinarySearch(st.entries[key], seq); !found {
		st.entries[key] = slices.Insert(st.entries[key], at, seq)
	}
}

func (st *fdStore) forgetLocked(stored string) {
	_, key, seq, _ := parseEntry(stored)
	if at, found := slices.BinarySearch(st.entries[key], seq); found {
		st.entries[key] = slices.Delete(st.entries[key], at, at+1)
	}
	if len(st.entries[key]) == 0 {
		delete(st.entries, key)
	}
}

// doom says that nobody wants these entries. They go with the next write. A
// successor must not believe that something is there which is not, so it is told
// before systemd is.
func (st *fdStore) doom(entries ...string) {
	if st == nil {
		return
	}
	st.mu.Lock()
	for _, stored := range entries {
		st.forgetLocked(stored)
		st.doomed = append(st.doomed, stored)
	}
	st.mu.Unlock()
	for _, stored := range entries {
		st.changed(stored, true)
	}
}

// under are the entries with a key.
func (st *fdStore) under(key string) (entries []string) {
	if st == nil {
		return nil
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, seq := range st.entries[key] {
		entries = append(entries, entryName(key, seq))
	}
	return entries
}

// flush removes what is doomed.
func (st *fdStore) flush(ctx context.Context) error {
	st.mu.Lock()
	doomed := slices.Clone(st.doomed)
	st.mu.Unlock()
	if len(doomed) == 0 {
		return nil
	}
	end, err := st.begin(ctx)
	if err != nil {
		_, key, _, _ := parseEntry(doomed[0])
		return &StoreError{Op: "remove", Name: key, Err: err}
	}
	defer end()
	return st.removeDoomed()
}

// removeDoomed is for who writes. What cannot be removed is tried again with the
// next write.
func (st *fdStore) removeDoomed() error {
	st.mu.Lock()
	doomed := st.doomed
	st.doomed = nil
	st.mu.Unlock()
	for i, stored := range doomed {
		if err := st.notifier.Remove(stored); err != nil {
			st.mu.Lock()
			st.doomed = append(st.doomed, doomed[i:]...)
			st.mu.Unlock()
			_, key, _, _ := parseEntry(stored)
			return &StoreError{Op: "remove", Name: key, Err: err}
		}
		st.mu.Lock()
		st.tight = false
		st.mu.Unlock()
	}
	return nil
}

// keys are those of all entries of a kind.
func (st *fdStore) keys(kind string) (keys []string) {
	if st == nil {
		return nil
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for key := range st.entries {
		if strings.HasPrefix(key, kind+"/") {
			keys = append(keys, key)
		}
	}
	return keys
}

// freeze returns when nobody writes, and holds everybody off until thaw is
// called. MAINPID= must not overtake what is being stored: systemd would not
// hear the rest. thaw may be called before freeze returns.
func (st *fdStore) freeze(ctx context.Context) (wait func() error, thaw func()) {
	if st == nil {
		return func() error { return nil }, func() {}
	}
	var mu sync.Mutex
	held, over := false, false
	wait = func() error {
		select {
		case st.writing <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		mu.Lock()
		defer mu.Unlock()
		if held = !over; over {
			<-st.writing
		}
		return nil
	}
	thaw = func() {
		mu.Lock()
		defer mu.Unlock()
		if over = true; held {
			held = false
			<-st.writing
		}
	}
	return wait, thaw
}

// take makes this generation the one that writes, or ends that. An orphan has
// not heard of the last write: its numbers begin far beyond those.
func (st *fdStore) take(lease, orphan bool) {
	if st == nil {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.main = lease
	if orphan {
		st.seq += 1 << 16
	}
}

// newest is the name of the entry with that key that counts, or "".
func (st *fdStore) newest(key string) string {
	if st == nil {
		return ""
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if seqs := st.entries[key]; len(seqs) > 0 {
		return entryName(key, seqs[len(seqs)-1])
	}
	return ""
}

// names are those of all entries, sorted.
func (st *fdStore) names() []string {
	if st == nil {
		return nil
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	var names []string
	for _, key := range slices.Sorted(maps.Keys(st.entries)) {
		for _, seq := range st.entries[key] {
			names = append(names, entryName(key, seq))
		}
	}
	return names
}

// begin waits until this goroutine is the only one that writes, and may do so.
func (st *fdStore) begin(ctx context.Context) (end func(), err error) {
	if st == nil {
		return nil, ErrNoManager
	}
	select {
	case st.writing <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	end = func() { <-st.writing }
	st.mu.Lock()
	main := st.main
	st.mu.Unlock()
	if !main {
		err = ErrNotMain
	} else {
		err = st.heard(ctx)
	}
	if err != nil {
		end()
		return nil, err
	}
	return end, nil
}

// storing is one descriptor to store.
type storing struct {
	key     string // all of the name before @
	conn    syscall.Conn
	options []notify.Field
}

// put stores a descriptor under a new number, and removes older entries with
// the same key when systemd has it: there is no moment with neither. When there
// is no room, the error is a [StoreError] and the old entry stays. The caller
// keeps conn.
func (st *fdStore) put(ctx context.Context, key string, conn syscall.Conn, options ...notify.Field) (stored string, err error) {
	names, err := st.putAll(ctx, []storing{{key, conn, options}})
	if err != nil {
		return "", err
	}
	return names[0], nil
}

// putSpare is put for what nobody misses: it is stored only where a place is left
// beside it, so that it is in nothing's way, and its absence is no reason to warn.
// Then nothing older stays, either.
func (st *fdStore) putSpare(ctx context.Context, key string, conn syscall.Conn, options ...notify.Field) (stored string, err error) {
	end, err := st.begin(ctx)
	if err != nil {
		return "", &StoreError{Op: "store", Name: key, Err: err}
	}
	defer end()
	ctx, cancel := context.WithTimeout(ctx, barrierTimeout)
	defer cancel()
	for err = st.removeDoomed(); err == nil; err = st.removeDoomed() {
		st.mu.Lock()
		room := !st.tight && (st.limit == 0 || st.countLocked()+1 < st.limit)
		st.mu.Unlock()
		if room {
			if stored, err = st.push(storing{key, conn, options}); err == nil {
				room, err = st.probe(ctx)
			}
			if err == nil && room {
				st.settle(stored)
				return stored, nil
			}
			st.takeBack([]string{stored})
			if err != nil {
				break
			}
		}
		// Perhaps there is room without the older one.
		older := st.under(key)
		if len(older) == 0 {
			err = ErrStoreFull
			break
		}
		st.doom(older...)
	}
	if err := st.removeDoomed(); err != nil {
		return "", err
	}
	return "", &StoreError{Op: "store", Name: key, Err: err}
}

// batchSize bounds what is stored before systemd is asked whether there was
// room: beyond it systemd would log a warning for each.
const batchSize = 64

// putAll stores several descriptors, and asks systemd once for as many as
// possible. names has the entry of each, or "" where it is not stored; then the
// error says why the first of them is not.
func (st *fdStore) putAll(ctx context.Context, all []storing) (names []string, err error) {
	names = make([]string, len(all))
	if len(all) == 0 {
		return names, nil
	}
	end, err := st.begin(ctx)
	if err != nil {
		return names, &StoreError{Op: "store", Name: all[0].key, Err: err}
	}
	defer end()
	asked := ctx
	ctx, cancel := context.WithTimeout(ctx, barrierTimeout)
	defer cancel()
	err = st.removeDoomed()
	for from := 0; from < len(all); from += batchSize {
		to := min(len(all), from+batchSize)
		batchErr := st.putBatch(ctx, all[from:to], names[from:to])
		if batchErr != nil && err == nil {
			err = batchErr
		}
		if errors.Is(batchErr, ErrStoreFull) || ctx.Err() != nil {
			break // for the others there is no room, either
		}
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for i, one := range all {
		switch {
		case names[i] != "":
			delete(st.refused, one.key)
		case asked.Err() == nil: // who gives up says nothing about the store
			st.refused[one.key] = err
		}
	}
	var e *StoreError
	if errors.As(err, &e) && errors.Is(err, ErrStoreFull) {
		e.Need, e.Unheard = st.needLocked(), st.roomLocked()
	}
	return names, err
}

// forgive forgets that there was no room for something that nobody wants any more.
func (st *fdStore) forgive(key string) {
	if st == nil {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	delete(st.refused, key)
}

// roomLocked says whether there is room for one more by what systemd has said.
func (st *fdStore) roomLocked() bool { return st.limit > 0 && st.countLocked() < st.limit }

// wantedLocked counts what is in the store and what does not fit.
func (st *fdStore) wantedLocked() int {
	n := len(st.entries)
	for key := range st.refused {
		if _, stored := st.entries[key]; !stored {
			n++
		}
	}
	return n
}

// needLocked is how many descriptors the store has to take: all that is wanted and
// one, since what is replaced is there twice for a moment.
func (st *fdStore) needLocked() int { return st.wantedLocked() + st.foreign + 1 }

func (st *fdStore) putBatch(ctx context.Context, batch []storing, names []string) error {
	st.mu.Lock()
	tight := st.tight || st.limit > 0 && st.countLocked()+len(batch) >= st.limit
	st.tight = tight
	st.mu.Unlock()
	if tight {
		return st.putEach(ctx, batch, names)
	}
	var first error
	for i, one := range batch {
		stored, err := st.push(one)
		if err != nil && first == nil {
			first = &StoreError{Op: "store", Name: one.key, Err: err}
		}
		names[i] = stored
	}
	room, err := st.probe(ctx)
	switch {
	case err != nil:
		st.takeBack(names)
		return &StoreError{Op: "store", Name: batch[0].key, Err: err}
	case room:
		for _, stored := range names {
			if stored != "" {
				st.settle(stored)
			}
		}
		return first
	}
	// Perhaps only the probe had no room.
	st.takeBack(names)
	if err := st.removeDoomed(); err != nil {
		return err
	}
	st.mu.Lock()
	st.tight = true
	st.mu.Unlock()
	return st.putEach(ctx, batch, names)
}

// putEach asks for room before each.
func (st *fdStore) putEach(ctx context.Context, batch []storing, names []string) (first error) {
	for i, one := range batch {
		room, err := st.probe(ctx)
		if err == nil && !room {
			err = ErrStoreFull
		}
		if err != nil {
			if first == nil {
				first = &StoreError{Op: "store", Name: one.key, Err: err}
			}
			return first
		}
		stored, err := st.push(one)
		if err == nil {
			err = st.notifier.Barrier(ctx)
		}
		if err != nil {
			st.takeBack([]string{stored})
			if first == nil {
				first = &StoreError{Op: "store", Name: one.key, Err: err}
			}
			continue
		}
		names[i] = stored
		st.settle(stored)
	}
	return first
}

// takeBack is for what was sent to systemd, which may have it. Nobody has been
// told so: it must not take up room, nor be taken for the newest at the next start.
func (st *fdStore) takeBack(names []string) {
	for i, stored := range names {
		if stored != "" {
			st.doom(stored)
		}
		names[i] = ""
	}
}

// push sends one descriptor under a new number.
func (st *fdStore) push(one storing) (stored string, err error) {
	stored = st.next(one.key)
	if err := st.notifier.Store(stored, one.conn, one.options...); err != nil {
		return "", err
	}
	return stored, nil
}

func (st *fdStore) next(key string) string {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.seq++
	return entryName(key, st.seq)
}

// settle notes that systemd has an entry, and removes the older ones with its
// key. One that cannot be removed now is in the way of nobody, and goes with
// the next write.
func (st *fdStore) settle(stored string) {
	_, key, _, _ := parseEntry(stored)
	st.mu.Lock()
	var older []string
	for _, seq := range st.entries[key] {
		older = append(older, entryName(key, seq))
	}
	st.addLocked(stored)
	st.mu.Unlock()
	st.changed(stored, false)
	st.doom(older...)
	_ = st.removeDoomed()
}

// systemd 254 and newer close what they drop in a process of its own, which may
// come after the barrier: in 1 of 50 tries on a busy machine, by some
// milliseconds. These versions also say in $FDSTORE how much fits.
const (
	// shortDoubt is the wait where there is room by what is known.
	shortDoubt = 5 * time.Millisecond
	// longDoubt is the wait where the limit is not known.
	longDoubt = 100 * time.Millisecond
	// fullDoubt is the wait where there is none by what is known. It is rarely
	// waited out: only where that is wrong.
	fullDoubt = time.Second
)

// doubt is how long the end of a probe is waited for.
func (st *fdStore) doubt() time.Duration {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case st.limit == 0 && st.prompt:
		return 0
	case st.roomLocked():
		return shortDoubt
	case st.limit > 0:
		return fullDoubt
	}
	return longDoubt
}

// countLocked is how many descriptors systemd has, as far as we know: it may have
// dropped connections that have ended, and others may have stored some.
func (st *fdStore) countLocked() int {
	n := st.foreign + len(st.doomed)
	for _, seqs := range st.entries {
		n += len(seqs)
	}
	return n
}

// probe finds out whether there is room for one descriptor more.
func (st *fdStore) probe(ctx context.Context) (room bool, err error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return false, err
	}
	defer reader.Close() // at its end systemd lets go of the other one, whatever happens
	stored := st.next(storeProbe)
	err = st.notifier.Store(stored, writer)
	if closeErr := writer.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return false, err
	}
	if err := st.notifier.Barrier(ctx); err != nil {
		return false, err
	}
	if room, err = staysOpen(reader, st.doubt()); err != nil || !room {
		return false, err
	}
	st.mu.Lock()
	// Without $FDSTORE there is a store: this systemd is older than 254.
	st.prompt = true
	st.mu.Unlock()
	return true, st.notifier.Remove(stored)
}

// staysOpen says whether somebody has the writing end of a pipe, who never
// writes, now and for a while.
func staysOpen(reader *os.File, while time.Duration) (bool, error) {
	if err := reader.SetReadDeadline(time.Now().Add(max(while, time.Microsecond))); err != nil {
		return false, err
	}
	switch n, err := reader.Read(make([]byte, 1)); {
	case errors.Is(err, io.EOF):
		return false, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		// The end of a short wait comes first even if the pipe has ended, too.
		return !ended(reader), nil
	case err != nil:
		return false, err
	default:
		return false, fmt.Errorf("%d bytes came from a descriptor that systemd only keeps", n)
	}
}

// ended says whether nobody has the writing end any more.
func ended(reader *os.File) bool {
	fds := []unix.PollFd{{Fd: int32(minFD(reader))}}
	for {
		if _, err := unix.Poll(fds, 0); err != unix.EINTR {
			return fds[0].Revents&unix.POLLHUP != 0
		}
	}
}

// remove removes one entry; that it is not there is no error.
func (st *fdStore) remove(ctx context.Context, stored string) error {
	_, key, _, ok := parseEntry(stored)
	if !ok {
		return &StoreError{Op: "remove", Name: stored, Err: errors.New("no entry of ours has such a name")}
	}
	if st == nil {
		return &StoreError{Op: "remove", Name: key, Err: ErrNoManager}
	}
	st.doom(stored)
	return st.flush(ctx)
}

// status is for the control socket; nil without a manager.
func (st *fdStore) status() *control.Store {
	if st == nil {
		return nil
	}
	s := &control.Store{Limit: st.limit}
	for _, name := range st.names() {
		kind, _, _, _ := parseEntry(name)
		s.Entries = append(s.Entries, control.StoreEntry{Name: name, Kind: kind})
	}
	s.Warning = st.warning()
	return s
}

// warning says what a crash would lose, or "".
func (st *fdStore) warning() string {
	if st == nil {
		return ""
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	full, first, unheard := 0, error(nil), ""
	for _, key := range slices.Sorted(maps.Keys(st.refused)) {
		if errors.Is(st.refused[key], ErrStoreFull) {
			full++
			var e *StoreError
			if errors.As(st.refused[key], &e) && e.Unheard {
				unheard = " or does not hear this process (NotifyAccess=)"
			}
		} else if first == nil {
			first = st.refused[key]
		}
	}
	replaceable := func(key string) bool { return !strings.HasPrefix(key, storeBound+"/") }
	remedy := fmt.Sprintf("set FileDescriptorStoreMax=%d or more in the .service unit", st.needLocked())
	switch {
	case full > 0:
		return fmt.Sprintf("a crash would lose %d of %d descriptors, for which systemd's fd store has no room%s: %s",
			full, st.wantedLocked(), unheard, remedy)
	case first != nil:
		return first.Error()
	case st.tight && (st.limit == 0 || st.countLocked() >= st.limit) && slices.ContainsFunc(slices.Collect(maps.Keys(st.entries)), replaceable):
		return "systemd's fd store is full, so nothing in it can be replaced: " + remedy
	}
	return ""
}
