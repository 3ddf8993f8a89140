# SPDX-License-Identifier: Apache-2.0
"""What the modules decide, without a machine: python3 -m unittest, with the collection in PYTHONPATH."""

import json
import os
import shutil
import tempfile
import unittest

import yaml

from ansible_collections.holdfast_go.holdfast.plugins.module_utils import holdfast
from ansible_collections.holdfast_go.holdfast.plugins.modules import info, units, upgrade


def params(**given):
    """Parameters of the module upgrade with their defaults."""
    found = dict((name, spec.get("default")) for name, spec in upgrade.arguments().items())
    found.update(unit=["myapp"], **given)
    return found


def unit(**given):
    found = dict(unit="myapp.service", version="1.0.0", previous_version="", installed_path="/usr/bin/myapp", installed_runs=True)
    found.update(given)
    return found


# As "holdfast upgrade --json=short" prints it, shortened.
DONE = {
    "id": "r1", "action": "rollout", "outcome": "done", "units": [{
        "unit": "myapp.service", "wave": 0, "outcome": "done", "seconds": 2.5,
        "from": {"version": "1.0.0", "pid": 10}, "to": {"version": "2.0.0", "pid": 20},
    }],
}
ROLLED_BACK = {
    "id": "r2", "action": "rollout", "outcome": "rolled back", "reason": "myapp.service: health: 503", "units": [{
        "unit": "myapp.service", "wave": 0, "outcome": "rolled back", "reason": "health: 503", "gate": "health", "seconds": 4.0,
        "from": {"version": "1.0.0", "pid": 10}, "to": {"version": "1.0.0", "pid": 30},
    }],
}
DRY_RUN = {
    "id": "r3", "action": "rollout", "outcome": "unchanged", "units": [{
        "unit": "myapp.service", "wave": 0, "outcome": "skipped", "reason": "dry run: it would be upgraded now", "seconds": 0,
        "from": {"version": "1.0.0", "pid": 10}, "to": {"version": "1.0.0", "pid": 10},
    }],
}


class Upgrade(unittest.TestCase):
    def test_what_is_there(self):
        cases = [
            (dict(), unit(), True),
            (dict(), unit(installed_runs=False), False),
            (dict(), unit(installed_runs=None), False),
            (dict(version="1.0.0"), unit(installed_runs=False), True),
            (dict(version="2.0.0"), unit(installed_runs=False), False),
            (dict(version="1.0.0", force=True), unit(), False),
            (dict(state="rolled_back"), unit(), False),
            (dict(state="rolled_back", version="1.0.0"), unit(), True),
        ]
        for given, of, want in cases:
            self.assertEqual(upgrade.is_there(of, params(**given)), want, (given, of))

    def test_what_cannot_be(self):
        text = upgrade.cannot(unit(), params(version="2.0.0"), False)
        self.assertIn("install version 2.0.0 first", text)
        self.assertIn("/usr/bin/myapp", text)
        # In check mode the task before has not installed it.
        self.assertIsNone(upgrade.cannot(unit(), params(version="2.0.0"), True))
        self.assertIsNone(upgrade.cannot(unit(installed_runs=False), params(version="2.0.0"), False))
        self.assertIsNone(upgrade.cannot(unit(previous_version="0.9"), params(state="rolled_back", version="0.9"), False))
        text = upgrade.cannot(unit(previous_version="0.8"), params(state="rolled_back", version="0.9"), False)
        self.assertIn("version 0.9 is not kept", text)
        self.assertIn("would start 0.8", text)

    def test_command(self):
        given = params(version="2.0.0", soak="1m", max_error_rate=0.01, max_failures=0, request_id="r1", user=True)
        self.assertEqual(upgrade.command(given, holdfast.scope_flags(given), [unit()], True), [
            "upgrade", "--json=short", "--user", "--dry-run", "--version=2.0.0", "--request-id=r1", "--soak=1m",
            "--max-error-rate=0.01", "--max-failures=0", "myapp.service",
        ])
        # The command leaves alone what serves the version already.
        given = params(version="1.0.0", force=True)
        self.assertEqual(upgrade.command(given, [], [unit()], False), ["upgrade", "--json=short", "myapp.service"])
        given = params(state="rolled_back", version="0.9", reason="because")
        self.assertEqual(upgrade.command(given, [], [unit()], False), ["rollback", "--json=short", "--reason=because", "myapp.service"])

    def test_misplaced(self):
        self.assertEqual(upgrade.misplaced(params(soak="1m")), [])
        self.assertEqual(upgrade.misplaced(params(reason="because")), ["reason"])
        self.assertEqual(upgrade.misplaced(params(state="rolled_back", soak="1m", force=True)), ["soak", "force"])

    def test_results(self):
        before = [unit()]
        for report, check_mode, outcome, after, changed in [
            (None, False, "unchanged", "1.0.0", False),
            (DONE, False, "done", "2.0.0", True),
            (ROLLED_BACK, False, "rolled back", "1.0.0", False),
            (DRY_RUN, True, "planned", "2.0.0", True),
        ]:
            found = upgrade.results(before, report, params(version="2.0.0"), check_mode)
            self.assertEqual((found[0]["outcome"], found[0]["version_before"], found[0]["version_after"]), (outcome, "1.0.0", after))
            self.assertEqual(upgrade.is_changed(found[0]), changed, outcome)
        found = upgrade.results(before, DRY_RUN, params(), True)
        self.assertEqual(upgrade.sentence(found), "myapp.service would go from 1.0.0 to the one in /usr/bin/myapp")
        found = upgrade.results(before, DONE, params(), False)
        self.assertEqual(upgrade.sentence(found), "myapp.service went from 1.0.0 to 2.0.0 in 2.5s")
        self.assertEqual(upgrade.diff(found)["after"], "myapp.service 2.0.0\n")

    def test_same_version_of_another_build(self):
        report = json.loads(json.dumps(DONE).replace("2.0.0", "1.0.0"))
        found = upgrade.results([unit()], report, params(), False)
        self.assertTrue(upgrade.is_changed(found[0]))


class Documentation(unittest.TestCase):
    def test_options(self):
        """What is documented is what there is."""
        for module, spec in [(upgrade, upgrade.arguments()), (info, info.arguments()), (units, units.arguments())]:
            documented = yaml.safe_load(module.DOCUMENTATION)["options"]
            self.assertEqual(sorted(documented), sorted(spec), module.__name__)
            for name, option in documented.items():
                for key in ("type", "elements", "choices", "aliases", "default", "required"):
                    self.assertEqual(option.get(key), spec[name].get(key), "%s %s %s" % (module.__name__, name, key))
            yaml.safe_load(module.EXAMPLES)
            yaml.safe_load(module.RETURN)


class Utilities(unittest.TestCase):
    def test_objects(self):
        self.assertEqual(holdfast.parse_objects('{"a": 1}\n{"a":\n 2}\n'), [{"a": 1}, {"a": 2}])
        self.assertEqual(holdfast.parse_objects("\n"), [])
        with self.assertRaises(ValueError):
            holdfast.parse_objects("hello")

    def test_hints(self):
        said, hints = holdfast.split_hints('holdfast upgrade: unit a.service: it is not active (dead)\nTry "systemctl start a.service".\n')
        self.assertEqual(said, ["holdfast upgrade: unit a.service: it is not active (dead)"])
        self.assertEqual(hints, ["systemctl start a.service"])

    def test_hard_settings(self):
        before = "# /etc/systemd/system/a.service\n[Unit]\nDescription=a\n[Service]\nExecStart=/bin/a \\\n  -b\nExecReload=/bin/r\n[Install]\nWantedBy=x\n"
        self.assertEqual(holdfast.hard_settings(before), ["Service.ExecStart=/bin/a  -b"])
        same = before.replace("Description=a", "Description=b").replace("/bin/r", "/bin/s").replace("WantedBy=x", "WantedBy=y")
        self.assertEqual(holdfast.digest_of(before), holdfast.digest_of(same))
        self.assertNotEqual(holdfast.digest_of(before), holdfast.digest_of(before.replace("-b", "-c")))

    def test_flags(self):
        options = {"socket": ["a=1", "b=2"], "state_directory": "x", "instance": True, "user": False, "watchdog": None}
        self.assertEqual(units.flags(options), ["--instance", "--socket=a=1", "--socket=b=2", "--state-directory=x"])


class InstalledFile(unittest.TestCase):
    """A process in a directory that looks like /proc."""

    def setUp(self):
        self.proc = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.proc)
        self.root = os.path.join(self.proc, "7", "root")
        os.makedirs(os.path.join(self.root, "usr/bin"))
        self.file = os.path.join(self.root, "usr/bin/myapp")
        self.write(self.file, b"one")
        os.link(self.file, os.path.join(self.proc, "7", "exe"))
        self.write(os.path.join(self.proc, "7", "cmdline"), b"/usr/bin/myapp\0-probation=5s\0")

    def write(self, path, text):
        with open(path, "wb") as f:
            f.write(text)

    def replace(self, text):
        self.write(self.file + ".new", text)
        os.rename(self.file + ".new", self.file)

    def test_it_runs(self):
        self.assertEqual(holdfast.installed_file(7, self.proc), ("/usr/bin/myapp", True))

    def test_another_one(self):
        self.replace(b"two")
        self.assertEqual(holdfast.installed_file(7, self.proc), ("/usr/bin/myapp", False))

    def test_the_same_installed_again(self):
        self.replace(b"one")
        self.assertEqual(holdfast.installed_file(7, self.proc), ("/usr/bin/myapp", True))

    def test_it_was_removed(self):
        os.remove(self.file)
        self.assertEqual(holdfast.installed_file(7, self.proc), ("/usr/bin/myapp", None))

    def test_no_path(self):
        self.write(os.path.join(self.proc, "7", "cmdline"), b"myapp\0")
        self.assertEqual(holdfast.installed_file(7, self.proc), (None, None))
        self.assertEqual(holdfast.installed_file(8, self.proc), (None, None))
        self.assertEqual(holdfast.installed_file(0, self.proc), (None, None))


if __name__ == "__main__":
    unittest.main()
