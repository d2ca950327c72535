"""Why a work doesn't run, as a project's own tests see it: each case with its true first reason."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from celery_workmanager import Constraints, ContentUriTrigger, Explanation, Limit, OneTimeWorkRequest, Rate, ReasonKind
from celery_workmanager.errors import UnknownWorker, WorkNotFound
from celery_workmanager.testing import WorkManagerTestKit
from tests.conformance.conftest import Works
from tests.conformance.workers import actions


def first(works: Works, work_id: str) -> str:
    return works.wm.explain(work_id).first.kind.value


def test_each_stage_of_a_work_has_its_reason(kit: WorkManagerTestKit, works: Works):
    seen = list[str]()
    actions["look"] = lambda run: seen.append(first(works, run.work_id))
    parent, child = works.request("look", initial_delay=60), works.request(tags={"red"})
    works.wm.begin_with(parent).then(child).enqueue()
    assert [first(works, each.id) for each in (parent, child)] == ["not_due", "blocked"]
    kit.clock.advance(timedelta(seconds=60))
    assert first(works, parent.id) == "ready"
    works.wm.pause(tag="red")
    kit.run_until_idle()
    assert seen == ["running"]
    assert [first(works, each.id) for each in (parent, child)] == ["finished", "paused"]
    works.wm.resume(tag="red")
    works.wm.pause(node="kit")
    assert first(works, child.id) == "paused"
    works.wm.resume(node="kit")
    assert first(works, child.id) == "ready"


def test_what_the_kits_node_reads_is_explained(kit: WorkManagerTestKit, works: Works):
    work = works.enqueue(constraints=Constraints(requires_storage_not_low=True, custom=("licence",)))
    assert first(works, work) == "ready"
    kit.node.set(storage_free_percent=3)
    (reason,) = works.wm.explain(work).reasons
    assert (reason.kind, reason.nodes[0].name) == (ReasonKind.CONSTRAINT, "kit")
    assert "the node read 3 %" in reason.text
    kit.node.reset()
    assert first(works, work) == "ready"


def test_a_content_trigger_is_explained_until_it_has_fired(kit: WorkManagerTestKit, works: Works):
    work = works.enqueue(constraints=Constraints(content_uri_triggers=(ContentUriTrigger("/in"),)))
    assert first(works, work) == "content_trigger"
    kit.node.change("/in/a")
    kit.clock.advance(timedelta(seconds=10))
    kit.crash_after("claim")
    kit.run_until_idle()
    kit.lose_node()
    assert first(works, work) == "ready"


def test_a_limit_is_explained_by_who_holds_it(kit: WorkManagerTestKit, works: Works):
    seen = list[Explanation]()
    other = works.request(concurrency=Limit("disk", 1))

    def look(run: object) -> None:
        works.wm.enqueue(other)
        kit.work_manager.store.claim_one(other.id, "kit", 7)
        seen.append(works.wm.explain(other.id))

    actions["look"] = look
    work = works.enqueue("look", concurrency=Limit("disk", 1))
    kit.run_until_idle()
    (reason,) = seen[0].reasons
    assert (reason.kind, reason.work_ids, reason.count) == (ReasonKind.CONCURRENCY, (work,), 1)
    assert reason.text == f"1 of 1 run under the limit 'disk': {work}"


def test_a_rate_is_explained_by_when_it_is_free(kit: WorkManagerTestKit, works: Works):
    rate = Rate("mail", 1, timedelta(minutes=1))
    works.enqueue(rate=rate)
    second = works.enqueue(rate=rate)
    kit.run_until_idle()
    (reason,) = works.wm.explain(second).reasons
    assert (reason.kind, reason.until) == (ReasonKind.RATE, works.now + timedelta(minutes=1))
    kit.clock.advance(timedelta(minutes=1))
    assert kit.run_until_idle() == 1


def test_a_request_is_explained_before_it_is_enqueued(kit: WorkManagerTestKit, works: Works):
    request = works.request(initial_delay=60)
    found = works.wm.explain(request)
    assert (found.first.kind, found.work_id) == (ReasonKind.NOT_DUE, request.id)
    assert works.find(request) is None
    assert asyncio.run(works.wm.aexplain(works.request())).first.kind is ReasonKind.READY
    with pytest.raises(UnknownWorker):
        works.wm.explain(OneTimeWorkRequest("nobody"))
    with pytest.raises(WorkNotFound):
        works.wm.explain(request.id)
