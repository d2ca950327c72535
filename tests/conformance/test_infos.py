"""Reading works: every field, every query, and watching them change."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest

from celery_workmanager import ExistingWorkPolicy, Result, State, WorkInfo, WorkQuery
from tests.conformance.workers import actions

KEEP = ExistingWorkPolicy.KEEP


def test_an_info_tells_everything_about_a_work(wm, works, kit):
    parent = works.request()
    request = works.request(n=1, tags={"x"}, initial_delay=5, queue="images", priority=7)
    wm.begin_unique_work("name", KEEP, parent).then(request).enqueue()
    info = works.info(request)
    assert isinstance(info, WorkInfo)
    assert info.worker_name == "act"
    assert info.tags == frozenset({"act", "x"})
    assert info.input_data.to_dict() == {"do": "nothing", "n": 1}
    assert info.unique_names == ("name",)
    assert (info.queue, info.priority) == ("images", 7)
    assert info.initial_delay == timedelta(seconds=5)
    assert info.prerequisites == (parent.id,)
    assert (info.enqueued_at, info.started_at, info.finished_at, info.node, info.error) == (None,) * 5
    assert info.version >= 1
    with pytest.raises(AttributeError):
        info.state = State.RUNNING  # type: ignore[misc]
    shown = json.loads(json.dumps(info.to_dict()))
    assert (shown["state"], shown["tags"], shown["initial_delay"]) == ("BLOCKED", ["act", "x"], 5.0)


def test_an_unknown_work_is_none(wm):
    assert wm.get_work_info_by_id("nobody") is None
    assert wm.get_work_infos_by_tag("nobody") == []
    assert wm.get_work_infos_for_unique_work("nobody") == []


@pytest.fixture
def several(wm, works, kit):
    actions["fail"] = lambda _: Result.failure()
    done, failed = works.request(n=1, tags={"a"}), works.request("fail", tags={"a", "b"})
    later, named = works.request(initial_delay=60, tags={"b"}), works.request(initial_delay=60, tags={"c"})
    wm.enqueue([done, failed, later])
    wm.enqueue_unique_work("name", KEEP, named)
    kit.run_until_idle()
    return {"done": done.id, "failed": failed.id, "later": later.id, "named": named.id}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, {"done", "failed", "later", "named"}),
        ({"tags": ["a"]}, {"done", "failed"}),
        ({"tags": ["a", "c"]}, {"done", "failed", "named"}),
        ({"tags": ["act"]}, {"done", "failed", "later", "named"}),
        ({"states": [State.SUCCEEDED, State.FAILED]}, {"done", "failed"}),
        ({"unique_names": ["name", "nobody"]}, {"named"}),
        ({"tags": ["b"], "states": [State.ENQUEUED]}, {"later"}),
        ({"tags": ["a"], "unique_names": ["name"]}, set()),
        ({"limit": 2}, {"done", "failed"}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_a_query_means_or_inside_a_field_and_and_between_fields(wm, several, query, expected):
    found = wm.get_work_infos(WorkQuery(**query))
    assert {info.id for info in found} == {several[name] for name in expected}
    assert [info.id for info in found] == sorted(info.id for info in found)


def test_ids_are_a_field_too_and_pages_follow_each_other(wm, several):
    ids = [several["later"], several["done"], "nobody"]
    assert {info.id for info in wm.get_work_infos(WorkQuery(ids=ids))} == set(ids[:2])
    assert {info.id for info in wm.get_work_infos(WorkQuery.from_ids(*ids))} == set(ids[:2])
    seen, after = [], None
    while page := wm.get_work_infos(WorkQuery(limit=3, after=after)):
        seen += [info.id for info in page]
        after = seen[-1]
    assert seen == sorted(several.values())


@pytest.mark.parametrize(
    "fields", [{"ids": "x"}, {"tags": "x"}, {"states": ["ENQUEUED"]}, {"limit": 0}, {"states": State.ENQUEUED}], ids=str
)
def test_a_query_that_makes_no_sense_is_refused(fields):
    with pytest.raises(ValueError, match="expected .*, got: "):
        WorkQuery(**fields)


# -- watching -----------------------------------------------------------------------------------------------------


def test_an_observer_sees_the_present_first_and_then_each_change(wm, works, kit):
    work_id = works.enqueue(initial_delay=60)
    changes = wm.observe_work_info_by_id(work_id)
    assert next(changes).state is State.ENQUEUED
    wm.update_work(works.request(id=work_id))
    assert next(changes).generation == 1
    kit.run_until_idle()
    assert next(changes).state is State.SUCCEEDED
    wm.prune_work()
    assert next(changes) is None
    changes.close()


def test_an_observer_of_nothing_sees_none_and_then_the_work(wm, works):
    request = works.request()
    changes = wm.observe_work_info_by_id(request.id)
    assert next(changes) is None
    wm.enqueue(request)
    assert next(changes).id == request.id
    changes.close()


def test_observation_can_be_resumed_by_version(wm, works, kit):
    work_id = works.enqueue()
    version = works.info(work_id).version
    changes = wm.observe_work_info_by_id(work_id, after=version)
    kit.run_until_idle()
    assert next(changes).state is State.SUCCEEDED
    changes.close()


def test_equal_values_are_not_repeated(wm, works, kit):
    """The version grows when a claim is given back, but nothing that anyone can see has changed."""
    work_id = works.enqueue()
    changes = wm.observe_work_info_by_id(work_id)
    first = next(changes)
    kit.crash_after("claim")
    kit.run_one()
    kit.lose_node()
    assert works.info(work_id).version > first.version
    kit.run_until_idle()
    assert next(changes).state is State.SUCCEEDED
    changes.close()


def test_the_same_progress_again_is_no_change(wm, works, kit):
    versions = []

    def work(self):
        for percent in (1, 1, 2):
            self.set_progress(percent=percent)
            versions.append(works.info(self.work_id).version)

    actions["work"] = work
    works.enqueue("work")
    kit.run_until_idle()
    assert versions[0] == versions[1] < versions[2]


@pytest.mark.parametrize("how", ["tag", "name", "query"])
def test_lists_are_observed_alike(wm, works, kit, how):
    first = works.request(tags={"t"})
    wm.enqueue_unique_work("n", ExistingWorkPolicy.APPEND, first)
    changes = {
        "tag": lambda: wm.observe_work_infos_by_tag("t"),
        "name": lambda: wm.observe_work_infos_for_unique_work("n"),
        "query": lambda: wm.observe_work_infos(WorkQuery(tags=["t"])),
    }[how]()
    assert [info.id for info in next(changes)] == [first.id]
    second = works.request(tags={"t"})
    wm.enqueue_unique_work("n", ExistingWorkPolicy.APPEND, second)
    assert [info.id for info in next(changes)] == [first.id, second.id]
    kit.run_one()
    assert [info.state.name for info in next(changes)] == ["SUCCEEDED", "ENQUEUED"]
    changes.close()


def test_observers_have_asynchronous_sisters(wm, works, kit):
    work_id = works.enqueue(tags={"t"})

    async def watch():
        one = wm.aobserve_work_info_by_id(work_id)
        tagged, every = wm.aobserve_work_infos_by_tag("t"), wm.aobserve_work_infos(WorkQuery())
        named = wm.aobserve_work_infos_for_unique_work("nobody")
        assert (await anext(one)).state is State.ENQUEUED
        assert len(await anext(tagged)) == len(await anext(every)) == 1
        assert await anext(named) == []
        await asyncio.to_thread(kit.run_until_idle)
        assert (await anext(one)).state is State.SUCCEEDED
        assert (await anext(tagged))[0].state is State.SUCCEEDED
        for changes in (one, tagged, every, named):
            await changes.aclose()
        assert (await wm.aget_work_info_by_id(work_id)).state is State.SUCCEEDED
        assert len(await wm.aget_work_infos(WorkQuery())) == 1

    asyncio.run(watch())
