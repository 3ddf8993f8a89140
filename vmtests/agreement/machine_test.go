// SPDX-License-Identifier: Apache-2.0

package agreement_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/agreement"
)

// A side is where a sequence is played.
type side interface {
	open(ctx context.Context, setup *agreement.Setup) error
	perform(ctx context.Context, op agreement.Op) (*agreement.Observation, error)
	close(ctx context.Context) error
	// journal is that of a unit, for people.
	journal(ctx context.Context, unit string) string
}

// programs are built once for all tests.
var programs struct {
	mu    sync.Mutex
	dir   string
	built map[string]func() (string, error)
}

// program builds the main package pkg with these linker flags.
func program(pkg, ldflags string, flags ...string) (string, error) {
	programs.mu.Lock()
	if programs.dir == "" {
		dir, err := os.MkdirTemp("", "agreement-*")
		if err != nil {
			programs.mu.Unlock()
			return "", err
		}
		programs.dir, programs.built = dir, make(map[string]func() (string, error))
	}
	key := fmt.Sprint(pkg, ldflags, flags)
	build, ok := programs.built[key]
	if !ok {
		dir := filepath.Join(programs.dir, fmt.Sprint(len(programs.built)))
		build = sync.OnceValues(func() (string, error) {
			if err := os.Mkdir(dir, 0o755); err != nil {
				return "", err
			}
			return vmtests.Build(context.Background(), dir, "github.com/holdfast-go/holdfast/"+pkg, append(flags, "-ldflags=-s -w "+ldflags)...)
		})
		programs.built[key] = build
	}
	programs.mu.Unlock()
	return build()
}

// unignore has the signals that package os/signal leaves alone do what they do by default. GNU make ignores
// them, PID 1 of a container inherits that, and what it starts too: C libraries keep these signals for themselves.
func unignore() error {
	const ignored, maskSize = 1, 8
	for sig := uintptr(32); sig <= 34; sig++ {
		var action, standard [8]uintptr // struct sigaction of the kernel, and more; the handler comes first
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(&action)), maskSize, 0, 0)
		if errno == 0 && action[0] == ignored {
			_, _, errno = unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&standard)), 0, maskSize, 0, 0)
		}
		if errno != 0 {
			return fmt.Errorf("stop ignoring signal %d: %w", sig, errno)
		}
	}
	return nil
}

func TestMain(m *testing.M) {
	flag.Parse()
	if err := unignore(); err != nil {
		panic(err)
	}
	// All versions at once, also on two processors: most of the time they wait.
	if err := flag.Set("test.parallel", strconv.Itoa(len(vmtests.Versions()))); err != nil {
		panic(err)
	}
	code := m.Run()
	if code == 0 && *tableFile != "" {
		if err := writeTable(*tableFile); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if programs.dir != "" {
		_ = os.RemoveAll(programs.dir)
	}
	os.Exit(code)
}

const operatorPath = "/usr/bin/operator"

// A machine is real systemd with operators inside.
type machine struct{ *vmtests.Machine }

func bootMachine(t *testing.T, v vmtests.Version) *machine {
	t.Helper()
	m := &machine{vmtests.BootTest(t, v)}
	for path, pkg := range map[string]string{operatorPath: "vmtests/cmd/operator", agreement.PuppetPath: "vmtests/cmd/puppet"} {
		file, err := program(pkg, "")
		if err == nil {
			err = m.Copy(t.Context(), file, path, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// An operator is a program in a machine that plays there. It plays one sequence at a time.
type operator struct {
	machine *machine
	encoder *json.Encoder
	decoder *json.Decoder
}

// operator starts one; it ends with the test.
func (m *machine) operator(t *testing.T) *operator {
	t.Helper()
	stdin, orders := io.Pipe()
	answers, stdout := io.Pipe()
	// It ends when its input does; the test's context ends before that.
	running, err := m.Start(context.WithoutCancel(t.Context()), vmtests.Command{Args: []string{operatorPath}, Stdin: stdin, Stdout: stdout})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		err := running.Wait()
		_ = stdout.CloseWithError(errors.Join(errors.New("the operator has ended"), err))
		ended <- err
	}()
	t.Cleanup(func() {
		_ = orders.Close()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("operator: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("operator: does not end; killed (%v)", running.Kill())
			<-ended
		}
		_ = stdin.Close()
		_ = answers.Close()
	})
	return &operator{m, json.NewEncoder(orders), json.NewDecoder(answers)}
}

// order has the operator do one thing.
func (o *operator) order(ctx context.Context, order agreement.Order) (*agreement.Observation, error) {
	type reply struct {
		answer agreement.Answer
		err    error
	}
	done := make(chan reply, 1)
	go func() {
		var r reply
		if r.err = o.encoder.Encode(order); r.err == nil {
			r.err = o.decoder.Decode(&r.answer)
		}
		done <- r
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("the operator does not answer"))
	defer cancel()
	select {
	case r := <-done:
		if r.err == nil && r.answer.Error != "" {
			r.err = errors.New(r.answer.Error)
		}
		if r.err != nil {
			return nil, fmt.Errorf("%s: %w", o.machine.Name, r.err)
		}
		return r.answer.Observation, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w", o.machine.Name, context.Cause(ctx))
	}
}

func (o *operator) open(ctx context.Context, setup *agreement.Setup) error {
	_, err := o.order(ctx, agreement.Order{Open: setup})
	return err
}

func (o *operator) perform(ctx context.Context, op agreement.Op) (*agreement.Observation, error) {
	return o.order(ctx, agreement.Order{Op: &op})
}

func (o *operator) close(ctx context.Context) error {
	_, err := o.order(ctx, agreement.Order{Close: true})
	return err
}

func (o *operator) journal(ctx context.Context, unit string) string {
	text, err := o.machine.Output(ctx, "journalctl", "--no-pager", "-o", "short-monotonic", "-u", unit)
	if err != nil {
		return err.Error()
	}
	return text
}
