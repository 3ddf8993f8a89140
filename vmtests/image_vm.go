// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
)

// VMVersions returns the versions that virtual machines have, oldest first: those that can reboot nothing
// but user space (soft-reboot, systemd 254).
func VMVersions() []Version { return []Version{Systemd257, Systemd262} }

// Names of what is in the directory of an image for virtual machines.
const (
	kernelFile = "vmlinuz"
	diskFile   = "disk"
)

// The kernel numbers disks in the order in which they answer, so nothing goes by /dev/nvme0n1: the root
// file system is a partition with an identity, and the guest's program is found by its disk's serial number.
const (
	diskSignature = 0x686f6c64
	rootPartition = "PARTUUID=686f6c64-01" // the first partition of the disk with that signature
	guestSerial   = "guest"
)

// guestUnit runs the program that commands come to. The host puts it on a disk of its own, bare, so that
// the image does not change with it.
const guestUnit = `[Unit]
Description=Commands from the host
[Service]
ExecStartPre=/bin/sh -c 'for c in /sys/class/nvme/*; do read -r serial <$c/serial; [ "$serial" = ` + guestSerial + ` ] || continue; cat /dev/$(cd $c && echo nvme*n1) >/run/guest; exec chmod 755 /run/guest; done; echo no disk has the serial number ` + guestSerial + ` >&2; exit 1'
Restart=on-failure
RestartSec=200ms
ExecStart=/run/guest serve
Delegate=yes
LimitNOFILE=524288
OOMScoreAdjust=-1000
`

func vmRecipe(v Version, packages ...string) (recipe, error) {
	if runtime.GOARCH != "amd64" {
		return recipe{}, fmt.Errorf("virtual machine: %w on %s: its kernel and devices are those of amd64", errors.ErrUnsupported, runtime.GOARCH)
	}
	if !slices.Contains(VMVersions(), v) {
		return recipe{}, fmt.Errorf("virtual machine: %w with %v: must be one of %v", errors.ErrUnsupported, v, VMVersions())
	}
	r, err := containerRecipe(v)
	if err != nil {
		return recipe{}, err
	}
	r.Disk, r.Format = true, 3 // the disk has a partition table, and there is no initrd
	// This kernel has NVMe, ext4 and virtio-serial built in: it boots without an initrd.
	r.Packages = slices.Concat(r.Packages, []string{"linux-image-cloud-amd64"}, packages)
	const unit = "/etc/systemd/system/holdfast-guest.service"
	r.Hooks = append(append([]string(nil), r.Hooks...),
		fmt.Sprintf("cat >\"$1%s\" <<'END'\n%sEND", unit, guestUnit),
		fmt.Sprintf(`mkdir -p "$1/etc/systemd/system/multi-user.target.wants" && ln -s %s "$1/etc/systemd/system/multi-user.target.wants/"`, unit),
		// The console is for messages, and nobody logs in.
		`ln -s /dev/null "$1/etc/systemd/system/serial-getty@ttyS0.service" && ln -s /dev/null "$1/etc/systemd/system/getty@tty1.service"`,
		// Each takes seconds under emulation, and no story needs them.
		`ln -s /dev/null "$1/etc/systemd/system/systemd-hwdb-update.service" && ln -s /dev/null "$1/etc/systemd/system/ldconfig.service"`,
	)
	return r, nil
}

// VMImage is [ContainerImage] for virtual machines: a kernel and a disk. It takes about twice as long. On
// other architectures than amd64, and for a version that is none of [VMVersions], the error is
// [errors.ErrUnsupported].
func VMImage(ctx context.Context, v Version, log io.Writer) (*Image, error) {
	return VMImageWith(ctx, v, log)
}

// VMImageWith is to [VMImage] what [ImageWith] is to [ContainerImage].
func VMImageWith(ctx context.Context, v Version, log io.Writer, packages ...string) (*Image, error) {
	r, err := vmRecipe(v, packages...)
	if err != nil {
		return nil, err
	}
	return r.image(ctx, log)
}

// makeDisk makes kernel and disk in work from the file system in root, which it removes.
func makeDisk(ctx context.Context, work, root string, log io.Writer) error {
	kernels, err := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return fmt.Errorf("the image has the kernels %q, want one", kernels)
	}
	if err := os.Rename(kernels[0], filepath.Join(work, kernelFile)); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(root, "boot")); err != nil { // nothing in it is used any more
		return err
	}
	disk := filepath.Join(work, diskFile)
	if err := runTool(ctx, log, "mke2fs", "-q", "-t", "ext4", "-L", "root", "-E", fmt.Sprintf("offset=%d", rootStart*sector), "-d", root, disk, fmt.Sprintf("%dk", rootSectors*sector>>10)); err != nil {
		return err
	}
	file, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(masterBootRecord(), 0)
	if err := errors.Join(err, file.Truncate((rootStart+rootSectors)*sector), file.Close()); err != nil {
		return err
	}
	return os.RemoveAll(root)
}

// Where the root file system lies on its disk, in sectors.
const (
	sector      = 512
	rootStart   = 1 << 20 / sector
	rootSectors = 1 << 30 / sector
)

// masterBootRecord returns the first sector of a disk whose one partition is the root file system.
func masterBootRecord() []byte {
	record := make([]byte, sector)
	binary.LittleEndian.PutUint32(record[440:], diskSignature)
	const linux, beyondCylinders = 0x83, 0xfffffe
	entry := record[446:]
	binary.LittleEndian.PutUint32(entry[0:], beyondCylinders<<8)
	binary.LittleEndian.PutUint32(entry[4:], beyondCylinders<<8|linux)
	binary.LittleEndian.PutUint32(entry[8:], rootStart)
	binary.LittleEndian.PutUint32(entry[12:], rootSectors)
	binary.LittleEndian.PutUint16(record[510:], 0xaa55)
	return record
}
