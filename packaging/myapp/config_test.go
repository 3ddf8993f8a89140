// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// configFlags are some flags as run has them.
func configFlags(t *testing.T, args ...string) (flags *flag.FlagSet, greeting *string, probation *time.Duration) {
	t.Helper()
	flags = flag.NewFlagSet("myapp", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	greeting = flags.String("greeting", "hello", "")
	probation = flags.Duration("probation", 5*time.Second, "")
	flags.Bool("version", false, "")
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return flags, greeting, probation
}

func TestReadConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "myapp.conf")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	write("# what it says\n\ngreeting = good = morning\n  probation=1s\n")
	flags, greeting, probation := configFlags(t)
	if err := readConfig(flags, path); err != nil {
		t.Fatal(err)
	}
	if *greeting != "good = morning" || *probation != time.Second {
		t.Errorf("greeting %q, probation %v, want those of the file", *greeting, *probation)
	}
	flags, greeting, probation = configFlags(t, "-greeting=hi")
	if err := readConfig(flags, path); err != nil {
		t.Fatal(err)
	}
	if *greeting != "hi" || *probation != time.Second {
		t.Errorf("greeting %q, probation %v, want that of the command line and that of the file", *greeting, *probation)
	}

	for text, want := range map[string]string{
		"greeting\n":           "myapp.conf:1: \"greeting\": write NAME = VALUE",
		"\nprobation = soon\n": "myapp.conf:2: probation = \"soon\": ",
		"gretting = hi\n":      "myapp.conf:1: gretting: unknown",
		"version = true\n":     "myapp.conf:1: version: unknown",
	} {
		write(text)
		flags, _, _ := configFlags(t)
		if err := readConfig(flags, path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	flags, _, _ = configFlags(t)
	if err := readConfig(flags, path+".none"); err == nil || !strings.Contains(err.Error(), "read the configuration: ") {
		t.Errorf("no file: %v", err)
	}
}

// The settings that the installed file shows are those without it.
func TestConfigOfThePackage(t *testing.T) {
	text, err := os.ReadFile("myapp.conf")
	if err != nil {
		t.Fatal(err)
	}
	var settings strings.Builder
	for line := range strings.Lines(string(text)) {
		if setting, found := strings.CutPrefix(line, "#"); found && !strings.HasPrefix(setting, " ") {
			settings.WriteString(setting)
		} else if !found && strings.TrimSpace(line) != "" {
			t.Errorf("%q is set", line)
		}
	}
	if want := "greeting = hello\nprobation = 5s\ndrain = 30s\n"; settings.String() != want {
		t.Errorf("myapp.conf shows %q, want the defaults: %q", settings.String(), want)
	}
}
