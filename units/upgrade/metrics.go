// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// selector is a counter, or those of its series with some labels.
type selector struct {
	name   string
	labels map[string]string
}

// selectorRE leaves the labels to the parser. Without it, "a 1" would be a line with its
// value, and what is added a time.
var selectorRE = regexp.MustCompile(`^[A-Za-z_:][A-Za-z0-9_:]*(\{.*\})?$`)

// parseSelector reads name and name{label="value",…}: that is also one line of
// the text format without its value, so its parser can tell.
func parseSelector(text string) (selector, error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text + " 0\n"))
	if err != nil || len(families) != 1 || !selectorRE.MatchString(text) || strings.Contains(text, "\r") {
		return selector{}, errors.New(`must be the name of a counter, as in http_requests_total or http_requests_total{code="500"}`)
	}
	for name, family := range families {
		if len(family.GetMetric()) != 1 {
			break
		}
		s := selector{name: name, labels: make(map[string]string)}
		for _, pair := range family.GetMetric()[0].GetLabel() {
			s.labels[pair.GetName()] = pair.GetValue()
		}
		return s, nil
	}
	return selector{}, errors.New("must be one counter")
}

// sum adds up what matches in text, which is in Prometheus' text format. There is
// none while nothing was counted: that is 0.
func (s selector) sum(text []byte) (float64, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return 0, fmt.Errorf("metrics: %w", err)
	}
	total := 0.0
	for _, m := range families[s.name].GetMetric() {
		matched := 0
		for _, pair := range m.GetLabel() {
			if want, ok := s.labels[pair.GetName()]; ok && want == pair.GetValue() {
				matched++
			}
		}
		if matched != len(s.labels) {
			continue
		}
		value := m.GetCounter().GetValue()
		if m.GetUntyped() != nil {
			value = m.GetUntyped().GetValue()
		} else if m.GetCounter() == nil {
			return 0, fmt.Errorf("metrics: %s is not a counter", s.name)
		}
		if math.IsNaN(value) || value < 0 {
			return 0, fmt.Errorf("metrics: %s is %v", s.name, value)
		}
		total += value
	}
	return total, nil
}

// counts are the two counters of the gate "errors" at one moment.
type counts struct {
	Requests float64 `json:"requests"`
	Errors   float64 `json:"errors"`
}

// rate is errors to a request from before to now.
func (before counts) rate(now counts) (float64, error) {
	requests, failed := now.Requests-before.Requests, now.Errors-before.Errors
	switch {
	case requests < 0 || failed < 0:
		return 0, errors.New("metrics: a counter went back")
	case failed == 0:
		return 0, nil
	case requests == 0:
		return 1, nil
	default:
		return failed / requests, nil
	}
}
