// SPDX-License-Identifier: Apache-2.0

package fingerprint

import (
	"cmp"
	"slices"
	"strings"
)

// Compare orders two versions: -1 if a is older than b, 0 if neither is, +1 if a
// is newer. known is false, and order 0, where one of them is no version that this
// function understands: what people call "nightly" or "1.2b" has no order.
//
// One order holds for all that it understands, so that it is transitive also
// between a version of Go and one of a package. A version has, in this order of
// weight:
//
//   - an epoch, as in 1:2.0;
//   - numbers with dots, as many as there are: 1.4 is 1.4.0, and a v may come first;
//   - a pre-release, as in 1.4.0-rc.1 (semver.org) or 1.4.0~rc1 (Debian, RPM), which
//     is older than without; it goes by the rules of semver.org. A pseudo-version of
//     Go is one, by its time;
//   - the number of commits since then, as in v1.4.0-3-g3f2a9c1 (git describe);
//   - the revision of a package, as in 1.4.0-2 or 1.4.0-1.el9, by the rules of dpkg.
//     What follows the last hyphen is one if it begins with a digit and the version
//     has no v: v1.4.0-2 is a pre-release.
//
// What follows a + in front of the revision, and -dirty at the end, has no weight.
func Compare(a, b string) (order int, known bool) {
	x, okX := parse(a)
	y, okY := parse(b)
	if !okX || !okY {
		return 0, false
	}
	return x.compare(y), true
}

// version is one that was understood.
type version struct {
	epoch    string
	numbers  []string
	pre      []string // identifiers; nil is the release itself
	commits  string
	revision string
}

func (v version) compare(w version) int {
	return cmp.Or(
		compareNumbers(v.epoch, w.epoch),
		compareLists(v.numbers, w.numbers),
		comparePre(v.pre, w.pre),
		compareNumbers(v.commits, w.commits),
		compareRevisions(v.revision, w.revision),
	)
}

const (
	// pseudoTime and pseudoRevision are the lengths of what ends a pseudo-version.
	pseudoTime     = 14
	pseudoRevision = 12
)

func parse(text string) (v version, ok bool) {
	if len(text) > maxText {
		return v, false
	}
	text = strings.TrimSuffix(text, "-dirty")
	text, isGo := strings.CutPrefix(text, "v")
	if epoch, rest, found := strings.Cut(text, ":"); found {
		if isGo || !isNumber(epoch) {
			return v, false
		}
		v.epoch, text = epoch, rest
	}
	rest, isPseudo := cutPseudo(text)
	if !isPseudo {
		rest, v.commits = cutDescribed(text)
		if v.commits == "" && !isGo {
			rest, v.revision = cutRevision(text)
		}
	}
	text, _, _ = strings.Cut(rest, "+")
	numbers, pre, hasPre := text, "", false
	if i := strings.IndexAny(text, "-~"); i >= 0 {
		numbers, pre, hasPre = text[:i], text[i+1:], true
		if text[i] == '~' {
			if isGo {
				return v, false
			}
			pre = dotted(pre)
		}
	}
	v.numbers = strings.Split(numbers, ".")
	for _, n := range v.numbers {
		if !isNumber(n) {
			return v, false
		}
	}
	if !hasPre {
		return v, true
	}
	v.pre = strings.Split(pre, ".")
	for _, id := range v.pre {
		if id == "" || strings.ContainsFunc(id, func(r rune) bool { return !isLetter(r) && !isDigit(r) && r != '-' }) {
			return v, false
		}
	}
	return v, true
}

// cutPseudo cuts the revision from a pseudo-version, whose time decides.
func cutPseudo(text string) (rest string, ok bool) {
	text, _, _ = strings.Cut(text, "+")
	i := len(text) - pseudoRevision - 1
	if i-pseudoTime < 1 || text[i] != '-' || strings.Trim(text[i+1:], "0123456789abcdef") != "" {
		return text, false
	}
	if begin := i - pseudoTime; !isNumber(text[begin:i]) || text[begin-1] != '-' && text[begin-1] != '.' {
		return text, false
	}
	return text[:i], true
}

// cutDescribed cuts what git describe appends.
func cutDescribed(text string) (rest, commits string) {
	i := strings.LastIndex(text, "-g")
	if i < 0 || i+2 == len(text) || strings.Trim(text[i+2:], "0123456789abcdef") != "" {
		return text, ""
	}
	j := strings.LastIndexByte(text[:i], '-')
	if j < 0 || !isNumber(text[j+1:i]) {
		return text, ""
	}
	return text[:j], text[j+1 : i]
}

// cutRevision cuts the revision of a package.
func cutRevision(text string) (rest, revision string) {
	i := strings.LastIndexByte(text, '-')
	if i < 0 || i+1 == len(text) || !isDigit(rune(text[i+1])) {
		return text, ""
	}
	revision = text[i+1:]
	if strings.ContainsFunc(revision, func(r rune) bool { return !isLetter(r) && !isDigit(r) && !strings.ContainsRune(".+~_", r) }) {
		return text, ""
	}
	return text[:i], revision
}

// dotted writes rc10 as rc.10, so that the number counts as one.
func dotted(text string) string {
	var b strings.Builder
	last := rune(0)
	for _, r := range text {
		if isDigit(last) && isLetter(r) || isLetter(last) && isDigit(r) {
			b.WriteByte('.')
		}
		b.WriteRune(r)
		last = r
	}
	return b.String()
}

// compareLists takes what is missing for 0.
func compareLists(a, b []string) int {
	at := func(list []string, i int) string {
		if i < len(list) {
			return list[i]
		}
		return ""
	}
	for i := range max(len(a), len(b)) {
		if c := compareNumbers(at(a, i), at(b, i)); c != 0 {
			return c
		}
	}
	return 0
}

// comparePre goes by semver.org, 11.3 and 11.4.
func comparePre(a, b []string) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return slices.CompareFunc(a, b, func(x, y string) int {
		switch nx, ny := isNumber(x), isNumber(y); {
		case nx && ny:
			return compareNumbers(x, y)
		case nx:
			return -1
		case ny:
			return 1
		}
		return strings.Compare(x, y)
	})
}

// compareRevisions goes by deb-version(7): parts that are no digits and parts
// that are take turns; ~ comes before the end of a part, letters before the rest.
func compareRevisions(a, b string) int {
	for a != "" || b != "" {
		i, j := 0, 0
		for i < len(a) && !isDigit(rune(a[i])) || j < len(b) && !isDigit(rune(b[j])) {
			if c := cmp.Compare(weight(a, i), weight(b, j)); c != 0 {
				return c
			}
			i, j = i+1, j+1
		}
		a, b = a[i:], b[j:]
		i, j = digits(a), digits(b)
		if c := compareNumbers(a[:i], b[:j]); c != 0 {
			return c
		}
		a, b = a[i:], b[j:]
	}
	return 0
}

// weight is that of the character at i in a part that is no digits.
func weight(text string, i int) int {
	switch {
	case i >= len(text) || isDigit(rune(text[i])):
		return 0
	case text[i] == '~':
		return -1
	case isLetter(rune(text[i])):
		return int(text[i])
	}
	return int(text[i]) + 256
}

func digits(text string) int {
	n := 0
	for n < len(text) && isDigit(rune(text[n])) {
		n++
	}
	return n
}

// compareNumbers takes "" for 0. A number may have any length.
func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

func isNumber(text string) bool { return text != "" && digits(text) == len(text) }

func isDigit(r rune) bool { return r >= '0' && r <= '9' }

func isLetter(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }
