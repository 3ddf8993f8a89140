// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// semantic is a version as semver.org has it, or as dpkg and rpm do with a tilde.
var semantic = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+([-~][0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)

// programVersion is the version that the programs have: the one that was asked for, or what
// git says of the commit. After a tag that is v1.2.3+5.1a2b3c4, newer than v1.2.3; without
// one it is 0.0.0-TIME.COMMIT.
func programVersion(ctx context.Context, root, asked string) (string, error) {
	if asked != "" {
		if !semantic.MatchString(asked) {
			return "", fmt.Errorf("-version=%q: write it as 1.2.3 or 1.3.0-rc.1", asked)
		}
		return strings.Replace(asked, "~", "-", 1), nil
	}
	if tag, err := git(ctx, root, "describe", "--tags", "--match=v[0-9]*", "--long"); err == nil {
		return afterTag(tag)
	}
	commit, err := git(ctx, root, "log", "-1", "--abbrev=12", "--format=%ct %h")
	if err != nil {
		return "", fmt.Errorf("%w; outside of git name a -version", err)
	}
	seconds, hash, _ := strings.Cut(commit, " ")
	at, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return "", fmt.Errorf("time of the commit: %w", err)
	}
	return "0.0.0-" + time.Unix(at, 0).UTC().Format("20060102150405") + "." + hash, nil
}

// afterTag takes the answer of git describe --long: v1.2.3-5-g1a2b3c4.
func afterTag(described string) (string, error) {
	rest, commit, _ := cutLast(described, "-g")
	tag, count, found := cutLast(rest, "-")
	version := strings.TrimPrefix(tag, "v")
	if !found || !semantic.MatchString(version) {
		return "", fmt.Errorf("git describe: %q: the tag is not of the form v1.2.3; name a -version", described)
	}
	if count == "0" {
		return version, nil
	}
	return version + "+" + count + "." + commit, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// packageVersion is a version for dpkg and rpm: what comes before a release has a tilde, and
// there is no hyphen, which would begin the revision.
func packageVersion(version string) string {
	core, build, _ := strings.Cut(version, "+")
	core = strings.ReplaceAll(strings.Replace(core, "-", "~", 1), "-", ".")
	if build != "" {
		core += "+" + strings.ReplaceAll(build, "-", ".")
	}
	return core
}
