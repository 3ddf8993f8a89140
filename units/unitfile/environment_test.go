// SPDX-License-Identifier: Apache-2.0

package unitfile_test

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/holdfast-go/holdfast/units/unitfile"
)

func TestParseEnvironment(t *testing.T) {
	for _, c := range []struct {
		value string
		want  []string
		err   string
	}{
		{"A=b C=d", []string{"A=b", "C=d"}, ""},
		// systemd.exec(5)
		{`"VAR1=word1 word2" VAR2=word3 "VAR3=$word 5 6"`, []string{"VAR1=word1 word2", "VAR2=word3", "VAR3=$word 5 6"}, ""},
		{`A="b c" D='e f'g`, []string{"A=b c", "D=e fg"}, ""},
		{`A=\x41\n "B=\""`, []string{"A=A\n", `B="`}, ""},
		{"A=", []string{"A="}, ""},
		{"A=%%n %a=x", nil, "<a x>"},
		{"A=%n", []string{"A=<n x>"}, ""},
		{"A=%z", nil, "no z"},
		{"A", nil, "no assignment"},
		{"=b", nil, "not the name"},
		{"A-B=c", nil, "not the name"},
		{"1A=c", nil, "not the name"},
		{`A="b`, nil, "not closed"},
		{`A=\q`, nil, "no escape"},
		{`A=\xff`, nil, "not valid UTF-8"},
	} {
		got, err := unitfile.ParseEnvironment(c.value, letters)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: %v, want %q", c.value, err, c.err)
			}
		} else if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, %v, want %q", c.value, got, err, c.want)
		}
	}
}

func TestSetEnvironment(t *testing.T) {
	got := unitfile.SetEnvironment([]string{"A=1", "B=2"}, "C=3", "A=4", "C=5")
	if want := []string{"A=4", "B=2", "C=5"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

var environmentFiles = []struct {
	text string
	want []string
}{
	{"", nil},
	{"A=b\nC=d", []string{"A=b", "C=d"}},
	{"  A  =  b c  \n", []string{"A=b c"}},
	{"# x\n; y\nA=b # c\n", []string{"A=b # c"}},
	{"A='b c'\nD=\"e f\"\n", []string{"A=b c", "D=e f"}},
	{"A='b\nc'\n", []string{"A=b\nc"}},
	{"A=\"b\\\nc\"\n", []string{"A=bc"}},
	{"A=b\\\nc\n", []string{"A=bc"}},
	{"A=b\\\n", []string{"A=b"}},
	{"A=\\b\\\\c\\n\n", []string{`A=b\cn`}},
	{"A=\"\\\"\\\\\\$\\`\\n\"\n", []string{"A=\"\\$`\\n"}},
	{"A='\\n'\n", []string{`A=\n`}},
	{"A='b'c\n", []string{"A=bc"}},
	{"A='b' c\n", []string{"A=bc"}},
	{"A=b'c'\n", []string{"A=b'c'"}},
	{"A='b'  \"c\" 'd'\n", []string{"A=bcd"}},
	{"A=\nB=\"\"\n", []string{"A=", "B="}},
	{"A=1\nA=2\nB=3\nA=4\n", []string{"A=4", "B=3"}},
	{"A\nB=c\n", []string{"B=c"}},
	{"=x\nB=c\n", []string{"B=c"}},
	{"A-B=x\n1=y\nexport C=d\nE=f\n", []string{"E=f"}},
	{"A=b\r\nC=d\r\n", []string{"A=b", "C=d"}},
	{"A='open", []string{"A=open"}},
	{"A=\"open\\", []string{"A=open"}},
	{"A=$B ${C} %n\n", []string{"A=$B ${C} %n"}},
	{"A=b\x00C=d", []string{"A=b"}},
	{"A=b=c\n", []string{"A=b=c"}},
	{"A= \\ b \n", []string{"A= b"}},
	{"A=b \\ \n", []string{"A=b  "}},
}

func TestParseEnvironmentFile(t *testing.T) {
	for _, c := range environmentFiles {
		if got, err := unitfile.ParseEnvironmentFile(c.text, 262); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, %v, want %q", c.text, got, err, c.want)
		}
	}
	// A comment that ends in a backslash.
	for version, want := range map[int][]string{253: {"C=d"}, 254: {"A=b", "C=d"}} {
		if got, err := unitfile.ParseEnvironmentFile("# x \\\nA=b\nC=d\n", version); err != nil || !slices.Equal(got, want) {
			t.Errorf("for systemd %d: %q, %v, want %q", version, got, err, want)
		}
	}
	if _, err := unitfile.ParseEnvironmentFile("A=\xff\n", 262); err == nil || !strings.Contains(err.Error(), `"A"`) {
		t.Errorf("a value that is no UTF-8: %v", err)
	}
}

// What the shell makes of a file of plain quotes is what systemd makes of it.
func TestEnvironmentFileLikeTheShell(t *testing.T) {
	const text = "A='b c'\nB=\"d \\\"e\\\" \\$f \\\\\"\nC=g\\ h\nD='i'\"j\"\nE=\nF=\"k\\\nl\"\n# M=n\n"
	out, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", text+`printf '%s|' "A=$A" "B=$B" "C=$C" "D=$D" "E=$E" "F=$F" "M=$M"`).Output()
	if err != nil {
		t.Fatal(err)
	}
	got, err := unitfile.ParseEnvironmentFile(text, 262)
	if err != nil || strings.Join(got, "|")+"|M=|" != string(out) {
		t.Errorf("%q, %v, and the shell says %q", got, err, out)
	}
}

func FuzzEnvironmentFile(f *testing.F) {
	for _, c := range environmentFiles {
		f.Add(c.text, "v")
	}
	f.Fuzz(func(t *testing.T, text, value string) {
		for _, version := range []int{239, 262} {
			env, err := unitfile.ParseEnvironmentFile(text, version)
			if err != nil {
				continue
			}
			seen := make(map[string]bool)
			for _, e := range env {
				name, _, ok := strings.Cut(e, "=")
				if !ok || !unitfile.ValidEnvironmentName(name) || seen[name] || strings.Contains(e, "\x00") || !utf8.ValidString(e) {
					t.Fatalf("%q in %q", e, env)
				}
				seen[name] = true
			}
		}
		// A value in single quotes is read back.
		if utf8.ValidString(value) && !strings.ContainsAny(value, "'\x00") && !strings.ContainsFunc(value, noncharacter) {
			env, err := unitfile.ParseEnvironmentFile(fmt.Sprintf("A=1\nB='%s'\nC=2", value), 262)
			if want := []string{"A=1", "B=" + value, "C=2"}; err != nil || !slices.Equal(env, want) {
				t.Fatalf("%q, %v, want %q", env, err, want)
			}
		}
	})
}
