# SPDX-License-Identifier: Apache-2.0
"""What the plays rolling_upgrade and rollback decide: waves, their verdict, and the report.

A host has its result in the fact holdfast_result. Its "state" says how far it has come:

  (none)     its wave was not begun
  begun      the wave was begun; nothing was heard of the host
  reached    it answers; its upgrade may be under way
  failed     a task has failed, "task" and "reason" say which and why
  done       it was upgraded, or there was nothing to do
  undone     it was upgraded and went back with its wave
  stuck      it was to go back with its wave, and did not
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import re

from ansible.errors import AnsibleFilterError


def unit_versions(units):
    """The versions that the units of holdfast_go.holdfast.info serve."""
    return ", ".join(sorted(set(u["version"] for u in units if u["version"])))


def units_changed(before, now):
    """What has become of units between two calls of holdfast_go.holdfast.info, which the role service has to act on."""
    ran = dict((u["invocation_id"], u) for u in before if u["active_state"] == "active")
    # What was restarted meanwhile, as by the script of a package, has all settings.
    same = [(ran[u["invocation_id"]], u) for u in now if u["invocation_id"] in ran]
    return dict(
        ran=bool(ran),
        service=any(old["settings"] != new["settings"] for old, new in same),
        sockets=any(old["socket_settings"] != new["socket_settings"] for old, new in same),
    )


def rollout_results(hostvars, waves):
    """The results of all hosts by name."""
    results = {}
    for wave in waves:
        for name in wave["hosts"]:
            results[name] = dict(hostvars[name].get("holdfast_result") or {})
    return results


def size_of(text, total, name):
    """A number of hosts, or a percentage of them, at least one."""
    match = re.match(r"^([0-9]+)(%?)$", str(text).strip())
    if not match:
        raise AnsibleFilterError("%s=%s: must be a number of hosts, or a percentage as in 25%%" % (name, text))
    number = int(match.group(1))
    return max(1, number * total // 100 if match.group(2) else number)


def percentage(value, name):
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1
    if not 0 <= number <= 100:
        raise AnsibleFilterError("%s=%s: must be a percentage from 0 to 100, without the sign" % (name, value))
    return number


def rollout_plan(hosts, canaries, canary, wave):
    """The waves: first the named canaries, or so many of the first hosts, then the others."""
    hosts = [str(h) for h in hosts]
    if not hosts:
        raise AnsibleFilterError("holdfast_hosts: matches no host of the inventory")
    named = [str(h) for h in canaries]
    strangers = [h for h in named if h not in hosts]
    if strangers:
        raise AnsibleFilterError("holdfast_canary_hosts: not among holdfast_hosts: %s" % " ".join(strangers))
    if not named and str(canary) != "0":
        named = hosts[:size_of(canary, len(hosts), "holdfast_canary")]
    others = [h for h in hosts if h not in named]
    size = size_of(wave, len(hosts), "holdfast_wave")
    waves = [dict(wave=0, canary=True, hosts=named)] if named else []
    for i in range(0, len(others), size):
        waves.append(dict(wave=len(waves), canary=False, hosts=others[i:i + size]))
    for w in waves:
        w["judge"] = "holdfast_wave_%d" % (w["wave"] + 1)
        w["lineup"] = w["hosts"] + [w["judge"]]
    return waves


def outcome_of(result):
    """The outcome of a host, in the words of holdfast where it has one."""
    state = result.get("state", "")
    if state == "done":
        return "done" if result.get("changed") else "unchanged"
    if state == "failed":
        # What the service, or the command, has made of it.
        return (result.get("report") or {}).get("outcome") or "failed"
    return {"": "skipped", "begun": "down", "reached": "lost", "undone": "rolled back", "stuck": "broken"}[state]


def is_bad(result):
    return result.get("state") in ("reached", "failed")


def rollout_judge(wave, results, plan):
    """Whether a wave is to be undone, and whether the rollout ends with it.

    wave is one of rollout_plan, plan has the bounds, results are those of all hosts by name.
    """
    fail_bound = percentage(plan["max_fail_percentage"], "holdfast_max_fail_percentage")
    down_bound = percentage(plan["max_down_percentage"], "holdfast_max_down_percentage")
    hosts = wave["hosts"]
    failed = [h for h in hosts if is_bad(results[h])]
    down = [h for h in hosts if results[h].get("state") == "begun"]
    all_down = [h for h in results if results[h].get("state") == "begun"]
    name = "the canary" if wave["canary"] else "wave %d" % (wave["wave"] + 1)
    verdict = dict(undo=False, stop=False, reason="")
    # As of Ansible's max_fail_percentage, the bound has to be exceeded. Of the canary no host may fail.
    if failed and (wave["canary"] or len(failed) * 100 > fail_bound * len(hosts)):
        verdict.update(undo=True, stop=True, reason="%s has failed on %s" % (name, " ".join(failed)))
    elif wave["canary"] and len(down) == len(hosts):
        verdict.update(stop=True, reason="the canary is down: %s" % " ".join(down))
    elif len(all_down) * 100 > down_bound * len(results):
        verdict.update(stop=True, reason="too many hosts are down: %s" % " ".join(all_down))
    return verdict


def rollout_report(plan, results, stopped, ended, check_mode):
    """The report of all. plan has what was asked for, results are those of all hosts by name."""
    hosts = []
    for wave in plan["waves"]:
        for name in wave["hosts"]:
            result = results[name]
            outcome = outcome_of(result)
            reason = result.get("reason", "")
            if not reason:
                reason = {
                    "down": "the host could not be reached",
                    "lost": "the host was lost during its upgrade",
                    "skipped": "the rollout ended before its turn",
                }.get(outcome, "")
            began = float(result.get("began", 0))
            hosts.append(dict(
                host=name, wave=wave["wave"], canary=wave["canary"], outcome=outcome, reason=reason, task=result.get("task", ""),
                version_before=result.get("version_before", ""), version_after=result.get("version_after", ""),
                seconds=round(float(result.get("ended", ended)) - began, 1) if began else 0.0,
                report=result.get("report"),
            ))
    count = {}
    for h in hosts:
        count[h["outcome"]] = count.get(h["outcome"], 0) + 1
    bad = [h for h in hosts if h["outcome"] not in ("done", "unchanged")]
    if not bad:
        outcome = "done" if count.get("done") else "unchanged"
    elif not stopped["stop"]:
        outcome = "incomplete"
    else:
        # An upgrade of which nothing is left.
        outcome = "rolled back" if count.get("rolled back") else "failed"
    reason = stopped["reason"]
    if not reason and bad:
        reason = "%d of %d hosts do not have what was asked for" % (len(bad), len(hosts))
    waves = []
    for wave in plan["waves"]:
        of = [h["outcome"] for h in hosts if h["wave"] == wave["wave"]]
        waves.append(dict(wave=wave["wave"], canary=wave["canary"], hosts=wave["hosts"], outcomes=dict((o, of.count(o)) for o in sorted(set(of)))))
    return dict(
        id=plan["id"], action=plan["action"], outcome=outcome, reason=reason, check_mode=bool(check_mode),
        version=plan["version"], started=plan["started"], seconds=round(float(ended) - float(plan["began"]), 1),
        counts=count, waves=waves, hosts=hosts,
    )


def rollout_text(report):
    """The report as lines for people."""
    columns = [("HOST", "host"), ("WAVE", "wave"), ("OUTCOME", "outcome"), ("BEFORE", "version_before"), ("AFTER", "version_after"), ("TOOK", "seconds"), ("REASON", "reason")]
    rows = [[title for title, key in columns]]
    for h in report["hosts"]:
        row = []
        for title, key in columns:
            text = h[key]
            if key == "wave":
                text = "canary" if h["canary"] else str(h["wave"] + 1)
            elif key == "seconds":
                text = "%.1fs" % h["seconds"]
            row.append(" ".join(str(text).split()) or "-")
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    noun = "rollback" if report["action"] == "rollback" else "upgrade"
    summary = "The %s of %d hosts%s: %s in %.1fs (%s)." % (
        noun, len(report["hosts"]), ", in check mode" if report["check_mode"] else "", report["outcome"], report["seconds"],
        ", ".join("%d %s" % (n, outcome) for outcome, n in sorted(report["counts"].items())))
    lines.append(summary)
    if report["reason"]:
        lines.append("Why: %s." % report["reason"])
    return lines


class FilterModule(object):
    def filters(self):
        return dict(
            unit_versions=unit_versions,
            units_changed=units_changed,
            rollout_plan=rollout_plan,
            rollout_results=rollout_results,
            rollout_judge=rollout_judge,
            rollout_report=rollout_report,
            rollout_text=rollout_text,
        )
