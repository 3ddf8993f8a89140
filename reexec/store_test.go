// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/activation"
	"github.com/holdfast-go/holdfast/notify"
	"github.com/holdfast-go/holdfast/notify/notifytest"
)

// testStore is a store with a manager that keeps at most limit descriptors.
func testStore(t *testing.T, limit int) (*fdStore, *notifytest.Manager) {
	t.Helper()
	m := notifytest.NewManager(t, notifytest.StoreMax(limit))
	n, err := notify.New(m.Socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	st := newFDStore(n)
	st.take(true, false)
	return st, m
}

// testFile is a memfd with a text.
func testFile(t *testing.T, text string) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "test")
	t.Cleanup(func() { _ = f.Close() })
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	return f
}

// content is what the manager has under a name.
func content(t *testing.T, m *notifytest.Manager, stored string) string {
	t.Helper()
	for _, e := range m.Store().Entries() {
		if e.Name == stored {
			text, err := io.ReadAll(io.NewSectionReader(e.File, 0, 100))
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
	}
	return ""
}

// settledNames are the entries once all has been worked off, the newest first.
func settledNames(t *testing.T, st *fdStore, m *notifytest.Manager) []string {
	t.Helper()
	if err := st.notifier.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m.Store().Names()
}

// Whatever is replaced, at each moment the old or the new one is there.
func TestReplaceWithoutGap(t *testing.T) {
	t.Parallel()
	var st *fdStore
	var m *notifytest.Manager
	for _, limit := range []int{2, 3, 10} {
		st, m = testStore(t, limit)
		for i := range 5 {
			stored, err := st.put(t.Context(), "state/x/1", testFile(t, fmt.Sprint(i)))
			if err != nil {
				t.Fatalf("limit %d, number %d: %v", limit, i, err)
			}
			if got := settledNames(t, st, m); !slices.Equal(got, []string{stored}) {
				t.Errorf("limit %d, number %d: there are %q, want %q", limit, i, got, stored)
			}
			if got := content(t, m, stored); got != fmt.Sprint(i) {
				t.Errorf("limit %d: %q, want %d", limit, got, i)
			}
		}
		// The messages in their order: how many entries of the key there were.
		entries := map[string]bool{}
		for _, message := range m.Messages() {
			name, _ := message.Value("FDNAME")
			switch {
			case !strings.HasPrefix(name, "state/x/1@"):
			case message.Has("FDSTORE=1"):
				entries[name] = true
			case message.Has("FDSTOREREMOVE=1"):
				if delete(entries, name); len(entries) == 0 {
					t.Errorf("limit %d: none is left after %v", limit, message)
				}
			}
		}
	}
}

func TestStoreWithoutRoom(t *testing.T) {
	t.Parallel()
	st, m := testStore(t, 2)
	for _, key := range []string{"state/a/1", "state/b/1"} {
		if _, err := st.put(t.Context(), key, testFile(t, key)); err != nil {
			t.Fatal(err)
		}
	}
	before := settledNames(t, st, m)
	for _, key := range []string{"state/a/1", "state/c/1"} {
		_, err := st.put(t.Context(), key, testFile(t, "new"))
		var e *StoreError
		if !errors.As(err, &e) || !errors.Is(err, ErrStoreFull) || e.Name != key {
			t.Fatalf("%s: %v", key, err)
		}
		if want := "set FileDescriptorStoreMax="; !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
		if got := settledNames(t, st, m); !slices.Equal(got, before) {
			t.Errorf("%s: there are %q, were %q", key, got, before)
		}
	}
	if got := content(t, m, before[1]); got != "state/a/1" {
		t.Errorf("the old one has become %q", got)
	}
	want := "a crash would lose 2 of 3 descriptors, for which systemd's fd store has no room: set FileDescriptorStoreMax=4 or more in the .service unit"
	if got := st.status(); got.Warning != want || len(got.Entries) != 2 {
		t.Errorf("%+v, want the warning %q", got, want)
	}
	// Room for both is enough.
	m.Store().SetMax(4)
	for _, key := range []string{"state/a/1", "state/c/1"} {
		if _, err := st.put(t.Context(), key, testFile(t, "new")); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	if got := st.warning(); strings.Contains(got, "would lose") {
		t.Error(got)
	}
}

// What nobody wants any more is not lost, and who gives up says nothing about the
// store.
func TestStoreForgets(t *testing.T) {
	t.Parallel()
	st, m := testStore(t, 2)
	s := serviceOf(firstInventory(t))
	s.store, s.inv.store = st, st
	s.lease.Store(true)
	keep := func(ctx context.Context, name string) error { return s.Keep(ctx, name, testFile(t, name)) }
	for _, name := range []string{"a", "b"} {
		if err := keep(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	// Of these, b is there: in its old form.
	for _, name := range []string{"b", "c"} {
		if err := keep(t.Context(), name); !errors.Is(err, ErrStoreFull) {
			t.Fatalf("keep %s in a full store: %v", name, err)
		}
	}
	if got := st.warning(); !strings.HasPrefix(got, "a crash would lose 2 of 3 descriptors") {
		t.Errorf("warning %q", got)
	}
	for _, name := range []string{"b", "c"} {
		if err := s.Release(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if got := st.warning(); got != "" {
		t.Errorf("warning %q after the release", got)
	}

	m.Store().SetMax(10)
	gone := errors.New("the client is gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	st.heard = func(context.Context) error { cancel(gone); return nil } // when it has begun to write
	if err := keep(ctx, "c"); !errors.Is(err, gone) {
		t.Errorf("keep for one who is gone: %v", err)
	}
	if got := st.warning(); got != "" {
		t.Errorf("warning %q after one who has given up", got)
	}
}

// Where $FDSTORE promises room and systemd drops what it gets, both causes are said.
func TestStoreThatDoesNotHear(t *testing.T) {
	t.Parallel()
	st, _ := testStore(t, 0)
	st.limit = 20
	_, err := st.put(t.Context(), "state/a/1", testFile(t, ""))
	var e *StoreError
	if !errors.As(err, &e) || !errors.Is(err, ErrStoreFull) || !e.Unheard || !strings.Contains(err.Error(), "NotifyAccess=") {
		t.Errorf("got %v, want NotifyAccess= in it", err)
	}
	if got := st.warning(); !strings.Contains(got, "NotifyAccess=") {
		t.Errorf("warning %q, want NotifyAccess= in it", got)
	}
	st.limit = 1
	st.learn("kept/b@1", false)
	if _, err = st.put(t.Context(), "state/a/1", testFile(t, "")); !errors.As(err, &e) || e.Unheard {
		t.Errorf("a full store: got %v, want no word of NotifyAccess=", err)
	}
}

// Many are stored with one question, if there is room, and as many as fit if not.
func TestStoreMany(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ limit, stored, barriers int }{
		{0, 0, 2},    // the batch, and the first of them alone
		{50, 50, 52}, // the batch, one and one for each, and one too many
		{101, 100, 2},
	} {
		st, m := testStore(t, c.limit)
		var all []storing
		for i := range 100 {
			all = append(all, storing{key: storeKey(storeKept, fmt.Sprint(i)), conn: testFile(t, "")})
		}
		names, err := st.putAll(t.Context(), all)
		if (err == nil) != (c.stored == len(all)) {
			t.Errorf("limit %d: %v", c.limit, err)
		}
		got := settledNames(t, st, m)
		slices.Reverse(got)
		if want := names[:c.stored]; !slices.Equal(got, want) || slices.Contains(want, "") || strings.Join(names[c.stored:], "") != "" {
			t.Errorf("limit %d: said %q, there are %q", c.limit, names, got)
		}
		questions := 0
		for _, message := range m.Messages() {
			if message.IsBarrier() {
				questions++
			}
		}
		// The last one is this test's; each that is stored alone has two.
		if questions-1 > 2*c.barriers {
			t.Errorf("limit %d: %d barriers, want at most %d", c.limit, questions-1, 2*c.barriers)
		}
	}
}

func TestStoreIsForMain(t *testing.T) {
	t.Parallel()
	st, m := testStore(t, 4)
	st.take(false, false)
	if _, err := st.put(t.Context(), "state/a/1", testFile(t, "")); !errors.Is(err, ErrNotMain) {
		t.Errorf("got %v, want ErrNotMain", err)
	}
	if got := m.Messages(); len(got) > 0 {
		t.Errorf("systemd was told %v", got)
	}
	var none *fdStore
	if _, err := none.put(t.Context(), "state/a/1", testFile(t, "")); !errors.Is(err, ErrNoManager) {
		t.Errorf("got %v, want ErrNoManager", err)
	}
	if err := none.remove(t.Context(), "state/a/1@1"); !errors.Is(err, ErrNoManager) {
		t.Errorf("got %v, want ErrNoManager", err)
	}
	if none.status() != nil || none.warning() != "" || none.found(storeBound) != nil || none.newest("state/a/1") != "" {
		t.Error("a store that is none says something")
	}
}

// What a start brings is sorted: the newest of each key counts, and the rest goes,
// but nothing of others.
func TestArrivals(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	passed := []activation.Passed{{File: file, Name: "http", Source: activation.SourceSocket}}
	stored := []string{"kept/a@7", "kept/a@12", "state/s/1@3", "state/s/1@9", "state/s/1@4", "probe@20", "other@99", "kept/a@2", "stored"}
	st, m := testStore(t, 20)
	for _, name := range stored {
		f := testFile(t, name)
		if err := st.notifier.Store(name, f); err != nil {
			t.Fatal(err)
		}
		passed = append(passed, activation.Passed{File: testFile(t, name), Name: name, Source: activation.SourceStore})
	}
	// The service once stored what came from the socket unit.
	again, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	passed = append(passed, activation.Passed{File: again, Name: "bound/http/tcp/%3A80@21", Source: activation.SourceStore})
	set, err := activation.NewSet(passed)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	st.arrive(set)
	names := func(kind string) (all []string) {
		for _, e := range st.found(kind) {
			all = append(all, e.name)
			_ = e.file.Close()
		}
		return all
	}
	for kind, want := range map[string][]string{storeKept: {"kept/a@12"}, storeState: {"state/s/1@9", "state/s/1@4", "state/s/1@3"}, storeBound: nil} {
		if got := names(kind); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", kind, got, want)
		}
		if got := names(kind); got != nil {
			t.Errorf("%s: %q again", kind, got)
		}
	}
	var left []string
	for _, info := range set.Unclaimed() {
		left = append(left, info.Name)
	}
	if want := []string{"http", "other@99", "stored"}; !slices.Equal(left, want) {
		t.Errorf("left are %q, want %q", left, want)
	}
	next, err := st.put(t.Context(), "state/s/1", testFile(t, "new"))
	if err != nil || next != "state/s/1@22" {
		t.Errorf("the next one is %q, %v", next, err)
	}
	got := settledNames(t, st, m)
	if want := []string{"state/s/1@22", "stored", "other@99", "kept/a@12"}; !slices.Equal(got, want) {
		t.Errorf("there are %q, want %q", got, want)
	}
}

// A predecessor's changes reach the view of its successor in an order in which it
// never believes that something is there which is not.
func TestStoreTellsBeforeItRemoves(t *testing.T) {
	t.Parallel()
	st, m := testStore(t, 10)
	view := map[string]bool{}
	st.changed = func(stored string, removed bool) {
		if removed {
			delete(view, stored)
		} else {
			view[stored] = true
		}
		there := settledNames(t, st, m)
		for name := range view {
			if !slices.Contains(there, name) {
				t.Errorf("the successor believes in %s; there are %q", name, there)
			}
		}
	}
	for range 3 {
		for _, key := range []string{"state/a/1", "kept/b"} {
			if _, err := st.put(t.Context(), key, testFile(t, key)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := st.remove(t.Context(), st.newest("kept/b")); err != nil {
		t.Fatal(err)
	}
	if got := settledNames(t, st, m); len(got) != 1 || len(view) != 1 || !view[got[0]] {
		t.Errorf("view %v, there are %q", view, got)
	}
}

// What systemd has read, but has not confirmed in time, is not there: no place is
// lost by it, and the next start finds what was kept before.
func TestUnconfirmedIsTakenBack(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{2, 3, 10} {
		t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) {
			type attempt struct {
				cancel   context.CancelCauseFunc
				returned chan struct{}
			}
			var ending atomic.Pointer[attempt]
			late := errors.New("too late")
			m := notifytest.NewManager(t, notifytest.StoreMax(limit), notifytest.Handle(func(m *notifytest.Message) {
				if name, _ := m.Value("FDNAME"); strings.HasPrefix(name, "kept/") && m.Has("FDSTORE=1") {
					if a := ending.Load(); a != nil {
						a.cancel(late)
						// The barrier comes when nobody waits for it any more.
						select {
						case <-a.returned:
						case <-t.Context().Done():
						}
					}
				}
			}))
			n, err := notify.New(m.Socket())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = n.Close() })
			st := newFDStore(n)
			st.take(true, false)
			first, err := st.put(t.Context(), "kept/a", testFile(t, "first"))
			if err != nil {
				t.Fatal(err)
			}
			for range 2 * limit {
				ctx, cancel := context.WithCancelCause(t.Context())
				a := &attempt{cancel, make(chan struct{})}
				ending.Store(a)
				_, err := st.put(ctx, "kept/a", testFile(t, "never confirmed"))
				close(a.returned)
				if !errors.Is(err, late) {
					t.Fatalf("put that is too late: %v", err)
				}
				if got := st.newest("kept/a"); got != first {
					t.Fatalf("%q counts, want %q", got, first)
				}
			}
			ending.Store(nil)
			if err := st.flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := settledNames(t, st, m); !slices.Equal(got, []string{first}) {
				t.Errorf("there are %q, want %q", got, first)
			}
			if _, err := st.put(t.Context(), "kept/a", testFile(t, "second")); err != nil {
				t.Error(err)
			}
		})
	}
}

// Nothing is written while MAINPID= is on its way, and nothing waits for ever.
func TestFreeze(t *testing.T) {
	t.Parallel()
	st, _ := testStore(t, 10)
	wait, thaw := st.freeze(t.Context())
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		_, err := st.put(t.Context(), "state/a/1", testFile(t, ""))
		result <- err
	}()
	st.take(false, false)
	thaw()
	if err := <-result; !errors.Is(err, ErrNotMain) {
		t.Errorf("got %v, want ErrNotMain", err)
	}
	st.take(true, false)
	wait, thaw = st.freeze(t.Context())
	thaw() // before it was reached
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := st.put(t.Context(), "state/a/1", testFile(t, "")); err != nil {
		t.Error(err)
	}
}
