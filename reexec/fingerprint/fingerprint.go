// SPDX-License-Identifier: Apache-2.0

// Package fingerprint says which build of which program a file or a process is.
package fingerprint

import "time"

// Fingerprint is the identity of a build.
type Fingerprint struct {
	// Program is the path of the main package, Module that of its module.
	Program string `json:"program"`
	Module  string `json:"module,omitempty"`
	Version string `json:"version,omitempty"`
	// Revision is that of the version control system, Modified whether the tree was
	// not what it says, Built when it was committed or, from an embedded file, built.
	Revision string    `json:"revision,omitempty"`
	Modified bool      `json:"modified,omitempty"`
	Built    time.Time `json:"built,omitzero"`
	Tags     []string  `json:"tags,omitempty"`
	Go       string    `json:"go,omitempty"`
	// Embedded: an embedded file has added to what the build information says.
	Embedded bool `json:"embedded,omitempty"`
}
