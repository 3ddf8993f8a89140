// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/reexec/fingerprint"
)

// An answer that was written just before its writer ended is read, however
// late the reader comes to it.
func TestAnswerIsNotLost(t *testing.T) {
	for range 300 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/bin/sh", "-c", "echo answer >&3")
		cmd.ExtraFiles = []*os.File{w}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		written := readWritten(r, 100)
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		if got := string(written()); got != "answer\n" {
			t.Fatalf("read %q of the answer", got)
		}
		_ = r.Close()
	}
}

// Neither more than the limit is read, nor is the end of the pipe waited for.
func TestAnswerIsBounded(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	written := readWritten(r, 10)
	if _, err := w.WriteString(strings.Repeat("x", 100)); err != nil {
		t.Fatal(err)
	}
	if got := string(written()); got != strings.Repeat("x", 10) {
		t.Errorf("read %q", got)
	}
	silent, held, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	defer held.Close()
	if got := readWritten(silent, 10)(); len(got) != 0 {
		t.Errorf("read %q of nothing", got)
	}
}

// A release before fingerprints says its version alone; its file says the rest.
func TestAnswerWithoutFingerprint(t *testing.T) {
	var a checkAnswer
	if err := json.Unmarshal([]byte(`{"name":"myapp","version":"1.3.0","versions":{"oldest":1,"latest":2}}`), &a); err != nil {
		t.Fatal(err)
	}
	a.complete(fingerprint.Fingerprint{Program: "p", Version: "v0.0.0", Revision: "3f2a9c1e5b7d", Modified: true})
	if got := a.Fingerprint.String(); got != "1.3.0 (3f2a9c1, modified)" {
		t.Errorf("it is %q", got)
	}
	if p := a.process(7); p.Version != "1.3.0" || p.Build != "3f2a9c1, modified" || p.Generation != 7 {
		t.Errorf("its process is %+v", p)
	}
	a.complete(fingerprint.Fingerprint{})
	if a.Fingerprint.Program != "p" {
		t.Error("what it has said itself is replaced")
	}
}
