// SPDX-License-Identifier: Apache-2.0

package reexec

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"
)

func TestOneLine(t *testing.T) {
	for text, want := range map[string]string{
		"":                            "",
		"running: 1.2 (generation 3)": "running: 1.2 (generation 3)",
		"a\nb\tc\x00d\x7fe\u0085f":    "a b c d e f",
		"torn \xc3 byte":              "torn ? byte",
		"größer — als":                "größer — als",
	} {
		if got := oneLine(text); got != want {
			t.Errorf("oneLine(%q) = %q, want %q", text, got, want)
		}
	}
	for _, unit := range []string{"x", "ß", "漢", "\U0001F600"} {
		// With every offset, so that a rune is cut at each of its bytes.
		for offset := range 4 {
			got := oneLine(strings.Repeat("x", offset) + strings.Repeat(unit, 2000))
			if !utf8.ValidString(got) || len(got) > maxStatus+len("…") || !strings.HasSuffix(got, "…") {
				t.Errorf("%d times x and %q 2000 times: %d bytes, valid: %t", offset, unit, len(got), utf8.ValidString(got))
			}
		}
	}
}

func TestQuoteOutput(t *testing.T) {
	for _, c := range []struct{ output, want string }{
		{"", ""},
		{" \n\n", ""},
		{"one\n", ": one"},
		{"one\ntwo\nthree\nfour\n", ": two; three; four"},
		{"torn \xff", ": torn ?"},
		{"starting\npanic: no configuration\n\ngoroutine 1 [running]:\nmain.main()\n\t/x.go:3\nexit status 2\n", ": panic: no configuration"},
		{"fatal error: all goroutines are asleep - deadlock!\n\ngoroutine 1:\n", ": fatal error: all goroutines are asleep - deadlock!"},
		{"unexpected fault address\nfatal error: fault\n[signal SIGSEGV]\n", ": fatal error: fault"},
	} {
		if got := quoteOutput([]byte(c.output)); got != c.want {
			t.Errorf("quoteOutput(%q) = %q, want %q", c.output, got, c.want)
		}
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	out := &tail{limit: 10}
	for i := range 30 {
		text := fmt.Sprint(i, " ")
		if n, err := out.Write([]byte(text)); n != len(text) || err != nil {
			t.Fatalf("Write: %d, %v", n, err)
		}
	}
	if got := string(out.buf); got != " 27 28 29 " {
		t.Errorf("kept %q", got)
	}
	if _, err := out.Write([]byte("longer than the limit is")); err != nil {
		t.Fatal(err)
	}
	if got := string(out.buf); got != "e limit is" {
		t.Errorf("kept %q", got)
	}
}

func TestChildEnv(t *testing.T) {
	environ := []string{
		"PATH=/bin", "LISTEN_PID=1", "LISTEN_PIDFDID=2", "LISTEN_FDS=3", "LISTEN_FDNAMES=a:b:c",
		"NOTIFY_SOCKET=/run/notify", "WATCHDOG_PID=1", "WATCHDOG_USEC=30000000", "SYSTEMD_EXEC_PID=1",
		"MAINPID=1", "MAINPIDFDID=2", "HOLDFAST_HANDOVER=3,4,5", "HOLDFAST_CHECK=3", "HOLDFAST_LAUNCH=good,/var/lib/myapp/holdfast",
		"RUNTIME_DIRECTORY=/run/myapp", "LISTEN_FDS_OF_OURS=x", "EMPTY=", "WITH=equals=signs",
		"INVOCATION_ID=1", "JOURNAL_STREAM=8:9",
	}
	before := slices.Clone(environ)
	want := []string{
		"PATH=/bin", "NOTIFY_SOCKET=/run/notify", "WATCHDOG_USEC=30000000", "HOLDFAST_LAUNCH=file,/var/lib/myapp/holdfast", "RUNTIME_DIRECTORY=/run/myapp",
		"LISTEN_FDS_OF_OURS=x", "EMPTY=", "WITH=equals=signs", "INVOCATION_ID=1", "JOURNAL_STREAM=8:9",
	}
	if got := childEnv(environ); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	want = slices.DeleteFunc(want, func(kv string) bool {
		return strings.HasPrefix(kv, "NOTIFY_SOCKET=") || strings.HasPrefix(kv, "WATCHDOG_USEC=")
	})
	if got := childEnv(environ, "NOTIFY_SOCKET", "WATCHDOG_USEC"); !slices.Equal(got, want) {
		t.Errorf("for a check: %q, want %q", got, want)
	}
	if !slices.Equal(environ, before) {
		t.Errorf("the environment that was given changed: %q", environ)
	}
}

func TestDescribeStatus(t *testing.T) {
	for status, want := range map[syscall.WaitStatus]string{
		0: "exited with status 0", 3 << 8: "exited with status 3",
		9: "was killed by SIGKILL", 11 | 0x80: "was killed by SIGSEGV", // with a core dump
	} {
		if got := describeStatus(status); got != want {
			t.Errorf("describeStatus(%#x) = %q, want %q", uint32(status), got, want)
		}
	}
}
