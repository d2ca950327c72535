"""Every policy against every kind of existing chain."""

from __future__ import annotations

import pytest

from celery_workmanager import ExistingWorkPolicy, Result, WorkContinuation
from tests.conformance.workers import actions, ran

REPLACE, KEEP = ExistingWorkPolicy.REPLACE, ExistingWorkPolicy.KEEP
APPEND, APPEND_OR_REPLACE = ExistingWorkPolicy.APPEND, ExistingWorkPolicy.APPEND_OR_REPLACE


@pytest.fixture(autouse=True)
def endings():
    actions["fail"] = lambda _: Result.failure()
    actions["out"] = lambda self: {"out": self.input_data.get("n")}


class Existing:
    """Chains that carry the name already."""

    def __init__(self, works):
        self.works, self.wm, self.kit = works, works.wm, works.kit

    def begin(self, *requests):
        return self.wm.begin_unique_work("name", APPEND, list(requests))

    def nothing(self):
        return []

    def enqueued(self):
        return self._stored(self.begin(self.works.request()))

    def blocked_behind_an_enqueued_one(self):
        return self._stored(self.begin(self.works.request()).then(self.works.request()))

    def retrying(self):
        actions["retry"] = lambda _: Result.retry()
        found = self._stored(self.begin(self.works.request("retry")))
        self.kit.run_until_idle()
        return found

    def only_blocked(self):
        foreign = self.wm.begin_with(self.works.request())
        return self._stored(foreign.then(self.works.request()), name_later=True)

    def succeeded(self):
        found = self._stored(self.begin(self.works.request("out", n=1)).then(self.works.request("out", n=2)))
        self.kit.run_until_idle()
        return found

    def failed(self):
        found = self._stored(self.begin(self.works.request("fail")).then(self.works.request()))
        self.kit.run_until_idle()
        return found

    def cancelled(self):
        found = self._stored(self.begin(self.works.request()))
        self.wm.cancel_unique_work("name")
        return found

    def one_failed_one_waiting(self):
        found = self._stored(self.begin(self.works.request("fail"), self.works.request(initial_delay=60)))
        self.kit.run_until_idle()
        return found

    def _stored(self, chain, name_later=False):
        requests = [request for step in chain.steps() for request in step.requests]
        chain.enqueue()
        if name_later:  # the same work again, with the name: its name is added
            self.wm.enqueue_unique_work("name", APPEND, requests[-1])
            return requests[-1:]
        return requests


KEPT, WAITS, STARTS, FRESH, FAILS, CANCELS = "kept", "BLOCKED", "ENQUEUED", "replaced", "FAILED", "CANCELLED"
TABLE = {
    "nothing": (STARTS, STARTS, STARTS, STARTS),
    "enqueued": (FRESH, KEPT, WAITS, WAITS),
    "retrying": (FRESH, KEPT, WAITS, WAITS),
    "blocked_behind_an_enqueued_one": (FRESH, KEPT, WAITS, WAITS),
    "only_blocked": (FRESH, FRESH, WAITS, WAITS),
    "succeeded": (FRESH, FRESH, STARTS, STARTS),
    "failed": (FRESH, FRESH, FAILS, FRESH),
    "cancelled": (FRESH, FRESH, CANCELS, FRESH),
    "one_failed_one_waiting": (FRESH, KEPT, FAILS, FRESH),
}
CASES = [
    pytest.param(existing, policy, expected, id=f"{policy.name}-{existing}")
    for existing, row in TABLE.items()
    for policy, expected in zip((REPLACE, KEEP, APPEND, APPEND_OR_REPLACE), row, strict=True)
]


@pytest.mark.parametrize(("existing", "policy", "expected"), CASES)
def test_a_policy_meets_an_existing_chain(wm, works, existing, policy, expected):
    old = getattr(Existing(works), existing)()
    first, second = works.request(n="new"), works.request(n="after")
    operation = wm.begin_unique_work("name", policy, first).then(second).enqueue()
    if expected == KEPT:
        assert (operation.applied, operation.ids, operation.skipped_ids) == (False, (), (first.id, second.id))
        assert (works.find(first), works.find(second)) == (None, None)
        assert all(works.find(each) for each in old)
        return
    assert (operation.applied, operation.ids) == (True, (first.id, second.id))
    state = "ENQUEUED" if expected == FRESH else expected
    after = state if state in (FAILS, CANCELS) else "BLOCKED"
    assert works.states(first, second) == [state, after]
    if expected == FRESH:
        assert [works.find(each) for each in old] == [None] * len(old)
        assert works.info(first).prerequisites == ()
    elif old:
        leaves = old if existing == "one_failed_one_waiting" else old[-1:]
        assert set(works.info(first).prerequisites) == {leaf.id for leaf in leaves}
    named = {info.id for info in wm.get_work_infos_for_unique_work("name")}
    assert {first.id, second.id} <= named


def test_keep_holds_while_a_work_of_the_name_runs(wm, works, kit):
    new = works.request()
    actions["enqueue"] = lambda _: ran.append(wm.enqueue_unique_work("name", KEEP, new).applied)
    wm.enqueue_unique_work("name", KEEP, works.request("enqueue"))
    kit.run_until_idle()
    assert ran[-1] is False
    assert works.find(new) is None


def test_append_starts_when_the_last_leaf_succeeds_and_gets_its_output(wm, works, kit):
    old, new = works.request("out", n=7), works.request("see")
    seen = []
    actions["see"] = lambda self: seen.append(dict(self.input_data))
    wm.enqueue_unique_work("name", APPEND, old)
    wm.enqueue_unique_work("name", APPEND, new)
    assert works.state(new) == "BLOCKED"
    kit.run_until_idle()
    assert seen == [{"do": "see", "out": 7}]


def test_append_to_what_succeeded_long_ago_gets_its_output_too(wm, works, kit):
    seen = []
    actions["see"] = lambda self: seen.append(dict(self.input_data))
    wm.enqueue_unique_work("name", APPEND, works.request("out", n=7))
    kit.run_until_idle()
    wm.enqueue_unique_work("name", APPEND, works.request("see"))
    kit.run_until_idle()
    assert seen == [{"do": "see", "out": 7}]


def test_append_waits_for_all_leaves(wm, works, kit):
    one, two, new = works.request(), works.request(initial_delay=60), works.request()
    wm.enqueue_unique_work("name", APPEND, [one, two])
    wm.enqueue_unique_work("name", APPEND, new)
    kit.run_until_idle()
    assert works.states(one, new) == ["SUCCEEDED", "BLOCKED"]


def test_a_work_with_a_dependent_outside_the_name_is_no_leaf(wm, works):
    a, foreign, new = works.request(), works.request(), works.request()
    start = wm.begin_unique_work("name", APPEND, a)
    WorkContinuation.combine([start]).then(foreign).enqueue()
    wm.enqueue_unique_work("name", APPEND, new)
    assert works.state(new) == "ENQUEUED"
    assert works.info(new).prerequisites == ()


def test_replace_cancels_what_depends_on_the_old_works_elsewhere(wm, works):
    old, foreign, stranger = works.request(), works.request(), works.request()
    start = wm.begin_unique_work("name", APPEND, old)
    WorkContinuation.combine([start, wm.begin_with(stranger)]).then(foreign).enqueue()
    wm.enqueue_unique_work("name", REPLACE, works.request())
    assert works.find(old) is None
    assert works.states(foreign, stranger) == ["CANCELLED", "ENQUEUED"]


def test_append_or_replace_leaves_no_foreign_dependent_waiting_for_nobody(wm, works, kit):
    """Upstream, the rows vanish under a dependent outside the name, which then waits for ever."""
    failing, waiting, foreign = works.request("fail", priority=9), works.request(initial_delay=60), works.request()
    wm.enqueue_unique_work("name", APPEND, failing)
    start = wm.begin_with(waiting)
    start.enqueue()
    wm.enqueue_unique_work("name", APPEND, waiting)  # the same work again: it gets the name
    WorkContinuation.combine([start]).then(foreign).enqueue()
    kit.run_until_idle()
    wm.enqueue_unique_work("name", APPEND_OR_REPLACE, works.request())
    assert (works.find(failing), works.find(waiting)) == (None, None)
    assert works.state(foreign) == "CANCELLED"


def test_append_or_replace_stops_and_cancels_a_running_member(wm, works, kit):
    """Upstream, its row vanishes under it and it runs on unnoticed."""
    new, foreign, seen = works.request(), works.request(), []

    def replace(self):
        wm.enqueue_unique_work("name", APPEND_OR_REPLACE, new)
        seen.append((self.is_stopped, self.stop_reason.name))

    actions["replace"] = replace
    failing, running = works.request("fail", priority=9), works.request("replace")
    wm.begin_unique_work("name", APPEND, [failing, running]).enqueue()
    WorkContinuation.combine([wm.begin_with(works.request(initial_delay=60))]).then(foreign).enqueue()
    kit.run_one()
    kit.run_one()
    assert seen == [(True, "CANCELLED_BY_APP")]
    assert works.find(running) is None
    assert works.states(new, foreign) == ["ENQUEUED", "BLOCKED"]


def test_a_work_that_replaces_its_own_name_cancels_itself(wm, works, kit):
    new, seen = works.request(n="new"), []

    def replace(self):
        wm.enqueue_unique_work("name", REPLACE, new)
        seen.append((self.is_stopped, self.stop_reason.name))
        return {"too": "late"}

    actions["replace"] = replace
    old = works.request("replace")
    wm.enqueue_unique_work("name", REPLACE, old)
    kit.run_until_idle()
    assert seen == [(True, "CANCELLED_BY_APP")]
    assert works.find(old) is None
    assert works.state(new) == "SUCCEEDED"


def test_names_do_not_touch_each_other(wm, works):
    one, two = works.request(), works.request()
    wm.enqueue_unique_work("one", REPLACE, one)
    wm.enqueue_unique_work("two", REPLACE, two)
    assert works.states(one, two) == ["ENQUEUED", "ENQUEUED"]
    assert [info.id for info in wm.get_work_infos_for_unique_work("one")] == [one.id]


@pytest.mark.parametrize("name", ["", None, 5, "x" * 256, "a\0b"])
def test_a_unique_name_is_a_line_of_text(wm, works, name):
    with pytest.raises(ValueError, match="expected unique name to be"):
        wm.enqueue_unique_work(name, KEEP, works.request())


@pytest.mark.parametrize("policy", [None, "KEEP", "keep", 1])
def test_a_policy_is_one_of_the_four(wm, works, policy):
    with pytest.raises(ValueError, match="expected policy to be an ExistingWorkPolicy, got"):
        wm.enqueue_unique_work("name", policy, works.request())
