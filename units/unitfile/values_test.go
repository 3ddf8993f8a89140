// SPDX-License-Identifier: Apache-2.0

package unitfile_test

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/units/unitfile"
)

func TestParseTimespan(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		text string
		unit time.Duration
		want time.Duration // negative for an error
	}{
		{"5min 20s", time.Second, 5*time.Minute + 20*time.Second},
		{"5min20s", time.Second, 5*time.Minute + 20*time.Second},
		{" 7 ", time.Second, 7 * time.Second},
		{"7", time.Microsecond, 7 * time.Microsecond},
		{"0", time.Second, 0},
		{"infinity", time.Second, unitfile.Infinity},
		{" infinity ", time.Second, unitfile.Infinity},
		{"1.5h", time.Second, 90 * time.Minute},
		{".5", time.Second, 500 * time.Millisecond},
		{"1.0000009s", time.Second, time.Second},
		{"1.5us", time.Second, time.Microsecond},
		{"2 h 3 m", time.Second, 2*time.Hour + 3*time.Minute},
		{"3m 3M", time.Second, 3*time.Minute + 3*31557600*time.Second/12},
		{"1y 1w 1d", time.Second, 31557600*time.Second + 8*day},
		{"1usec 2µs 3μs 4us", time.Second, 10 * time.Microsecond},
		{"1msec 1ms", time.Second, 2 * time.Millisecond},
		{"1 2", time.Second, 3 * time.Second},
		{"1s2", time.Second, 3 * time.Second},
		{"+5", time.Second, 5 * time.Second},
		{"300y", time.Second, unitfile.Infinity},
		{"584541y", time.Second, unitfile.Infinity},
		{"584542y", time.Second, -1},
		{"18446744073709551615us", time.Second, -1},
		{"99999999999999999999", time.Second, -1},
		{"", time.Second, -1},
		{" ", time.Second, -1},
		{"-1", time.Second, -1},
		{"5-1", time.Second, -1},
		{"5.", time.Second, -1},
		{".", time.Second, -1},
		{"1.2.3", time.Second, -1},
		{"5 bananas", time.Second, -1},
		{"s", time.Second, -1},
		{"5S", time.Second, -1},
		{"infinity s", time.Second, -1},
		{"1e3", time.Second, -1},
		{"0x10", time.Second, -1},
	} {
		got, err := unitfile.ParseTimespan(c.text, c.unit)
		if (c.want < 0) != (err != nil) || err == nil && got != c.want {
			t.Errorf("%q: %v, %v, want %v", c.text, got, err, c.want)
		}
	}
}

func FuzzTimespan(f *testing.F) {
	for _, s := range []string{"5min 20s", "infinity", "1.5h", ".5", "1y2M3w4d5h6m7s8ms9us", "1 2", "18446744073709551614us"} {
		f.Add(s, int64(90061000001))
	}
	f.Fuzz(func(t *testing.T, text string, micro int64) {
		if d, err := unitfile.ParseTimespan(text, time.Second); err == nil {
			if d < 0 {
				t.Fatalf("%q is %v", text, d)
			}
			// Spaces around it make no difference, and a longer one is no shorter.
			if again, err := unitfile.ParseTimespan(" "+text+"\t", time.Second); err != nil || again != d {
				t.Fatalf("%q is %v, and with spaces %v, %v", text, d, again, err)
			}
			if d != unitfile.Infinity && d < 1<<61 {
				if more, err := unitfile.ParseTimespan(text+" 3us", time.Second); err != nil || more != d+3*time.Microsecond {
					t.Fatalf("%q is %v, and with 3us more %v, %v", text, d, more, err)
				}
			}
		}
		if micro < 0 || micro > math.MaxInt64/1000 {
			return
		}
		want := time.Duration(micro) * time.Microsecond
		for _, written := range []string{
			fmt.Sprintf("%dus", micro),
			fmt.Sprintf("%dmin %ds %dusec", want/time.Minute, want%time.Minute/time.Second, want%time.Second/time.Microsecond),
			fmt.Sprintf("%d.%06d", want/time.Second, want%time.Second/time.Microsecond),
		} {
			if got, err := unitfile.ParseTimespan(written, time.Second); err != nil || got != want {
				t.Fatalf("%q is %v, %v, want %v", written, got, err, want)
			}
		}
	})
}

func TestParseNumbers(t *testing.T) {
	for text, want := range map[string]any{
		"1": true, "yes": true, "Y": true, "true": true, "T": true, "oN": true,
		"0": false, "no": false, "n": false, "False": false, "f": false, "OFF": false,
		"": nil, "2": nil, "ja": nil,
	} {
		got, err := unitfile.ParseBool(text)
		if (want == nil) != (err != nil) || err == nil && got != want {
			t.Errorf("ParseBool(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]uint64{
		"0": 0, "7": 7, "+7": 7, "0x1F": 31, "010": 8, "4294967295": 1<<32 - 1,
	} {
		if got, err := unitfile.ParseUnsigned(text, 32); err != nil || got != want {
			t.Errorf("ParseUnsigned(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-1", "+-1", "++1", "4294967296", "1_0", "0x", "1 2", "x", "08"} {
		if got, err := unitfile.ParseUnsigned(text, 32); err == nil {
			t.Errorf("ParseUnsigned(%q) = %d, want an error", text, got)
		}
	}
	if got, err := unitfile.ParseInt("-5", 32); err != nil || got != -5 {
		t.Errorf("ParseInt(-5) = %d, %v", got, err)
	}
	for text, want := range map[string]os.FileMode{
		"0660": 0o660, "755": 0o755, "0": 0, "4755": 0o755 | os.ModeSetuid, "1777": 0o777 | os.ModeSticky, "02000": os.ModeSetgid,
	} {
		if got, err := unitfile.ParseMode(text); err != nil || got != want {
			t.Errorf("ParseMode(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "8", "rwx", "10000", "-1"} {
		if got, err := unitfile.ParseMode(text); err == nil {
			t.Errorf("ParseMode(%q) = %v, want an error", text, got)
		}
	}
	for text, want := range map[string]uint64{
		"0": 0, "1": 1, "1B": 1, "1K": 1 << 10, "1.5M": 3 << 19, "1G 512M": 1<<30 + 512<<20, "2T": 2 << 40, "1 K": 1 << 10, "15E": 15 << 60, "7P 1": 7<<50 + 1,
	} {
		if got, err := unitfile.ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "K", "-1", "1X", "1k", "512M 1G", "1K 1K", "16E", "1.K", "18446744073709551616", "15E 1024P"} {
		if got, err := unitfile.ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", text, got)
		}
	}
}

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]syscall.Signal{
		"SIGTERM": syscall.SIGTERM, "TERM": syscall.SIGTERM, "15": 15, "1": 1, "64": 64, "SIGIO": syscall.SIGIO,
		"RTMIN": 34, "SIGRTMIN+3": 37, "RTMAX-1": 63, "SIGRTMAX": 64, "RTMIN+30": 64, "USR2": syscall.SIGUSR2,
	} {
		if got, err := unitfile.ParseSignal(text); err != nil || got != want {
			t.Errorf("ParseSignal(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "65", "-1", "sigterm", "SIG", "SIGSIGTERM", "RTMIN-1", "RTMIN+31", "RTMAX+1", "RTMIN3", "RTMIN+", "FOO", "SIG15"} {
		if got, err := unitfile.ParseSignal(text); err == nil {
			t.Errorf("ParseSignal(%q) = %d, want an error", text, got)
		}
	}
}

func TestParseExitStatuses(t *testing.T) {
	codes, signals, err := unitfile.ParseExitStatuses("TEMPFAIL 250 SIGKILL 0x1 RTMIN+1", 252)
	if err != nil || !slices.Equal(codes, []int{75, 250, 1}) || !slices.Equal(signals, []syscall.Signal{9, 35}) {
		t.Errorf("%v %v %v", codes, signals, err)
	}
	for _, text := range []string{"256", "-1", "tempfail", "1,2", `"1"`} {
		if codes, signals, err := unitfile.ParseExitStatuses(text, 252); err == nil {
			t.Errorf("%q: %v %v", text, codes, signals)
		}
	}
	if _, _, err := unitfile.ParseExitStatuses("TEMPFAIL", 242); err == nil || !strings.Contains(err.Error(), "write 75") {
		t.Errorf("TEMPFAIL for systemd 242: %v", err)
	}
}

// The names of exit statuses are those that systemd lists.
func TestExitStatusesOfSystemd(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "exit-status", "--no-pager").Output()
	if err != nil {
		if os.Geteuid() == 0 {
			t.Fatalf("systemd-analyze is needed (install the package systemd): %v", err)
		}
		t.Skipf("systemd-analyze is not here and only root can install it: %v", err)
	}
	names := 0
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[1] == "STATUS" {
			continue
		}
		want, err := strconv.Atoi(fields[1])
		if err != nil {
			t.Fatal(err)
		}
		names++
		if codes, _, err := unitfile.ParseExitStatuses(fields[0], 262); err != nil || len(codes) != 1 || codes[0] != want {
			t.Errorf("%s is %v, %v, want %d", fields[0], codes, err, want)
		}
	}
	if names < 60 {
		t.Errorf("systemd-analyze lists %d exit statuses:\n%s", names, out)
	}
}

func TestExpandSpecifiers(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "abc": "abc", "%%": "%", "%%n": "%n", "%n": "<n x>", "a%nb%p%%c": "a<n x>b<p x>%c",
		"50%": "50%", "%,%n": "%,<n x>", "size=5%,x": "size=5%,x", "%-": "%-", "%\xff": "%\xff", "%1": "<1 x>", "%%%": "%%",
	} {
		if got, err := letters(text); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	wrong := errors.New("wrong")
	if got, err := unitfile.ExpandSpecifiers("a%b", func(byte) (string, error) { return "", wrong }); !errors.Is(err, wrong) || got != "" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestPaths(t *testing.T) {
	for path, want := range map[string]string{
		"/": "/", "//": "/", "/a//b/./c/": "/a/b/c", "a/./b": "a/b", "./a": "a", "/a/../b": "/a/../b", "": "", ".": "", "a": "a",
	} {
		if got := unitfile.CleanPath(path); got != want {
			t.Errorf("CleanPath(%q) = %q, want %q", path, got, want)
		}
	}
	for _, c := range []struct {
		path     string
		absolute bool
		ok       bool
	}{
		{"/a", true, true},
		{"a", true, false},
		{"a/b", false, true},
		{"/a", false, false},
		{"/a/../b", true, false},
		{"..", false, false},
		{"", true, false},
		{"/\xff", true, false},
		{"/a\x00", true, false},
		{"/" + strings.Repeat("x", 256), true, false},
		{strings.Repeat("/x", 2048), true, false},
		{"/...", true, true},
	} {
		if err := unitfile.CheckPath(c.path, c.absolute); (err == nil) != c.ok {
			t.Errorf("CheckPath(%.40q, %v) = %v", c.path, c.absolute, err)
		}
	}
}

func TestWords(t *testing.T) {
	if got, err := unitfile.Words(`a  "b c" d\ e`); err != nil || !slices.Equal(got, []string{"a", `"b`, `c"`, "d e"}) {
		t.Errorf("Words: %q, %v", got, err)
	}
	if got, err := unitfile.Words(`a\`); err == nil {
		t.Errorf("Words: %q", got)
	}
	if got, err := unitfile.QuotedWords(`a\x20b "c d" 'e'f`); err != nil || !slices.Equal(got, []string{`a\x20b`, "c d", "ef"}) {
		t.Errorf("QuotedWords: %q, %v", got, err)
	}
	if got, err := unitfile.Fields(`a:b\:c::\x41`, ":"); err != nil || !slices.Equal(got, []string{"a", "b:c", "", "A"}) {
		t.Errorf("Fields: %q, %v", got, err)
	}
	for _, text := range []string{`a\`, `\q`} {
		if got, err := unitfile.Fields(text, ":"); err == nil {
			t.Errorf("Fields(%q): %q", text, got)
		}
	}
	if got, err := unitfile.Unescape(`a\tb:c`); err != nil || got != "a\tb:c" {
		t.Errorf("Unescape: %q, %v", got, err)
	}
}
