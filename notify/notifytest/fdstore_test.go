// SPDX-License-Identifier: Apache-2.0

package notifytest_test

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/notify/notifytest"
)

// memfd returns a new file of its own.
func memfd(t testing.TB) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("stored", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "stored")
}

// duplicate returns another descriptor of the same open file.
func duplicate(t testing.TB, file *os.File) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), file.Name())
}

func openDescriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// newStore returns a store and closes it with the test.
func newStore(t testing.TB, limit int) *notifytest.FDStore {
	s := notifytest.NewFDStore(limit)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// send has s handle a message, and closes what the store did not take.
func send(t testing.TB, s *notifytest.FDStore, payload string, files ...*os.File) {
	t.Helper()
	fields, err := notifytest.Parse([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	m := &notifytest.Message{Payload: []byte(payload), Fields: fields, Files: files}
	s.Handle(m)
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestFDStoreNames(t *testing.T) {
	longest := strings.Repeat("n", 255)
	tests := []struct{ fields, want string }{
		{"FDNAME=http", "http"},
		{"FDNAME=a b~", "a b~"},
		{"FDNAME=" + longest, longest},
		{"FDNAME=", ""},
		{"", "stored"},
		{"FDNAME=with:colon", "stored"},
		{"FDNAME=ü", "stored"},
		{"FDNAME=tab\t", "stored"},
		{"FDNAME=" + longest + "n", "stored"},
		{"FDNAME=first\nFDNAME=second", "first"},
	}
	for _, test := range tests {
		s := newStore(t, 1)
		send(t, s, "FDSTORE=1\n"+test.fields, memfd(t))
		if got := s.Names(); !slices.Equal(got, []string{test.want}) {
			t.Errorf("%q: stored as %q, want %q", test.fields, got, test.want)
		}
	}
}

func TestFDStoreLimit(t *testing.T) {
	before := openDescriptors(t)
	s := newStore(t, 2)
	first := memfd(t)
	send(t, s, "FDSTORE=1\nFDNAME=a", duplicate(t, first))
	send(t, s, "FDSTORE=1\nFDNAME=b", memfd(t), memfd(t), memfd(t))
	if got := s.Names(); !slices.Equal(got, []string{"b", "a"}) {
		t.Errorf("stored are %q, want b and a", got)
	}
	// The store is full before a duplicate is looked for.
	send(t, s, "FDSTORE=1\nFDNAME=c", duplicate(t, first))
	want := []string{
		`store of 2 descriptors is full: "b" and what came with it dropped`,
		`store of 2 descriptors is full: "c" and what came with it dropped`,
	}
	if got := s.Warnings(); !slices.Equal(got, want) {
		t.Errorf("warnings are %q, want %q", got, want)
	}
	first.Close()
	if got, want := openDescriptors(t), before+2; got != want {
		t.Errorf("%d descriptors open, want %d", got, want)
	}

	none := newStore(t, 0)
	send(t, none, "FDSTORE=1", memfd(t))
	if got := none.Names(); got != nil {
		t.Errorf("no store, but stored are %q", got)
	}
}

func TestFDStoreDuplicates(t *testing.T) {
	s := newStore(t, 10)
	file := memfd(t)
	send(t, s, "FDSTORE=1\nFDNAME=old", duplicate(t, file))
	send(t, s, "FDSTORE=1\nFDNAME=new", duplicate(t, file))
	if got := s.Names(); !slices.Equal(got, []string{"old"}) {
		t.Errorf("stored are %q, want the old name", got)
	}
	// To rename, remove first.
	send(t, s, "FDSTOREREMOVE=1\nFDNAME=old")
	send(t, s, "FDSTORE=1\nFDNAME=new", file)
	if got := s.Names(); !slices.Equal(got, []string{"new"}) {
		t.Errorf("stored are %q, want the new name", got)
	}
	// Opened anew, the same file is another description.
	again, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", s.Entries()[0].File.Fd()), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	send(t, s, "FDSTORE=1\nFDNAME=again", again)
	if got := s.Names(); !slices.Equal(got, []string{"again", "new"}) {
		t.Errorf("stored are %q, want both", got)
	}
}

func TestFDStoreRemove(t *testing.T) {
	s := newStore(t, 10)
	for _, name := range []string{"a", "b", "a"} {
		send(t, s, "FDSTORE=1\nFDNAME="+name, memfd(t))
	}
	send(t, s, "FDSTOREREMOVE=1")
	send(t, s, "FDSTOREREMOVE=1\nFDNAME=a:")
	send(t, s, "FDSTOREREMOVE=1\nFDNAME=unknown")
	if got := s.Names(); !slices.Equal(got, []string{"a", "b", "a"}) {
		t.Errorf("stored are %q, want all", got)
	}
	// Removing wins over storing.
	send(t, s, "FDSTORE=1\nFDSTOREREMOVE=1\nFDNAME=a", memfd(t))
	if got := s.Names(); !slices.Equal(got, []string{"b"}) {
		t.Errorf("stored are %q, want b", got)
	}
}

func TestFDStoreOrder(t *testing.T) {
	s := newStore(t, 10)
	for _, name := range []string{"a", "b", "c"} {
		send(t, s, "FDSTORE=1\nFDNAME="+name, memfd(t))
	}
	for _, want := range [][]string{{"c", "b", "a"}, {"a", "b", "c"}, {"c", "b", "a"}} {
		if got := s.Names(); !slices.Equal(got, want) {
			t.Errorf("order is %q, want %q", got, want)
		}
		s.DaemonReload()
	}
}

func TestFDStoreDropsHungUp(t *testing.T) {
	s := newStore(t, 10)
	var writers []*os.File
	for _, fields := range []string{"FDNAME=polled", "FDNAME=kept\nFDPOLL=0", "FDNAME=open"} {
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		writers = append(writers, writer)
		defer writer.Close()
		send(t, s, "FDSTORE=1\n"+fields, reader)
	}
	writers[0].Close()
	writers[1].Close()
	if got := s.Names(); !slices.Equal(got, []string{"open", "kept"}) {
		t.Errorf("stored are %q, want what is open and what is not polled", got)
	}
	if got, want := s.Warnings(), []string{`descriptor "polled" reports an error or a hang-up: dropped`}; !slices.Equal(got, want) {
		t.Errorf("warnings are %q, want %q", got, want)
	}
}

func TestFDStoreIgnoresOtherMessages(t *testing.T) {
	s := newStore(t, 10)
	send(t, s, "READY=1\nFDNAME=a", memfd(t))
	send(t, s, "FDSTORE=1\nBARRIER=1", memfd(t))
	send(t, s, "FDSTORE=0", memfd(t))
	m := &notifytest.Message{Fields: []notifytest.Field{"FDSTORE=1"}, Files: []*os.File{memfd(t)}, Err: notifytest.ErrTooLong}
	s.Handle(m)
	m.Close()
	if got := s.Names(); got != nil {
		t.Errorf("stored are %q", got)
	}
}

func TestFDStoreCloses(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	s := notifytest.NewFDStore(1)
	send(t, s, "FDSTORE=1", writer)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %v, want EOF: the last writer was in the store", err)
	}
	if got := s.Names(); got != nil {
		t.Errorf("stored are %q", got)
	}
}

// watcher records what it is told.
type watcher struct{ told []string }

func (w *watcher) Stored(e notifytest.StoredFD)  { w.told = append(w.told, "stored "+e.Name) }
func (w *watcher) Dropped(e notifytest.StoredFD) { w.told = append(w.told, "dropped "+e.Name) }
func (w *watcher) Warned(warning string)         { w.told = append(w.told, warning) }

// With a watcher, a hang-up is noticed when the watcher says so, and not before.
func TestFDStoreWatch(t *testing.T) {
	s := newStore(t, 2)
	send(t, s, "FDSTORE=1\nFDNAME=early", memfd(t))
	w := new(watcher)
	s.Watch(w)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	send(t, s, "FDSTORE=1\nFDNAME=pipe", reader)
	writer.Close()
	send(t, s, "FDSTORE=1\nFDNAME=late", memfd(t))
	if got := s.Names(); !slices.Equal(got, []string{"pipe", "early"}) {
		t.Errorf("stored are %q, want the pipe among them", got)
	}
	s.Drop(s.Entries()[0].File)
	s.Drop(reader)
	send(t, s, "FDSTOREREMOVE=1\nFDNAME=early")
	want := []string{
		"stored early", "stored pipe", `store of 2 descriptors is full: "late" and what came with it dropped`,
		`descriptor "pipe" reports an error or a hang-up: dropped`, "dropped pipe", "dropped early",
	}
	if !slices.Equal(w.told, want) {
		t.Errorf("told are %q, want %q", w.told, want)
	}
	if got := s.Names(); got != nil {
		t.Errorf("stored are %q", got)
	}
}

// As on systemd: FileDescriptorStoreMax=16 with a, b and c, lowered to 1, keeps c.
func TestFDStoreSetMax(t *testing.T) {
	s := newStore(t, 16)
	for _, name := range []string{"a", "b", "c"} {
		send(t, s, "FDSTORE=1\nFDNAME="+name, memfd(t))
	}
	s.SetMax(2)
	s.DaemonReload()
	if got := s.Names(); !slices.Equal(got, []string{"b", "c"}) {
		t.Errorf("stored are %q, want the two newest, reversed", got)
	}
	s.SetMax(3)
	send(t, s, "FDSTORE=1\nFDNAME=d", memfd(t))
	if got := s.Names(); !slices.Equal(got, []string{"d", "b", "c"}) {
		t.Errorf("stored are %q, want d in front", got)
	}
}
