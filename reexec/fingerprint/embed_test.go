// SPDX-License-Identifier: Apache-2.0

package fingerprint

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestEmbed(t *testing.T) {
	built := Fingerprint{Program: "example.com/app", Version: "v0.0.0-20261130120000-3f2a9c1e5b7d", Go: "go1.26.0"}
	for _, c := range []struct {
		name, file string
		want       func(*Fingerprint)
	}{
		{"nothing", "", func(f *Fingerprint) {}},
		{"a template", "# The build writes this file.\n\n", func(f *Fingerprint) {}},
		{"a version", "version=1.4.0-2\n", func(f *Fingerprint) { f.Version, f.Embedded = "1.4.0-2", true }},
		{
			"all of it", "# debian/rules\r\nversion=2:1.4.0~rc1+dfsg-2\r\nrevision=3f2a9c1e5b7d\nmodified=true\nbuilt=2026-11-30T14:00:00+02:00\ntags=netgo,osusergo",
			func(f *Fingerprint) {
				f.Version, f.Revision, f.Modified, f.Built = "2:1.4.0~rc1+dfsg-2", "3f2a9c1e5b7d", true, committed
				f.Tags, f.Embedded = []string{"netgo", "osusergo"}, true
			},
		},
		{"SOURCE_DATE_EPOCH", "built=1796040000", func(f *Fingerprint) { f.Built, f.Embedded = committed, true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := built
			c.want(&want)
			got, err := built.Embed([]byte(c.file))
			if err != nil {
				t.Fatal(err)
			}
			if !got.Built.Equal(want.Built) {
				t.Errorf("built %v, want %v", got.Built, want.Built)
			}
			got.Built, want.Built = time.Time{}, time.Time{}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestEmbedErrors(t *testing.T) {
	for file, want := range map[string]string{
		"version":                               `line 1: "version": must be key=value`,
		"\n\nVersion=1.4.0":                     `line 3: "Version": must be version, revision, modified, built or tags`,
		"version =1.4.0":                        `line 1: "version ": must be`,
		"version=1.4.0\n#\nversion=1.4.0":       "line 3: version is there twice",
		"version=":                              "line 1: version is empty: leave it out, or say it",
		"version= 1.4.0":                        `line 1: version=" 1.4.0": ' ' must not be in it`,
		`version="1.4.0"`:                       `'"' must not be in it`,
		"version=1.4.0\x1b[2J":                  `'\x1b' must not be in it`,
		"version=" + strings.Repeat("1", 257):   "version has 257 bytes: must have 256 at most",
		"revision=@REVISION@":                   `line 1: revision="@REVISION@": '@' must not be in it`,
		"modified=1":                            `line 1: modified="1": must be true or false`,
		"built=yesterday":                       `line 1: built="yesterday": must be a time as 2026-11-30T12:00:00Z, or seconds since 1970`,
		"built=9223372036854775807":             `built="9223372036854775807": `,
		"tags=a,,b":                             "line 1: tags is empty",
		"tags=" + strings.Repeat("a,", 32) + "": "tags has 33 words: must have 32 at most",
		"version=\xff":                          "must be UTF-8",
		strings.Repeat("#", maxEmbedded+1):      "it has 8193 bytes: must have 8192 at most",
		"{\"version\":\"1.4.0\"}":               `line 1: "{\"version\":\"1.4.0\"}": must be key=value`,
	} {
		before := Fingerprint{Program: "p", Version: "v1"}
		got, err := before.Embed([]byte(file))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: error %v, want %q", file, err, want)
		}
		if !reflect.DeepEqual(got, before) {
			t.Errorf("%.40q: an error has changed it: %+v", file, got)
		}
	}
}

// What is taken survives JSON unchanged, and an error changes nothing.
func FuzzEmbed(f *testing.F) {
	f.Add([]byte("# x\nversion=1.4.0-2\nrevision=3f2a9c1\nmodified=true\nbuilt=2026-11-30T12:00:00Z\ntags=a,b\n"))
	f.Add([]byte("built=-1"))
	f.Add([]byte("version=\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		before := Fingerprint{Program: "p"}
		got, err := before.Embed(data)
		if err != nil {
			if !reflect.DeepEqual(got, before) || strings.ContainsAny(err.Error(), "\n\x1b\x00") {
				t.Errorf("%q: %v, %+v", data, err, got)
			}
			return
		}
		text, err := json.Marshal(got)
		if err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		var again Fingerprint
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		if text2, _ := json.Marshal(again); string(text2) != string(text) {
			t.Errorf("%s becomes %s", text, text2)
		}
	})
}
