// SPDX-License-Identifier: Apache-2.0

//go:build !damage

package main

import (
	"net/http"

	"github.com/holdfast-go/holdfast/reexec"
)

// damage does nothing: only builds with the tag damage are faulty on purpose.
func damage(*reexec.Options, *http.Server) {}
