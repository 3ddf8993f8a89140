// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
	"github.com/holdfast-go/holdfast/vmtests/internal/load"
)

// bound is how long an upgrade may take: drains and probations are in it.
const bound = 10 * time.Minute

// A result is what became of one upgrade.
type result struct {
	on       vmtests.Version
	from, to string // of the package
	bad      bool   // it must not come to serve
	load     vmtests.LoadSummary
	took     time.Duration
	status   string // of the package, as dpkg has it
	active   string // of the service
	serves   bool   // the main process is of the file that is installed
	said     string // by apt
	journal  string // of the service, its end
}

func (r result) String() string {
	serves := r.to
	if !r.serves {
		serves = r.from
	}
	return fmt.Sprintf("%v: %s to %s: requests=%d failed=%d, longest gap %v, took %v; %s serves",
		r.on, r.from, r.to, r.load.OK+r.load.Failed, r.load.Failed, r.load.LongestGap.Duration.Round(time.Millisecond),
		r.took.Round(100*time.Millisecond), serves)
}

// fault says what is wrong, for a person; "" if nothing is.
func (r result) fault() string {
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if text := r.load.FailureText(10); text != "" {
		fault("%s", text)
	}
	if r.active != "active" {
		fault("the service is %s", r.active)
	}
	if want := r.to + " install ok installed"; r.status != want {
		fault("dpkg says %q, want %q", r.status, want)
	}
	switch {
	case r.serves && r.bad:
		fault("%s serves, which should have been refused or undone", r.to)
	case !r.serves && !r.bad:
		fault("the main process is not of the files that %s has installed", r.to)
	}
	if len(faults) == 0 {
		return ""
	}
	return strings.Join(faults, "\n") + "\napt says:\n" + r.said + "\nthe journal says:\n" + r.journal
}

// checkLoad says whether the load can be made.
func checkLoad(o options) error {
	_, err := load.New(loadOptions(o))
	return err
}

func loadOptions(o options) vmtests.LoadOptions {
	return vmtests.LoadOptions{
		URL: o.url, New: o.newConnections, KeepAlive: o.keepAlive, Think: 2 * time.Millisecond, Redial: true, Timeout: time.Minute,
	}
}

// A debian is a machine with a repository of apt, and what is tried on it.
type debian struct {
	*vmtests.Machine
	options options
	name    string // of the package
	unit    string
}

// try boots systemd v and does all upgrades there. It returns the results that there are, also with an error.
func try(ctx context.Context, v vmtests.Version, o options) (results []result, err error) {
	m, err := vmtests.Boot(ctx, v)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	ctx, cancel := context.WithTimeoutCause(ctx, bound, fmt.Errorf("not done after %v", bound))
	defer cancel()
	d := &debian{Machine: m, options: o}
	first, err := d.offer(ctx, append([]string{o.old}, o.with...)...)
	if err != nil {
		return nil, err
	}
	d.name = first.name
	d.unit = strings.TrimSuffix(cmp.Or(o.unit, d.name), ".service") + ".service"
	if said, err := d.apt(ctx, "install", d.name); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, said)
	}
	for _, next := range []struct {
		file string
		bad  bool
	}{{o.new, false}, {o.bad, true}} {
		if next.file == "" {
			continue
		}
		r, err := d.upgrade(ctx, next.file, next.bad)
		if err != nil {
			return results, err
		}
		results = append(results, r)
	}
	return results, nil
}

// upgrade upgrades the package under load.
func (d *debian) upgrade(ctx context.Context, file string, bad bool) (r result, err error) {
	r = result{on: d.Version, bad: bad}
	if r.from, err = d.Output(ctx, "dpkg-query", "--show", "--showformat=${Version}", d.name); err != nil {
		return r, err
	}
	next, err := d.offer(ctx, file)
	if err != nil {
		return r, err
	}
	if next.name != d.name {
		return r, fmt.Errorf("%s: it is the package %s, the one before was %s", file, next.name, d.name)
	}
	if err := d.Run(ctx, "dpkg", "--compare-versions", next.version, "gt", r.from); err != nil {
		return r, fmt.Errorf("%s: its version %s is not above %s, so apt would not upgrade to it", file, next.version, r.from)
	}
	r.to = next.version

	network, err := enterNetwork(d.Machine)
	if err != nil {
		return r, err
	}
	defer network.close()
	options := loadOptions(d.options)
	options.Dial = network.dial
	clients, err := vmtests.StartLoad(ctx, options)
	if err != nil {
		return r, fmt.Errorf("%s does not answer: %w", d.options.url, err)
	}
	// Each client has an answer before, and after.
	answers := 5 * (options.New + options.KeepAlive)
	if _, err := clients.WaitOK(ctx, answers); err != nil {
		return r, err
	}
	began := time.Now()
	said, aptErr := d.apt(ctx, "upgrade")
	r.said, r.took = said, time.Since(began)
	if ctx.Err() != nil {
		return r, aptErr
	}
	if aptErr != nil {
		r.said += "\n" + aptErr.Error()
	}
	if _, err := clients.WaitOK(ctx, answers); err != nil {
		return r, fmt.Errorf("after the upgrade to %s: %w\napt says:\n%s", r.to, err, said)
	}
	if r.load, err = clients.Stop(ctx); err != nil {
		return r, err
	}
	return r, d.look(ctx, &r)
}

// look finds out how an upgrade ended.
func (d *debian) look(ctx context.Context, r *result) error {
	var err error
	if r.status, err = d.Output(ctx, "dpkg-query", "--show", "--showformat=${Version} ${Status}", d.name); err != nil {
		return err
	}
	if r.active, err = d.Prop(ctx, d.unit, "ActiveState"); err != nil {
		return err
	}
	// Its own file may be gone, or be a copy that something keeps: it is the content that says which version it is.
	const compare = `pid=$1 package=$2
dpkg --listfiles "$package" | while read -r file; do
	if [ -f "$file" ] && [ -x "$file" ] && cmp -s "/proc/$pid/exe" "$file"; then echo "$file"; fi
done`
	pid, err := d.MainPID(ctx, d.unit)
	if err != nil {
		return err
	}
	if pid != 0 {
		found, err := d.Output(ctx, "sh", "-c", compare, "sh", fmt.Sprint(pid), d.name)
		if err != nil {
			return err
		}
		r.serves = found != ""
	}
	r.journal, err = d.Output(ctx, "journalctl", "--no-pager", "--lines=50", "--unit="+d.unit)
	return err
}

// apt runs apt-get without questions, and returns what it said.
func (d *debian) apt(ctx context.Context, args ...string) (said string, err error) {
	var out strings.Builder
	p, err := d.Start(ctx, vmtests.Command{
		Args: append([]string{
			"apt-get", "--yes", "--quiet", "--option=Dpkg::Use-Pty=0",
			"--option=Dpkg::Options::=--force-confdef", "--option=Dpkg::Options::=--force-confold",
		}, args...),
		Env:    []string{"DEBIAN_FRONTEND=noninteractive"},
		Stdout: &out, Stderr: &out,
	})
	if err != nil {
		return "", err
	}
	err = p.Wait()
	return strings.TrimSpace(out.String()), err
}

// deb is what a package says about itself.
type deb struct{ name, version string }

const repository = "/srv/try"

// offer puts packages into the repository of the machine, which is the only one there, and has apt read it. It
// returns what the first says about itself.
func (d *debian) offer(ctx context.Context, files ...string) (first deb, err error) {
	for i, file := range files {
		to := filepath.Join(repository, filepath.Base(file))
		if err := d.Copy(ctx, file, to, 0o644); err != nil {
			return deb{}, err
		}
		if i > 0 {
			continue
		}
		text, err := d.Output(ctx, "dpkg-deb", "--show", "--showformat=${Package} ${Version}", to)
		if err != nil {
			return deb{}, fmt.Errorf("%s: %w", file, err)
		}
		first.name, first.version, _ = strings.Cut(text, " ")
	}
	const index = `cd "$1"
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*
echo "deb [trusted=yes] file:$1 ./" >/etc/apt/sources.list
for file in *.deb; do
	dpkg-deb --field "$file"
	echo "Filename: ./$file"
	echo "Size: $(stat --format=%s "$file")"
	echo "SHA256: $(sha256sum "$file" | cut -d ' ' -f 1)"
	echo
done >Packages.new
mv Packages.new Packages
apt-get --quiet --quiet update`
	return first, d.Run(ctx, "sh", "-euc", index, "sh", repository)
}
