// SPDX-License-Identifier: Apache-2.0

// Package ansible has no code: it is the collection holdfast_go.holdfast of Ansible, which
// upgrades services on one machine and on many. README.md is for those who use it.
//
//   - plugins/modules has the modules upgrade, info and units, which run on the machines.
//   - roles/service installs a service, configures it and upgrades it.
//   - playbooks has rolling_upgrade and rollback; what they decide is in plugins/filter.
//   - tests/unit tests the Python code without Ansible's help.
//
// Its tests run in machines of package vmtests with the Ansible of Debian 12 and 13: 2.14 and
// 2.19.
package ansible
