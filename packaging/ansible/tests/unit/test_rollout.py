# SPDX-License-Identifier: Apache-2.0
"""What the plays decide: waves, their verdict, and the report."""

import unittest

from ansible.errors import AnsibleFilterError

from ansible_collections.holdfast_go.holdfast.plugins.filter import rollout


def hosts_of(waves):
    return [w["hosts"] for w in waves]


class Plan(unittest.TestCase):
    def test_waves(self):
        six = ["h1", "h2", "h3", "h4", "h5", "h6"]
        cases = [
            ((six, [], 1, 2), [["h1"], ["h2", "h3"], ["h4", "h5"], ["h6"]]),
            ((six, [], 1, "50%"), [["h1"], ["h2", "h3", "h4"], ["h5", "h6"]]),
            ((six, ["h5"], 1, "100%"), [["h5"], ["h1", "h2", "h3", "h4", "h6"]]),
            ((six, [], 0, 3), [["h1", "h2", "h3"], ["h4", "h5", "h6"]]),
            ((six, [], "34%", 6), [["h1", "h2"], ["h3", "h4", "h5", "h6"]]),
            ((["h1"], [], 1, "25%"), [["h1"]]),
        ]
        for args, want in cases:
            self.assertEqual(hosts_of(rollout.rollout_plan(*args)), want)
        waves = rollout.rollout_plan(six, [], 1, 2)
        self.assertEqual([w["canary"] for w in waves], [True, False, False, False])
        self.assertEqual(waves[1]["lineup"], ["h2", "h3", "holdfast_wave_2"])
        self.assertFalse(rollout.rollout_plan(six, [], 0, 2)[0]["canary"])

    def test_wrong(self):
        for args, want in [
            (([], [], 1, 1), "matches no host"),
            ((["a"], ["b"], 1, 1), "not among holdfast_hosts: b"),
            ((["a"], [], 1, "some"), "holdfast_wave=some: must be"),
            ((["a"], [], "-1", 1), "holdfast_canary=-1: must be"),
        ]:
            with self.assertRaises(AnsibleFilterError) as caught:
                rollout.rollout_plan(*args)
            self.assertIn(want, str(caught.exception))


class Judge(unittest.TestCase):
    def verdict(self, wave, failing, down, **results):
        results = dict((h, dict(state=s) if s else {}) for h, s in results.items())
        return rollout.rollout_judge(rollout.rollout_plan(sorted(results), [], 1, 2)[wave], results, dict(max_fail_percentage=failing, max_down_percentage=down))

    def test_verdicts(self):
        cases = [
            ("all is well", (1, 0, 25, "done", "done", "done"), (False, False)),
            ("the canary has failed", (0, 100, 25, "failed", "", ""), (True, True)),
            ("the canary was lost", (0, 100, 25, "reached", "", ""), (True, True)),
            ("the canary is down", (0, 0, 100, "begun", "", ""), (False, True)),
            ("one has failed", (1, 0, 25, "done", "failed", "done"), (True, True)),
            ("not more than the bound", (1, 50, 25, "done", "failed", "done"), (False, False)),
            ("more than the bound", (1, 49, 25, "done", "failed", "done"), (True, True)),
            ("one is down", (1, 0, 34, "done", "begun", "done"), (False, False)),
            ("too many are down", (1, 0, 33, "done", "begun", "done"), (False, True)),
        ]
        for name, (wave, failing, down, a, b, c), want in cases:
            verdict = self.verdict(wave, failing, down, a=a, b=b, c=c)
            self.assertEqual((verdict["undo"], verdict["stop"]), want, name)
            self.assertEqual(bool(verdict["reason"]), want[1], name)

    def test_bounds(self):
        for failing, down, want in [("many", 25, "holdfast_max_fail_percentage=many"), (0, 101, "holdfast_max_down_percentage=101")]:
            with self.assertRaises(AnsibleFilterError) as caught:
                self.verdict(0, failing, down, a="done")
            self.assertIn(want, str(caught.exception))


class Report(unittest.TestCase):
    def report(self, stop, **results):
        waves = rollout.rollout_plan(sorted(results), [], 1, 2)
        plan = dict(id="r1", action="upgrade", version="2.0.0", began=100.0, started="2026-01-01T00:00:00Z", waves=waves)
        return rollout.rollout_report(plan, results, dict(stop=bool(stop), undo=bool(stop), reason=stop), 160.0, False)

    def test_done(self):
        good = dict(state="done", changed=True, version_before="1.0.0", version_after="2.0.0", began=100.0, ended=112.5)
        report = self.report("", a=good, b=dict(good, changed=False), c=good)
        self.assertEqual((report["outcome"], report["reason"], report["seconds"]), ("done", "", 60.0))
        self.assertEqual(report["counts"], {"done": 2, "unchanged": 1})
        self.assertEqual(report["hosts"][0]["seconds"], 12.5)
        text = rollout.rollout_text(report)
        self.assertEqual(text[0].split(), ["HOST", "WAVE", "OUTCOME", "BEFORE", "AFTER", "TOOK", "REASON"])
        self.assertEqual(text[1].split(), ["a", "canary", "done", "1.0.0", "2.0.0", "12.5s", "-"])
        self.assertEqual(text[-1], "The upgrade of 3 hosts: done in 60.0s (2 done, 1 unchanged).")

    def test_nothing_to_do(self):
        self.assertEqual(self.report("", a=dict(state="done", changed=False, began=100))["outcome"], "unchanged")

    def test_a_host_is_down(self):
        good = dict(state="done", changed=True, began=100.0, ended=101.0)
        report = self.report("", a=good, b=dict(state="begun", began=100.0), c=good)
        self.assertEqual((report["outcome"], report["counts"]), ("incomplete", {"done": 2, "down": 1}))
        self.assertEqual(report["hosts"][1]["reason"], "the host could not be reached")
        self.assertEqual(report["reason"], "1 of 3 hosts do not have what was asked for")

    def test_a_bad_wave(self):
        good = dict(state="done", changed=True, began=100.0, ended=101.0)
        bad = dict(state="failed", began=101.0, ended=103.0, reason="503", task="Upgrade the service", report=dict(outcome="rolled back"))
        undone = dict(state="undone", began=101.0, ended=104.0, reason="wave 2 has failed on b")
        report = self.report("wave 2 has failed on b", a=good, b=bad, c=undone, d={})
        self.assertEqual([h["outcome"] for h in report["hosts"]], ["done", "rolled back", "rolled back", "skipped"])
        self.assertEqual((report["outcome"], report["reason"]), ("rolled back", "wave 2 has failed on b"))
        self.assertEqual(report["waves"][1]["outcomes"], {"rolled back": 2})
        self.assertEqual(rollout.rollout_text(report)[-1], "Why: wave 2 has failed on b.")

    def test_what_was_not_undone(self):
        report = self.report("the canary has failed on a", a=dict(state="stuck", began=100.0, reason="503"))
        self.assertEqual((report["hosts"][0]["outcome"], report["outcome"]), ("broken", "failed"))


class Units(unittest.TestCase):
    def test_changes(self):
        def unit(**given):
            return dict(dict(invocation_id="i1", active_state="active", settings="s", socket_settings="t"), **given)

        for before, now, want in [
            ([], [unit()], (False, False, False)),
            ([unit()], [unit()], (True, False, False)),
            ([unit()], [unit(settings="u")], (True, True, False)),
            ([unit()], [unit(socket_settings="u")], (True, False, True)),
            # It was restarted meanwhile.
            ([unit()], [unit(invocation_id="i2", settings="u")], (True, False, False)),
            ([unit(active_state="inactive", invocation_id="")], [unit(settings="u")], (False, False, False)),
        ]:
            found = rollout.units_changed(before, now)
            self.assertEqual((found["ran"], found["service"], found["sockets"]), want)

    def test_versions(self):
        self.assertEqual(rollout.unit_versions([dict(version="2"), dict(version="1"), dict(version=""), dict(version="2")]), "1, 2")


if __name__ == "__main__":
    unittest.main()
