// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
)

// onlyArguments are the flags that are no configuration.
var onlyArguments = []string{"config", "check", "version"}

// readConfig sets the flags that the command line has left alone to what the file at path
// says: NAME = VALUE on a line, where NAME is that of a flag. A # begins a line of comment.
func readConfig(flags *flag.FlagSet, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	given := make(map[string]bool)
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, found := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		switch {
		case !found:
			return fmt.Errorf("%s:%d: %q: write NAME = VALUE", path, i+1, line)
		case flags.Lookup(name) == nil || slices.Contains(onlyArguments, name):
			return fmt.Errorf("%s:%d: %s: unknown; myapp -help lists the names", path, i+1, name)
		case given[name]:
		default:
			if err := flags.Set(name, value); err != nil {
				return fmt.Errorf("%s:%d: %s = %q: %w", path, i+1, name, value, err)
			}
		}
	}
	return nil
}
