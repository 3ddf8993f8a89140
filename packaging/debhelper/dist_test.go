// SPDX-License-Identifier: Apache-2.0

package debhelper

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The release of the example service has the version that it was asked for everywhere, all modules, a copyright for
// each, and the same bytes each time.
func TestDist(t *testing.T) {
	need(t, "go", "tar", "gzip")
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	dir := t.TempDir()
	for _, into := range []string{"one", "two"} {
		if out, err := run(t, ".", "../myapp/dist", "-v", "1.2.3", filepath.Join(dir, into)); err != nil {
			t.Fatalf("dist: %v\n%s", err, out)
		}
	}
	if read(filepath.Join(dir, "one/myapp-1.2.3.tar.gz")) != read(filepath.Join(dir, "two/myapp-1.2.3.tar.gz")) {
		t.Error("two releases of the same source differ")
	}
	tree := filepath.Join(dir, "one/myapp-1.2.3")
	if text := read(filepath.Join(tree, "debian/changelog")); !strings.HasPrefix(text, "myapp (1.2.3) ") {
		t.Errorf("debian/changelog begins with %.40q", text)
	}
	if text := read(filepath.Join(tree, "myapp.spec")); !regexp.MustCompile(`(?m)^Version: +1\.2\.3$`).MatchString(text) {
		t.Errorf("myapp.spec has another version:\n%s", text)
	}
	copyright := regexp.MustCompile(`(?m)^Files: vendor/(.*)$`).FindAllStringSubmatch(read(filepath.Join(tree, "debian/copyright")), -1)
	modules := regexp.MustCompile(`(?m)^# (\S+) v.*\n(?:## .*\n)?[^#]`).FindAllStringSubmatch(read(filepath.Join(tree, "vendor/modules.txt")), -1)
	if len(modules) < 5 {
		t.Fatalf("vendor/modules.txt has %q", modules)
	}
	for _, m := range modules {
		if m[1] == "github.com/holdfast-go/holdfast" {
			continue // as the service itself
		}
		covered := false
		for _, c := range copyright {
			covered = covered || strings.HasPrefix(path.Clean(m[1])+"/", strings.TrimSuffix(c[1], "*"))
		}
		if !covered {
			t.Errorf("debian/copyright does not say whose vendor/%s is", m[1])
		}
	}
	if out, err := run(t, ".", "../myapp/dist", "-v", "1.2-3", dir); err == nil || !strings.Contains(out, "version 1.2-3: use digits") {
		t.Errorf("a version that rpm does not take: %v\n%s", err, out)
	}
	if out, err := run(t, ".", "../myapp/dist", "-v", "1.2.3", filepath.Join(dir, "one")); err == nil || !strings.Contains(out, "exists: remove it") {
		t.Errorf("a directory that is there: %v\n%s", err, out)
	}
}
