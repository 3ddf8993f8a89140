// SPDX-License-Identifier: Apache-2.0

package fingerprint

import (
	"slices"
	"testing"
)

// Each list is in order, the oldest first. What is in one element is equal.
var orders = [][][]string{
	{ // semver.org, 11.4
		{"v1.0.0-alpha", "1.0.0-alpha"},
		{"v1.0.0-alpha.1"},
		{"v1.0.0-alpha.beta"},
		{"v1.0.0-beta"},
		{"v1.0.0-beta.2", "1.0.0~beta2"},
		{"v1.0.0-beta.11", "1.0.0~beta11", "1.0.0~beta.11"},
		{"v1.0.0-rc.1", "v1.0.0-rc.1+build.5", "v1.0.0-rc.01"},
		{"v1.0.0", "1.0.0", "v1", "1.0", "v1.0.0+incompatible", "v1.0.0+dirty", "v1.0.0-dirty", "0:1.0.0"},
		{"v1.0.0-3-g3f2a9c1", "v1.0.0-3-g3f2a9c1-dirty", "v1.0.0-3-gffffffff"},
		{"v1.0.0-12-g3f2a9c1"},
		{"v1.0.1-0.20261130120000-3f2a9c1e5b7d", "v1.0.1-0.20261130120000-aaaaaaaaaaaa"},
		{"v1.0.1-0.20261201120000-000000000000+dirty"},
		{"v1.0.1-rc.1.0.20261201120000-000000000000"},
		{"v1.0.1"},
		{"v1.10.0"},
		{"v2.0.0"},
		{"v20261130.0.0", "20261130"},
	},
	{ // packages: deb-version(7)
		{"1.2~rc1-1"},
		{"1.2~rc1-2"},
		{"1.2", "1.2.0", "1.2-0"},
		{"1.2-1~bpo12+1"},
		{"1.2-1", "1.2+dfsg-1", "1.2.0-1"},
		{"1.2-1+deb12u1"},
		{"1.2-1+deb12u10"},
		{"1.2-1.1"},
		{"1.2-1.el9"},
		{"1.2-2"},
		{"1.2-10"},
		{"1.2.1-1"},
		{"1:0.9-1"},
		{"2:0.1"},
	},
	{ // What follows the last hyphen.
		{"v1.2.3-1"}, // a pre-release
		{"1.2.3"},
		{"1.2.3-1"}, // a package
	},
}

func TestCompare(t *testing.T) {
	for _, list := range orders {
		for i, as := range list {
			for j, bs := range list {
				want := 0
				if i != j {
					want = map[bool]int{true: -1, false: 1}[i < j]
				}
				for _, a := range as {
					for _, b := range bs {
						if got, known := Compare(a, b); got != want || !known {
							t.Errorf("Compare(%q, %q) = %d, %t; want %d", a, b, got, known, want)
						}
					}
				}
			}
		}
	}
}

func TestCompareUnknown(t *testing.T) {
	for _, text := range []string{
		"", "v", "(devel)", "unknown", "nightly", "3f2a9c1e5b7d", "1.2b", "1..2", ".1", "1.", "v1.2.3-", "v1.2.3-rc..1",
		"x:1.2", ":1.2", "v1:2.0", "v1.2~rc1", "1.2~", "-1", "1.2-rc_1", "1 .2", "1.2\n", "١.٢", "-20261130120000-3f2a9c1e5b7d",
	} {
		if order, known := Compare(text, "v1.0.0"); known || order != 0 {
			t.Errorf("Compare(%q, v1.0.0) = %d, %t; want it to be unknown", text, order, known)
		}
		if order, known := Compare("v1.0.0", text); known || order != 0 {
			t.Errorf("Compare(v1.0.0, %q) = %d, %t; want it to be unknown", text, order, known)
		}
	}
}

// Whatever it understands has one order.
func FuzzCompare(f *testing.F) {
	var all []string
	for _, list := range orders {
		for _, texts := range list {
			all = append(all, texts...)
		}
	}
	for i, a := range all {
		f.Add(a, all[(i*7+3)%len(all)], all[(i*13+5)%len(all)])
	}
	f.Fuzz(func(t *testing.T, a, b, c string) {
		three := []string{a, b, c}
		for _, x := range three {
			_, ok := parse(x)
			if order, known := Compare(x, x); order != 0 || known != ok {
				t.Fatalf("%q and itself: %d, %t", x, order, known)
			}
			if !ok {
				return
			}
		}
		for _, x := range three {
			for _, y := range three {
				xy, known := Compare(x, y)
				yx, _ := Compare(y, x)
				if !known || xy != -yx {
					t.Fatalf("%q and %q: %d, the other way %d", x, y, xy, yx)
				}
			}
		}
		slices.SortFunc(three, func(x, y string) int { order, _ := Compare(x, y); return order })
		first, _ := Compare(three[0], three[1])
		second, _ := Compare(three[1], three[2])
		whole, _ := Compare(three[0], three[2])
		if first > 0 || second > 0 || whole > 0 || whole == 0 && (first != 0 || second != 0) {
			t.Fatalf("%q is in no order: %d, %d, %d", three, first, second, whole)
		}
	})
}
