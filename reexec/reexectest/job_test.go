// SPDX-License-Identifier: Apache-2.0

package reexectest

import (
	"errors"
	"net"
	"strings"
	"testing"
)

// A job that fails says why, and what to change.
func TestJobErrorSaysWhy(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	taken := ln.Addr().String()
	keeping := Options{KeepAddresses: true, Files: plainUnits("", true)}
	keeping.Files["plain.socket"] = "[Socket]\nListenStream=" + taken + "\nFileDescriptorName=http\n"
	for name, c := range map[string]struct {
		options Options
		journal string
		hint    string
	}{
		"no program": {
			Options{Files: map[string]string{"keeper.service": keeper}, Programs: map[string]Program{"/usr/bin/other": Version("1")}},
			"Failed at step EXEC spawning /usr/bin/keeper: No such file or directory", "there is no /usr/bin/keeper on this machine: say in Options.Programs",
		},
		"no command":     {keeperOptions("ExecStartPre=/opt/none/check\n"), "spawning /opt/none/check: No such", "there is no /opt/none/check on this machine: say in Options.Programs"},
		"missing":        {Options{Files: map[string]string{"keeper.service": keeper}, Programs: map[string]Program{"/usr/bin/keeper": Missing()}}, "spawning /usr/bin/keeper: No such", ""},
		"not executable": {Options{Files: map[string]string{"keeper.service": keeper}, Programs: map[string]Program{"/usr/bin/keeper": Version("1").WithMode(0o644)}}, "spawning /usr/bin/keeper: Permission denied", ""},
		"its own address": {
			Options{Files: plainUnits("-listen="+taken, false), Addresses: map[string]string{"http": taken}},
			"listen tcp " + taken + ": bind: address already in use", "tell the service one of FreeAddress, and name it in Options.Addresses",
		},
		"a socket's address": {keeping, "ListenStream=" + taken + ": bind: address already in use", "without Options.KeepAddresses"},
		"what it says last":  {shellUnit("notify", "echo first; echo last >&2; exit 1", ""), ": last", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := Load(t, c.options)
			err := u.Start(t.Context())
			var job *JobError
			if !errors.As(err, &job) {
				t.Fatalf("%v is no JobError", err)
			}
			if !strings.Contains(job.Journal, c.journal) || !strings.Contains(job.Hint, c.hint) || (c.hint == "") != (job.Hint == "") {
				t.Errorf("journal %q, hint %q", job.Journal, job.Hint)
			}
			if text := err.Error(); !strings.Contains(text, "; the journal says: "+job.Journal) || !strings.HasSuffix(text, job.Hint) {
				t.Errorf("error %q", text)
			}
		})
	}
}

// A service that a connection has started again after its stop is no riddle.
func TestStopAndConnect(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	u := Start(t, Options{Files: plainUnits("", true)})
	if err := u.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	conn, err := u.Dial(ctx, "http")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := u.WaitFor(ctx, Running); err != nil {
		t.Fatal(err)
	}
	u.opts.Patience = 1
	if err := u.WaitFor(ctx, Inactive); err == nil || !strings.Contains(err.Error(), "which a connection to plain.socket has started") {
		t.Errorf("waiting for the end: %v", err)
	}
	for _, part := range []string{"plain.socket still listens: a connection to it starts the service again", "a connection to plain.socket starts the service"} {
		if strings.Count(u.Story(), part) != 1 {
			t.Errorf("the story lacks %q:\n%s", part, u.Story())
		}
	}
}
