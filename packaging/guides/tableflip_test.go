// SPDX-License-Identifier: Apache-2.0

package guides_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/packaging/guides/guidetest"
	"github.com/holdfast-go/holdfast/reexec/reexectest"
)

// byReload upgrades a service that says itself when it is done.
func byReload(ctx context.Context, u *reexectest.Unit) error { return u.Reload(ctx) }

// bySignal upgrades a service of tableflip: its unit's reload ends when the signal is sent.
func bySignal(ctx context.Context, u *reexectest.Unit) error {
	before := u.MainPID()
	if err := u.Reload(ctx); err != nil {
		return err
	}
	return u.WaitFor(ctx, reexectest.MainPIDIsNot(before))
}

// The guide from tableflip: what it has you write keeps all rules, and loses nothing.
func TestAdoptTableflip(t *testing.T) {
	t.Parallel()
	r := guidetest.New(t, "adopt-tableflip.md")
	r.Follow(t, "What you had")
	old := install(t, r, ".", "1.0.0", "1.0.1")
	r.Follow(t, "What you write")
	adopted := install(t, r, ".", "2.0.0", "2.0.1")

	const program = "/usr/bin/greeter"
	address := reexectest.FreeAddress()
	before := release{
		options: reexectest.Options{
			Files: map[string]string{"greeter.service": strings.Replace(
				readFile(t, filepath.Join(r.Dir, "before/greeter.service")), "127.0.0.1:8080", address, 1)},
			Addresses: map[string]string{"http": address},
			Programs:  map[string]reexectest.Program{program: reexectest.File(old[0])},
		},
		program: program, next: old[1], path: "/", upgrade: bySignal,
	}
	after := release{
		options: reexectest.Options{
			Units:    filepath.Join(r.Dir, "systemd"),
			Programs: map[string]reexectest.Program{program: reexectest.File(adopted[0])},
		},
		program: program, next: adopted[1], path: "/", upgrade: byReload,
	}
	before.underLoad(t) // it may lose nothing: that is a matter of the moment
	if lost := after.underLoad(t); lost.Failed != 0 {
		t.Error(lost.FailureText(10))
	}
}

// certServer is the service of the guide that others have written.
const certServer = "github.com/jxskiss/ssl-cert-server@v0.4.2"

// The same on a service that others have written: two versions of it, by the diff of the guide.
func TestAdoptTableflipCertServer(t *testing.T) {
	t.Parallel()
	r := guidetest.New(t, "adopt-tableflip.md")
	// Not every module proxy has it.
	if err := copyModule(t, r, certServer); err != nil {
		t.Skip(err)
	}
	old := install(t, r, ".", "1.0.0", "1.0.1")
	r.Follow(t, "On a real service")
	adopted := install(t, r, ".", "2.0.0", "2.0.1")

	const (
		program = "/usr/bin/ssl-cert-server"
		path    = "/cert/www.example.org"
	)
	// It signs for this name itself.
	config := func(address, pidFile string) (file string) {
		dir := t.TempDir()
		file = filepath.Join(dir, "conf.yaml")
		text := fmt.Sprintf("listen: %s\npid_file: %s\nstorage: {dir_cache: %s}\nlets_encrypt: {domains: [site1.example.com]}\nself_signed: {enable: true}\n",
			address, pidFile, dir)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	root, err := os.MkdirTemp("", "guide") // short: paths of sockets are below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	address := reexectest.FreeAddress()
	before := release{
		options: reexectest.Options{
			Root: root,
			Files: map[string]string{"ssl-cert-server.service": "[Service]\nExecStart=" + program +
				" -config=" + config(address, filepath.Join(root, "run/pid")) +
				"\nExecReload=/bin/kill -HUP $MAINPID\nPIDFile=%t/pid\n"},
			Addresses: map[string]string{"http": address},
			Programs:  map[string]reexectest.Program{program: reexectest.File(old[0])},
		},
		program: program, next: old[1], path: path, upgrade: bySignal,
	}
	after := release{
		options: reexectest.Options{
			Units: filepath.Join(r.Dir, "systemd"),
			Files: map[string]string{"ssl-cert-server.service.d/test.conf": "[Service]\nExecStart=\nExecStart=" + program +
				" -config=" + config("127.0.0.1:8999", "unused") + "\n"},
			Programs: map[string]reexectest.Program{program: reexectest.File(adopted[0])},
		},
		program: program, next: adopted[1], path: path, upgrade: byReload,
	}
	before.underLoad(t) // it may lose nothing: that is a matter of the moment
	if lost := after.underLoad(t); lost.Failed != 0 {
		t.Error(lost.FailureText(10))
	}
}
