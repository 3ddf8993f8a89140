// SPDX-License-Identifier: Apache-2.0

package stateframe_test

import (
	"testing"

	"github.com/holdfast-go/holdfast/activation/activationtest"
)

func TestMain(m *testing.M) { activationtest.Main(m) }
