# SPDX-License-Identifier: Apache-2.0
"""The command holdfast, and what can be told of the services of a machine."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import hashlib
import json
import os

# Exit codes of the command, see holdfast(1).
EXIT_OK = 0
EXIT_NOT_RUNNING = 3
EXIT_NO_SUCH_UNIT = 5

SCOPE_ARGUMENTS = dict(
    user=dict(type="bool", default=False),
    direct=dict(type="bool", default=False),
    via_service=dict(type="bool", default=False),
    executable=dict(type="path", default="holdfast"),
)


def scope_flags(params):
    """The flags that say on what, and through whom, the command works."""
    return ["--" + name.replace("_", "-") for name in ("user", "direct", "via_service") if params[name]]


def parse_objects(text):
    """JSON objects that follow one another, as --json=short prints them."""
    decoder = json.JSONDecoder()
    objects = []
    text = text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        objects.append(value)
        text = text[end:].lstrip()
    return objects


def full_name(unit):
    """The name of a service with its suffix."""
    return unit if unit.endswith(".service") else unit + ".service"


def is_pattern(unit):
    return any(c in unit for c in "*?[")


def split_hints(stderr):
    """What the command said, and the commands to type next."""
    said, hints = [], []
    for line in stderr.splitlines():
        line = line.strip()
        if line.startswith('Try "'):
            hints.append(line[len('Try "'):].rpartition('"')[0])
        elif line:
            said.append(line)
    return said, hints


def content(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    return digest.digest()


def same_content(a, b):
    """Whether two files are the same one, or have the same content."""
    stat_a, stat_b = os.stat(a), os.stat(b)
    if (stat_a.st_dev, stat_a.st_ino) == (stat_b.st_dev, stat_b.st_ino):
        return True
    return stat_a.st_size == stat_b.st_size and content(a) == content(b)


def installed_file(pid, proc="/proc"):
    """The path of the file that an upgrade of a process starts, and whether it is what runs.

    A service starts what its first argument names, as it is seen in the service's own
    mount namespace. (None, None) or (path, None) is what cannot be told.
    """
    if not pid:
        return None, None
    process = os.path.join(proc, str(pid))
    path = None
    try:
        with open(os.path.join(process, "cmdline"), "rb") as f:
            path = os.fsdecode(f.read().split(b"\0", 1)[0])
        if not os.path.isabs(path):
            return None, None
        file = os.path.join(process, "root", path.lstrip("/"))
        return path, same_content(os.path.join(process, "exe"), file)
    except OSError:
        return path, None


def summarize(status, proc="/proc"):
    """What matters of one object of "holdfast status --json"."""
    systemd = status.get("systemd") or {}
    previous = status.get("previous") or {}
    path, runs = installed_file(status.get("pid"), proc)
    return dict(
        unit=systemd.get("name", ""),
        version=status.get("version") or "",
        build=(status.get("fingerprint") or {}).get("revision") or "",
        state=status.get("state") or "",
        pid=status.get("pid") or 0,
        generation=status.get("generation") or 0,
        active_state=systemd.get("active_state") or "",
        invocation_id=systemd.get("invocation_id") or "",
        enabled=systemd.get("unit_file_state") or "",
        need_daemon_reload=bool(systemd.get("need_daemon_reload")),
        previous_version=previous.get("version") or "",
        frozen=status.get("frozen"),
        error=status.get("service_error") or "",
        installed_path=path or "",
        installed_runs=runs,
    )


# Settings that a running service does not have from its start: a change of them needs no restart.
SOFT_SETTINGS = frozenset(["Description", "Documentation", "SourcePath", "ExecReload"])


def hard_settings(text):
    """The settings of a unit file that count from the next start on."""
    section, settings, joined = "", [], ""
    for line in text.splitlines():
        line = joined + line.strip()
        joined = ""
        if line[:1] in ("#", ";") or not line:
            continue
        if line.endswith("\\"):
            joined = line[:-1] + " "
            continue
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
            continue
        key = line.partition("=")[0].strip()
        if section != "Install" and key not in SOFT_SETTINGS:
            settings.append("%s.%s" % (section, line))
    return settings


def digest_of(units):
    """A text that differs when settings of these unit files differ that count from the next start on."""
    return hashlib.sha256("\n".join(hard_settings(units)).encode("utf-8")).hexdigest()


class Holdfast(object):
    """Runs the command on the machine."""

    def __init__(self, module):
        self.module = module
        self.scope = scope_flags(module.params)
        self.path = module.get_bin_path(module.params["executable"])

    def run(self, args):
        """Returns the exit code, the JSON objects of the output, and the standard error."""
        rc, out, err = self.module.run_command([self.path] + args)
        try:
            return rc, parse_objects(out), err
        except ValueError as e:
            self.module.fail_json(msg="%s %s: its output is no JSON: %s" % (self.path, " ".join(args), e), rc=rc, stdout=out, stderr=err)

    def status(self, units):
        return self.run(["status", "--json=short"] + self.scope + units)
