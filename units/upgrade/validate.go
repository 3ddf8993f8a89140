// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
)

const (
	defaultSoak     = 10 * time.Second
	defaultInterval = time.Second
	minInterval     = 50 * time.Millisecond
	maxText         = 256
	maxUnits        = 1000
)

var (
	idRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	// unitRE is systemd.unit(5) without the suffix; patternRE adds what fnmatch(3)
	// knows.
	unitRE    = regexp.MustCompile(`^[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]*)?$`)
	patternRE = regexp.MustCompile(`^[A-Za-z0-9:_.\\@*?\[\]^!-]+$`)
)

// NewID returns an ID for a request that none had before.
func NewID() string { return strings.ToLower(rand.Text()) }

// Check says what makes no sense in r, as far as that can be told without systemd: a
// [*RequestError], or several of them joined.
func (r Request) Check() error {
	_, err := r.withDefaults()
	return err
}

// withDefaults checks r and fills in what is not set. All faults are in the error.
func (r Request) withDefaults() (Request, error) {
	var errs []error
	wrong := func(field string, value any, want string) {
		errs = append(errs, &RequestError{field, value, want})
	}
	if r.ID == "" {
		r.ID = NewID()
	} else if !idRE.MatchString(r.ID) {
		wrong("id", r.ID, "must have 1 to 64 of A-Z a-z 0-9 . _ -, the first no . _ -")
	}
	if len(r.Units) == 0 || len(r.Units) > maxUnits {
		wrong("units", len(r.Units), fmt.Sprintf("name 1 to %d services", maxUnits))
	}
	r.Units = slices.Clone(r.Units)
	for i, name := range r.Units {
		var err error
		if r.Units[i], err = serviceName(name); err != nil {
			errs = append(errs, err)
		}
	}
	for field, text := range map[string]string{"by": r.By, "version": r.Version, "reason": r.Reason} {
		if len(text) > maxText || strings.ContainsFunc(text, unicode.IsControl) {
			wrong(field, text, fmt.Sprintf("must have at most %d bytes, none of them control characters", maxText))
		}
	}
	if r.Timeout < 0 {
		wrong("timeout", r.Timeout, "must not be negative")
	}
	r.Gates.check(wrong)
	r.Waves.check(wrong)
	r.Gates = r.Gates.withDefaults()
	return r, errors.Join(errs...)
}

// serviceName completes the name of a service, or a pattern.
func serviceName(name string) (string, error) {
	full := name
	if !strings.HasSuffix(name, ".service") {
		full += ".service"
	}
	base := strings.TrimSuffix(full, ".service")
	wrong := func(want string) (string, error) { return name, &RequestError{"units", name, want} }
	switch {
	case len(full) > 255:
		return wrong("must have at most 255 bytes")
	case isPattern(full):
		if _, err := filepath.Match(full, ""); err != nil || !patternRE.MatchString(base) {
			return wrong("is not a pattern of names of services")
		}
	case strings.HasSuffix(base, "@"):
		return wrong(fmt.Sprintf("is a template: name an instance, as in %s1, or all of them, as in '%s*'", base, base))
	case slices.ContainsFunc([]string{".socket", ".target", ".timer", ".slice", ".scope", ".mount", ".path"}, func(s string) bool { return strings.HasSuffix(base, s) }):
		return wrong("is not a service: name the service")
	case !unitRE.MatchString(base):
		return wrong("is not the name of a service")
	}
	return full, nil
}

func isPattern(name string) bool { return strings.ContainsAny(name, "*?[") }

func (g Gates) check(wrong func(field string, value any, want string)) {
	if g.Interval < 0 || g.Interval > 0 && g.Interval < minInterval {
		wrong("gates.interval", g.Interval, fmt.Sprintf("must be %v or more", minInterval))
	}
	if g.HealthURL != "" {
		if _, err := parseTarget(g.HealthURL, "1"); err != nil {
			wrong("gates.health_url", g.HealthURL, err.Error())
		}
	}
	if g.MetricsURL != "" {
		if _, err := parseTarget(g.MetricsURL, "1"); err != nil {
			wrong("gates.metrics_url", g.MetricsURL, err.Error())
		}
	}
	for field, text := range map[string]string{"gates.requests": g.Requests, "gates.errors": g.Errors} {
		if text == "" {
			continue
		}
		if _, err := parseSelector(text); err != nil {
			wrong(field, text, err.Error())
		}
	}
	if (g.Requests == "") != (g.Errors == "") {
		wrong("gates.requests", g.Requests, "needs gates.errors, and the other way round")
	}
	if math.IsNaN(g.MaxErrorRate) || g.MaxErrorRate < 0 || g.MaxErrorRate > 1 {
		wrong("gates.max_error_rate", g.MaxErrorRate, "must be from 0 to 1")
	} else if g.MaxErrorRate > 0 && g.Requests == "" && g.Errors == "" {
		wrong("gates.max_error_rate", g.MaxErrorRate, "needs gates.requests and gates.errors: name the counters")
	}
	if g.MaxFailures < 0 {
		wrong("gates.max_failures", g.MaxFailures, "must not be negative")
	}
}

func (g Gates) withDefaults() Gates {
	if g.Soak == 0 {
		g.Soak = defaultSoak
	}
	if g.Interval == 0 {
		g.Interval = max(min(defaultInterval, g.Soak/10), minInterval)
	}
	return g
}

func (w Waves) check(wrong func(field string, value any, want string)) {
	if math.IsNaN(w.Ratio) || w.Ratio < 0 || w.Ratio > 1 {
		wrong("waves.ratio", w.Ratio, "must be from 0 to 1")
	}
	if w.Size < 0 {
		wrong("waves.size", w.Size, "must not be negative")
	}
	if w.Pause < 0 {
		wrong("waves.pause", w.Pause, "must not be negative")
	}
	if w.MaxFailed < 0 {
		wrong("waves.max_failed", w.MaxFailed, "must not be negative")
	}
}

// target is where a gate looks.
type target struct {
	socket string // of a Unix socket, or empty
	url    string
}

// parseTarget reads http://…, https://… and unix:PATH:/path; %i is the instance,
// %% a percent sign.
func parseTarget(text, instance string) (target, error) {
	expanded, err := expand(text, instance)
	if err != nil {
		return target{}, err
	}
	if rest, ok := strings.CutPrefix(expanded, "unix:"); ok {
		socket, path, ok := strings.Cut(rest, ":")
		if !ok || !filepath.IsAbs(socket) || !strings.HasPrefix(path, "/") {
			return target{}, errors.New("must be unix:PATH:/path, as in unix:/run/myapp/http.sock:/healthz")
		}
		return target{socket, "http://localhost" + path}, nil
	}
	u, err := url.Parse(expanded)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return target{}, errors.New("must be http://HOST/path, https://HOST/path or unix:PATH:/path")
	}
	return target{url: expanded}, nil
}

func expand(text, instance string) (string, error) {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] != '%':
			out.WriteByte(text[i])
		case strings.HasPrefix(text[i:], "%i"):
			out.WriteString(instance)
			i++
		case strings.HasPrefix(text[i:], "%%"):
			out.WriteByte('%')
			i++
		default:
			return "", errors.New("has a % that is neither %i, the instance, nor %%")
		}
	}
	return out.String(), nil
}

// instanceOf is what a template's instance is called, and empty for other units.
func instanceOf(unit string) string {
	_, instance, _ := strings.Cut(strings.TrimSuffix(unit, ".service"), "@")
	return instance
}

// templateOf is the template of an instance, and empty for other units.
func templateOf(unit string) string {
	name, _, ok := strings.Cut(unit, "@")
	if !ok {
		return ""
	}
	return name + "@.service"
}
