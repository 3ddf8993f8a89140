// SPDX-License-Identifier: Apache-2.0

package ansible_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
)

// controllers are the machines that have an Ansible from Debian: 2.14 and 2.19.
var controllers = []vmtests.Version{vmtests.Systemd252, vmtests.Systemd257}

// ansiblePackages are those of Debian that a machine of these stories has. python3-apt is
// what Ansible installs packages with, openssh-client what finds that a host is down.
var ansiblePackages = []string{"ansible-core", "ansible-lint", "python3-apt", "openssh-client"}

// machine is one that has Ansible and the collection, and works on itself.
type machine struct {
	*vmtests.Machine
	ctx context.Context
}

// boot boots a machine and installs the collection as a user does: built and installed by
// ansible-galaxy.
func boot(t *testing.T, v vmtests.Version) machine {
	t.Helper()
	m := machine{vmtests.BootWithTest(t, v, ansiblePackages...), t.Context()}
	m.source(t, "/usr/src/holdfast_go.holdfast")
	m.run(t, "ansible-galaxy", "collection", "build", "--output-path=/tmp", "/usr/src/holdfast_go.holdfast")
	m.run(t, "ansible-galaxy", "collection", "install", "--offline", "--collections-path=/usr/share/ansible/collections", "/tmp/holdfast_go-holdfast-1.0.0.tar.gz")
	return m
}

// source puts the files of the collection into the machine.
func (m machine) source(t *testing.T, dir string) {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	// What Python has compiled is not part of it.
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.Name() == "__pycache__":
			return filepath.SkipDir
		case entry.IsDir():
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		header := &tar.Header{Name: path, Mode: 0o644, Size: int64(len(content)), ModTime: time.Now()}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	})
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	m.run(t, "mkdir", "-p", dir)
	process, err := m.Start(m.ctx, vmtests.Command{Args: []string{"tar", "-x", "-C", dir}, Stdin: &archive})
	if err == nil {
		err = process.Wait()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a command that must succeed, and returns its output.
func (m machine) run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := m.exec(argv...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return out
}

// exec runs a command and returns all that it says.
func (m machine) exec(argv ...string) (string, error) {
	var out bytes.Buffer
	process, err := m.Start(m.ctx, vmtests.Command{
		Args: argv, Stdout: &out, Stderr: &out,
		// Python's cache would be in what is built and looked at.
		Env: []string{"PYTHONDONTWRITEBYTECODE=1", "ANSIBLE_NOCOLOR=1", "ANSIBLE_PIPELINING=1", "ANSIBLE_LOCALHOST_WARNING=0", "ANSIBLE_INVENTORY_UNPARSED_WARNING=0"},
	})
	if err == nil {
		err = process.Wait()
	}
	return out.String(), err
}

// TestCollection holds the collection against Ansible's own tools.
func TestCollection(t *testing.T) {
	for _, v := range controllers {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			m := boot(t, v)
			t.Log(strings.SplitN(m.run(t, "ansible", "--version"), "\n", 2)[0])
			const installed = "/usr/share/ansible/collections/ansible_collections/holdfast_go/holdfast"
			t.Run("contents", func(t *testing.T) {
				got := m.run(t, "sh", "-c", "cd "+installed+" && find . -name '*.go' -o -name tests -o -name __pycache__")
				if got != "" {
					t.Errorf("the collection has what only the repository needs:\n%s", got)
				}
			})
			t.Run("documentation", func(t *testing.T) {
				out := m.run(t, "ansible-doc", "-t", "module", "--json", "holdfast_go.holdfast.upgrade", "holdfast_go.holdfast.info", "holdfast_go.holdfast.units")
				for _, name := range []string{"upgrade", "info", "units"} {
					if !strings.Contains(out, fmt.Sprintf("%q: {", "holdfast_go.holdfast."+name)) {
						t.Errorf("ansible-doc knows no module %s", name)
					}
				}
				if out := m.run(t, "ansible-doc", "-t", "role", "holdfast_go.holdfast.service"); !strings.Contains(out, "holdfast_service_name") {
					t.Errorf("ansible-doc does not describe the role:\n%s", out)
				}
			})
			t.Run("playbooks", func(t *testing.T) {
				for _, name := range []string{"rolling_upgrade", "rollback"} {
					m.run(t, "ansible-playbook", "--syntax-check", "holdfast_go.holdfast."+name)
				}
			})
			t.Run("unit tests", func(t *testing.T) {
				out := m.run(t, "sh", "-c", "cd /usr/src/holdfast_go.holdfast/tests/unit && PYTHONPATH=/usr/share/ansible/collections python3 -B -m unittest -v")
				t.Log(out[max(0, len(out)-200):])
			})
			t.Run("lint", func(t *testing.T) {
				out := m.run(t, "sh", "-c", "cd /usr/src/holdfast_go.holdfast && ansible-lint --offline --profile production")
				if !strings.Contains(out, "Passed") {
					t.Errorf("ansible-lint does not say that all is well:\n%s", out)
				}
			})
		})
	}
}
