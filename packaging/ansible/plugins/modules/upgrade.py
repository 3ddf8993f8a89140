#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Upgrades units with the command holdfast."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
---
module: upgrade
short_description: Upgrade systemd services without losing a request
version_added: 1.0.0
description:
  - Has services go over to the binary that is installed, watches the new version, and goes back to the one
    before if it does not hold. No connection is closed, and no request is lost.
  - It runs C(holdfast upgrade) or C(holdfast rollback) on the machine, and returns what that reports.
  - It never starts, stops or restarts a service.
options:
  unit:
    description:
      - The services, as in C(myapp) or C(myapp@1.service), or patterns as in C(myapp@*), which stand for those
        that are active.
    type: list
    elements: str
    required: true
    aliases: [name, units]
  state:
    description:
      - With C(upgraded), the installed binary serves in the end. A service that runs it already is left alone.
      - With C(rolled_back), the service goes back to the version before, which it has kept. The installed binary
        then counts as failed, and does not start any more, until it is replaced or C(holdfast retry) is called.
    type: str
    choices: [upgraded, rolled_back]
    default: upgraded
  version:
    description:
      - The version that must serve in the end. A service that serves it already is left alone.
      - Without it, the module compares the binary that runs with the one that is installed. Where it cannot, as
        without the right to read C(/proc/PID/exe), it upgrades.
      - A rollback without it is not idempotent. A second one goes forward again.
    type: str
  force:
    description:
      - Upgrade a service also if it serves what it should already, so that its next process reads a changed
        configuration.
    type: bool
    default: false
  reason:
    description: Why it is rolled back, for the log and the status of the service.
    type: str
  request_id:
    description:
      - The name of the request. The same one again starts nothing new, but waits for the first and has its result.
      - It lets a play that was cut off go on with what it has begun. Take another one for another attempt.
    type: str
  soak:
    description: How long a new version is watched, as in C(30s) or C(5m). C(0) trusts the verdict of the service.
    type: str
  interval:
    description: The time between two looks.
    type: str
  health_url:
    description:
      - What must answer 2xx all the time, as C(http), C(https), or C(unix:PATH:/path). C(%i) is the instance.
      - Default is the health of the service itself.
    type: str
  metrics_url:
    description: Where the Prometheus metrics are. Default is the control socket of the service.
    type: str
  requests:
    description: The counter of requests, as in C(http_requests_total).
    type: str
  errors:
    description: The counter of errors, as in C(http_requests_total{code="500"}).
    type: str
  max_error_rate:
    description: How many errors there may be to a request, from 0 to 1. It needs C(requests) and C(errors).
    type: float
  max_failures:
    description: How many looks in a row may fail.
    type: int
  canary:
    description: Of several units, how many are in the first wave. C(0) is no canary.
    type: int
  wave:
    description: Of several units, how many are in each other wave.
    type: int
  pause:
    description: The time between two waves.
    type: str
  max_failed:
    description: How many units of a wave may fail, of the canary none.
    type: int
  ratio:
    description: End when so many of all units have the new version, from 0 to 1.
    type: float
  timeout:
    description: The bound of the reload of one unit. Default is that of the unit.
    type: str
  user:
    description: The units are those of the service manager of the user that Ansible works as.
    type: bool
    default: false
  direct:
    description: Work on systemd itself, as root, and not through org.holdfast.Upgrade1.
    type: bool
    default: false
  via_service:
    description: Have org.holdfast.Upgrade1 do it, which asks polkit. Then no C(become) is needed.
    type: bool
    default: false
  executable:
    description: The command holdfast, a path or a name to look for.
    type: path
    default: holdfast
requirements:
  - holdfast on the machine
  - Python 3.6 or later on the machine
attributes:
  check_mode:
    description: Checks whether the units can be upgraded (C(--dry-run)), says what would be done, and changes nothing.
    support: full
  diff_mode:
    description: Shows the versions before and after.
    support: full
  platform:
    description: Where it works.
    support: full
    platforms: linux with systemd 239 or later
seealso:
  - module: holdfast_go.holdfast.info
  - module: ansible.builtin.systemd_service
author:
  - Holdfast (@holdfast-go)
"""

EXAMPLES = r"""
- name: Upgrade myapp to the binary that is installed
  holdfast_go.holdfast.upgrade:
    unit: myapp

- name: Have version 2.1.0 serve, and watch it for a minute
  holdfast_go.holdfast.upgrade:
    unit: myapp
    version: 2.1.0
    soak: 1m
    health_url: http://127.0.0.1:8080/healthz
    requests: http_requests_total
    errors: http_requests_total{code="500"}
    max_error_rate: 0.01

- name: Upgrade all instances, one first, then three at a time
  holdfast_go.holdfast.upgrade:
    unit: myapp@*
    canary: 1
    wave: 3
    pause: 30s

- name: Go back to version 2.0.0
  holdfast_go.holdfast.upgrade:
    unit: myapp
    state: rolled_back
    version: 2.0.0
    reason: orders are written twice
"""

RETURN = r"""
version_before:
  description: The version that served before, of several units all of them, with commas between.
  returned: when a unit was found
  type: str
  sample: 2.0.0
version_after:
  description: The version that serves now, or in check mode would serve. Empty if nobody serves, or that is not known.
  returned: when a unit was found
  type: str
  sample: 2.1.0
units:
  description: What has become of each unit.
  returned: when a unit was found
  type: list
  elements: dict
  contains:
    unit:
      description: Its name.
      type: str
      sample: myapp.service
    outcome:
      description: >-
        One of C(done), C(unchanged), C(failed) (refused, the old version serves), C(rolled back), C(broken)
        (somebody has to look), C(skipped), C(interrupted), or in check mode C(planned).
      type: str
      sample: done
    reason:
      description: Why it is not C(done).
      type: str
    gate:
      description: The gate that has failed.
      type: str
    version_before:
      description: The version that served before.
      type: str
      sample: 2.0.0
    version_after:
      description: The version that serves now.
      type: str
      sample: 2.1.0
    seconds:
      description: How long it took.
      type: float
      sample: 12.5
    wave:
      description: Its wave, from 0.
      type: int
      sample: 0
report:
  description: The report of C(holdfast upgrade --json), or null if there was nothing to ask for.
  returned: always
  type: dict
  sample:
    action: rollout
    outcome: done
next:
  description: The commands that holdfast says to type next.
  returned: when it failed
  type: list
  elements: str
  sample: ["journalctl -e -u myapp.service"]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast_go.holdfast.plugins.module_utils.holdfast import (
    EXIT_NO_SUCH_UNIT,
    EXIT_OK,
    SCOPE_ARGUMENTS,
    Holdfast,
    split_hints,
    summarize,
)

# Parameters that are flags of "holdfast upgrade" of the same name.
GATES = ("soak", "interval", "health_url", "metrics_url", "requests", "errors", "max_error_rate", "max_failures")
WAVES = ("canary", "wave", "pause", "max_failed", "ratio")

# Outcomes of a unit after which what was asked for holds.
GOOD = ("done", "unchanged", "planned")


def arguments():
    spec = dict(
        unit=dict(type="list", elements="str", required=True, aliases=["name", "units"]),
        state=dict(type="str", default="upgraded", choices=["upgraded", "rolled_back"]),
        version=dict(type="str"),
        force=dict(type="bool", default=False),
        reason=dict(type="str"),
        request_id=dict(type="str"),
        timeout=dict(type="str"),
        max_error_rate=dict(type="float"),
        ratio=dict(type="float"),
        **SCOPE_ARGUMENTS
    )
    for name in ("soak", "interval", "health_url", "metrics_url", "requests", "errors", "pause"):
        spec[name] = dict(type="str")
    for name in ("max_failures", "canary", "wave", "max_failed"):
        spec[name] = dict(type="int")
    return spec


def misplaced(params):
    """Parameters that the state does not know, which the command would refuse, or forget."""
    if params["state"] == "rolled_back":
        return [name for name in GATES + WAVES if params[name] is not None] + (["force"] if params["force"] else [])
    return ["reason"] if params["reason"] is not None else []


def asks_for_version(params, units):
    """Whether the command is given the version: it leaves alone what serves that already."""
    return not (params["force"] and any(u["version"] == params["version"] for u in units))


def command(params, scope, units, dry_run):
    """The arguments of the command for these units."""
    verb, names = "rollback", ("reason", "request_id", "timeout")
    if params["state"] == "upgraded":
        verb, names = "upgrade", ("request_id", "timeout") + GATES + WAVES
        if asks_for_version(params, units):
            names = ("version",) + names
    args = [verb, "--json=short"] + scope
    if dry_run:
        args.append("--dry-run")
    args += ["--%s=%s" % (name.replace("_", "-"), params[name]) for name in names if params[name] is not None]
    return args + [u["unit"] for u in units]


def is_there(unit, params):
    """Whether what is asked for holds already of a unit."""
    if params["force"]:
        return False
    if params["version"]:
        return unit["version"] == params["version"]
    # A rollback without a version is an order.
    return params["state"] == "upgraded" and unit["installed_runs"] is True


def cannot(unit, params, check_mode):
    """Why a unit cannot come to what is asked for, though the command would try; else None."""
    wanted = params["version"]
    if not wanted or unit["version"] == wanted:
        return None
    if params["state"] == "rolled_back":
        kept = unit["previous_version"]
        if kept == wanted:
            return None
        return "%s serves %s, and a rollback would start %s: version %s is not kept" % (
            unit["unit"], unit["version"] or "an unknown version", kept or "nothing", wanted)
    # In check mode the task before this one has not installed it.
    if unit["installed_runs"] is True and not check_mode:
        return "%s serves %s, which is the one that is installed as %s: install version %s first" % (
            unit["unit"], unit["version"] or "an unknown version", unit["installed_path"], wanted)
    return None


def planned(unit, params):
    """The version that an upgrade would bring, as far as it is known."""
    if params["version"]:
        return params["version"]
    if params["state"] == "rolled_back":
        return unit["previous_version"]
    return "the one in " + unit["installed_path"] if unit["installed_path"] else "the one that is installed"


def results(before, report, params, check_mode):
    """What has become of each unit: of those in the report what that says, of the others nothing."""
    reported = dict((u["unit"], u) for u in (report or {}).get("units", []))
    found = []
    for unit in before:
        result = dict(
            unit=unit["unit"], outcome="unchanged", reason="", gate="", seconds=0.0, wave=0,
            version_before=unit["version"], version_after=unit["version"],
        )
        found.append(result)
        u = reported.get(unit["unit"])
        if u is None:
            continue
        if check_mode:
            if u["outcome"] == "skipped":
                result.update(outcome="planned", version_after=planned(unit, params), wave=u["wave"])
            elif u["outcome"] != "unchanged":
                result.update(outcome=u["outcome"], reason=u.get("reason", ""))
            continue
        result.update(
            outcome=u["outcome"], reason=u.get("reason", ""), gate=u.get("gate", ""), seconds=u["seconds"], wave=u["wave"],
            version_after=(u.get("to") or {}).get("version", ""),
        )
    return found


def is_changed(unit):
    """Whether another build serves: an upgrade to one with the same version is a change, too."""
    return unit["outcome"] in ("done", "planned") or unit["version_before"] != unit["version_after"]


def versions(units, which):
    return ", ".join(sorted(set(u[which] for u in units if u[which])))


def diff(units):
    lines = dict((which, "".join("%s %s\n" % (u["unit"], u[which]) for u in units)) for which in ("version_before", "version_after"))
    return dict(before=lines["version_before"], after=lines["version_after"], before_header="version", after_header="version")


def sentence(units):
    """What was done, of one unit in full, of several in numbers."""
    if len(units) != 1:
        count = {}
        for u in units:
            count[u["outcome"]] = count.get(u["outcome"], 0) + 1
        return "of %d units: %s" % (len(units), ", ".join("%d %s" % (n, outcome) for outcome, n in sorted(count.items())))
    u = units[0]
    before, after = u["version_before"] or "an unknown version", u["version_after"] or "an unknown version"
    if u["outcome"] == "done":
        return "%s went from %s to %s in %.1fs" % (u["unit"], before, after, u["seconds"])
    if u["outcome"] == "planned":
        return "%s would go from %s to %s" % (u["unit"], before, after)
    return "%s serves %s already" % (u["unit"], after)


def fail(module, holdfast_rc, err, **kwargs):
    said, hints = split_hints(err)
    text = " ".join(line if line.endswith(".") else line + "." for line in said) or "holdfast ended with exit code %d and said nothing." % holdfast_rc
    if hints:
        text += " Try: " + "; ".join(hints)
    module.fail_json(msg=text, rc=holdfast_rc, next=hints, **kwargs)


def main():
    module = AnsibleModule(
        argument_spec=arguments(), supports_check_mode=True,
        mutually_exclusive=[("direct", "via_service"), ("user", "via_service")],
    )
    params = module.params
    for unit in params["unit"]:
        if not unit or unit.startswith("-"):
            module.fail_json(msg="unit %r: is no name of a service" % unit)
    wrong = misplaced(params)
    if wrong:
        module.fail_json(msg="%s: cannot be given with state=%s" % (", ".join(wrong), params["state"]))
    holdfast = Holdfast(module)
    if not holdfast.path:
        if module.check_mode:
            module.warn("holdfast is not on this machine: check mode cannot tell more")
            module.exit_json(changed=False, report=None, msg="holdfast is not installed yet")
        module.fail_json(msg="%s: there is no such command on this machine: install the package holdfast" % params["executable"], report=None)

    rc, statuses, err = holdfast.status(params["unit"])
    if rc == EXIT_NO_SUCH_UNIT and module.check_mode and not statuses:
        # The task that installs it did nothing in check mode.
        module.warn(" ".join(split_hints(err)[0]))
        module.exit_json(changed=False, report=None, msg="there is no such unit yet")
    before = [summarize(s) for s in statuses]
    if rc != EXIT_OK:
        for unit in before:
            if unit["error"]:
                err += "%s is %s: %s\n" % (unit["unit"], unit["active_state"] or "in no known state", unit["error"])
                if unit["active_state"] not in ("active", "reloading"):
                    err += 'Try "systemctl start %s".\n' % unit["unit"]
        fail(module, rc, err, report=None, changed=False)

    todo = [u for u in before if not is_there(u, params)]
    refused = [text for text in (cannot(u, params, module.check_mode) for u in todo) if text]
    if refused:
        module.fail_json(msg="; ".join(refused), report=None, changed=False, units=before, version_before=versions(before, "version"),
                         version_after=versions(before, "version"))
    report = None
    if todo:
        rc, objects, err = holdfast.run(command(params, holdfast.scope, todo, module.check_mode))
        report = objects[0] if objects else None

    units = results(before, report, params, module.check_mode)
    answer = dict(
        changed=any(is_changed(u) for u in units),
        report=report,
        units=units,
        version_before=versions(units, "version_before"),
        version_after=versions(units, "version_after"),
        diff=diff(units),
    )
    if rc != EXIT_OK:
        fail(module, rc, err, **answer)
    if params["version"] and not module.check_mode:
        # What was upgraded without naming the version to the command.
        others = ["%s serves %s" % (u["unit"], u["version_after"]) for u in units if u["outcome"] == "done" and u["version_after"] != params["version"]]
        if others:
            module.fail_json(msg="version %s was to serve, but %s" % (params["version"], ", ".join(others)), **answer)
    module.exit_json(msg=sentence(units), **answer)


if __name__ == "__main__":
    main()
