// SPDX-License-Identifier: Apache-2.0

package activation

import (
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	testPID     = 4711
	testPidfdID = 99887766
)

func testPidfd() (uint64, bool) { return testPidfdID, true }

// variables is an environment: what is not in the map is not set.
type variables map[string]string

func (v variables) lookup(name string) (string, bool) {
	value, ok := v[name]
	return value, ok
}

func TestParse(t *testing.T) {
	const (
		malformed = 1 << iota
		absent
	)
	// What sd_listen_fds_with_names of systemd 252 returns is said where we differ from it.
	cases := []struct {
		name    string
		env     variables
		outcome int
		says    string // in the error or the reason
		names   []string
	}{
		{"nothing", variables{}, absent, "LISTEN_PID is not set", nil},
		{"no LISTEN_PID", variables{"LISTEN_FDS": "1", "LISTEN_FDNAMES": "a"}, absent, "LISTEN_PID is not set", nil},
		{"no LISTEN_FDS", variables{"LISTEN_PID": "4711", "LISTEN_FDNAMES": "a"}, absent, "LISTEN_FDS is not set", nil},
		{"another process", variables{"LISTEN_PID": "4712", "LISTEN_FDS": "1"}, absent, `LISTEN_PID="4712" names another process, this is 4711`, nil},
		// The variables of another process may be as malformed as they like.
		{"another process, malformed", variables{"LISTEN_PID": "4712", "LISTEN_FDS": "x"}, absent, "LISTEN_PID", nil},
		{
			"another process of this number",
			variables{"LISTEN_PID": "4711", "LISTEN_PIDFDID": "5", "LISTEN_FDS": "1"},
			absent,
			`LISTEN_PIDFDID="5" names another process with the number 4711, this has 99887766`, nil,
		},

		{"one", variables{"LISTEN_PID": "4711", "LISTEN_FDS": "1"}, 0, "", []string{"unknown"}},
		{"pidfd id", variables{"LISTEN_PID": "4711", "LISTEN_PIDFDID": "99887766", "LISTEN_FDS": "1"}, 0, "", []string{"unknown"}},
		{"default names", variables{"LISTEN_PID": "4711", "LISTEN_FDS": "3"}, 0, "", []string{"unknown", "unknown", "unknown"}},
		{"names", variables{"LISTEN_PID": "4711", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "web:web:admin.socket"}, 0, "", []string{"web", "web", "admin.socket"}},
		{"leading zeros", variables{"LISTEN_PID": "04711", "LISTEN_FDS": "02"}, 0, "", []string{"unknown", "unknown"}},

		// Empty names are legal, and colons do not coalesce.
		{"an empty name", variables{"LISTEN_PID": "4711", "LISTEN_FDS": "1", "LISTEN_FDNAMES": ""}, 0, "", []string{""}},
		{"two empty names", variables{"LISTEN_PID": "4711", "LISTEN_FDS": "2", "LISTEN_FDNAMES": ":"}, 0, "", []string{"", ""}},
		{"first name empty", variables{"LISTEN_PID": "4711", "LISTEN_FDS": "2", "LISTEN_FDNAMES": ":a"}, 0, "", []string{"", "a"}},
		{"last name empty", variables{"LISTEN_PID": "4711", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:"}, 0, "", []string{"a", ""}},
		{"middle name empty", variables{"LISTEN_PID": "4711", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "a::b"}, 0, "", []string{"a", "", "b"}},
		// libsystemd drops the backslash; the service manager does not escape, so it is part of the name.
		{"a backslash", variables{"LISTEN_PID": "4711", "LISTEN_FDS": "1", "LISTEN_FDNAMES": `a\b "c d"`}, 0, "", []string{`a\b "c d"`}},

		{
			"too few names",
			variables{"LISTEN_PID": "4711", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a"},
			malformed,
			`LISTEN_FDNAMES="a": must be 2 names with colons between them, as LISTEN_FDS says, not 1`, nil,
		},
		{"too many names", variables{"LISTEN_PID": "4711", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a:b"}, malformed, `LISTEN_FDNAMES="a:b": must be 1 names`, nil},
		{"one more colon", variables{"LISTEN_PID": "4711", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b:"}, malformed, "not 3", nil},

		{"LISTEN_PID empty", variables{"LISTEN_PID": "", "LISTEN_FDS": "1"}, malformed, `LISTEN_PID="": must be the number of a process`, nil},
		{"LISTEN_PID word", variables{"LISTEN_PID": "self", "LISTEN_FDS": "1"}, malformed, `LISTEN_PID="self"`, nil},
		{"LISTEN_PID zero", variables{"LISTEN_PID": "0", "LISTEN_FDS": "1"}, malformed, `LISTEN_PID="0"`, nil},
		{"LISTEN_PID negative", variables{"LISTEN_PID": "-4711", "LISTEN_FDS": "1"}, malformed, `LISTEN_PID="-4711"`, nil},
		{"LISTEN_PID too large", variables{"LISTEN_PID": "99999999999", "LISTEN_FDS": "1"}, malformed, `LISTEN_PID="99999999999"`, nil},
		// libsystemd takes " 4711", "+4711" and "0x1267"; systemd writes none of them.
		{"LISTEN_PID with a space", variables{"LISTEN_PID": " 4711", "LISTEN_FDS": "1"}, malformed, `LISTEN_PID=" 4711"`, nil},
		{"LISTEN_PID with a sign", variables{"LISTEN_PID": "+4711", "LISTEN_FDS": "1"}, malformed, `LISTEN_PID="+4711"`, nil},
		{"LISTEN_PIDFDID word", variables{"LISTEN_PID": "4711", "LISTEN_PIDFDID": "x", "LISTEN_FDS": "1"}, malformed, `LISTEN_PIDFDID="x": must be the inode number of a pidfd`, nil},
		{"LISTEN_PIDFDID empty", variables{"LISTEN_PID": "4711", "LISTEN_PIDFDID": "", "LISTEN_FDS": "1"}, malformed, `LISTEN_PIDFDID=""`, nil},

		{"LISTEN_FDS empty", variables{"LISTEN_PID": "4711", "LISTEN_FDS": ""}, malformed, `LISTEN_FDS="": must be a positive number`, nil},
		{"LISTEN_FDS zero", variables{"LISTEN_PID": "4711", "LISTEN_FDS": "0"}, malformed, `LISTEN_FDS="0": must be a positive number`, nil},
		{"LISTEN_FDS negative", variables{"LISTEN_PID": "4711", "LISTEN_FDS": "-1"}, malformed, `LISTEN_FDS="-1": must be a positive number`, nil},
		{"LISTEN_FDS with a tail", variables{"LISTEN_PID": "4711", "LISTEN_FDS": "1 "}, malformed, `LISTEN_FDS="1 "`, nil},
		{"LISTEN_FDS hexadecimal", variables{"LISTEN_PID": "4711", "LISTEN_FDS": "0x2"}, malformed, `LISTEN_FDS="0x2"`, nil},
		{"LISTEN_FDS beyond the last descriptor", variables{"LISTEN_PID": "4711", "LISTEN_FDS": "2147483645"}, malformed, "must not be more than 2147483644", nil},
		{"LISTEN_FDS beyond an int", variables{"LISTEN_PID": "4711", "LISTEN_FDS": "9999999999"}, malformed, `LISTEN_FDS="9999999999"`, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			said, err := parse(c.env.lookup, testPID, testPidfd)
			switch c.outcome {
			case malformed:
				var envErr *EnvError
				if !errors.As(err, &envErr) {
					t.Fatalf("%#v, want an *EnvError", err)
				}
				if envErr.Value != c.env[envErr.Var] {
					t.Errorf("the error says %s=%q, it is %q", envErr.Var, envErr.Value, c.env[envErr.Var])
				}
				wantText(t, err, c.says)
			case absent:
				if err != nil || said.count != 0 {
					t.Fatalf("%d descriptors, error %v; want none and no error", said.count, err)
				}
				if !errors.Is(said.absent, ErrNotActivated) {
					t.Errorf("the reason %v is not ErrNotActivated", said.absent)
				}
				wantText(t, said.absent, c.says)
			default:
				if err != nil {
					t.Fatal(err)
				}
				if got := namesOf(said); !slices.Equal(got, c.names) || said.absent != nil {
					t.Errorf("names %q, reason %v; want %q and no reason", got, said.absent, c.names)
				}
			}
		})
	}
}

func wantText(t *testing.T, err error, says string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("error %v, want it to say %q", err, says)
	}
}

func namesOf(said announcement) []string {
	var names []string
	for i := range said.count {
		names = append(names, said.name(i))
	}
	return names
}

// Without numbers of its own the kernel leaves LISTEN_PIDFDID unchecked, but not unparsed.
func TestParseWithoutPidfdNumbers(t *testing.T) {
	none := func() (uint64, bool) { return 0, false }
	said, err := parse(variables{"LISTEN_PID": "4711", "LISTEN_PIDFDID": "5", "LISTEN_FDS": "1"}.lookup, testPID, none)
	if err != nil || said.count != 1 {
		t.Errorf("%d descriptors, error %v; want 1 and none", said.count, err)
	}
	_, err = parse(variables{"LISTEN_PID": "4711", "LISTEN_PIDFDID": "x", "LISTEN_FDS": "1"}.lookup, testPID, none)
	wantText(t, err, `LISTEN_PIDFDID="x"`)
}

// Also with wrong names the number is known, so that no descriptor reaches the children.
func TestParseCountsDespiteWrongNames(t *testing.T) {
	said, err := parse(variables{"LISTEN_PID": "4711", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "a"}.lookup, testPID, testPidfd)
	if err == nil || said.count != 3 {
		t.Errorf("%d descriptors, error %v; want 3 and an error", said.count, err)
	}
}

func FuzzParse(f *testing.F) {
	// set is a bit for each variable: whether it is in the environment at all.
	f.Add("4711", "", "1", "", uint8(0b0101))
	f.Add("4711", "99887766", "2", "a:b", uint8(0b1111))
	f.Add("4712", "1", "x", "::", uint8(0b1111))
	f.Add("4711", "x", "-1", "a", uint8(0b1101))
	f.Add("4711", "", "2147483644", "", uint8(0b0101))
	f.Add("", "", "", "", uint8(0b1111))
	f.Add("4711", "", "3", "a::b", uint8(0b1101))
	f.Add("04711", "18446744073709551616", "1", "\x00\xff", uint8(0b1111))
	f.Fuzz(func(t *testing.T, pid, pidfdID, fds, names string, set uint8) {
		env := variables{}
		for i, v := range []struct{ name, value string }{
			{varPID, pid}, {varPIDFDID, pidfdID}, {varFDs, fds}, {varNames, names},
		} {
			if set&(1<<i) != 0 {
				env[v.name] = v.value
			}
		}
		said, err := parse(env.lookup, testPID, testPidfd)
		if err != nil {
			var envErr *EnvError
			if !errors.As(err, &envErr) {
				t.Fatalf("%T is no *EnvError", err)
			}
			if value, ok := env[envErr.Var]; !ok || value != envErr.Value {
				t.Fatalf("the error names %s=%q, which is not in the environment", envErr.Var, envErr.Value)
			}
			if said.absent != nil {
				t.Fatalf("both an error and a reason: %v, %v", err, said.absent)
			}
			return
		}
		if (said.count == 0) != (said.absent != nil) {
			t.Fatalf("%d descriptors, reason %v", said.count, said.absent)
		}
		if said.count == 0 {
			if !errors.Is(said.absent, ErrNotActivated) {
				t.Fatalf("the reason %v is not ErrNotActivated", said.absent)
			}
			return
		}
		// All that was accepted is for this process, within bounds, and named exactly as written.
		if n, err := strconv.ParseUint(env[varPID], 10, 64); err != nil || n != testPID {
			t.Fatalf("took %s=%q for this process", varPID, env[varPID])
		}
		if n, err := strconv.Atoi(env[varFDs]); err != nil || n != said.count || n > math.MaxInt32-firstDescriptor {
			t.Fatalf("%s=%q gave %d", varFDs, env[varFDs], said.count)
		}
		value, ok := env[varNames]
		if !ok {
			if said.names != nil || said.name(0) != unnamed || said.name(said.count-1) != unnamed {
				t.Fatalf("no %s, names %q", varNames, said.names)
			}
			return
		}
		if len(said.names) != said.count || strings.Join(said.names, ":") != value {
			t.Fatalf("%s=%q gave %q", varNames, value, said.names)
		}
	})
}
