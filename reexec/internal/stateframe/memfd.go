// SPDX-License-Identifier: Apache-2.0

package stateframe

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// seals are those that a frame must have: nothing can change it any more, and
// nobody can take that back.
const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// bufferSize is how much of a payload is written at once.
const bufferSize = 256 << 10

// Write makes a frame of what save writes. h.Length is found out. The caller
// closes the file. The header comes last: a frame that was not finished has none.
func Write(h Header, save func(io.Writer) error) (*os.File, Header, error) {
	f, err := create("state " + h.Name)
	if err != nil {
		return nil, Header{}, err
	}
	finished := false // a panic of save leaves no error
	defer func() {
		if !finished {
			_ = f.Close()
		}
	}()
	p := &payload{f: f}
	if _, err := f.Seek(HeaderSize, io.SeekStart); err != nil {
		return nil, Header{}, err
	}
	w := bufio.NewWriterSize(p, bufferSize)
	if err := save(w); err != nil {
		return nil, Header{}, err
	}
	if err := w.Flush(); err != nil {
		return nil, Header{}, fmt.Errorf("write state frame: %w", err)
	}
	h.Length = p.length
	header, err := h.encode(p.crc)
	if err != nil {
		return nil, Header{}, err
	}
	if _, err := f.WriteAt(header, 0); err != nil {
		return nil, Header{}, fmt.Errorf("write state frame: %w", err)
	}
	if err := control(f, func(fd uintptr) error {
		_, err := unix.FcntlInt(fd, unix.F_ADD_SEALS, seals)
		return err
	}); err != nil {
		return nil, Header{}, fmt.Errorf("seal state frame: %w", err)
	}
	finished = true
	return f, h, nil
}

// payload counts and sums up what goes through it.
type payload struct {
	f      *os.File
	length uint64
	crc    uint32
}

func (p *payload) Write(b []byte) (int, error) {
	n, err := p.f.Write(b)
	p.length += uint64(n)
	p.crc = crc32.Update(p.crc, castagnoli(), b[:n])
	return n, err
}

// create makes an empty memfd that can be sealed. Where the kernel knows how
// (6.3), nobody can ever execute it, which a sysctl may ask for (memfd_create(2)).
func create(name string) (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd_create %q: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// control calls f with the descriptor, whose blocking mode stays as it is.
func control(file *os.File, f func(fd uintptr) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	return errors.Join(raw.Control(func(fd uintptr) { inner = f(fd) }), inner)
}

// View is a frame that was checked.
type View struct {
	Header
	// Payload is read-only memory of the process, until Close: a fault afterwards.
	Payload []byte

	mapping []byte
}

// Peek reads the header of a frame without checking the payload, to sort frames
// by it. f stays the caller's.
func Peek(f *os.File) (Header, error) {
	if err := sealed(f); err != nil {
		return Header{}, err
	}
	b := make([]byte, HeaderSize)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Header{}, fmt.Errorf("read state frame: %w", err)
	}
	return parseHeader(b[:n])
}

// Open maps a frame and checks it: that it is sealed, whole, of the state with
// that name, and of no newer format than version. f stays the caller's, and may
// be closed before the view is.
func Open(f *os.File, name string, version uint32) (*View, error) {
	if err := sealed(f); err != nil {
		return nil, err
	}
	var size int64
	var mapping []byte
	err := control(f, func(fd uintptr) error {
		var st unix.Stat_t
		if err := unix.Fstat(int(fd), &st); err != nil {
			return fmt.Errorf("stat: %w", err)
		}
		if size = st.Size; size == 0 || size > math.MaxInt {
			return nil
		}
		var err error
		// Private, since before Linux 6.7 a sealed memfd has no shared mapping,
		// not even to read. Nothing is copied: nobody writes.
		mapping, err = unix.Mmap(int(fd), 0, int(size), unix.PROT_READ, unix.MAP_PRIVATE)
		if err != nil {
			return fmt.Errorf("map %d bytes: %w", size, err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open state frame: %w", err)
	}
	v := &View{mapping: mapping}
	if err := v.check(name, version); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}

func (v *View) check(name string, version uint32) error {
	// What can be told by the header is told first: the rest may be large.
	h, err := parseHeader(v.mapping)
	switch {
	case err != nil:
		return err
	case h.Name != name:
		return fmt.Errorf("%w: it is of %q", ErrOtherName, h.Name)
	case h.Version > version:
		return fmt.Errorf("%w: it has version %d, this program knows up to %d", ErrFuture, h.Version, version)
	}
	v.Header, v.Payload, err = Parse(v.mapping)
	return err
}

// Close ends the mapping. Whoever reads the payload after that crashes.
func (v *View) Close() error {
	if v.mapping == nil {
		return nil
	}
	mapping := v.mapping
	v.mapping, v.Payload = nil, nil
	if err := unix.Munmap(mapping); err != nil {
		return fmt.Errorf("unmap state frame: %w", err)
	}
	return nil
}

// sealed says whether f is a memfd that nobody can change.
func sealed(f *os.File) error {
	var got int
	err := control(f, func(fd uintptr) (err error) {
		got, err = unix.FcntlInt(fd, unix.F_GET_SEALS, 0)
		return err
	})
	switch {
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: it is no memfd", ErrForeign)
	case err != nil:
		return fmt.Errorf("get seals: %w", err)
	case got&seals != seals:
		return fmt.Errorf("%w: seals %#x, want %#x", ErrUnsealed, got, seals)
	}
	return nil
}
