// SPDX-License-Identifier: Apache-2.0

package lastgood

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"syscall"
)

// Identity tells one content of a file from another.
type Identity struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // in hexadecimal digits
}

// Known says whether there is an identity at all.
func (id Identity) Known() bool { return id.SHA256 != "" }

// Short is what the file's name has of it.
func (id Identity) Short() string { return id.SHA256[:min(len(id.SHA256), 16)] }

// valid keeps out what could not have come from Identify. Short becomes part of
// a path.
func (id Identity) valid() bool {
	if id.Size < 0 || len(id.SHA256) != hex.EncodedLen(sha256.Size) {
		return false
	}
	_, err := hex.DecodeString(id.SHA256)
	return err == nil
}

// Stamp is what stat(2) says of a file. While it is the same, so is the content:
// the change time cannot be set by who writes the file. It saves the reading of
// a whole program at each start.
type Stamp struct {
	Dev   uint64 `json:"dev"`
	Ino   uint64 `json:"ino"`
	Size  int64  `json:"size"`
	Mtime int64  `json:"mtime_ns"`
	Ctime int64  `json:"ctime_ns"`
}

// StampOf returns the stamp of an open file.
func StampOf(f *os.File) (Stamp, error) {
	info, err := f.Stat()
	if err != nil {
		return Stamp{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Stamp{}, fmt.Errorf("stat %s: no inode", f.Name())
	}
	return Stamp{
		Dev: uint64(st.Dev), Ino: st.Ino, Size: st.Size, //nolint:unconvert // 32 bits on some machines
		Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(),
	}, nil
}

// Identify reads the file to its end, from the beginning. The offset of f does
// not change.
func Identify(f *os.File) (Identity, error) {
	h := sha256.New()
	n, err := io.CopyBuffer(h, io.NewSectionReader(f, 0, 1<<62), make([]byte, 256<<10))
	if err != nil {
		return Identity{}, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return Identity{Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}
