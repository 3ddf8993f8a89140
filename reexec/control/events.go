// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxLine bounds one line of the stream, and the body of any other answer.
const maxLine = 1 << 20

// errNotEvent is in the tree of every error that means "this is not the
// protocol", as against a stream that ended.
var errNotEvent = errors.New("not an event")

// eventReader reads the lines of the answer to POST /v1/upgrade. It trusts
// nothing: the peer is another user's process, and the reader often root's.
type eventReader struct{ r *bufio.Reader }

func newEventReader(r io.Reader) eventReader {
	return eventReader{bufio.NewReaderSize(r, maxLine)}
}

// next returns the next event that has a state or a verdict. Lines with
// neither are passed over: later releases may add kinds of events. The error is
// io.EOF at the end of the stream, io.ErrUnexpectedEOF inside a line, and one
// that wraps errNotEvent for a line that is no event.
func (e eventReader) next() (Event, error) {
	for {
		line, err := e.r.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return Event{}, fmt.Errorf("%w: line is longer than %d bytes", errNotEvent, maxLine)
		case errors.Is(err, io.EOF) && len(line) > 0:
			return Event{}, io.ErrUnexpectedEOF
		case err != nil:
			return Event{}, err
		}
		ev, err := parseEvent(line)
		if err != nil || ev.State != nil || ev.Verdict != nil {
			return ev, err
		}
	}
}

func parseEvent(line []byte) (Event, error) {
	var ev Event
	if err := json.Unmarshal(line, &ev); err != nil {
		return Event{}, fmt.Errorf("%w: line %.80q: %w", errNotEvent, bytes.TrimSpace(line), err)
	}
	if ev.State != nil && ev.Verdict != nil {
		return Event{}, fmt.Errorf("%w: line %.80q: has both a state and a verdict", errNotEvent, bytes.TrimSpace(line))
	}
	if ev.Verdict != nil && ev.Verdict.Outcome == "" {
		return Event{}, fmt.Errorf("%w: line %.80q: verdict has no outcome", errNotEvent, bytes.TrimSpace(line))
	}
	return ev, nil
}

func parseStatus(body []byte) (Status, error) {
	var st Status
	if err := json.Unmarshal(body, &st); err != nil {
		return Status{}, fmt.Errorf("status %.80q: %w", bytes.TrimSpace(body), err)
	}
	// Without these an upgrade cannot be told from a restart.
	if st.Protocol == 0 || st.Instance == "" {
		return Status{}, fmt.Errorf("status %.80q: has no protocol version or no instance", bytes.TrimSpace(body))
	}
	return st, nil
}
