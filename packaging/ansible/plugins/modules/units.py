#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Writes the units of a service that is not packaged."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
---
module: units
short_description: Write the systemd units of a service
version_added: 1.0.0
description:
  - Has C(holdfast render) make the units of a service, hardened and fit for upgrades, and puts them in place.
  - It is for services that bring no units in a package of their own. Systemd is not told, that is the task of
    C(ansible.builtin.systemd_service) with C(daemon_reload).
options:
  name:
    description: The name of the service, without C(.service).
    type: str
    required: true
  exec:
    description: The path of its binary.
    type: path
    required: true
  arguments:
    description: The arguments of the binary.
    type: list
    elements: str
    default: []
  options:
    description:
      - Further options of C(holdfast render), by the names of its flags, with a list for those that may be repeated.
      - As in C(socket), C(state_directory), C(probation), C(drain_timeout), C(service_line) and C(instance).
    type: dict
    default: {}
  directory:
    description: Where the units are.
    type: path
    default: /etc/systemd/system
  executable:
    description: The command holdfast, a path or a name to look for.
    type: path
    default: holdfast
requirements:
  - holdfast on the machine
attributes:
  check_mode:
    description: Says what would be written.
    support: full
  diff_mode:
    description: Shows the units before and after.
    support: full
  platform:
    description: Where it works.
    support: full
    platforms: linux
seealso:
  - module: holdfast_go.holdfast.upgrade
author:
  - Holdfast (@holdfast-go)
"""

EXAMPLES = r"""
- name: Write the units of myapp
  holdfast_go.holdfast.units:
    name: myapp
    exec: /usr/local/bin/myapp
    arguments: [-greeting=hello]
    options:
      socket: http=127.0.0.1:8080
      state_directory: myapp
      service_line: [LimitNOFILE=65536]
"""

RETURN = r"""
files:
  description: The unit files.
  returned: when holdfast is there
  type: list
  elements: str
  sample: [/etc/systemd/system/myapp.service, /etc/systemd/system/myapp.socket]
changed_files:
  description: Those that were written, or in check mode would be.
  returned: when holdfast is there
  type: list
  elements: str
restart:
  description:
    - The units that were there before, and of which a setting has changed that counts from the next start on.
  returned: when holdfast is there
  type: list
  elements: str
  sample: [myapp.service]
"""

import os
import shutil
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast_go.holdfast.plugins.module_utils.holdfast import hard_settings, split_hints


def flags(options):
    """The options as flags, in an order that does not depend on how they were written."""
    found = []
    for name, value in sorted(options.items()):
        flag = "--" + name.replace("_", "-")
        for v in value if isinstance(value, list) else [value]:
            if v is True:
                found.append(flag)
            elif v is not False and v is not None:
                found.append("%s=%s" % (flag, v))
    return found


def read(path):
    try:
        with open(path, "rb") as f:
            return f.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return None


def arguments():
    return dict(
        name=dict(type="str", required=True),
        exec=dict(type="path", required=True),
        arguments=dict(type="list", elements="str", default=[]),
        options=dict(type="dict", default={}),
        directory=dict(type="path", default="/etc/systemd/system"),
        executable=dict(type="path", default="holdfast"),
    )


def main():
    module = AnsibleModule(argument_spec=arguments(), supports_check_mode=True)
    params = module.params
    for name in ("name", "exec", "output_dir", "output-dir", "force"):
        if name in params["options"]:
            module.fail_json(msg="options: %s: is not one of them" % name)
    holdfast = module.get_bin_path(params["executable"])
    if not holdfast:
        if module.check_mode:
            module.warn("holdfast is not on this machine: check mode cannot tell which units there would be")
            module.exit_json(changed=True)
        module.fail_json(msg="%s: there is no such command on this machine: install the package holdfast" % params["executable"])

    made = tempfile.mkdtemp(prefix="holdfast-units-", dir=module.tmpdir)
    module.add_cleanup_file(made)
    args = [holdfast, "render", "--name=" + params["name"], "--exec=" + params["exec"], "--output-dir=" + made]
    rc, out, err = module.run_command(args + flags(params["options"]) + ["--"] + params["arguments"])
    if rc != 0:
        module.fail_json(msg=" ".join(split_hints(err)[0]), rc=rc, next=split_hints(err)[1])

    answer = dict(files=[], changed_files=[], restart=[], diff=[])
    for name in sorted(os.listdir(made)):
        path = os.path.join(params["directory"], name)
        new, old = read(os.path.join(made, name)), read(path)
        answer["files"].append(path)
        if new == old:
            continue
        answer["changed_files"].append(path)
        answer["diff"].append(dict(before=old or "", after=new, before_header=path, after_header=path))
        if old is not None and hard_settings(old) != hard_settings(new):
            answer["restart"].append(name)
        if not module.check_mode:
            module.atomic_move(os.path.join(made, name), path)
            module.set_mode_if_different(path, 0o644, False)
    shutil.rmtree(made)
    module.exit_json(changed=bool(answer["changed_files"]), **answer)


if __name__ == "__main__":
    main()
