// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/notify"
	"github.com/holdfast-go/holdfast/reexec/internal/handover"
	"github.com/holdfast-go/holdfast/reexec/internal/stateframe"
)

// keeper is an fd store without systemd.
type keeper struct {
	mu      sync.Mutex
	seq     int
	entries map[string]*os.File
	puts    int
	refuse  error         // of the next put
	hold    chan struct{} // puts wait until it is closed
}

func newKeeper(t *testing.T) *keeper {
	k := &keeper{entries: map[string]*os.File{}}
	t.Cleanup(func() {
		for _, f := range k.entries {
			_ = f.Close()
		}
	})
	return k
}

func (k *keeper) putSpare(ctx context.Context, key string, conn syscall.Conn, options ...notify.Field) (string, error) {
	return k.put(ctx, key, conn, options...)
}

func (k *keeper) put(_ context.Context, key string, conn syscall.Conn, _ ...notify.Field) (string, error) {
	if hold := k.hold; hold != nil {
		<-hold
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.puts++
	if k.refuse != nil {
		return "", k.refuse
	}
	fd, err := duplicate(conn)
	if err != nil {
		return "", err
	}
	for stored, f := range k.entries {
		if strings.HasPrefix(stored, key+"@") {
			_ = f.Close()
			delete(k.entries, stored)
		}
	}
	k.seq++
	stored := entryName(key, uint64(k.seq))
	k.entries[stored] = os.NewFile(uintptr(fd), stored)
	return stored, nil
}

func (k *keeper) remove(_ context.Context, stored string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f := k.entries[stored]; f != nil {
		_ = f.Close()
		delete(k.entries, stored)
	}
	return nil
}

// add stores something as an earlier version has.
func (k *keeper) add(t *testing.T, key string, f *os.File) {
	t.Helper()
	fd, err := duplicate(f)
	if err != nil {
		t.Fatal(err)
	}
	k.seq++
	stored := entryName(key, uint64(k.seq))
	k.entries[stored] = os.NewFile(uintptr(fd), stored)
}

func (k *keeper) names() (names []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for stored := range k.entries {
		key, _, _ := strings.Cut(stored, "@")
		names = append(names, key)
	}
	slices.Sort(names)
	return names
}

// generation is the states of one process.
type generation struct {
	*states
	t   *testing.T
	log *bytes.Buffer
}

// begins makes the first generation of a service, as after a crash.
func begins(t *testing.T, k *keeper) *generation {
	t.Helper()
	g := newGeneration(t, k)
	k.mu.Lock()
	defer k.mu.Unlock()
	for stored, f := range k.entries {
		_, key, _, ok := parseEntry(stored)
		name, isState := stateOf(key)
		if !ok || !isState {
			t.Fatalf("entry %q is of no state", stored)
		}
		fd, err := duplicate(f)
		if err != nil {
			t.Fatal(err)
		}
		g.arrive(name, &heldFrame{file: os.NewFile(uintptr(fd), stored), stored: stored, origin: fromStore})
	}
	return g
}

func newGeneration(t *testing.T, k *keeper) *generation {
	log := new(bytes.Buffer)
	g := &generation{newStates(k, slog.New(slog.NewTextHandler(log, nil)), time.Minute), t, log}
	t.Cleanup(func() {
		g.close()
		if t.Failed() {
			t.Logf("a generation has logged:\n%s", log)
		}
	})
	return g
}

// wire is how updates reach a generation.
type wire struct {
	t  *testing.T
	to *generation
}

func (l *wire) update(u handover.Update, file syscall.Conn) error {
	fd, err := duplicate(file)
	if err != nil {
		l.t.Error(err)
		return err
	}
	l.to.update(u, os.NewFile(uintptr(fd), "update"))
	return nil
}

// successor hands all over to a new generation, which has registered nothing.
func (g *generation) successor(k *keeper) *generation {
	g.t.Helper()
	next := newGeneration(g.t, k)
	g.follow(&wire{g.t, next})
	list, err := g.handOver(g.t.Context(), func(string) {})
	if err != nil {
		g.t.Fatal(err)
	}
	for _, p := range list {
		next.arrive(p.Name, &heldFrame{file: os.NewFile(uintptr(p.fd), "frame"), stored: p.Stored, current: p.Current, origin: fromPredecessor})
	}
	return next
}

// promote does what the verdict does.
func (g *generation) promote(next *generation) {
	g.t.Helper()
	g.lease.set(leasePaused)
	to := &wire{g.t, next}
	if err := g.yield(g.t.Context(), to); err != nil {
		g.t.Fatal(err)
	}
	g.sendAdded(g.t.Context(), to)
	g.follow(nil)
	g.lease.set(leaseNone)
	next.lead(false)
}

// lead makes it main.
func (g *generation) lead(orphan bool) {
	g.t.Helper()
	g.takeLease(orphan, func(err error) { g.t.Errorf("take lease: %v", err) })
	if err := g.lease.settled(g.t.Context()); err != nil {
		g.t.Fatal(err)
	}
}

// text is a state that is a text; each format begins its frames with its number.
type text struct {
	version uint32
	mu      sync.Mutex
	is      string
	err     error  // of Load
	saves   int    // calls of Save
	during  func() // is called in Save
}

func (x *text) set(to string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.is = to
}

func (x *text) get() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.is
}

func (x *text) save(w io.Writer) error {
	if x.during != nil {
		x.during()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.saves++
	_, err := fmt.Fprintf(w, "%d:%s", x.version, x.is)
	return err
}

func (x *text) load(version uint32, data []byte) error {
	if x.err != nil {
		return x.err
	}
	got, is, ok := strings.Cut(string(data), ":")
	if n, err := strconv.ParseUint(got, 10, 32); !ok || err != nil || uint32(n) != version || version > x.version {
		return fmt.Errorf("a frame of version %d that has %q", version, data)
	}
	x.set(is)
	return nil
}

func (x *text) snapshot() definition {
	return Snapshot{Version: x.version, Save: x.save, Load: x.load}.definition()
}

func (x *text) exclusive() definition {
	return Exclusive{Version: x.version, Save: x.save, Load: x.load}.definition()
}

// with registers a state in a generation.
func (g *generation) with(name string, def definition) *State {
	g.t.Helper()
	h, err := g.register(name, def)
	if err != nil {
		g.t.Fatal(err)
	}
	return h
}

func (h *State) mustCommit(t *testing.T) {
	t.Helper()
	if err := h.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// frameOf is a frame as another version has written it.
func frameOf(t *testing.T, name string, version uint32, seq uint64, payload string) *os.File {
	t.Helper()
	f, _, err := stateframe.Write(stateframe.Header{Name: name, Version: version, Seq: seq}, func(w io.Writer) error {
		_, err := io.WriteString(w, payload)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// tornFrame has a byte that was not written.
func tornFrame(t *testing.T, name string, version uint32, seq uint64) *os.File {
	t.Helper()
	whole, err := io.ReadAll(io.NewSectionReader(frameOf(t, name, version, seq, "1:x"), 0, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	whole[len(whole)-1] ^= 1
	fd, err := unix.MemfdCreate("torn", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "torn")
	t.Cleanup(func() { _ = f.Close() })
	if _, err := f.Write(whole); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE); err != nil {
		t.Fatal(err)
	}
	return f
}

// Which of the frames in the store a start takes, and what it says of the others.
func TestStateChoosesTheNewestGoodFrame(t *testing.T) {
	type stored struct {
		version uint32
		seq     uint64
		payload string // "": torn
	}
	for _, c := range []struct {
		name    string
		have    []stored
		want    string // "": begins empty
		refused []string
	}{
		{"nothing", nil, "", nil},
		{"one", []stored{{2, 5, "2:a"}}, "a", nil},
		{"the newest, in whichever order", []stored{{2, 5, "2:a"}, {2, 7, "2:c"}, {2, 6, "2:b"}}, "c", nil},
		{"an older format", []stored{{1, 5, "1:a"}}, "a", nil},
		{"an older format that is newer", []stored{{2, 5, "2:a"}, {1, 9, "1:b"}}, "b", nil},
		{"a torn one", []stored{{2, 5, "2:a"}, {2, 6, ""}}, "a", []string{"frame 6 of the fd store: torn"}},
		{"one that Load does not take", []stored{{2, 5, "2:a"}, {2, 6, "rubbish"}}, "a", []string{"frame 6 of the fd store: a frame of version 2"}},
		{"a future one", []stored{{2, 5, "2:a"}, {3, 6, "3:b"}}, "a", []string{"frame 6 of the fd store: future format: version 3"}},
		{"only a future one", []stored{{3, 6, "3:b"}}, "", []string{"frame 6 of the fd store: future format"}},
		{"nothing good", []stored{{2, 5, ""}, {2, 6, ""}, {4, 7, "4:x"}}, "", []string{"frame 7", "frame 6", "frame 5"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKeeper(t)
			for _, s := range c.have {
				f := tornFrame(t, "text", s.version, s.seq)
				if s.payload != "" {
					f = frameOf(t, "text", s.version, s.seq, s.payload)
				}
				k.add(t, stateKey("text", s.version), f)
			}
			g := begins(t, k)
			x := &text{version: 2}
			h := g.with("text", x.snapshot())
			if got := x.get(); got != c.want {
				t.Errorf("begins with %q, want %q", got, c.want)
			}
			loaded, ok := h.Loaded()
			if ok != (c.want != "") || ok && loaded.Origin != fromStore {
				t.Errorf("loaded %+v, %t", loaded, ok)
			}
			st := h.status()
			if len(st.Refused) != len(c.refused) {
				t.Fatalf("refused %q, want %q", st.Refused, c.refused)
			}
			for i, want := range c.refused {
				if !strings.HasPrefix(st.Refused[i], want) || !strings.Contains(g.log.String(), "frame of a state is not used") {
					t.Errorf("refused %q, want %q", st.Refused[i], want)
				}
			}
			// What is written now is newer than all that was there.
			x.set("next")
			g.lead(false)
			h.mustCommit(t)
			for _, s := range c.have {
				if got := h.status().Committed; got.Seq <= s.seq {
					t.Errorf("committed as frame %d, frame %d was there", got.Seq, s.seq)
				}
			}
			again := begins(t, k)
			y := &text{version: 2}
			again.with("text", y.snapshot())
			if got := y.get(); got != "next" {
				t.Errorf("begins again with %q after the commit of %q", got, "next")
			}
		})
	}
}

// What is in the store under a state's name and is no frame is said and removed.
func TestStateRefusesWhatIsNoFrame(t *testing.T) {
	k := newKeeper(t)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	k.add(t, stateKey("text", 1), reader)
	k.add(t, stateKey("text", 7), frameOf(t, "other", 1, 3, "1:other"))
	g := begins(t, k)
	x := &text{version: 1}
	h := g.with("text", x.snapshot())
	if st := h.status(); len(st.Refused) != 2 || x.get() != "" {
		t.Errorf("begins with %q, refused %q", x.get(), st.Refused)
	}
	g.lead(false)
	h.mustCommit(t)
	if got, want := k.names(), []string{"state/text/1"}; !slices.Equal(got, want) {
		t.Errorf("the store has %q, want %q", got, want)
	}
}

// A newer version reads what the older one has written; after it, each version
// finds its own last frame or what is newer, however it comes back.
func TestStatesOfTwoFormats(t *testing.T) {
	for _, crash := range []bool{false, true} {
		t.Run(fmt.Sprintf("crash %t", crash), func(t *testing.T) {
			k := newKeeper(t)
			next := func(from *generation, version uint32, want string) (*generation, *State, *text) {
				t.Helper()
				var g *generation
				switch {
				case from == nil || crash:
					g = begins(t, k)
				default:
					g = from.successor(k)
				}
				x := &text{version: version}
				h := g.with("text", x.snapshot())
				if got := x.get(); got != want {
					t.Errorf("version %d begins with %q, want %q; refused %q", version, got, want, h.status().Refused)
				}
				if from == nil || crash {
					g.lead(false)
				} else {
					from.promote(g)
				}
				return g, h, x
			}
			commit := func(h *State, x *text, is string) {
				t.Helper()
				x.set(is)
				h.mustCommit(t)
			}
			g, h, x := next(nil, 1, "")
			commit(h, x, "by 1")
			g, h, x = next(g, 2, "by 1")
			commit(h, x, "by 2")
			if got, want := k.names(), []string{"state/text/1", "state/text/2"}; !slices.Equal(got, want) {
				t.Fatalf("the store has %q, want %q", got, want)
			}
			g, h, x = next(g, 1, "by 1") // its own last one
			commit(h, x, "by 1 again")
			if got, want := k.names(), []string{"state/text/1", "state/text/2"}; !slices.Equal(got, want) {
				t.Fatalf("the store has %q, want %q: the older version has thrown away what is for the newer one", got, want)
			}
			g, h, x = next(g, 2, "by 1 again") // that is newer than its own
			commit(h, x, "by 2 again")
			for v := uint32(3); v <= 5; v++ {
				g, h, x = next(g, v, x.get())
				commit(h, x, fmt.Sprintf("by %d", v))
			}
			if got, want := k.names(), []string{"state/text/3", "state/text/4", "state/text/5"}; !slices.Equal(got, want) {
				t.Errorf("the store has %q, want %q", got, want)
			}
			next(g, 3, "by 3")
		})
	}
}

// A version in between that does not know the state hands its frames on.
func TestStatesCrossAVersionThatHasNone(t *testing.T) {
	k := newKeeper(t)
	first := begins(t, k)
	x := &text{version: 1, is: "kept"}
	first.with("text", x.snapshot())
	first.lead(false)
	second := first.successor(k)
	first.promote(second)
	third := second.successor(k)
	y := &text{version: 1}
	third.with("text", y.snapshot())
	if y.get() != "kept" {
		t.Errorf("begins with %q", y.get())
	}
}

// What a living predecessor gives and this version does not take refuses the
// upgrade; what has only been kept does not.
func TestStateRefusesTheUpgrade(t *testing.T) {
	k := newKeeper(t)
	first := begins(t, k)
	x := &text{version: 1, is: "kept"}
	first.with("text", x.snapshot())
	first.lead(false)
	bad := errors.New("not to my taste")
	next := first.successor(k)
	h, err := next.register("text", (&text{version: 1, err: bad}).snapshot())
	if !errors.Is(err, bad) || h != nil || !strings.Contains(err.Error(), `state "text"`) {
		t.Errorf("%v, %v", h, err)
	}
	// The same frame by way of a version that does not know it is nobody's present.
	second := first.successor(k)
	first.promote(second)
	third := second.successor(k)
	h = third.with("text", (&text{version: 1, err: bad}).snapshot())
	if st := h.status(); len(st.Refused) != 1 || !strings.Contains(st.Refused[0], bad.Error()) {
		t.Errorf("refused %q", st.Refused)
	}
	// A future one does not, either: the older version begins with its own.
	fourth := begins(t, newKeeper(t))
	fourth.with("text", (&text{version: 2}).snapshot())
	fourth.lead(false)
	fifth := fourth.successor(k)
	h = fifth.with("text", (&text{version: 1}).snapshot())
	if st := h.status(); len(st.Refused) != 1 || !strings.Contains(st.Refused[0], "future") {
		t.Errorf("refused %q", st.Refused)
	}
}

func TestStatesAreDefinedWell(t *testing.T) {
	g := begins(t, newKeeper(t))
	x := &text{version: 1}
	g.with("a-Name_1.x", x.snapshot())
	merged := Merged{
		Version: 1, Save: x.save, Load: x.load,
		Subtract: func(a, b []byte) ([]byte, error) { return nil, nil },
		Merge:    func(uint32, []byte) error { return nil },
	}
	without := func(change func(*Merged)) definition {
		m := merged
		change(&m)
		return m.definition()
	}
	for _, c := range []struct {
		name string
		def  definition
		want string
	}{
		{"", x.snapshot(), "1 to 64 characters"},
		{strings.Repeat("x", 65), x.snapshot(), "1 to 64 characters"},
		{"a/b", x.snapshot(), "letters, digits"},
		{"a:b", x.snapshot(), "letters, digits"},
		{"a-Name_1.x", x.snapshot(), "is taken"},
		{"v0", (&text{}).snapshot(), "set Version"},
		{"v0", Exclusive{Version: 1, Load: x.load}.definition(), "set Save"},
		{"v0", Snapshot{Version: 1, Save: x.save}.definition(), "set Load"},
		{"v0", without(func(m *Merged) { m.Subtract = nil }), "set Subtract"},
		{"v0", without(func(m *Merged) { m.Merge = nil }), "set Merge"},
	} {
		if _, err := g.register(c.name, c.def); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), strconv.Quote(c.name)) {
			t.Errorf("%q: %v, want %q", c.name, err, c.want)
		}
	}
}

// tally is a state that is counted.
type tally struct {
	mu sync.Mutex
	n  uint64
}

func (x *tally) add(n uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.n += n
}

func (x *tally) get() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.n
}

func (x *tally) merged() definition {
	parse := func(b []byte) (uint64, error) { return strconv.ParseUint(string(b), 10, 64) }
	write := func(n uint64) []byte { return strconv.AppendUint(nil, n, 10) }
	return Merged{
		Version: 1,
		Save:    func(w io.Writer) error { _, err := w.Write(write(x.get())); return err },
		Load: func(_ uint32, data []byte) error {
			n, err := parse(data)
			x.mu.Lock()
			defer x.mu.Unlock()
			x.n = n
			return err
		},
		Subtract: func(total, since []byte) ([]byte, error) {
			now, err := parse(total)
			if err != nil || since == nil {
				return total, err
			}
			before, err := parse(since)
			if err != nil || now == before {
				return nil, err
			}
			return write(now - before), nil
		},
		Merge: func(_ uint32, added []byte) error {
			n, err := parse(added)
			x.add(n)
			return err
		},
	}.definition()
}
