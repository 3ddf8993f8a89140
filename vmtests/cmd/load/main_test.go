// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/vmtests/internal/load"
)

func TestUsage(t *testing.T) {
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"-h"}, 0, "usage: load"},
		{nil, 2, "usage: load"},
		{[]string{"-new=many", "http://127.0.0.1:1/"}, 2, "invalid value"},
		{[]string{"-new=1", "http://192.0.2.1:80/"}, 2, "loopback"},
		{[]string{"http://127.0.0.1:1/"}, 2, "no workers"},
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), test.args, strings.NewReader(""), &out, &errs)
		if code != test.code || out.Len() > 0 || !strings.Contains(errs.String(), test.want) {
			t.Errorf("%q: got exit status %d, %q and %q; want %d and %q", test.args, code, out.String(), errs.String(), test.code, test.want)
		}
	}
}

// Each way to end the load ends with the summary.
func TestEnds(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(server.Close) // after the parallel tests
	for _, test := range []struct {
		name string
		args []string
		end  func(stdin *io.PipeWriter, cancel func()) // once there is progress; nil to wait
	}{
		{"end of standard input", nil, func(stdin *io.PipeWriter, _ func()) { stdin.Close() }},
		{"command", nil, func(stdin *io.PipeWriter, _ func()) { io.WriteString(stdin, "stop\n") }},
		{"signal", nil, func(_ *io.PipeWriter, cancel func()) { cancel() }},
		{"duration", []string{"-duration=300ms"}, nil},
		{"duration without standard input", []string{"-duration=300ms"}, func(stdin *io.PipeWriter, _ func()) { stdin.Close() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stdin, feed := io.Pipe()
			defer feed.Close()
			out, stdout := io.Pipe()
			var errs bytes.Buffer
			code := make(chan int, 1)
			go func() {
				code <- run(ctx, append(test.args, "-keepalive=1", "-think=1ms", server.URL), stdin, stdout, &errs)
				stdout.Close()
			}()
			var last load.Line
			lines := bufio.NewScanner(out)
			for progress := false; lines.Scan(); progress = true {
				if !progress && test.end != nil {
					go test.end(feed, cancel)
				}
				last = load.Line{}
				if err := json.Unmarshal(lines.Bytes(), &last); err != nil {
					t.Errorf("%s: %v", lines.Bytes(), err)
				}
			}
			if got := <-code; got != 0 || errs.Len() > 0 {
				t.Errorf("got exit status %d and %q, want 0 and nothing", got, errs.String())
			}
			if last.Summary == nil || last.Summary.OK == 0 || last.Summary.Failed != 0 {
				t.Errorf("the last line is %+v, want a summary without failures", last)
			}
		})
	}
}
