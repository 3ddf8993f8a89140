// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/holdfast-go/holdfast/vmtests/bench/internal/mixed"
	"github.com/holdfast-go/holdfast/vmtests/bench/internal/toy"
)

// What the requests of the modes Slow, Upload, Events and Halves take, so that some are under way at any
// time of an upgrade.
const (
	SlowLimit   = 1500 * time.Millisecond
	uploadParts = 16 // of 16 KiB
	uploadEvery = 50 * time.Millisecond
	eventCount  = 20
	eventEvery  = 50 * time.Millisecond
	halvesPause = 20 * time.Millisecond
)

// exchangeSlow asks for an answer after a random time.
func exchangeSlow(conn net.Conn, answers *bufio.Reader, body []byte) (process, bool, error) {
	path := fmt.Sprintf("%s?for=%v", mixed.SlowPath, rand.N(SlowLimit))
	return post(conn, answers, "POST "+path+" HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", body)
}

// exchangeUpload sends a body in parts, with pauses.
func exchangeUpload(conn net.Conn, answers *bufio.Reader, _ []byte) (by process, again bool, err error) {
	part := bytes.Repeat([]byte{'a' + byte(rand.N(26))}, 16<<10)
	header := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", mixed.UploadPath, uploadParts*len(part))
	if _, err := io.WriteString(conn, header); err != nil {
		return by, false, fmt.Errorf("write request: %w", err)
	}
	sum := sha256.New()
	for i := range uploadParts {
		time.Sleep(uploadEvery)
		if _, err := conn.Write(part); err != nil {
			return by, false, fmt.Errorf("write part %d of %d: %w", i+1, uploadParts, err)
		}
		_, _ = sum.Write(part) // never fails
	}
	response, err := http.ReadResponse(answers, nil)
	if err != nil {
		return by, false, fmt.Errorf("read answer: %w", err)
	}
	defer response.Body.Close()
	by, err = checkResponse(response, []byte(hex.EncodeToString(sum.Sum(nil))))
	return by, err == nil && !response.Close, err
}

// exchangeEvents reads a stream to its end, and each event as it comes.
func exchangeEvents(conn net.Conn, answers *bufio.Reader, _ []byte) (by process, again bool, err error) {
	if _, err := fmt.Fprintf(conn, "GET %s?count=%d&every=%v HTTP/1.1\r\nHost: localhost\r\n\r\n", mixed.EventsPath, eventCount, eventEvery); err != nil {
		return by, false, fmt.Errorf("write request: %w", err)
	}
	response, err := http.ReadResponse(answers, nil)
	if err != nil {
		return by, false, fmt.Errorf("read answer: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return by, false, fmt.Errorf("status %s", response.Status)
	}
	stream := bufio.NewReader(response.Body)
	for i := range eventCount {
		want := fmt.Sprintf("data: %d\n\n", i+1)
		event := make([]byte, len(want))
		if _, err := io.ReadFull(stream, event); err != nil {
			return by, false, fmt.Errorf("read event %d of %d: %w", i+1, eventCount, err)
		}
		if string(event) != want {
			return by, false, fmt.Errorf("event %d of %d is %q, must be %q", i+1, eventCount, event, want)
		}
	}
	switch _, err := stream.ReadByte(); {
	case err == nil:
		return by, false, fmt.Errorf("the stream goes on after event %d", eventCount)
	case !errors.Is(err, io.EOF):
		return by, false, fmt.Errorf("end of the stream after event %d: %w", eventCount, err)
	}
	return process{response.Header.Get(toy.HeaderVersion), response.Header.Get(toy.HeaderPID)}, !response.Close, nil
}

// exchangeHalves is exchangeLine with a pause within the line.
func exchangeHalves(conn net.Conn, answers *bufio.Reader, body []byte) (by process, again bool, err error) {
	half := len(body) / 2
	if _, err := conn.Write(body[:half]); err != nil {
		return by, false, fmt.Errorf("write half of a line: %w", err)
	}
	time.Sleep(halvesPause)
	if _, err := io.WriteString(conn, string(body[half:])+"\n"); err != nil {
		return by, false, fmt.Errorf("write the rest of a line: %w", err)
	}
	return readEcho(answers, string(body)+"\n")
}
