// SPDX-License-Identifier: Apache-2.0

package packages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
)

// A Release is one package of the service myapp. The program and the package have the same version.
type Release struct {
	Version string // such as "2.0.0"
	Damage  string // a kind of packaging/myapp/damage.go, or none
	After   string // when the damage strikes, counted from the first request, such as "1ms"
	GOARCH  string // of the program, where it is not that of the package
	Size    int64  // in bytes, to which the program is cut; 0 for all of it
	Edits   []Edit // of files that the package brings
}

// An Edit replaces text in a file of a package. The file must have it.
type Edit struct{ File, Old, New string }

// Plain is a release whose program knows nothing of Holdfast: as it was before.
const Plain = "github.com/holdfast-go/holdfast/vmtests/packages/testdata/plain"

const (
	module      = "github.com/holdfast-go/holdfast"
	myapp       = module + "/packaging/myapp"
	programPath = "usr/bin/myapp" // in the package
)

// A Builder makes packages, each once. Its methods may be called from several goroutines at once.
type Builder struct {
	mu   sync.Mutex
	dir  string
	made map[string]func() (string, error)
}

// Close removes all that was made.
func (b *Builder) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dir == "" {
		return nil
	}
	return os.RemoveAll(b.dir)
}

// once returns what make made for the key, in a directory of its own.
func (b *Builder) once(key string, make func(dir string) (string, error)) (string, error) {
	b.mu.Lock()
	if b.dir == "" {
		dir, err := os.MkdirTemp("", "holdfast-packages-*")
		if err != nil {
			b.mu.Unlock()
			return "", err
		}
		b.dir, b.made = dir, map[string]func() (string, error){}
	}
	made, ok := b.made[key]
	if !ok {
		dir := filepath.Join(b.dir, fmt.Sprint(len(b.made)))
		made = sync.OnceValues(func() (string, error) {
			if err := os.Mkdir(dir, 0o755); err != nil {
				return "", err
			}
			return make(dir)
		})
		b.made[key] = made
	}
	b.mu.Unlock()
	return made()
}

// Program compiles a main package of this module and returns its path.
func (b *Builder) Program(pkg, goarch string, flags ...string) (string, error) {
	return b.once(fmt.Sprintf("program %s %s %q", pkg, goarch, flags), func(dir string) (string, error) {
		program := filepath.Join(dir, filepath.Base(pkg))
		args := append([]string{"build", "-trimpath", "-buildvcs=false", "-o", program}, flags...)
		return program, run("", []string{"CGO_ENABLED=0", "GOARCH=" + goarch}, "go", append(args, pkg)...)
	})
}

// program makes the program of a release, whole.
func (b *Builder) program(r Release) (string, error) {
	goarch := r.GOARCH
	if goarch == "" {
		goarch = runtime.GOARCH
	}
	link := "-s -w -X main.version=" + r.Version
	if r.Damage != "" {
		link += " -X main.damageKind=" + r.Damage
	}
	if r.After != "" {
		link += " -X main.damageAfter=" + r.After
	}
	flags := []string{"-ldflags=" + link}
	if r.Damage != "" {
		flags = append(flags, "-tags=damage")
	}
	return b.Program(myapp, goarch, flags...)
}

// Deb makes the release as a .deb and returns its path.
func (b *Builder) Deb(r Release) (string, error) { return b.release(r, "deb") }

// RPM makes the release as an .rpm and returns its path. An .rpm cannot be edited.
func (b *Builder) RPM(r Release) (string, error) {
	if len(r.Edits) > 0 {
		return "", fmt.Errorf("%+v: an .rpm cannot be edited: %w", r, errors.ErrUnsupported)
	}
	return b.release(r, "rpm")
}

func (b *Builder) release(r Release, format string) (string, error) {
	return b.once(fmt.Sprintf("release %s %+v", format, r), func(dir string) (string, error) {
		program, err := b.program(r)
		if err != nil {
			return "", err
		}
		if r.Size > 0 {
			if program, err = cut(program, filepath.Join(dir, "cut"), r.Size); err != nil {
				return "", err
			}
		}
		if format == "deb" && !reflect.DeepEqual(r, original) {
			return b.variant(dir, program, r)
		}
		return build(dir, "myapp", r.Version, format, "-exec="+program)
	})
}

// original is the release whose .deb is made as those that are shipped. The others are it with another program and
// version: to compress each as well takes longer than the stories.
var original = Release{Version: "1.0.0"}

// variant makes a .deb of the original one.
func (b *Builder) variant(dir, program string, r Release) (string, error) {
	from, err := b.Deb(original)
	if err != nil {
		return "", err
	}
	tree := filepath.Join(dir, "tree")
	if err := run("", nil, "dpkg-deb", "--raw-extract", from, tree); err != nil {
		return "", err
	}
	if err := run("", nil, "install", "-m", "755", program, filepath.Join(tree, programPath)); err != nil {
		return "", err
	}
	version := Edit{"DEBIAN/control", "\nVersion: " + original.Version + "\n", "\nVersion: " + r.Version + "\n"}
	for _, e := range append([]Edit{version}, r.Edits...) {
		name := filepath.Join(tree, e.File)
		text, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		if !strings.Contains(string(text), e.Old) {
			return "", fmt.Errorf("edit %s: it has no %q:\n%s", e.File, e.Old, text)
		}
		if err := os.WriteFile(name, []byte(strings.Replace(string(text), e.Old, e.New, 1)), 0o644); err != nil {
			return "", err
		}
	}
	// Those of conffiles are told by dpkg itself.
	const sums = `cd "$1" && find . -path ./DEBIAN -prune -o -path ./etc -prune -o -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums`
	if err := run("", nil, "sh", "-c", sums, "sh", tree); err != nil {
		return "", err
	}
	file := filepath.Join(dir, fmt.Sprintf("myapp_%s_%s.deb", r.Version, runtime.GOARCH))
	return file, run("", nil, "dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, file)
}

// cut writes the first bytes of a program into another.
func cut(program, to string, size int64) (string, error) {
	text, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	if int64(len(text)) <= size {
		return "", fmt.Errorf("%s has %d bytes: cannot cut it to %d", program, len(text), size)
	}
	return to, os.WriteFile(to, text[:size], 0o755)
}

// HoldfastDeb makes the package holdfast in a version.
func (b *Builder) HoldfastDeb(version string) (string, error) { return b.holdfast(version, "deb") }

// HoldfastRPM is [Builder.HoldfastDeb] for an .rpm.
func (b *Builder) HoldfastRPM(version string) (string, error) { return b.holdfast(version, "rpm") }

func (b *Builder) holdfast(version, format string) (string, error) {
	return b.once("holdfast "+version+" "+format, func(dir string) (string, error) {
		return build(dir, "holdfast", version, format)
	})
}

// build has packaging/cmd/packages make one package in dir.
func build(dir, name, version, format string, args ...string) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	args = append([]string{
		"run", "./packaging/cmd/packages",
		"-version=" + version, "-package=" + name, "-arch=" + runtime.GOARCH, "-format=" + format, "-output=" + dir,
	}, args...)
	if err := run(root, nil, "go", args...); err != nil {
		return "", err
	}
	return onlyFile(dir, "*."+format)
}

var moduleRoot = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("go list -m %s: %w; run tests inside the module", module, err)
	}
	return strings.TrimSpace(string(out)), nil
})

// Field returns a field of a .deb, such as "Version".
func Field(deb, name string) (string, error) {
	out, err := exec.Command("dpkg-deb", "--field", deb, name).Output()
	if err != nil {
		return "", fmt.Errorf("dpkg-deb --field %s %s: %w", deb, name, err)
	}
	return strings.TrimSpace(string(out)), nil
}

func onlyFile(dir, pattern string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) != 1 {
		return "", fmt.Errorf("%s has the files %q, want one that is called %s", dir, files, pattern)
	}
	return files[0], nil
}

// run runs a program of the host. The error has what it said.
func run(dir string, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(context.Background(), name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// OtherGOARCH is one that this machine cannot run, to be built for in its place.
func OtherGOARCH() string {
	if runtime.GOARCH == "arm64" {
		return "amd64"
	}
	return "arm64"
}
