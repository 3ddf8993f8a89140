// SPDX-License-Identifier: Apache-2.0

package packages

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/holdfast-go/holdfast/vmtests"
)

// A Repository is one of apt, in a directory, signed with a key of its own. It is not for several goroutines
// at once, but several machines may have it.
type Repository struct {
	dir  string                     // dir/public is what machines get
	sent map[string]map[string]bool // the packages that a machine has
}

// Where a repository and its key are in the machines that it is published in.
const (
	RepositoryDir = "/srv/repository"
	RepositoryKey = "/etc/apt/keyrings/stories.asc"
)

const keyFile = "stories.asc"

// NewRepository makes an empty repository in dir, which is empty too.
func NewRepository(ctx context.Context, dir string) (*Repository, error) {
	r := &Repository{dir, map[string]map[string]bool{}}
	if err := errors.Join(os.Mkdir(r.public(), 0o755), os.Mkdir(r.secret(), 0o700)); err != nil {
		return nil, err
	}
	if err := r.gpg(ctx, "--passphrase=", "--quick-generate-key", "Stories <stories@example.org>", "ed25519", "sign", "never"); err != nil {
		return nil, err
	}
	if err := r.gpg(ctx, "--armor", "--output", filepath.Join(r.public(), keyFile), "--export"); err != nil {
		return nil, err
	}
	return r, r.index(ctx)
}

func (r *Repository) public() string { return filepath.Join(r.dir, "public") }
func (r *Repository) secret() string { return filepath.Join(r.dir, "gnupg") }

// gpg runs gpg(1) in a PID namespace, whose end takes along the agent that it starts.
func (r *Repository) gpg(ctx context.Context, args ...string) error {
	argv := append([]string{"--pid", "--fork", "--kill-child=KILL", "--", "gpg", "--homedir", r.secret(), "--batch", "--quiet", "--yes"}, args...)
	cmd := exec.CommandContext(ctx, "unshare", argv...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("gpg %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// Add adds packages: a version more of those that it has, or others.
func (r *Repository) Add(ctx context.Context, debs ...string) error {
	for _, deb := range debs {
		if err := link(deb, filepath.Join(r.public(), filepath.Base(deb))); err != nil {
			return err
		}
		for _, there := range r.sent { // another of the same name, perhaps
			delete(there, filepath.Base(deb))
		}
	}
	return r.index(ctx)
}

// link is a copy that takes no space, where it can.
func link(from, to string) error {
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Link(from, to)
}

// index writes what apt reads and signs it.
func (r *Repository) index(ctx context.Context) error {
	if err := r.ftparchive(ctx, "Packages", "packages", "."); err != nil {
		return err
	}
	// Not among the files that it lists.
	if err := errors.Join(remove(filepath.Join(r.public(), "Release")), remove(filepath.Join(r.public(), "InRelease"))); err != nil {
		return err
	}
	if err := r.ftparchive(ctx, "Release", "-o", "APT::FTPArchive::Release::Suite=stories", "release", "."); err != nil {
		return err
	}
	return r.gpg(ctx, "--clearsign", "--output", filepath.Join(r.public(), "InRelease"), filepath.Join(r.public(), "Release"))
}

func remove(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (r *Repository) ftparchive(ctx context.Context, file string, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-ftparchive", args...)
	cmd.Dir = r.public()
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("apt-ftparchive %s: %w\n%s", strings.Join(args, " "), err, said.String())
	}
	return os.WriteFile(filepath.Join(r.public(), file), out, 0o644)
}

// Publish copies the repository into a machine, makes it the only one there, and has apt read it.
func (r *Repository) Publish(ctx context.Context, m *vmtests.Machine) error {
	return r.PublishIn(ctx, m, "/")
}

// PublishIn is [Repository.Publish] for a system below root in a machine, which is not the one that runs.
func (r *Repository) PublishIn(ctx context.Context, m *vmtests.Machine, root string) error {
	const script = `set -e
rm -rf "$1/etc/apt/sources.list" "$1"/etc/apt/sources.list.d/*
mkdir -p "$1$2" "$1$(dirname "$3")"
tar -x -C "$1$2"
cp "$1$2/$4" "$1$3"
echo "deb [signed-by=$3] file:$2 ./" >"$1/etc/apt/sources.list"
if [ "$1" = / ]; then apt-get -qq update; else chroot "$1" apt-get -qq update; fi`
	reader, writer := io.Pipe()
	var pack sync.WaitGroup
	pack.Go(func() { writer.CloseWithError(r.tar(writer, m.Name+root)) })
	var said strings.Builder
	p, err := m.Start(ctx, vmtests.Command{
		Args:  []string{"sh", "-c", script, "sh", root, RepositoryDir, RepositoryKey, keyFile},
		Stdin: reader, Stdout: &said, Stderr: &said,
	})
	if err == nil {
		err = p.Wait()
	}
	reader.Close()
	pack.Wait()
	if err != nil {
		return fmt.Errorf("publish: %w\n%s", err, said.String())
	}
	return nil
}

// tar writes the repository but for the packages that are there already.
func (r *Repository) tar(to io.Writer, there string) error {
	if r.sent[there] == nil {
		r.sent[there] = map[string]bool{}
	}
	w := tar.NewWriter(to)
	files, err := os.ReadDir(r.public())
	if err != nil {
		return err
	}
	for _, file := range files {
		isPackage := strings.HasSuffix(file.Name(), ".deb")
		if isPackage && r.sent[there][file.Name()] {
			continue
		}
		text, err := os.ReadFile(filepath.Join(r.public(), file.Name()))
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: file.Name(), Mode: 0o644, Size: int64(len(text))}); err != nil {
			return err
		}
		if _, err := w.Write(text); err != nil {
			return err
		}
		r.sent[there][file.Name()] = isPackage
	}
	return w.Close()
}
