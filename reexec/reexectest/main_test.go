// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-go/holdfast/activation/activationtest"
)

func TestMain(m *testing.M) {
	RunService(func() {
		switch filepath.Base(os.Args[0]) {
		case "plain":
			plainMain()
		case "keeper":
			keeperMain()
		}
	})
	if os.Getenv(plainFile) != "" {
		plainMain()
		return
	}
	if os.Getenv(abandonVariable) != "" {
		os.Exit(m.Run()) // what it leaves behind is what is looked for
	}
	activationtest.Main(m)
}
