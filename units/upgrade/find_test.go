// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestFind(t *testing.T) {
	u := &Upgrader{journal: journal{t.TempDir()}}
	wantNone := func(id string) {
		t.Helper()
		var none *NoRequestError
		if found, err := u.Find(t.Context(), id); !errors.As(err, &none) || none.ID != id {
			t.Errorf("Find(%q): %+v (%v), want none", id, found, err)
		}
	}
	wantNone("deploy-7") // also where nothing was ever written
	if err := u.journal.create(); err != nil {
		t.Fatal(err)
	}
	l, err := u.journal.lockRequest("deploy-7")
	if err != nil {
		t.Fatal(err)
	}
	defer l.release()
	wantNone("deploy-7") // it is being checked
	rec := &record{
		Format:  recordFormat,
		Request: Request{ID: "deploy-7", Units: []string{"a.service", "b.service"}, By: "jane"},
		Report:  Report{ID: "deploy-7", Action: "rollout"},
		Waves:   [][]string{{"b.service"}, {"a.service"}},
		Steps: map[string]*step{
			"a.service": {Phase: phasePlanned, Report: UnitReport{Unit: "a.service"}},
			"b.service": {Phase: phaseDone, Report: UnitReport{Unit: "b.service", Outcome: Done}},
		},
	}
	if err := u.journal.save(rec); err != nil {
		t.Fatal(err)
	}
	// Whoever works on it has it locked, and it is found all the same.
	found, err := u.Find(t.Context(), "deploy-7")
	if err != nil || found.Finished || found.Request.By != "jane" || len(found.Report.Units) != 2 || found.Report.Units[0].Outcome != Done {
		t.Errorf("under way: %+v (%v)", found, err)
	}
	rec.Finished, rec.Report.Outcome, rec.Report.Units = true, Done, rec.units()
	if err := u.journal.save(rec); err != nil {
		t.Fatal(err)
	}
	if found, err = u.Find(t.Context(), "deploy-7"); err != nil || !found.Finished || found.Report.Outcome != Done || len(found.Report.Units) != 2 {
		t.Errorf("finished: %+v (%v)", found, err)
	}

	// An ID is the name of a directory, and comes from anybody.
	secret := filepath.Join(u.journal.dir, "record.json")
	if err := os.WriteFile(secret, []byte(`{"format":1,"finished":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", ".", "..", "../requests/deploy-7", "/etc", "a/b", "-x", "a\x00"} {
		wantNone(id)
	}
}
