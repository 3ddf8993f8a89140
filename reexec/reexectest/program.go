// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Program is what stands behind a path that a unit names. Its zero value is
// the test binary without a version.
type Program struct {
	kind    programKind
	path    string   // of a file on the host, or the package to build
	flags   []string // of go build
	text    string
	trailer trailer
	mode    os.FileMode
}

type programKind int

const (
	selfProgram programKind = iota
	fileProgram
	buildProgram
	textProgram
	missingProgram
	directoryProgram
)

// Version is the test binary: it runs the function that [Main] was given. In
// the service, [InstalledVersion] returns the label.
func Version(label string) Program { return Program{trailer: trailer{Version: label}} }

// File is a copy of a file on this machine.
func File(path string) Program { return Program{kind: fileProgram, path: path} }

// Build is what "go build" makes of a package, such as "./cmd/myapp", with
// flags such as "-ldflags=-X main.version=2.0.0". It is built at first use, and once in
// a test process.
func Build(pkg string, flags ...string) Program {
	return Program{kind: buildProgram, path: pkg, flags: flags}
}

// Text is a file with that content: what is no program, or a script.
func Text(content string) Program { return Program{kind: textProgram, text: content} }

// Missing is no file.
func Missing() Program { return Program{kind: missingProgram} }

// Directory is a directory in the place of the program.
func Directory() Program { return Program{kind: directoryProgram} }

// Crashing returns the program as a version that panics before Main's
// function is called. The pre-check of package reexec, which starts it too, does
// not find that. The program must be the test binary.
func (p Program) Crashing() Program {
	p.trailer.Crash = true
	return p
}

// Slow returns the program as a version that needs that long before Main's
// function is called, except in the pre-check of package reexec. The program
// must be the test binary.
func (p Program) Slow(by time.Duration) Program {
	p.trailer.Slow = by
	return p
}

// WithMode returns the program with other permissions than 0755.
func (p Program) WithMode(mode os.FileMode) Program {
	p.mode = mode
	return p
}

func (p Program) String() string {
	switch p.kind {
	case fileProgram:
		return p.path
	case buildProgram:
		return strings.Join(append([]string{"go build", p.path}, p.flags...), " ")
	case textProgram:
		return fmt.Sprintf("a file of %d bytes", len(p.text))
	case missingProgram:
		return "no file"
	case directoryProgram:
		return "a directory"
	}
	s := fmt.Sprintf("version %q of the test binary", p.trailer.Version)
	if p.trailer.Crash {
		s += ", which crashes"
	}
	if p.trailer.Slow > 0 {
		s += fmt.Sprintf(", which needs %v to start", p.trailer.Slow)
	}
	return s
}

func (p Program) check() error {
	if p.kind == selfProgram && serviceMain.Load() == nil {
		return errors.New("the test binary is no service: call reexectest.Main in TestMain, or set Options.Programs")
	}
	if p.kind != selfProgram && (p.trailer.Crash || p.trailer.Slow > 0) {
		return fmt.Errorf("%v: only the test binary can be made crashing or slow", p)
	}
	return nil
}

// install puts the program in place by rename, as package managers do: what
// runs from the file that was there before runs on.
func (p Program) install(ctx context.Context, target string) error {
	if err := p.check(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	// A directory cannot be renamed over, nor be by a file.
	if info, err := os.Lstat(target); err == nil && (info.IsDir() || p.kind == directoryProgram || p.kind == missingProgram) {
		if err := os.RemoveAll(target); err != nil {
			return err
		}
	}
	switch p.kind {
	case missingProgram:
		return nil
	case directoryProgram:
		return os.Mkdir(target, 0o755)
	}
	from, err := p.open(ctx)
	if err != nil {
		return err
	}
	if c, ok := from.(io.Closer); ok {
		defer c.Close()
	}
	next := fmt.Sprintf("%s.%d.new", target, installs.Add(1))
	if err := p.write(next, from); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	return os.Rename(next, target)
}

var installs atomic.Int64

func (p Program) open(ctx context.Context) (io.Reader, error) {
	switch p.kind {
	case selfProgram:
		return os.Open("/proc/self/exe")
	case fileProgram:
		return os.Open(p.path)
	case textProgram:
		return strings.NewReader(p.text), nil
	}
	program, err := build(ctx, p.path, p.flags)
	return bytes.NewReader(program), err
}

func (p Program) write(path string, from io.Reader) error {
	// A child that is forked while the file is open for writing would hold it
	// open until it executes; to execute the file itself is ETXTBSY until then.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	if err == nil && p.kind == selfProgram {
		_, err = to.Write(p.trailer.encode())
	}
	mode := p.mode
	if mode == 0 {
		mode = 0o755
	}
	return errors.Join(err, to.Chmod(mode), to.Close())
}

// builds are the programs that were built by this process. They are kept in
// memory: a file would have to be removed, however the process ends.
var builds sync.Map // of *built by command line

type built struct {
	once    sync.Once
	program []byte
	err     error
}

func build(ctx context.Context, pkg string, flags []string) ([]byte, error) {
	key := strings.Join(append([]string{pkg}, flags...), "\x00")
	value, _ := builds.LoadOrStore(key, new(built))
	b := value.(*built)
	b.once.Do(func() { b.program, b.err = runBuild(ctx, pkg, flags) })
	return b.program, b.err
}

func runBuild(ctx context.Context, pkg string, flags []string) (_ []byte, err error) {
	dir, err := os.MkdirTemp("", "build")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	out := filepath.Join(dir, "program")
	args := append([]string{"build", "-o", out}, flags...)
	// Others may wait for the result, and have contexts of their own.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "go", append(args, pkg)...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", cmd, err, said.String())
	}
	return os.ReadFile(out)
}
