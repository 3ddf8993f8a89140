// SPDX-License-Identifier: Apache-2.0

package unitfile_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/holdfast-go/holdfast/units/unitfile"
)

// letters stands in for the specifiers of a unit.
func letters(text string) (string, error) {
	return unitfile.ExpandSpecifiers(text, func(c byte) (string, error) {
		if c == 'z' {
			return "", errors.New("no z")
		}
		return fmt.Sprintf("<%c x>", c), nil
	})
}

func TestParseCommandLine(t *testing.T) {
	const prefixes = "-@:+!"
	for _, c := range []struct {
		value string
		want  string // "prefixes path [args] ..."
		err   string
	}{
		{"/bin/x", `"" /bin/x ["/bin/x"]`, ""},
		{"x a", `"" x ["x" "a"]`, ""},
		{"-@:+/bin//x/./y argv0 a", `"-@:+" /bin/x/y ["argv0" "a"]`, ""},
		{"!!/bin/x", `"!!" /bin/x ["/bin/x"]`, ""},
		{"!-!/bin/x", `"!!-" /bin/x ["/bin/x"]`, ""},
		{"!/bin/x", `"!" /bin/x ["/bin/x"]`, ""},
		{`"-/bin/x y" z`, `"-" /bin/x y ["/bin/x y" "z"]`, ""},
		{`/bin/x "a b" 'c d' e"f g"h ""`, `"" /bin/x ["/bin/x" "a b" "c d" "ef gh" ""]`, ""},
		{`/bin/x "a'b" 'c"d' "e\"f" 'g\'h'`, `"" /bin/x ["/bin/x" "a'b" "c\"d" "e\"f" "g'h"]`, ""},
		{`/bin/x \a\b\f\n\r\t\v\\\"\'\s\x41\101\u00e4\U0001F600`, `"" /bin/x ["/bin/x" "\a\b\f\n\r\t\v\\\"' AAä😀"]`, ""},
		{`/bin/x a\ b`, `"" /bin/x ["/bin/x" "a\\ b"] unknown`, ""},
		{`/bin/x \q \x4 \400 \ud800 \x00 \000`, `"" /bin/x ["/bin/x" "\\q" "\\x4" "\\400" "\\ud800" "\\x00" "\\000"] unknown`, ""},
		{`/bin/x \xff`, `"" /bin/x ["/bin/x" "\xff"]`, ""},
		{`/bin/x a ; /bin/y b`, `"" /bin/x ["/bin/x" "a"] "" /bin/y ["/bin/y" "b"]`, ""},
		{`/bin/x ; ; -/bin/y ;`, `"" /bin/x ["/bin/x"] "-" /bin/y ["/bin/y"]`, ""},
		{`/bin/x \; a;b "; " ';' ;c`, `"" /bin/x ["/bin/x" ";" "a;b" "; " ";" ";c"]`, ""},
		{`; /bin/x`, `"" /bin/x ["/bin/x"]`, ""},
		{"/bin/x\ta\n b", `"" /bin/x ["/bin/x" "a" "b"]`, ""},
		{"/bin/x $A ${B} $$ $A$B", `"" /bin/x ["/bin/x" "$A" "${B}" "$$" "$A$B"]`, ""},
		{"/bin/x 50%% %a b%c", `"" /bin/x ["/bin/x" "50%" "<a x>" "b<c x>"]`, ""},
		{"/bin/%p", `"" /bin/<p x> ["/bin/<p x>"]`, ""},
		{"", "", ""},
		{";", "", ""},

		{"/bin/x %z", "", "no z"},
		{"/bin/%z", "", "no z"},
		{`/bin/x "a`, "", "a quote is not closed"},
		{`/bin/x 'a`, "", "a quote is not closed"},
		{`/bin/x \q "a`, "", "a quote is not closed"},
		{"@/bin/x", "", "argv[0]"},
		{"-", "", "no program to run"},
		{`""`, "", "no program to run"},
		{"bin/x", "", "neither an absolute path nor a bare file name"},
		{"./x", "", "neither an absolute path nor a bare file name"},
		{"/bin/", "", "is a directory"},
		{"/bin/..", "", "is a directory"},
		{".", "", "is a directory"},
		{`"/bin/x\n"`, "", "control character"},
		{"--/bin/x", "", "neither an absolute path nor a bare"},
		{"+!/bin/x", "", "neither an absolute path nor a bare"},
		{"/" + strings.Repeat("x", 256), "", "257 bytes"},
		{"/bin/x ; bin/y", "", "neither an absolute path nor a bare"},
	} {
		commands, warnings, err := unitfile.ParseCommandLine(c.value, prefixes, letters)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: %v, want %q", c.value, err, c.err)
			}
			continue
		}
		var got []string
		for _, cmd := range commands {
			got = append(got, fmt.Sprintf("%q %s %q", cmd.Prefixes, cmd.Path, cmd.Args))
		}
		if len(warnings) > 0 {
			got = append(got, "unknown")
		}
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%q: %s, %v, want %s", c.value, strings.Join(got, " "), err, c.want)
		}
	}
}

// A version without a prefix takes it for a part of the path.
func TestPrefixOfALaterVersion(t *testing.T) {
	if c, _, err := unitfile.ParseCommandLine(":/bin/x", "-@+!", letters); err == nil {
		t.Errorf("%+v", c)
	}
}

func TestExpandArguments(t *testing.T) {
	env := []string{"ONE=one", "TWO=two two", "TRES=a 'b c'  d", "EMPTY=", "ONE=last", "BS=a\\ b", "OPEN=a 'b", "U_1=u"}
	for _, c := range []struct {
		arg  string
		want []string
	}{
		{"x", []string{"x"}},
		{"", []string{""}},
		{"$ONE", []string{"last"}},
		{"$TWO", []string{"two", "two"}},
		{"${TWO}", []string{"two two"}},
		{"$TRES", []string{"a", "b c", "d"}},
		{"$BS", []string{"a b"}},
		{"$OPEN", []string{"a", "b"}},
		{"$EMPTY", nil},
		{"${EMPTY}", []string{""}},
		{"$NONE", nil},
		{"${NONE}", []string{""}},
		{"$", nil},
		{"a$", []string{"a$"}},
		{"$$", []string{"$"}},
		{"$$ONE", []string{"$ONE"}},
		{"$$$ONE", []string{"$$ONE"}},
		{"a$ONE", []string{"a$ONE"}},
		{"a${ONE}b${TWO}c", []string{"alastbtwo twoc"}},
		{"${ONE", []string{"${ONE"}},
		{"x${ONE", []string{"x${ONE"}},
		{"${}", []string{""}},
		{"${ONE:-x}", []string{""}},
		{"$ONE.x", nil},
		{"$U_1", []string{"u"}},
		{"${U_1}${U_1}", []string{"uu"}},
	} {
		if got := unitfile.ExpandArguments([]string{c.arg}, env); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.arg, got, c.want)
		}
	}
}

// Arguments that are written with quotes are read back, whatever is in them.
func TestQuoteIsReadBack(t *testing.T) {
	const seed = 1
	r := rand.New(rand.NewPCG(seed, seed))
	alphabet := []rune("ab \t\n\r\"'\\;%$#=äü😀\x01\x1b\x7f{}~@-:+!|")
	for range 20000 {
		args := []string{"/bin/x"}
		for range r.IntN(6) {
			var b strings.Builder
			for range r.IntN(8) {
				b.WriteRune(alphabet[r.IntN(len(alphabet))])
			}
			args = append(args, b.String())
		}
		checkQuote(t, args)
	}
}

func checkQuote(t *testing.T, args []string) {
	t.Helper()
	value := unitfile.Quote(args...)
	// It is one line of a unit file, too.
	p := unitfile.Parse("f", "[A]\nK="+value+"\n")
	if len(p.Faults) > 0 || len(p.Assignments) != 1 {
		t.Fatalf("%q is written as %s, which is %+v, %v", args, value, p.Assignments, p.Faults.Err())
	}
	commands, warnings, err := unitfile.ParseCommandLine(p.Assignments[0].Value, "-@:+!", letters)
	if err != nil || len(warnings) > 0 || len(commands) != 1 {
		t.Fatalf("%q is written as %s, which is %+v, %q, %v", args, value, commands, warnings, err)
	}
	if got := unitfile.ExpandArguments(commands[0].Args, []string{"a=wrong"}); !slices.Equal(got, args) {
		t.Fatalf("%q is written as %s, which is read as %q", args, value, got)
	}
}

func TestLongCommandLine(t *testing.T) {
	value := "/bin/x " + strings.Repeat(`"a b" `, 200000)
	commands, _, err := unitfile.ParseCommandLine(value, "", letters)
	if err != nil || len(commands) != 1 || len(commands[0].Args) != 200001 {
		t.Errorf("%d commands, %v", len(commands), err)
	}
}

func FuzzCommandLine(f *testing.F) {
	f.Add(`-@/bin/x "a b" 'c' ${D} $E \x41 ; y`, "a b", "A=b c")
	f.Add(`/bin/x \; %% $$ "\"`, "$X", "X='a b")
	f.Fuzz(func(t *testing.T, value, arg, assignment string) {
		commands, _, err := unitfile.ParseCommandLine(value, "-@:+!", letters)
		if err == nil {
			for _, c := range commands {
				if c.Path == "" || len(c.Args) == 0 {
					t.Fatalf("%+v", c)
				}
				unitfile.ExpandArguments(c.Args, []string{assignment})
			}
		}
		if utf8.ValidString(arg) && !strings.Contains(arg, "\x00") && len(arg) < 1000 && !strings.ContainsFunc(arg, noncharacter) {
			checkQuote(t, []string{"/bin/x", arg})
		}
	})
}

func noncharacter(r rune) bool { return r&0xfffe == 0xfffe || r >= 0xfdd0 && r <= 0xfdef }
