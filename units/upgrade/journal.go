// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// recordFormat is that of record.json. Another one is not touched.
	recordFormat = 1
	// maxHistory is how many reports of a unit are kept, maxFinished how many
	// requests, and with them their IDs.
	maxHistory  = 100
	maxFinished = 256

	recordName = "record.json"
	lockName   = "lock"
)

// The phases of a unit. What a phase does may have begun once the record says so.
const (
	phasePlanned  = "check"
	phaseReload   = "reload"
	phaseSoak     = "soak"
	phaseHeld     = "held" // has passed its gates, and its wave is not over
	phaseRollback = "rollback"
	phaseDone     = "done"
)

// record is a request as it is on the disk.
type record struct {
	Format   int              `json:"format"`
	Request  Request          `json:"request"`
	Report   Report           `json:"report"`
	Waves    [][]string       `json:"waves"`
	Steps    map[string]*step `json:"steps"`
	Bad      *int             `json:"bad,omitempty"` // the wave that has failed
	Written  time.Time        `json:"written"`
	Finished bool             `json:"finished"`
}

// step is one unit of a record.
type step struct {
	Phase  string `json:"phase"`
	Socket string `json:"socket"`
	UID    uint32 `json:"uid"` // whose it is
	// Before is what served before the reload, After what is watched.
	Before *mark `json:"before,omitempty"`
	After  *mark `json:"after,omitempty"`
	// Since is when the phase began, Until when the soak ends.
	Since    time.Time  `json:"since"`
	Until    time.Time  `json:"until,omitzero"`
	Baseline *counts    `json:"baseline,omitempty"`
	Report   UnitReport `json:"report"`
}

// mark is what tells a process of a service from others.
type mark struct {
	Version
	Instance     string    `json:"instance"`
	Verdict      time.Time `json:"verdict,omitzero"` // when the last attempt began
	MainPID      int       `json:"main_pid"`
	Restarts     int       `json:"restarts"`
	InvocationID string    `json:"invocation_id"`
}

// journal is the directory of a helper.
type journal struct{ dir string }

// create makes the directory if there is none.
func (j journal) create() error {
	for _, d := range []string{"requests", "locks", "holders", "history", "frozen"} {
		mode := os.FileMode(0o755)
		if d == "requests" || d == "locks" {
			// URLs may have passwords, and whoever may open a file can lock it.
			mode = 0o700
		}
		if err := os.MkdirAll(filepath.Join(j.dir, d), mode); err != nil {
			return err
		}
	}
	return nil
}

func (j journal) request(id string) string    { return filepath.Join(j.dir, "requests", id) }
func (j journal) unitLock(unit string) string { return filepath.Join(j.dir, "locks", unit) }
func (j journal) unitHolder(unit string) string {
	return filepath.Join(j.dir, "holders", unit+".json")
}

func (j journal) history(unit string) string {
	return filepath.Join(j.dir, "history", unit+".json")
}

func (j journal) frozen(unit string) string { return filepath.Join(j.dir, "frozen", unit+".json") }

// lockRequest locks the directory of a request and makes it if there is none.
func (j journal) lockRequest(id string) (*lock, error) {
	dir := j.request(id)
	for {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		l, err := lockFile(filepath.Join(dir, lockName), 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue // forgotten in between
		}
		if err != nil {
			return nil, err
		}
		// It may have been forgotten between the open and the lock.
		mine, err := l.file.Stat()
		if err != nil {
			l.release()
			return nil, err
		}
		if now, err := os.Stat(l.file.Name()); err == nil && os.SameFile(mine, now) {
			return l, nil
		}
		l.release()
	}
}

// forget removes a request whose lock the caller holds.
func (j journal) forget(id string) error { return os.RemoveAll(j.request(id)) }

// load reads a record; it is nil if there is none.
func (j journal) load(id string) (*record, error) {
	var r record
	err := readFile(filepath.Join(j.request(id), recordName), &r)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil //nolint:nilnil // an absent record is no error, and the caller looks
	case err != nil:
		return nil, err
	case r.Format != recordFormat:
		return nil, fmt.Errorf("request %q: its record has format %d, this release knows %d: finish it with the release that began it", id, r.Format, recordFormat)
	}
	return &r, nil
}

func (j journal) save(r *record) error {
	r.Written = time.Now()
	if err := writeFile(filepath.Join(j.request(r.Request.ID), recordName), 0o600, r); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// requests lists the IDs that there are.
func (j journal) requests() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(j.dir, "requests"))
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if idRE.MatchString(e.Name()) && e.IsDir() {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// remember adds a report to the histories of its units. To do so again changes nothing.
func (j journal) remember(report Report) error {
	var errs []error
	for _, unit := range report.Units {
		one := report
		one.Units = []UnitReport{unit}
		reports, err := j.reports(unit.Unit)
		if err != nil {
			errs = append(errs, err)
		}
		reports = slices.DeleteFunc(reports, func(r Report) bool { return r.ID == report.ID })
		reports = append([]Report{one}, reports...)
		errs = append(errs, writeFile(j.history(unit.Unit), 0o644, reports[:min(len(reports), maxHistory)]))
	}
	return errors.Join(errs...)
}

// reports is the history of a unit, the newest first.
func (j journal) reports(unit string) ([]Report, error) {
	var reports []Report
	if err := readFile(j.history(unit), &reports); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return reports, nil
}

// prune forgets the oldest finished requests.
func (j journal) prune() error {
	ids, err := j.requests()
	if err != nil || len(ids) <= maxFinished {
		return err
	}
	type finished struct {
		id string
		at time.Time
	}
	var old []finished
	for _, id := range ids {
		if r, err := j.load(id); err == nil && r != nil && r.Finished {
			old = append(old, finished{id, r.Written})
		}
	}
	slices.SortFunc(old, func(a, b finished) int { return a.at.Compare(b.at) })
	var errs []error
	for i := 0; i < len(old)-maxFinished; i++ {
		l, err := j.lockRequest(old[i].id)
		if err != nil {
			continue // somebody asks for its report
		}
		errs = append(errs, j.forget(old[i].id))
		l.release()
	}
	return errors.Join(errs...)
}

// Holder is who works on a unit.
type Holder struct {
	ID    string    `json:"id"`
	By    string    `json:"by,omitempty"`
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
}

// lockUnits locks all units or none.
func (j journal) lockUnits(units []string, request Request) (release func(), err error) {
	locks := make(map[string]*lock)
	release = func() {
		for unit, l := range locks {
			_ = os.Remove(j.unitHolder(unit)) // it would name a process that is gone
			l.release()
		}
	}
	// One order for all, so that two requests do not both get a part.
	units = slices.Sorted(slices.Values(units))
	holder := Holder{ID: request.ID, By: request.By, PID: os.Getpid(), Since: time.Now()}
	for _, unit := range units {
		l, err := lockFile(j.unitLock(unit), 0o600)
		if err == nil {
			locks[unit] = l
			err = j.hold(unit, holder)
		}
		if errors.Is(err, errLocked) {
			err = &BusyError{Unit: unit, Holder: j.holder(unit)}
		}
		if err != nil {
			release()
			return nil, err
		}
	}
	return release, nil
}

// hold writes who holds the lock of a unit, for those who find it held.
func (j journal) hold(unit string, holder Holder) error {
	text, err := json.Marshal(holder)
	if err != nil {
		return err
	}
	return os.WriteFile(j.unitHolder(unit), text, 0o644)
}

// holder is who holds the lock of a unit, as far as it has said.
func (j journal) holder(unit string) Holder {
	var h Holder
	_ = readFile(j.unitHolder(unit), &h) // it may be writing
	return h
}

// busy returns who works on a unit, or nil.
func (j journal) busy(unit string) (*Holder, error) {
	is, err := held(j.unitLock(unit))
	if errors.Is(err, fs.ErrPermission) {
		return j.aliveHolder(unit), nil
	}
	if err != nil || !is {
		return nil, err
	}
	h := j.holder(unit)
	return &h, nil
}

// aliveHolder is busy for those who may not look at the lock: whoever was killed has
// left its name.
func (j journal) aliveHolder(unit string) *Holder {
	h := j.holder(unit)
	if h.PID <= 0 || errors.Is(unix.Kill(h.PID, 0), unix.ESRCH) {
		return nil
	}
	return &h
}

// Freeze is why a unit is not to be upgraded.
type Freeze struct {
	By     string    `json:"by,omitempty"`
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since"`
}

// freeze returns that of a unit or of its template, or nil.
func (j journal) freeze(unit string) (*Freeze, error) {
	for _, name := range []string{unit, templateOf(unit)} {
		if name == "" {
			continue
		}
		var f Freeze
		err := readFile(j.frozen(name), &f)
		if err == nil {
			return &f, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, nil //nolint:nilnil // not frozen
}

// natural orders names as people do: myapp@9 before myapp@10.
func natural(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na > 0 && nb > 0 {
			da, db := strings.TrimLeft(a[:na], "0"), strings.TrimLeft(b[:nb], "0")
			if len(da) != len(db) {
				return len(da) - len(db)
			}
			if c := strings.Compare(da, db); c != 0 {
				return c
			}
			a, b = a[na:], b[nb:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
