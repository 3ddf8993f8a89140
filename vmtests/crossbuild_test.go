// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
)

// crossBuild compiles pkg for another architecture.
func crossBuild(dir, pkg, goarch string, flags []string) (string, error) {
	out := filepath.Join(dir, path.Base(pkg))
	cmd := exec.Command("go", append(append([]string{"build", "-trimpath", "-buildvcs=false", "-o", out}, flags...), pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+goarch)
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s for %s: %w\n%s", pkg, goarch, err, text)
	}
	return out, nil
}
