#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Says which versions serve, and how the last upgrades went."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
---
module: info
short_description: Say which version of a service runs, and how its upgrades went
version_added: 1.0.0
description:
  - Asks C(holdfast status) and, if wanted, C(holdfast history). Nothing is changed.
  - That a service does not run, is not there, or that holdfast is not installed yet, is an answer and no failure.
options:
  unit:
    description: The services, or patterns, which stand for those that are active.
    type: list
    elements: str
    required: true
    aliases: [name, units]
  history:
    description: How many of the last upgrades and rollbacks of each unit are returned.
    type: int
    default: 0
  user:
    description: The units are those of the service manager of the user that Ansible works as.
    type: bool
    default: false
  direct:
    description: Work on systemd itself, as root, and not through org.holdfast.Upgrade1.
    type: bool
    default: false
  via_service:
    description: Have org.holdfast.Upgrade1 do it, which asks polkit.
    type: bool
    default: false
  executable:
    description: The command holdfast, a path or a name to look for.
    type: path
    default: holdfast
requirements:
  - Python 3.6 or later on the machine
attributes:
  check_mode:
    description: It changes nothing.
    support: full
  diff_mode:
    description: It changes nothing.
    support: none
  platform:
    description: Where it works.
    support: full
    platforms: linux with systemd 239 or later
seealso:
  - module: holdfast_go.holdfast.upgrade
author:
  - Holdfast (@holdfast-go)
"""

EXAMPLES = r"""
- name: Ask for the version of myapp
  holdfast_go.holdfast.info:
    unit: myapp
    history: 5
  register: myapp

- name: Show it
  ansible.builtin.debug:
    msg: "{{ myapp.units[0].version }}"
"""

RETURN = r"""
holdfast:
  description: The path of the command, or null if it is not on the machine.
  returned: always
  type: str
  sample: /usr/bin/holdfast
units:
  description: What is known of each unit. Those that are not there are not in it.
  returned: always
  type: list
  elements: dict
  contains:
    unit:
      description: Its name.
      type: str
      sample: myapp.service
    version:
      description: The version that serves, or empty.
      type: str
      sample: 2.0.0
    build:
      description: The revision that it was built from, if that is known.
      type: str
    state:
      description: The state of the service in its own words.
      type: str
      sample: running
    active_state:
      description: The state of the unit.
      type: str
      sample: active
    enabled:
      description: Whether it is enabled, in the words of C(systemctl is-enabled).
      type: str
      sample: enabled
    need_daemon_reload:
      description: Whether the unit file has changed since systemd has read it.
      type: bool
    pid:
      description: The process that serves.
      type: int
      sample: 640
    generation:
      description: How many upgrades there were since the start, and one.
      type: int
      sample: 3
    previous_version:
      description: What a rollback would start, or empty.
      type: str
      sample: 1.0.0
    installed_path:
      description: The file that an upgrade would start.
      type: str
      sample: /usr/bin/myapp
    installed_runs:
      description: Whether that file is what runs, or null where that cannot be told.
      type: bool
    frozen:
      description: By whom its upgrades were frozen, when and why, or null.
      type: dict
    error:
      description: Why the service does not answer.
      type: str
    settings:
      description: >-
        A digest of the settings in its unit files that count from the next start on. When it changes, the service
        has to be restarted one day.
      type: str
    socket_settings:
      description: The same for its socket units. When it changes, these have to be restarted, and the service with them.
      type: str
    invocation_id:
      description: What systemd calls this run of the unit. An upgrade keeps it, a restart does not.
      type: str
    status:
      description: All that C(holdfast status --json) says.
      type: dict
    history:
      description: The last upgrades and rollbacks, the newest first.
      type: list
      elements: dict
missing:
  description: What was said of units that are not there, or could not be asked.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast_go.holdfast.plugins.module_utils.holdfast import (
    SCOPE_ARGUMENTS,
    Holdfast,
    digest_of,
    split_hints,
    summarize,
)


def settings(module, names):
    """A digest of unit files as they are on the disk now."""
    if not names:
        return ""
    scope = ["--user"] if module.params["user"] else []
    rc, out, err = module.run_command([module.get_bin_path("systemctl", required=True)] + scope + ["cat"] + names)
    return digest_of(out) if rc == 0 else ""


def arguments():
    return dict(
        unit=dict(type="list", elements="str", required=True, aliases=["name", "units"]),
        history=dict(type="int", default=0),
        **SCOPE_ARGUMENTS
    )


def main():
    module = AnsibleModule(
        argument_spec=arguments(), supports_check_mode=True,
        mutually_exclusive=[("direct", "via_service"), ("user", "via_service")],
    )
    for unit in module.params["unit"]:
        if not unit or unit.startswith("-"):
            module.fail_json(msg="unit %r: is no name of a service" % unit)
    holdfast = Holdfast(module)
    if not holdfast.path:
        module.exit_json(changed=False, holdfast=None, units=[], missing=["holdfast is not installed"])
    rc, statuses, err = holdfast.status(module.params["unit"])
    units = []
    for status in statuses:
        unit = summarize(status)
        unit["status"] = status
        unit["settings"] = settings(module, [unit["unit"]])
        unit["socket_settings"] = settings(module, [s["name"] for s in status.get("socket_units") or []])
        unit["history"] = []
        if module.params["history"] > 0 and unit["unit"]:
            args = ["history", "--json=short", "--lines=%d" % module.params["history"]]
            history_rc, attempts, history_err = holdfast.run(args + holdfast.scope + [unit["unit"]])
            if history_rc != 0:
                module.warn(" ".join(split_hints(history_err)[0]))
            unit["history"] = attempts
        units.append(unit)
    module.exit_json(changed=False, holdfast=holdfast.path, units=units, missing=split_hints(err)[0])


if __name__ == "__main__":
    main()
