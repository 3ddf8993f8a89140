// SPDX-License-Identifier: Apache-2.0

package versions

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"
)

const (
	journalName = ".switch.json"
	maxJournal  = 16 << 10
)

// Switch is one that has begun and has not ended: the links are as they were, as they
// will be, or in between.
type Switch struct {
	// From and Previous are where the links led before; empty if there was none.
	From     string `json:"from,omitempty"`
	Previous string `json:"previous,omitempty"`
	To       string `json:"to"`
	// Socket is the control socket of the service that is upgraded meanwhile; empty
	// if only the links are switched.
	Socket string    `json:"socket,omitempty"`
	Began  time.Time `json:"began"`
}

func (s Switch) String() string {
	from := s.From
	if from == "" {
		from = "nothing"
	}
	return fmt.Sprintf("switch from %s to %s of %s", from, s.To, s.Began.Format(time.DateTime))
}

// Unfinished returns the switch that was begun and not ended, by a process that has
// died since; ok is false if there is none.
func (d *Directory) Unfinished() (s Switch, ok bool, err error) {
	f, err := d.root.Open(journalName)
	if errors.Is(err, fs.ErrNotExist) {
		return s, false, nil
	}
	if err != nil {
		return s, false, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxJournal+1))
	switch {
	case err != nil:
	case len(data) > maxJournal:
		err = fmt.Errorf("larger than %d bytes", maxJournal)
	default:
		s, err = parseSwitch(data)
	}
	if err != nil {
		return Switch{}, false, fmt.Errorf("read %s: %w: see where the links lead, and remove it", filepath.Join(d.path, journalName), err)
	}
	return s, true, nil
}

func parseSwitch(data []byte) (s Switch, err error) {
	if err := json.Unmarshal(data, &s); err != nil {
		return Switch{}, err
	}
	for _, v := range []string{s.From, s.Previous} {
		if v != "" {
			err = errors.Join(err, checkName(v))
		}
	}
	if err = errors.Join(err, checkName(s.To)); err == nil && s.Socket != "" && !filepath.IsAbs(s.Socket) {
		err = fmt.Errorf("socket %q: must be an absolute path", s.Socket)
	}
	if err != nil {
		return Switch{}, err
	}
	return s, nil
}

// Begin writes a switch to an installed version down, and makes it: current leads
// there, and previous to where current did. End it by [Directory.Commit] or
// [Directory.Back]. To switch to what is current already changes nothing.
func (d *Directory) Begin(version, socket string) (Switch, error) {
	if s, ok, err := d.Unfinished(); err != nil {
		return Switch{}, err
	} else if ok {
		return Switch{}, fmt.Errorf("%v has not ended", s)
	}
	to, err := d.Resolve(version)
	if err != nil {
		return Switch{}, err
	}
	s := Switch{To: to, Socket: socket, Began: time.Now().Truncate(time.Second)}
	if s.From, err = d.Current(); err != nil && !errors.Is(err, ErrNone) {
		return Switch{}, err
	}
	if s.Previous, err = d.Previous(); err != nil && !errors.Is(err, ErrNone) {
		return Switch{}, err
	}
	data, err := json.Marshal(s)
	if err == nil {
		err = d.writeJournal(data)
	}
	if err != nil {
		return Switch{}, fmt.Errorf("switch %s to %s: %w", d.path, to, err)
	}
	if err := d.forth(s); err != nil {
		return Switch{}, errors.Join(err, d.Back(s))
	}
	return s, nil
}

// Commit ends a switch: the links lead where it wanted them.
func (d *Directory) Commit(s Switch) error {
	if err := d.forth(s); err != nil {
		return err
	}
	return d.end()
}

// Back ends a switch: the links lead where they did before it.
func (d *Directory) Back(s Switch) error {
	if err := errors.Join(d.point(currentLink, s.From), d.point(previousLink, s.Previous)); err != nil {
		return err
	}
	return d.end()
}

// Switch is Begin and Commit: nothing has to happen in between.
func (d *Directory) Switch(version string) (Switch, error) {
	s, err := d.Begin(version, "")
	if err != nil {
		return s, err
	}
	return s, d.Commit(s)
}

func (d *Directory) forth(s Switch) error {
	if s.From == s.To {
		return nil
	}
	// In this order a crash leaves a previous version that is current, and not a
	// current one of which nobody knows what was before.
	if s.From != "" {
		if err := d.point(previousLink, s.From); err != nil {
			return err
		}
	}
	return d.point(currentLink, s.To)
}

// point has a link lead to a version, or to none.
func (d *Directory) point(link, version string) error {
	wrap := func(err error) error { return fmt.Errorf("switch the link %s: %w", filepath.Join(d.path, link), err) }
	if have, err := d.link(link); err == nil && have == version || errors.Is(err, ErrNone) && version == "" {
		return nil
	}
	if version == "" {
		if err := d.root.Remove(link); err != nil {
			return wrap(err)
		}
		return d.syncDir(".")
	}
	if info, err := d.root.Lstat(link); err == nil && info.Mode().Type() != fs.ModeSymlink {
		return wrap(errors.New("it is no link: move it away"))
	}
	next := newPrefix + rand.Text()
	if err := d.root.Symlink(path.Join(versionsDir, version), next); err != nil {
		return wrap(err)
	}
	if err := d.root.Rename(next, link); err != nil {
		return wrap(errors.Join(err, d.root.Remove(next)))
	}
	return d.syncDir(".")
}

func (d *Directory) writeJournal(data []byte) error {
	name := newPrefix + rand.Text()
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = d.root.Rename(name, journalName)
	}
	if err != nil {
		return errors.Join(err, d.root.Remove(name))
	}
	return d.syncDir(".")
}

func (d *Directory) end() error {
	if err := d.root.Remove(journalName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("end the switch in %s: %w", d.path, err)
	}
	return d.syncDir(".")
}

// Running says which version a process runs: by where its program is, and else, such
// as for a copy of it, by what the service says of itself.
func (d *Directory) Running(pid int, says string) string {
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
		if version, ok := d.versionAt(exe); ok {
			return version
		}
	}
	return says
}
