// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
)

// A Setup says what a machine has that one of [Boot] has not.
type Setup struct {
	Packages []string     // more packages of Debian; see [ImageWith]
	Network  *Network     // what it is attached to, or nil
	Address  netip.Prefix // of the machine there, such as 198.18.0.11/24
	Disk     *Disk        // what it writes to, in place of memory; containers only, or nil
}

func (s Setup) check() error {
	if s.Network == nil {
		return nil
	}
	return checkAddress(s.Address)
}

// BootSetup is [Boot] for a machine with more to it.
func BootSetup(ctx context.Context, v Version, setup Setup) (*Machine, error) {
	return bootContainer(ctx, v, setup)
}

// BootVMSetup is [BootVM] for a machine with more to it.
func BootVMSetup(ctx context.Context, v Version, setup Setup) (*Machine, error) {
	return bootVMSetup(ctx, v, setup)
}

// A Disk keeps what a machine writes to its root file system, so that another boot finds it: [Machine.Close] is
// the power cut between the two. One machine at a time has it.
type Disk struct{ dir *runDir }

// NewDisk makes an empty disk: on it is what the image of the machine has. The caller closes it after the last machine
// that had it, and it is gone; should this process die before, [Sweep] removes it.
func NewDisk(ctx context.Context) (*Disk, error) {
	dir, err := newRunDir(ctx, "disk")
	if err != nil {
		return nil, err
	}
	d := &Disk{dir}
	for _, name := range []string{d.upper(), d.work()} {
		if err := os.Mkdir(name, 0o755); err != nil {
			return nil, errors.Join(err, d.Close())
		}
	}
	return d, nil
}

// Close removes the disk.
func (d *Disk) Close() error { return d.dir.remove() }

// The two directories of an overlay file system.
func (d *Disk) upper() string { return filepath.Join(d.dir.path, "upper") }
func (d *Disk) work() string  { return filepath.Join(d.dir.path, "work") }
