// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"context"
	"fmt"
)

// Found is what the journal has about a request.
type Found struct {
	Request Request
	// Report is as far as it has come.
	Report   Report
	Finished bool
}

// NoRequestError says that nothing is known of a request: it was not started, or is
// forgotten by now.
type NoRequestError struct{ ID string }

func (e *NoRequestError) Error() string { return fmt.Sprintf("request %q: there is none", e.ID) }

// Find looks a request up, whoever works on it or has.
func (u *Upgrader) Find(_ context.Context, id string) (Found, error) {
	if !idRE.MatchString(id) {
		return Found{}, &NoRequestError{id}
	}
	rec, err := u.journal.load(id)
	if err != nil {
		return Found{}, u.journalError(err)
	}
	if rec == nil {
		return Found{}, &NoRequestError{id}
	}
	report := rec.Report
	if !rec.Finished {
		report.Units = rec.units()
	}
	return Found{rec.Request, report, rec.Finished}, nil
}
