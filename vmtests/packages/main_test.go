// SPDX-License-Identifier: Apache-2.0

package packages_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests/packages"
)

// made are the packages of all stories, each made once.
var made packages.Builder

func TestMain(m *testing.M) {
	code := m.Run()
	if err := made.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
