// SPDX-License-Identifier: Apache-2.0

package guides_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/packaging/guides/guidetest"
	"github.com/holdfast-go/holdfast/reexec/reexectest"
)

// The guide from systemctl restart, done on the service that it is about: that loses requests before, and none after.
func TestAdoptRestart(t *testing.T) {
	t.Parallel()
	r := guidetest.New(t, "adopt-restart.md")
	r.Instead = map[string]func(testing.TB){
		// The same files, as the module proxy has them.
		"git clone -q --branch=v2.26.0 https://github.com/mccutchen/go-httpbin .": func(t testing.TB) {
			if err := copyModule(t, r, "github.com/mccutchen/go-httpbin/v2@v2.26.0"); err != nil {
				t.Fatal(err)
			}
		},
	}
	r.Follow(t, "What you had")
	old := install(t, r, "./cmd/go-httpbin", "1.0.0", "1.0.1")
	for _, heading := range []string{"Change the service", "Write the units", "Test it"} {
		r.Follow(t, heading)
	}
	r.Finish(t)
	adopted := install(t, r, "./cmd/go-httpbin", "2.0.0", "2.0.1")

	const program = "/usr/bin/go-httpbin"
	address := reexectest.FreeAddress()
	host, port, _ := strings.Cut(address, ":")
	before := release{
		options: reexectest.Options{
			Files: map[string]string{"go-httpbin.service": strings.Replace(
				readFile(t, filepath.Join(r.Dir, "before/go-httpbin.service")),
				"-host 127.0.0.1 -port 8080", "-log-level OFF -host "+host+" -port "+port, 1)},
			Addresses: map[string]string{"http": address},
			Programs:  map[string]reexectest.Program{program: reexectest.File(old[0])},
		},
		program: program, next: old[1], path: "/anything",
		upgrade: func(ctx context.Context, u *reexectest.Unit) error { return u.Restart(ctx) },
	}
	after := release{
		options: reexectest.Options{
			Units:    filepath.Join(r.Dir, "systemd"),
			Files:    map[string]string{"go-httpbin.service.d/quiet.conf": "[Service]\nEnvironment=LOG_LEVEL=OFF\n"},
			Programs: map[string]reexectest.Program{program: reexectest.File(adopted[0])},
		},
		program: program, next: adopted[1], path: "/anything",
		upgrade: byReload,
	}
	if lost := before.underLoad(t); lost.Failed == 0 {
		t.Error("the restart has lost nothing: the guide says that it does")
	}
	if lost := after.underLoad(t); lost.Failed != 0 {
		t.Error(lost.FailureText(10))
	}
}

// copyModule puts the files of a module where the reader is.
func copyModule(t testing.TB, r *guidetest.Reader, module string) error {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", module)
	cmd.Dir, cmd.Env = t.TempDir(), append(os.Environ(), r.Env...)
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go mod download %s: %w\n%s", module, err, out)
	}
	var got struct{ Dir string }
	if err := json.Unmarshal(out, &got); err != nil {
		return fmt.Errorf("go mod download %s: %w", module, err)
	}
	return os.CopyFS(r.Dir, os.DirFS(got.Dir))
}
