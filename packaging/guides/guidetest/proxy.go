// SPDX-License-Identifier: Apache-2.0

package guidetest

import (
	"archive/zip"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const modulePath = "github.com/holdfast-go/holdfast"

// Published is the version of Holdfast that a reader gets: this checkout.
const Published = "v1.0.0"

// Root returns the directory of the checkout.
func Root(t testing.TB) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", modulePath).Output()
	if err != nil {
		t.Fatalf("go list -m %s: %v", modulePath, err)
	}
	return strings.TrimSpace(string(out))
}

// GoEnv is the environment in which the go command finds this checkout as the newest version of Holdfast, as
// it will when that is published. It has a module cache of its own, so that nothing of this stays.
func GoEnv(t testing.TB) []string {
	t.Helper()
	proxy := filepath.Join(t.TempDir(), "proxy")
	if err := publish(Root(t), proxy); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOMODCACHE", "GOPROXY", "GONOSUMDB").Output()
	if err != nil {
		t.Fatalf("go env: %v", err)
	}
	have := strings.Split(string(out), "\n")
	cache, proxies, unknown := have[0], have[1], have[2]
	return []string{
		"GOMODCACHE=" + filepath.Join(t.TempDir(), "modules"),
		// What was downloaded once is not again.
		"GOPROXY=file://" + proxy + ",file://" + filepath.Join(cache, "cache/download") + "," + proxies,
		"GONOSUMDB=" + modulePath + "," + unknown,
		"GOWORK=off",
		// The cache can be removed, and what is built is the same wherever it is.
		"GOFLAGS=-modcacherw -trimpath -buildvcs=false",
	}
}

// publish writes a module proxy that has the module in root, in the layout of https://go.dev/ref/mod#goproxy-protocol.
func publish(root, proxy string) error {
	dir := filepath.Join(proxy, modulePath, "@v")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"list":              Published + "\n",
		Published + ".info": fmt.Sprintf(`{"Version":%q,"Time":%q}`, Published, time.Unix(0, 0).UTC().Format(time.RFC3339)),
		Published + ".mod":  string(mod),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	file, err := os.Create(filepath.Join(dir, Published+".zip"))
	if err != nil {
		return err
	}
	defer file.Close()
	archive := zip.NewWriter(file)
	if err := addModule(archive, root); err != nil {
		return err
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return file.Close()
}

// addModule adds the files of the module, less the modules below it and what is not for the go command.
func addModule(archive *zip.Writer, root string) error {
	return filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			_, err := os.Stat(filepath.Join(name, "go.mod"))
			if relative != "." && (err == nil || strings.HasPrefix(entry.Name(), ".")) {
				return filepath.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() || strings.HasPrefix(entry.Name(), ".") {
			return nil
		}
		to, err := archive.Create(modulePath + "@" + Published + "/" + filepath.ToSlash(relative))
		if err != nil {
			return err
		}
		from, err := os.Open(name)
		if err != nil {
			return err
		}
		defer from.Close()
		_, err = io.Copy(to, from)
		return err
	})
}
