// SPDX-License-Identifier: Apache-2.0

package manager

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/holdfast-go/holdfast/reexec/reexectest/internal/unit"
)

// A directoryKind is one of the options that give a service directories.
type directoryKind struct {
	option   string
	variable string // in the environment of the service
	base     string // below the root
	clean    string // its name in systemctl clean --what=
	status   int    // of a process for which it cannot be made
	names    func(*unit.Service) []string
	mode     func(*unit.Service) fs.FileMode
}

// directoryKinds are in systemd's order.
var directoryKinds = []directoryKind{
	{
		"RuntimeDirectory", "RUNTIME_DIRECTORY", "run", "runtime", exitRuntimeDirectory,
		func(s *unit.Service) []string { return s.RuntimeDirectory },
		func(s *unit.Service) fs.FileMode { return s.RuntimeDirectoryMode },
	},
	{
		"StateDirectory", "STATE_DIRECTORY", "var/lib", "state", exitStateDirectory,
		func(s *unit.Service) []string { return s.StateDirectory },
		func(s *unit.Service) fs.FileMode { return s.StateDirectoryMode },
	},
	{
		"CacheDirectory", "CACHE_DIRECTORY", "var/cache", "cache", exitCacheDirectory,
		func(s *unit.Service) []string { return s.CacheDirectory },
		func(s *unit.Service) fs.FileMode { return s.CacheDirectoryMode },
	},
	{
		"LogsDirectory", "LOGS_DIRECTORY", "var/log", "logs", exitLogsDirectory,
		func(s *unit.Service) []string { return s.LogsDirectory },
		func(s *unit.Service) fs.FileMode { return s.LogsDirectoryMode },
	},
	{
		"ConfigurationDirectory", "CONFIGURATION_DIRECTORY", "etc", "configuration", exitConfigurationDirectory,
		func(s *unit.Service) []string { return s.ConfigurationDirectory },
		func(s *unit.Service) fs.FileMode { return s.ConfigurationDirectoryMode },
	},
}

// directories are the paths of one kind.
func (m *manager) directories(k directoryKind) []string {
	var paths []string
	for _, name := range k.names(m.service) {
		paths = append(paths, filepath.Join(m.config.Root, k.base, name))
	}
	return paths
}

// makeDirectories makes what is missing and mends the modes of what is there, as
// systemd does before each command.
func (m *manager) makeDirectories() *bounceFailure {
	for _, k := range directoryKinds {
		for _, path := range m.directories(k) {
			if err := makeDirectory(path, k.mode(m.service), k.option != "ConfigurationDirectory"); err != nil {
				return &bounceFailure{k.status, strerror(err)}
			}
		}
		for _, link := range m.service.DirectoryLinks {
			if link.Option != k.option {
				continue
			}
			base := filepath.Join(m.config.Root, k.base)
			if err := linkIdempotent(filepath.Join(base, link.Path), filepath.Join(base, link.Link)); err != nil {
				return &bounceFailure{k.status, strerror(err)}
			}
		}
	}
	return nil
}

// makeDirectory makes a directory of exactly that mode, whatever the umask.
func makeDirectory(path string, mode fs.FileMode, mend bool) error {
	if err := makeParents(path, 0o755); err != nil {
		return err
	}
	made := true
	if err := os.Mkdir(path, mode); errors.Is(err, fs.ErrExist) {
		made = false
	} else if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
	}
	if (made || mend) && info.Mode().Perm() != mode {
		return os.Chmod(path, mode)
	}
	return nil
}

// makeParents makes the directories above path.
func makeParents(path string, mode fs.FileMode) error {
	return os.MkdirAll(filepath.Dir(path), mode)
}

// linkIdempotent makes link a symbolic link to target, unless it is one.
func linkIdempotent(target, link string) error {
	if err := makeParents(link, 0o755); err != nil {
		return err
	}
	err := os.Symlink(target, link)
	if errors.Is(err, fs.ErrExist) {
		if have, readErr := os.Readlink(link); readErr == nil && have == target {
			return nil
		}
	}
	return err
}

func (m *manager) removeRuntimeDirectories() {
	if m.service.RuntimeDirectoryPreserve == "yes" {
		return
	}
	m.removeDirectories(directoryKinds[0])
}

// removeDirectories removes the directories of one kind with what is in them.
func (m *manager) removeDirectories(k directoryKind) {
	for _, path := range m.directories(k) {
		if err := RemoveAll(path); err != nil {
			m.log(4, "Failed to remove %s: %v", path, err)
		}
	}
	for _, link := range m.service.DirectoryLinks {
		if link.Option == k.option {
			_ = os.Remove(filepath.Join(m.config.Root, k.base, link.Link))
		}
	}
}

// relocate puts a path of the host's system directories below the root.
func (m *manager) relocate(path string) string {
	if path == m.config.Root || strings.HasPrefix(path, m.config.Root+"/") {
		return path
	}
	for _, dir := range []string{"/run", "/var", "/etc"} {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			path = filepath.Join(m.config.Root, path)
			// As everywhere, /var/run is /run.
			if rest, ok := strings.CutPrefix(path, filepath.Join(m.config.Root, "var/run")); ok {
				path = filepath.Join(m.config.Root, "run") + rest
			}
			return path
		}
	}
	return path
}

// program returns where a program of the unit is on this machine, for an
// absolute path or a bare name, and the path by which it knows itself.
func (m *manager) program(path string, search []string) (file, name string, err error) {
	if filepath.IsAbs(path) {
		return m.programFile(path), m.programName(path), nil
	}
	for _, dir := range search {
		candidate := filepath.Join(dir, path)
		file := m.programFile(candidate)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, m.programName(candidate), nil
		}
	}
	return "", path, fmt.Errorf("not in %s: %w", strings.Join(search, ":"), syscall.ENOENT)
}

// programFile is the file behind a path: one that was installed below the
// root, one that stands in for a command, or the host's.
func (m *manager) programFile(path string) string {
	if m.programs[filepath.Clean(path)] {
		return filepath.Join(m.config.Root, path)
	}
	if file, ok := m.config.Commands[filepath.Base(path)]; ok {
		return file
	}
	return path
}

// programName is the first argument of a program without "@": the path that
// leads to its file, so that an upgrade finds the next version there.
func (m *manager) programName(path string) string {
	if m.programs[filepath.Clean(path)] {
		return filepath.Join(m.config.Root, path)
	}
	return path
}
