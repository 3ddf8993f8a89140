// SPDX-License-Identifier: Apache-2.0

package check

// RuleOptions are the options that rules are about.
func RuleOptions() []string {
	var all []string
	for _, r := range rules {
		all = append(all, r.option)
	}
	return all
}
