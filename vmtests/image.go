// SPDX-License-Identifier: Apache-2.0

package vmtests

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An Image is a root file system in the cache, complete and never written to again. Any number of
// machines of any number of processes boot from it at once.
type Image struct {
	Version Version
	Dir     string // what was built; for containers, the root file system is Dir/root
	Built   bool   // this call built it; else it was found in the cache

	lock *os.File // held shared, so that nobody prunes what is in use
}

// Close says that the image is no longer used. Machines booted from it keep it in use by themselves.
func (i *Image) Close() error { return i.lock.Close() }

// A recipe says all that decides what an image contains. Its hash is the image's name, so a changed
// recipe is another image and two checkouts do not disturb each other.
type recipe struct {
	Format       int // of this structure and of the steps in build
	Version      Version
	Suite        string
	Architecture string
	Packages     []string
	Hooks        []string // shell commands run at the end; $1 is the root file system
	Disk         bool     `json:",omitempty"` // for virtual machines: an ext4 image with a kernel beside it
}

// basePackages are what stories may count on in every image.
var basePackages = []string{"systemd", "systemd-sysv", "libpam-systemd", "libnss-systemd", "dbus", "iproute2", "procps"}

// baseHooks remove what the building host left behind, and work that each boot would do again.
var baseHooks = []string{
	`rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$1/etc/resolv.conf" "$1/etc/hostname"`,
	// Empty rather than absent: each boot gets an identity of its own, and none is a first boot, machine-id(5).
	`: >"$1/etc/machine-id"`,
	// systemd-update-done.service(8): /etc and /var are up to date with /usr.
	`touch "$1/etc/.updated" "$1/var/.updated"`,
}

// polkitPackages are what stories about polkit need: polkit itself, and sudo, which is what is left where polkit
// cannot tell one unit from another. They make the image about a tenth larger.
func polkitPackages(v Version) []string {
	if v == Systemd247 { // the last Debian that has polkit 0.105
		return []string{"policykit-1", "sudo"}
	}
	return []string{"polkitd", "sudo"}
}

func containerRecipe(v Version) (recipe, error) {
	suite, err := v.suite()
	if err != nil {
		return recipe{}, err
	}
	return recipe{
		Format:       1,
		Version:      v,
		Suite:        suite,
		Architecture: runtime.GOARCH,
		Packages:     basePackages,
		Hooks:        baseHooks,
	}, nil
}

func (r recipe) name() string {
	text, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and numbers only
	}
	sum := sha256.Sum256(text)
	kind := "root"
	if r.Disk {
		kind = "disk"
	}
	return fmt.Sprintf("%s-%s-%s", r.Suite, kind, hex.EncodeToString(sum[:8]))
}

// ContainerImage returns the root file system with version v for containers, and builds it first if the
// cache has none. Progress goes to log line by line; log may be nil. The caller closes the image.
//
// Packages come from the mirrors in $HOLDFAST_MIRROR (separated by spaces), else from those the host's
// own apt sources name, else from mmdebstrap's default. Several processes may ask for the same image at
// once: one builds, the others wait. Building takes about 15 seconds and 250 MB.
func ContainerImage(ctx context.Context, v Version, log io.Writer) (*Image, error) {
	r, err := containerRecipe(v)
	if err != nil {
		return nil, err
	}
	return r.image(ctx, log)
}

// PolkitImage is [ContainerImage] with polkit and sudo.
func PolkitImage(ctx context.Context, v Version, log io.Writer) (*Image, error) {
	return ImageWith(ctx, v, log, polkitPackages(v)...)
}

// ImageWith is [ContainerImage] with more packages of Debian, and what those depend on. Each list of packages is an
// image of its own, so stories that can share one name the same packages in the same order.
func ImageWith(ctx context.Context, v Version, log io.Writer, packages ...string) (*Image, error) {
	r, err := containerRecipe(v)
	if err != nil {
		return nil, err
	}
	r.Packages = slices.Concat(r.Packages, packages)
	return r.image(ctx, log)
}

// image returns the image that r describes, from the cache or built now.
func (r recipe) image(ctx context.Context, log io.Writer) (*Image, error) {
	if log == nil {
		log = io.Discard
	}
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	images := filepath.Join(cache, "images")
	// No access for others: the images contain set-user-ID programs that nobody updates.
	if err := os.MkdirAll(images, 0o700); err != nil {
		return nil, fmt.Errorf("image cache: %w", err)
	}
	dir := filepath.Join(images, r.name())
	built := false
	for {
		image, err := useImage(ctx, dir, r.Version)
		if err == nil {
			image.Built = built
			return image, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("image cache: %w", err)
		}
		ours, err := r.buildLocked(ctx, dir, log)
		if err != nil {
			return nil, fmt.Errorf("build image %s: %w", r.name(), err)
		}
		built = built || ours
	}
}

// useImage returns the image at dir, locked so that it stays. Where there is none the error is [os.ErrNotExist].
func useImage(ctx context.Context, dir string, v Version) (*Image, error) {
	lock, err := lockFile(ctx, dir+useLock, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	_, err = os.Stat(dir)
	if err == nil {
		now := time.Now() // for PruneImages
		err = os.Chtimes(dir+useLock, now, now)
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &Image{Version: v, Dir: dir, lock: lock}, nil
}

// Beside each image are two locks. Who uses the image shares one; who builds it has the other for itself.
const (
	useLock   = ".lock"
	buildLock = ".build-lock"
)

// buildLocked builds the image at dir unless another process just did, and reports whether it had to.
func (r recipe) buildLocked(ctx context.Context, dir string, log io.Writer) (bool, error) {
	lock, err := lockFile(ctx, dir+buildLock, unix.LOCK_EX)
	if err != nil {
		return false, err
	}
	defer lock.Close()
	if _, err := os.Stat(dir); err == nil {
		return false, nil // another process built it while we waited
	}
	// Left by a builder that was killed; we hold the lock, so nobody works there.
	stale, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), unfinished+r.name()+"-*")) // well-formed
	for _, leftover := range stale {
		if err := os.RemoveAll(leftover); err != nil {
			return false, err
		}
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), unfinished+r.name()+"-*")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(work) // nothing is left of it after the rename
	if err := r.build(ctx, work, log); err != nil {
		return false, err
	}
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return false, err
	}
	if err := os.WriteFile(filepath.Join(work, "recipe.json"), append(text, '\n'), 0o600); err != nil {
		return false, err
	}
	if err := syncFS(work); err != nil { // the name must not survive a power cut that the content does not
		return false, err
	}
	return true, os.Rename(work, dir)
}

// unfinished begins the names of directories that are no image yet, or no longer.
const unfinished = ".building-"

// PruneImages removes the images that nobody uses and nobody has used for at least age: those of former recipes, mostly.
func PruneImages(ctx context.Context, age time.Duration) error {
	cache, err := CacheDir()
	if err != nil {
		return err
	}
	locks, _ := filepath.Glob(filepath.Join(cache, "images", "*"+useLock)) // the pattern is well-formed
	var errs []error
	for _, name := range locks {
		if info, err := os.Stat(name); err != nil || time.Since(info.ModTime()) < age {
			continue
		}
		errs = append(errs, pruneImage(ctx, strings.TrimSuffix(name, useLock)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("prune images: %w", err)
	}
	return nil
}

// pruneImage removes the image at dir unless it is in use. Its locks stay: others may wait for them.
func pruneImage(ctx context.Context, dir string) error {
	building, err := lockFile(ctx, dir+buildLock, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer building.Close()
	using, err := os.OpenFile(dir+useLock, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer using.Close()
	if flock(using, unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil
	}
	gone := filepath.Join(filepath.Dir(dir), unfinished+filepath.Base(dir)+"-pruned")
	if err := os.Rename(dir, gone); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil // never built, or pruned before
		}
		return err
	}
	return os.RemoveAll(gone)
}

func syncFS(dir string) error {
	file, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Syncfs(int(file.Fd())); err != nil {
		return fmt.Errorf("syncfs %s: %w", dir, err)
	}
	return nil
}

// build makes the image in the empty directory work.
func (r recipe) build(ctx context.Context, work string, log io.Writer) error {
	root := filepath.Join(work, "root")
	mirrors := strings.Fields(os.Getenv("HOLDFAST_MIRROR"))
	if len(mirrors) == 0 {
		mirrors = debianMirrors("/")
	}
	if len(mirrors) == 0 {
		mirrors = []string{""} // mmdebstrap's own default
	}
	var errs []error
	for _, mirror := range mirrors {
		if err := os.RemoveAll(root); err != nil {
			return err
		}
		err := r.debootstrap(ctx, root, mirror, log)
		if err == nil {
			errs = nil
			break
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w\nset HOLDFAST_MIRROR to a mirror of Debian that has %s", err, r.Suite)
	}
	// A rolling suite goes on without us.
	if err := checkVersion(root, r.Version); err != nil {
		return err
	}
	if !r.Disk {
		return nil
	}
	return makeDisk(ctx, work, root, log)
}

// checkVersion fails unless the systemd installed in root is v. Its private library carries the version in its name.
func checkVersion(root string, v Version) error {
	var found []string
	for _, dir := range []string{"lib/systemd", "usr/lib/systemd", "usr/lib/*/systemd"} {
		files, _ := filepath.Glob(filepath.Join(root, dir, "libsystemd-shared-*.so")) // the pattern is well-formed
		found = append(found, files...)
	}
	if len(found) == 0 {
		return errors.New("the image contains no systemd")
	}
	name := filepath.Base(found[0])
	if !strings.HasPrefix(strings.TrimPrefix(name, "libsystemd-shared-"), fmt.Sprint(int(v))) {
		return fmt.Errorf("the suite carries %s, want %v: name another suite for it in version.go", name, v)
	}
	return nil
}

// debootstrap installs r's packages into root, which does not exist yet.
func (r recipe) debootstrap(ctx context.Context, root, mirror string, log io.Writer) error {
	argv := []string{
		"mmdebstrap", "--mode=root", "--format=directory", "--variant=minbase",
		"--architectures=" + r.Architecture,
		"--include=" + strings.Join(r.Packages, ","),
		// Release files of rolling and of archived suites run out; their signature is checked all the same.
		`--aptopt=Acquire::Check-Valid-Until "false"`,
		"--dpkgopt=path-exclude=/usr/share/doc/*",
		"--dpkgopt=path-exclude=/usr/share/man/*",
		"--dpkgopt=path-exclude=/usr/share/locale/*",
	}
	if r.Disk {
		// They make an initrd, which takes longer than all else and which nobody boots.
		argv = append(argv, "--dpkgopt=path-exclude=/etc/kernel/postinst.d/*")
	}
	for _, option := range aptOptions(ctx) {
		argv = append(argv, "--aptopt="+option)
	}
	for _, hook := range r.Hooks {
		argv = append(argv, "--customize-hook="+hook)
	}
	argv = append(argv, r.Suite, root)
	if mirror != "" {
		argv = append(argv, mirror)
	}
	// Confined, because mmdebstrap mounts the host's /dev and /proc in there: were it killed, they would
	// stay, and cleaning up would walk into them.
	return runTool(ctx, log, confined(argv...)...)
}

// runTool runs a program of the host and copies what it says to log. The error ends with its last words.
func runTool(ctx context.Context, log io.Writer, argv ...string) error {
	said := &tail{limit: 4096}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout = io.MultiWriter(log, said)
	cmd.Stderr = cmd.Stdout
	tool, err := startOwned(cmd)
	if err != nil {
		return err
	}
	<-tool.done
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if tool.err != nil {
		return fmt.Errorf("%s: %w\n%s", programOf(argv), tool.err, strings.TrimSpace(said.String()))
	}
	return nil
}

// programOf returns the program that a command line is about: the one behind "--" of unshare(1).
func programOf(argv []string) string {
	if i := slices.Index(argv, "--"); i >= 0 && i+1 < len(argv) {
		argv = argv[i+1:]
	}
	return filepath.Base(argv[0])
}

// aptOptions returns the host's apt settings on how to reach a mirror: proxies, certificates, retries.
func aptOptions(ctx context.Context) []string {
	dump, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return nil // no apt, so nothing is set
	}
	return filterAptOptions(dump)
}

func filterAptOptions(dump []byte) []string {
	var options []string
	for line := range bytes.Lines(dump) {
		option := strings.TrimSpace(string(line))
		if strings.HasSuffix(option, ` "";`) {
			continue
		}
		for _, prefix := range []string{"Acquire::http::", "Acquire::https::", "Acquire::ForceIPv4", "Acquire::ForceIPv6", "Acquire::Retries"} {
			if strings.HasPrefix(option, prefix) {
				options = append(options, option)
			}
		}
	}
	return options
}
