// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/reexec/control/command"
	"github.com/holdfast-go/holdfast/units"
)

// defaultSystemd is what is rendered for without --systemd=. It is a constant,
// not the version that runs here: what a build machine renders must not depend
// on that machine, and later versions understand it.
const defaultSystemd = 252

const renderHelp = `Write the systemd units of a service: hardened, and so that an upgrade loses
nothing.

  holdfast render --name=myapp --exec=/usr/bin/myapp --socket=http=127.0.0.1:8080
  holdfast render --name=myapp --exec=/usr/bin/myapp --socket=http=127.0.0.1:808%i \
      --instance --systemd=257 --output-dir=/etc/systemd/system

Usage: holdfast render --name=NAME --exec=PATH [OPTIONS] [-- ARG...]

The ARGs are those of the service. In them, in addresses and in the state
directory %t is the runtime directory (/run), %i the instance, and %% a percent
sign.

Service:
      --name=NAME               name of the service, without .service
      --exec=PATH               its binary
      --description=TEXT        what it is
      --documentation=URI       where it is documented; may be repeated
      --socket=NAME=ADDRESS     a listening socket; may be repeated
      --datagram=NAME=ADDRESS   a datagram socket
      --seqpacket=NAME=ADDRESS  a socket of sequential packets
      --state-directory=DIR     a directory below /var/lib

Systemd:
      --systemd=VERSION         the oldest version that must understand the units
                                (252: Debian 12, RHEL 9); from 239
      --mode=MODE               overlap: the new version runs beside the old one;
                                in-place: in its process; restart: by "systemctl
                                restart" only
      --flavour=FLAVOUR         exec-reload: "systemctl reload" waits and fails if
                                the upgrade failed; notify-reload: from 253, needs
                                no holdfast at runtime, but always looks like a
                                success
      --launcher=on|off         whether "holdfast launch" starts the last good version
                                instead of one that failed (on; with notify-reload
                                off)
      --instance                write templates: myapp@.service
      --user                    for the service manager of a user
      --soft-reboot             let sockets and what is stored outlive a soft-reboot;
                                from 254

Upgrades (the same as in the service):
      --check-timeout=TIME      bound of the check of the new binary (10s)
      --start-timeout=TIME      bound of its start (30s)
      --probation=TIME          how long it must do well (5s)
      --drain-timeout=TIME      bound of the old version's end (30s)
      --watchdog=TIME           WatchdogSec= (30s); 0 is none

More:
      --fd-store-max=N          FileDescriptorStoreMax= (64)
      --exec-directory=DIR      a further directory to execute from; may be repeated
      --holdfast=PATH           this command (/usr/bin/holdfast)
      --unit-line=KEY=VALUE     a line for [Unit]; may be repeated
      --service-line=KEY=VALUE  a line for [Service]
      --socket-line=KEY=VALUE   a line for [Socket]

Output:
      --output-dir=DIR          write files there instead of to the standard output
      --force                   overwrite files that differ
  -h, --help                    show this help

` + command.ExitCodesHelp

func render(args []string, stdout, stderr io.Writer) int {
	c := command.NewFlags("render", renderHelp, stdout, stderr)
	var (
		o         units.Options
		outputDir string
		force     bool
	)
	mode := c.String("mode", string(units.Overlap), "")
	flavour := c.String("flavour", string(units.ExecReload), "")
	c.StringVar((*string)(&o.Launcher), "launcher", "", "")
	c.StringVar(&o.Name, "name", "", "")
	c.StringVar(&o.Exec, "exec", "", "")
	c.StringVar(&o.Description, "description", "", "")
	c.Var((*list)(&o.Documentation), "documentation", "")
	for name, kind := range map[string]units.SocketType{
		"socket": units.Stream, "datagram": units.Datagram, "seqpacket": units.SequentialPacket,
	} {
		c.Var(socketFlag{&o.Sockets, kind}, name, "")
	}
	c.StringVar(&o.StateDirectory, "state-directory", "", "")
	c.BoolVar(&o.SoftReboot, "soft-reboot", false, "")
	c.IntVar(&o.Systemd, "systemd", defaultSystemd, "")
	c.BoolVar(&o.Template, "instance", false, "")
	c.BoolVar(&o.User, "user", false, "")
	c.Var(timeFlag{&o.CheckTimeout}, "check-timeout", "")
	c.Var(timeFlag{&o.StartTimeout}, "start-timeout", "")
	c.Var(timeFlag{&o.Probation}, "probation", "")
	c.Var(timeFlag{&o.DrainTimeout}, "drain-timeout", "")
	watchdog := c.Duration("watchdog", 30*time.Second, "")
	c.Var(countFlag{&o.FileDescriptorStoreMax}, "fd-store-max", "")
	c.Var((*list)(&o.ExecDirectories), "exec-directory", "")
	c.StringVar(&o.Holdfast, "holdfast", "", "")
	c.Var((*list)(&o.UnitLines), "unit-line", "")
	c.Var((*list)(&o.ServiceLines), "service-line", "")
	c.Var((*list)(&o.SocketLines), "socket-line", "")
	c.StringVar(&outputDir, "output-dir", "", "")
	c.BoolVar(&force, "force", false, "")
	if code, done := c.Read(args); done {
		return code
	}
	o.Mode, o.Flavour = units.Mode(*mode), units.Flavour(*flavour)
	o.Watchdog, o.NoWatchdog = *watchdog, *watchdog == 0
	o.Args = c.Args()

	files, err := units.Render(o)
	if err != nil {
		return sayFaults(c, err)
	}
	if outputDir == "" {
		err = printFiles(stdout, files)
	} else {
		err = writeFiles(outputDir, files, force)
	}
	if err != nil {
		c.Say("%s: %v", c.Name(), err)
		return command.ExitFailed
	}
	if outputDir != "" {
		for _, f := range files {
			fmt.Fprintln(stdout, filepath.Join(outputDir, f.Name))
		}
	}
	return command.ExitOK
}

// flagOf has the flag for each of units.Options.
var flagOf = map[string]string{
	"Name": "--name", "Exec": "--exec", "Args": "ARG", "Description": "--description", "Documentation": "--documentation",
	"Mode": "--mode", "Flavour": "--flavour", "Launcher": "--launcher", "Sockets": "--socket",
	"CheckTimeout": "--check-timeout", "StartTimeout": "--start-timeout", "Probation": "--probation", "DrainTimeout": "--drain-timeout", "Watchdog": "--watchdog",
	"StateDirectory": "--state-directory", "SoftReboot": "--soft-reboot", "FileDescriptorStoreMax": "--fd-store-max", "ExecDirectories": "--exec-directory", "Holdfast": "--holdfast",
	"UnitLines": "--unit-line", "ServiceLines": "--service-line", "SocketLines": "--socket-line",
}

// sayFaults prints one line for each fault of the options.
func sayFaults(c *command.Flags, err error) int {
	faults := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		faults = joined.Unwrap()
	}
	for _, fault := range faults {
		var option *units.OptionError
		if errors.As(fault, &option) {
			field, _, _ := strings.Cut(strings.ReplaceAll(option.Option, ".", "["), "[")
			c.Say("%s: %s %q: %s", c.Name(), flagOf[field], option.Value, option.Reason)
			continue
		}
		c.Say("%s: %v", c.Name(), fault)
	}
	c.Say("Try \"%s --help\".", c.Name())
	return command.ExitUsage
}

func printFiles(w io.Writer, files []units.File) error {
	for i, f := range files {
		separator := "\n"
		if i == 0 {
			separator = ""
		}
		if _, err := fmt.Fprintf(w, "%s==> %s <==\n%s", separator, f.Name, f.Content); err != nil {
			return fmt.Errorf("write units: %w", err)
		}
	}
	return nil
}

// writeFiles writes all files or none of them, each at once: systemd may look
// at any moment. A file that is there with the same content is fine.
func writeFiles(dir string, files []units.File, force bool) error {
	for _, f := range files {
		path := filepath.Join(dir, f.Name)
		switch old, err := os.ReadFile(path); {
		case errors.Is(err, fs.ErrNotExist), force:
		case err != nil:
			return fmt.Errorf("read what is there already: %w", err)
		case !bytes.Equal(old, []byte(f.Content)):
			return fmt.Errorf("write %s: it is there and differs: use --force to overwrite it", path)
		}
	}
	var temporary []string
	defer func() {
		for _, path := range temporary {
			_ = os.Remove(path) // those that were renamed are gone
		}
	}()
	for _, f := range files {
		path, err := writeTemporary(dir, f)
		if path != "" {
			temporary = append(temporary, path)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", filepath.Join(dir, f.Name), err)
		}
	}
	for i, f := range files {
		if err := os.Rename(temporary[i], filepath.Join(dir, f.Name)); err != nil {
			return fmt.Errorf("write units: %w", err)
		}
	}
	return nil
}

// writeTemporary writes f under a name that systemd does not read. It returns
// the path also of a file that it could not complete.
func writeTemporary(dir string, f units.File) (path string, err error) {
	file, err := os.CreateTemp(dir, "."+f.Name+".*.tmp")
	if err != nil {
		return "", err
	}
	_, err = file.WriteString(f.Content)
	err = errors.Join(err, file.Chmod(0o644), file.Sync(), file.Close())
	return file.Name(), err
}

// list is a flag that may be repeated.
type list []string

func (l *list) String() string { return strings.Join(*l, " ") }

func (l *list) Set(s string) error {
	*l = append(*l, s)
	return nil
}

// socketFlag takes NAME=ADDRESS.
type socketFlag struct {
	sockets *[]units.Socket
	kind    units.SocketType
}

func (f socketFlag) String() string { return "" }

func (f socketFlag) Set(s string) error {
	name, address, found := strings.Cut(s, "=")
	if !found {
		return errors.New("must be NAME=ADDRESS, as in http=127.0.0.1:8080")
	}
	*f.sockets = append(*f.sockets, units.Socket{Name: name, Type: f.kind, Address: address})
	return nil
}

// timeFlag is a positive duration: zero would stand for the default.
type timeFlag struct{ value *time.Duration }

func (f timeFlag) String() string { return "" }

func (f timeFlag) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return errors.New("must be a positive time, as in 90s")
	}
	*f.value = d
	return nil
}

// countFlag is a positive number, for the same reason.
type countFlag struct{ value *int }

func (f countFlag) String() string { return "" }

func (f countFlag) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n <= 0 {
		return errors.New("must be a positive number")
	}
	*f.value = n
	return nil
}

var _ = []flag.Value{(*list)(nil), socketFlag{}, timeFlag{}, countFlag{}}
