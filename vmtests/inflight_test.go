// SPDX-License-Identifier: Apache-2.0

package vmtests_test

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/vmtests"
)

// inFlight is one request that takes its time.
type inFlight struct {
	m     *myapp
	lines chan string // of the answer, after its first one
	ended chan error
}

// slowRequest asks for an answer that takes d, and returns once the service
// has begun to answer.
func (m *myapp) slowRequest(d time.Duration) *inFlight {
	m.t.Helper()
	r, w := io.Pipe()
	p, err := m.Start(m.ctx, vmtests.Command{
		Args: []string{"bash", "-c", fmt.Sprintf(
			`exec 3<>/dev/tcp/127.0.0.1/8080; printf 'GET /sleep?for=%v HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n' >&3; exec cat <&3`, d)},
		Stdout: w,
	})
	if err != nil {
		m.t.Fatal(err)
	}
	f := &inFlight{m: m, lines: make(chan string, 100), ended: make(chan error, 1)}
	go func() {
		err := p.Wait()
		_ = w.Close()
		f.ended <- err
	}()
	first := make(chan string, 1)
	go func() {
		defer close(f.lines)
		scanner := bufio.NewScanner(r)
		for n := 0; scanner.Scan(); n++ {
			if n == 0 {
				first <- scanner.Text()
				continue
			}
			f.lines <- scanner.Text()
		}
	}()
	select {
	case line := <-first:
		if !strings.HasPrefix(line, "HTTP/1.1 200") {
			m.t.Fatalf("a slow request: %q", line)
		}
	case err := <-f.ended:
		m.t.Fatalf("a slow request was not answered: %v", err)
	}
	return f
}

// rest is nil if the rest of the answer came.
func (f *inFlight) rest() error {
	var all []string
	for line := range f.lines {
		all = append(all, line)
	}
	if err := <-f.ended; err != nil || !strings.Contains(strings.Join(all, "\n"), "slept for") {
		return fmt.Errorf("a request in flight was cut: %v\n%s", err, strings.Join(all, "\n"))
	}
	return nil
}

// mustAnswer says that the rest of the answer came.
func (f *inFlight) mustAnswer() {
	f.m.t.Helper()
	if err := f.rest(); err != nil {
		f.m.t.Error(err)
	}
}
