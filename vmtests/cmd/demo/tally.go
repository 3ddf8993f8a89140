// SPDX-License-Identifier: Apache-2.0

package main

import "fmt"

// A tally is what the demo counts. Its text is the last line on standard output.
type tally struct {
	Requests  int
	Failed    int // requests that failed, and steps that did not go as they must
	Upgrades  int // reloads that made a new version main
	Rollbacks int // new versions undone in probation
	Refused   int // new versions that never served
	Crashes   int // processes that served and that the demo had die: by a signal, or by a fault built in
	Cut       int // requests that those had accepted when they died
}

func (t tally) String() string {
	return fmt.Sprintf("demo: requests=%d failed=%d upgrades=%d rollbacks=%d refused=%d crashes=%d cut=%d",
		t.Requests, t.Failed, t.Upgrades, t.Rollbacks, t.Refused, t.Crashes, t.Cut)
}

// exitStatus is 0 exactly when nothing failed.
func (t tally) exitStatus() int {
	if t.Failed == 0 {
		return 0
	}
	return 1
}
