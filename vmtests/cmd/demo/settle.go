// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
)

// A death is the end of a process that served and that the demo had die. Times are of CLOCK_MONOTONIC in
// nanoseconds, here as in the load.
type death struct {
	Cause string // for people
	PID   int    // inside
	// Ports are the client ports of the connections that the process held when it died, each once. It
	// had accepted those and no others.
	Ports []int
	Began int64 // the process was alive and held its last connections no earlier than this
	Seen  int64 // the demo saw that it was dead
}

// A loss is a request that nobody answered although nothing excuses that.
type loss struct {
	Request vmtests.LoadResult
	Why     string
}

func (l loss) String() string {
	text := fmt.Sprintf("%s, port %d: %s", l.Request.Mode, l.Request.LocalPort, l.Why)
	if l.Request.Error != "" {
		text += " (" + l.Request.Error + ")"
	}
	return text
}

// A settlement says what became of all requests.
type settlement struct {
	Requests int
	// Cut are the requests that a process had accepted when it died of what the demo did to it, and
	// CutBy says how many each death cut.
	Cut   []vmtests.LoadResult
	CutBy []int
	// Failed are all others without an answer.
	Failed []loss
}

// settle decides for each request without an answer whether it was cut or has failed. It is cut when its
// connection is one that a dead process held, when it was sent before that death was seen, and when it
// ended with its connection. A connection carries one request at a time, so each excuses one: no more
// requests can be cut than the dead process held.
func settle(results []vmtests.LoadResult, deaths []death) settlement {
	held := make([]map[int]bool, len(deaths)) // false once it has excused a request
	for i, d := range deaths {
		held[i] = make(map[int]bool)
		for _, port := range d.Ports {
			held[i][port] = true
		}
	}
	s := settlement{Requests: len(results), CutBy: make([]int, len(deaths))}
	for _, r := range results {
		if r.ClosedIdle != 0 {
			if _, why := excuse(r.ClosedIdle, r, deaths, held); why != "" {
				r.LocalPort = r.ClosedIdle
				s.Failed = append(s.Failed, loss{r, "the server closed the idle connection: " + why})
				continue
			}
		}
		switch {
		case r.Error == "":
		case r.LocalPort == 0:
			s.Failed = append(s.Failed, loss{r, "there was no connection"})
		case !r.Broken:
			s.Failed = append(s.Failed, loss{r, "the connection held"})
		default:
			by, why := excuse(r.LocalPort, r, deaths, held)
			if why != "" {
				s.Failed = append(s.Failed, loss{r, why})
				continue
			}
			s.Cut = append(s.Cut, r)
			s.CutBy[by]++
		}
	}
	return s
}

// excuse uses up the connection of a dead process that explains why the connection from port ended, and
// returns the number of that death. When there is none it returns why.
func excuse(port int, r vmtests.LoadResult, deaths []death, held []map[int]bool) (by int, why string) {
	why = "no process that died held it"
	for i, d := range deaths {
		unused, ok := held[i][port]
		closedIdle := port == r.ClosedIdle // noticed when the death is long seen: that request was sent elsewhere
		switch {
		case !ok:
		case r.End < d.Began:
			why = fmt.Sprintf("it ended %v before PID %d could have died", time.Duration(d.Began-r.End), d.PID)
		case r.Start > d.Seen && !closedIdle:
			why = fmt.Sprintf("sent %v after the death of PID %d was seen", time.Duration(r.Start-d.Seen), d.PID)
		case !unused:
			why = fmt.Sprintf("the connection that PID %d held has excused a request already", d.PID)
		default:
			held[i][port] = false
			return i, ""
		}
	}
	return 0, why
}
