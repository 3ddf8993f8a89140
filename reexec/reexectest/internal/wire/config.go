// SPDX-License-Identifier: Apache-2.0

package wire

// Config is the first message from the test.
type Config struct {
	// Systemd is the version whose behaviour is wanted, such as 257.
	Systemd int
	// Files are the unit files and drop-ins: one service and the sockets that
	// belong to it.
	Files []File
	// Instance is the instance name when the service is a template.
	Instance string `json:",omitempty"`
	// Root is an existing directory, absolute and without symbolic links in
	// it, below which the unit's paths are put: %t is Root/run, and so on.
	// Short, because the paths of Unix sockets are at most 107 bytes. If it is empty, the
	// manager makes a temporary one.
	Root string
	// RemoveRoot has the manager remove Root when it ends.
	RemoveRoot bool `json:",omitempty"`
	// Programs are the paths in the unit that name a file below Root:
	// "/usr/bin/myapp" is Root/usr/bin/myapp, which need not exist yet, and which is the
	// program's first argument. Any other path is the host's, or one of Commands.
	Programs []string `json:",omitempty"`
	// Commands are files on the host that are executed for any program of that base name
	// which is not among Programs: with "holdfast", "/usr/bin/holdfast" and
	// "/usr/local/bin/holdfast" are that file, which is below Root unless its path is absolute. The first argument stays the unit's path.
	Commands map[string]string `json:",omitempty"`
	// KeepAddresses binds the addresses of socket units as they are written.
	// Otherwise ports are chosen by the kernel on the loopback address of the
	// family, and abstract names get a random prefix. Paths are always below Root.
	KeepAddresses bool `json:",omitempty"`
	// Environment is added to the environment of each process of the service,
	// after Environment= and EnvironmentFile=, as NAME=value. A program that was
	// built with the race detector needs GORACE=atexit_sleep_ms=0, or each of its processes sleeps
	// for a second at its end.
	Environment []string `json:",omitempty"`
	// ManagerEnvironment is where PassEnvironment= takes its variables from.
	ManagerEnvironment []string `json:",omitempty"`
}

// File is one unit file or drop-in.
type File struct {
	Name string // "myapp.service" or "myapp.service.d/10-limits.conf"
	Text string
}
