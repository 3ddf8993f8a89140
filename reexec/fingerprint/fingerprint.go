// SPDX-License-Identifier: Apache-2.0

// Package fingerprint says which build of which program a file or a process is.
//
// Most of it comes from the build information of the go command ([Of], [Self],
// [OfFile]). Builds without a version control system, as packagers make them,
// have no revision there and often no version: a file that is embedded into the
// program says it instead ([Fingerprint.Embed]).
//
//	//go:embed fingerprint.txt
//	var embedded []byte
//
//	svc, err := reexec.New(reexec.Options{Name: "myapp", Fingerprint: embedded})
//
// [Compare] orders versions as they are in use: those of Go, of git describe and
// of packages of Debian and RPM.
package fingerprint

import (
	"cmp"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"io"
	"runtime/debug"
	"strings"
	"time"
	"unicode"
)

// Fingerprint is the identity of a build. Its texts may come from another
// program: what this package reads, also from JSON, is bounded and printable.
type Fingerprint struct {
	// Program is the path of the main package, Module that of its module.
	Program string `json:"program"`
	Module  string `json:"module,omitempty"`
	// Version is empty where there is none, as in a build of a working tree.
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

// ErrNoBuildInfo is the error of [Self] in a program that was built without
// modules.
var ErrNoBuildInfo = errors.New("fingerprint: the program has no build information: build it with module support")

// Of is the fingerprint in build information.
func Of(info *debug.BuildInfo) Fingerprint {
	f := Fingerprint{Program: info.Path, Module: info.Main.Path, Version: info.Main.Version, Go: info.GoVersion}
	if f.Version == "(devel)" {
		f.Version = ""
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			f.Revision = s.Value
		case "vcs.modified":
			f.Modified = s.Value == "true"
		case "vcs.time":
			f.Built, _ = time.Parse(time.RFC3339Nano, s.Value) // the go command writes no other form
		case "-tags":
			f.Tags = strings.FieldsFunc(s.Value, func(r rune) bool { return r == ',' || r == ' ' })
		}
	}
	return f.bounded()
}

// Self is the fingerprint of the running program, or [ErrNoBuildInfo].
func Self() (Fingerprint, error) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return Fingerprint{}, ErrNoBuildInfo
	}
	return Of(info), nil
}

// OfFile is the fingerprint of the Go program in r, without what is embedded:
// only the program itself knows that. The error is that of debug/buildinfo.
func OfFile(r io.ReaderAt) (Fingerprint, error) {
	info, err := buildinfo.Read(r)
	if err != nil {
		return Fingerprint{}, err
	}
	return Of(info), nil
}

// SameProgram says whether both are builds of the same main package. What has no
// name is the same as nothing.
func (f Fingerprint) SameProgram(other Fingerprint) bool {
	return f.Program != "" && f.Program == other.Program
}

// ShortRevision is what people write of a revision.
func (f Fingerprint) ShortRevision() string { return f.Revision[:min(len(f.Revision), 7)] }

// Release is what the build is called in one word: its version, else its
// revision, else "unknown".
func (f Fingerprint) Release() string {
	return cmp.Or(f.Version, f.Revision[:min(len(f.Revision), pseudoRevision)], "unknown")
}

// Build is what Release leaves out: "3f2a9c1, modified". It is empty where that
// says it all.
func (f Fingerprint) Build() string {
	var parts []string
	if r := f.ShortRevision(); r != "" && !strings.Contains(f.Release(), r) {
		parts = append(parts, r)
	}
	if f.Modified && !strings.HasSuffix(f.Version, "+dirty") {
		parts = append(parts, "modified")
	}
	return strings.Join(parts, ", ")
}

// String is Release and Build: "1.4.0 (3f2a9c1, modified)".
func (f Fingerprint) String() string {
	if build := f.Build(); build != "" {
		return f.Release() + " (" + build + ")"
	}
	return f.Release()
}

// UnmarshalJSON bounds what it reads.
func (f *Fingerprint) UnmarshalJSON(data []byte) error {
	type plain Fingerprint
	if err := json.Unmarshal(data, (*plain)(f)); err != nil {
		return err
	}
	*f = f.bounded()
	return nil
}

// Of another program's words no more than this is kept: they go into every
// status and every handover.
const (
	maxText = 256
	maxTags = 32
)

func (f Fingerprint) bounded() Fingerprint {
	for _, text := range []*string{&f.Program, &f.Module, &f.Version, &f.Revision, &f.Go} {
		*text = bound(*text)
	}
	var tags []string
	for _, tag := range f.Tags[:min(len(f.Tags), maxTags)] {
		tags = append(tags, bound(tag))
	}
	f.Tags = tags
	return f
}

// bound cuts text to maxText bytes, and replaces what cannot be printed.
func bound(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "")
	}
	return text
}
