"""Why a stored work doesn't run: the first reason is the true one, whatever else holds it up."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from celery_workmanager import circumstances
from celery_workmanager.circumstances import explain_new, explain_stored
from celery_workmanager.constraints import Constraints, ContentUriTrigger
from celery_workmanager.errors import WorkNotFound
from celery_workmanager.explanation import Explanation, NodeView, ReasonKind
from celery_workmanager.lanes import LIMIT, lane_of
from celery_workmanager.limits import Limit, Rate
from celery_workmanager.outcome import Ending
from celery_workmanager.pauses import PauseKind, PauseTarget
from celery_workmanager.policies import OutOfQuotaPolicy
from celery_workmanager.readings import Readings
from celery_workmanager.store import Store, pausing
from celery_workmanager.store.leasing import NodeRow
from celery_workmanager.timing import SECOND, as_datetime
from tests.stores import (
    HOUR,
    KEEP,
    QUEUE,
    START,
    WORKER,
    end,
    enqueue,
    every,
    fail,
    job,
    move,
    put,
    put_named,
    sql,
    start,
    step,
    succeed,
    take_one,
    twin,
)

NOW = "2030-03-17 17:46:40 UTC"


def node(
    store: Store,
    name: str = "w@alpha",
    queues: Iterable[str] = (QUEUE,),
    workers: Iterable[str] = (WORKER,),
    *,
    lease: int = 15 * SECOND,
    **facts: Any,
) -> str:
    """A live node, whose id is its name."""
    now = store.clock.now()
    told = json.dumps({"queues": [*queues], "workers": [*workers], "concurrency": 4, **facts})
    store.register(NodeRow(name, name, "host", 1, 1, now, now + lease, told))
    return name


def why(store: Store, work_id: str = "a") -> list[tuple[str, str]]:
    return [(each.kind.value, each.text) for each in explain_stored(store, work_id).reasons]


def kinds(store: Store, work_id: str = "a") -> list[str]:
    return [each.kind.value for each in explain_stored(store, work_id).reasons]


def test_a_work_that_nothing_holds_will_be_claimed(store: Store):
    for each in "abcde":
        node(store, f"w@{each}")
    put(store, "a")
    found = explain_stored(store, "a")
    assert (found.work_id, found.state.name, found.is_running) == ("a", "ENQUEUED", False)
    assert why(store) == [("ready", "nothing holds it up: w@a, w@b, w@c or 2 more will claim it now")]


def test_an_unknown_work_is_an_error(store: Store):
    with pytest.raises(WorkNotFound):
        explain_stored(store, "nobody")


# -- finished and in hand ----------------------------------------------------------------------------------------


def test_a_finished_work_says_how_it_ended(store: Store):
    put(store, "a", "b")
    succeed(store, "a")
    fail(store, "b")
    assert why(store) == [("finished", f"it has been SUCCEEDED since {NOW}")]
    assert kinds(store, "b") == ["finished"]


def test_a_running_work_says_where(store: Store):
    node(store)
    put(store, "a")
    claim = take_one(store, "a", "w@alpha")
    assert why(store) == [("starting", "it is claimed by w@alpha, which is about to start it")]
    start(store, claim)
    assert why(store) == [("running", f"it runs on w@alpha since {NOW}")]
    assert explain_stored(store, "a").is_running


def test_a_work_in_the_hands_of_a_silent_node_waits_to_be_put_back(store: Store):
    node(store)
    put(store, "a")
    start(store, take_one(store, "a", "w@alpha"))
    move(store, 20 * SECOND)
    reason = explain_stored(store, "a").first
    assert (reason.kind, reason.since) == (ReasonKind.NODE_LOST, as_datetime(START + 15 * SECOND))
    assert reason.text == (
        "it is in the hands of w@alpha, whose lease ended at 2030-03-17 17:46:55 UTC:"
        " no live node is there to put it back"
    )
    assert not explain_stored(store, "a").is_running
    node(store, "w@beta")
    assert why(store)[0][1].endswith("a live node is about to put it back")


# -- time and graph ----------------------------------------------------------------------------------------------


def test_a_delay_a_backoff_and_a_period_say_until_when(store: Store):
    node(store, lease=HOUR)
    put(store, job("a", initial_delay=60), "b", every("c", seconds=60))
    assert why(store) == [("not_due", "it is not due until 2030-03-17 17:47:40 UTC: its initial delay")]
    assert explain_stored(store, "a").first.until == as_datetime(START + 60 * SECOND)
    start(store, claim := take_one(store, "b"))
    end(store, claim, ending=Ending.RETRY)
    assert why(store, "b") == [("not_due", "it is not due until 2030-03-17 17:47:10 UTC: the backoff after attempt 1")]
    succeed(store, "c")
    assert why(store, "c") == [("not_due", "it is not due until 2030-03-17 17:47:40 UTC: its schedule")]
    store.clock.move(61 * SECOND)  # type: ignore[attr-defined]
    # Due, though nobody has promoted it yet.
    assert kinds(store) == ["ready"]


def test_a_blocked_work_names_what_it_waits_for(store: Store):
    node(store)
    parents = [f"p{n:02}" for n in range(12)]
    enqueue(store, step(*parents), step("a", after=parents))
    start(store, take_one(store, "p00", "w@alpha"))
    succeed(store, "p01")
    reason = explain_stored(store, "a").first
    assert (reason.kind, reason.count) == (ReasonKind.BLOCKED, 11)
    assert reason.work_ids == ("p00", *parents[2:11])
    assert reason.text.startswith("it waits for 11 works to succeed: p00 (RUNNING), p02 (ENQUEUED), ")
    assert reason.text.endswith("p10 (ENQUEUED), 1 more")


def test_an_expired_work_is_about_to_be_cancelled(store: Store):
    node(store, lease=HOUR)
    put(store, job("a", expires=60))
    assert kinds(store) == ["ready", "expires"]
    store.clock.move(61 * SECOND)  # type: ignore[attr-defined]
    assert why(store) == [("expires", "it has expired at 2030-03-17 17:47:40 UTC and is about to be cancelled")]
    store.expire()
    assert kinds(store) == ["finished"]


# -- pauses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (PauseTarget(PauseKind.QUEUE, QUEUE), f"the queue '{QUEUE}'"),
        (PauseTarget(PauseKind.TAG, WORKER), f"the tag '{WORKER}'"),
        (PauseTarget(PauseKind.TAG, "red"), "the tag 'red'"),
        (PauseTarget(PauseKind.NAME, "import"), "the unique name 'import'"),
    ],
)
def test_a_paused_work_says_by_what_and_since_when(store: Store, target: PauseTarget, told: str):
    node(store)
    put_named(store, "import", KEEP, job("a", tags={"red"}))
    pausing.pause(store, target)
    for other in (PauseTarget(PauseKind.TAG, "blue"), PauseTarget(PauseKind.QUEUE, "red")):
        pausing.pause(store, other)
    assert why(store) == [("paused", f"{told} is paused since {NOW}")]
    assert explain_stored(store, "a").first.since == as_datetime(START)
    pausing.resume(store, target)
    assert kinds(store) == ["ready"]


def test_a_drained_node_is_a_reason_when_no_other_serves(store: Store):
    node(store)
    node(store, "w@beta", workers=["shop.sell"])
    put(store, "a")
    pausing.pause(store, PauseTarget(PauseKind.NODE, "w@alpha"))
    reason = explain_stored(store, "a").first
    assert (reason.kind, reason.text, reason.since) == (
        ReasonKind.PAUSED,
        f"every node that serves it is drained: w@alpha since {NOW}",
        as_datetime(START),
    )
    node(store, "w@gamma")
    assert why(store) == [("ready", "nothing holds it up: w@gamma will claim it now")]


def test_a_drained_node_is_the_reason_when_no_other_meets_the_constraints(store: Store):
    node(store, readings=read(labels={"gpu": "a100"}))
    node(store, "w@beta", readings=read(labels={}))
    put(store, job("a", constraints=Constraints(node_labels=("gpu",))))
    pausing.pause(store, PauseTarget(PauseKind.NODE, "w@alpha"))
    (kind, told), (other, _) = why(store)
    assert (kind, other) == ("paused", "constraint")
    assert told == f"every node that could run it is drained: w@alpha since {NOW}"


def test_a_drained_node_claims_nothing_more(store: Store):
    node(store)
    put(store, "a", "b")
    take_one(store, "a", "w@alpha")
    stamp = store.look().stamp
    pausing.pause(store, PauseTarget(PauseKind.NODE, "w@alpha"))
    seen = store.look()
    assert (set(seen.drained), seen.stamp == stamp) == ({"w@alpha"}, False)
    # Whoever has looked before looks again; whoever asks for this very work is refused.
    assert store.claim(seen.lanes, "w@alpha", 1, 10, stamp=stamp) == []
    assert store.claim_one("b", "w@alpha", 2) == []
    node(store, "w@beta")
    assert [each.id for each in store.claim_one("b", "w@beta", 3)] == ["b"]


# -- nodes -------------------------------------------------------------------------------------------------------


def test_without_a_node_the_last_one_is_named(store: Store):
    put(store, "a")
    assert why(store) == [("no_node", "no node is alive")]
    node(store)
    move(store, 60 * SECOND)
    assert why(store) == [
        ("no_node", "no node is alive; the last one was w@alpha, until 2030-03-17 17:46:55 UTC"),
    ]
    node(store, "beat@alpha", kind="beat")
    assert kinds(store) == ["no_node"]


def test_a_node_that_shuts_down_takes_nothing_more(store: Store):
    node(store, is_closing=True)
    put(store, "a")
    assert why(store) == [("no_node", "w@alpha will shut down; no other is alive")]
    node(store, "w@beta")
    assert kinds(store) == ["ready"]


def test_the_nearest_near_miss_is_told_of_a_queue_and_of_a_worker(store: Store):
    node(store, queues=["mail"])
    node(store, "w@beta", queues=["mail"], workers=["shop.sell"])
    put(store, "a")
    assert why(store) == [
        (
            "no_node",
            "no live node consumes the queue 'celery'; w@alpha has registered 'shop.bake', consumes 'mail'",
        )
    ]
    node(store, "w@gamma", workers=["shop.sell"])
    reason = explain_stored(store, "a").first
    assert reason.text == (
        "no live node of queue 'celery' has registered the worker 'shop.bake';"
        " w@gamma consumes 'celery', hasn't registered 'shop.bake'"
    )
    assert [each.name for each in reason.nodes] == ["w@gamma", "w@alpha"]


def test_busy_nodes_and_a_place_in_the_lane(store: Store):
    node(store, concurrency=1)
    put(store, "x", "w")
    put(store, job("a"), job("b", priority=9))
    take_one(store, "x", "w@alpha")
    assert why(store) == [
        ("busy", "every node that could run it is busy: w@alpha has 1 in hand and runs 1 at once"),
        ("position", "1 work comes before it"),
    ]
    node(store, "w@beta")
    assert why(store)[0] == ("position", "1 work comes before it")
    assert kinds(store, "b") == ["ready"]


def test_positions_are_counted_in_bounds(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(circumstances, "MOST", 3)
    monkeypatch.setattr("celery_workmanager.explaining.MOST", 3)
    node(store)
    put(store, *(f"w{n}" for n in range(8)))
    assert [explain_stored(store, f"w{n}").first.text.split(" come")[0] for n in (1, 3, 4, 7)] == [
        "1 work", "3 works", "> 3 works", "> 3 works",
    ]  # fmt: skip


# -- all of them, in order ---------------------------------------------------------------------------------------


def test_every_reason_is_told_in_order(store: Store):
    put(store, "p")
    enqueue(store, step(job("a", tags={"red"}, initial_delay=60, expires=90), after=["p"]))
    for label in ("red", WORKER):
        pausing.pause(store, PauseTarget(PauseKind.TAG, label))
    assert kinds(store) == ["blocked", "paused", "paused", "no_node", "expires"]
    succeed_in_spite_of_pauses(store, "p")
    assert kinds(store) == ["not_due", "paused", "paused", "no_node", "expires"]
    assert explain_stored(store, "a").reasons[-1].until == as_datetime(START + 90 * SECOND)


def succeed_in_spite_of_pauses(store: Store, work_id: str) -> None:
    pausing.resume(store, PauseTarget(PauseKind.TAG, WORKER))
    succeed(store, work_id)
    pausing.pause(store, PauseTarget(PauseKind.TAG, WORKER))


def test_an_explanation_is_told_in_json_types(store: Store):
    node(store, queues=["mail"])
    put(store, "a")
    document = explain_stored(store, "a").to_dict()
    assert json.loads(json.dumps(document)) == document
    reasons: Any = document["reasons"]
    assert (document["state"], reasons[0]["kind"], reasons[0]["nodes"][0]["name"]) == ("ENQUEUED", "no_node", "w@alpha")
    assert document["at"] == "2030-03-17T17:46:40+00:00"


# -- before it is enqueued -----------------------------------------------------------------------------------------


def test_a_preview_writes_nothing_and_says_the_same(store: Store):
    node(store)
    put(store, "x")
    pausing.pause(store, PauseTarget(PauseKind.TAG, "red"))
    requests = {
        "ready": job("z1", priority=3),
        "position": job("z2"),
        "not_due": job("z3", initial_delay=60),
        "paused": job("z4", tags={"red"}),
    }
    for kind, request in requests.items():
        previewed = explain_new(store, request, QUEUE)
        assert previewed.first.kind.value == kind
        with pytest.raises(WorkNotFound):
            explain_stored(store, request.id)
        put(store, request)
        assert same(explain_stored(store, request.id)) == same(previewed)
        store.cancel(request.id)
    assert explain_new(store, every("e"), "mail").first.kind is ReasonKind.NO_NODE


def same(explanation: Explanation) -> Explanation:
    return replace(explanation, work_id="")


def test_views_hold_what_a_node_says():
    assert NodeView("w@a", "is away").to_dict() == {"name": "w@a", "text": "is away", "read_at": None}


# -- constraints -------------------------------------------------------------------------------------------------


def read(**words: Any) -> Any:
    return Readings.of(START - 2 * SECOND, **words).to_json()


def test_an_unmet_constraint_says_what_each_node_read_and_when(store: Store):
    asked = Constraints(requires_charging=True, requires_storage_not_low=True, node_labels=("gpu=a100",))
    node(store, readings=read(charging=False, storage_free_percent=3, labels={"gpu": "a100"}))
    node(store, "w@beta", readings=read(charging=True, storage_free_percent=3, labels={}))
    node(store, "w@deaf", queues=["mail"], readings=read(charging=True, storage_free_percent=50))
    put(store, job("a", constraints=asked, deadline=60))
    first, *others, deadline = explain_stored(store, "a").reasons
    assert first.kind is ReasonKind.CONSTRAINT
    assert first.text.startswith("a constraint is unmet on w@alpha and 1 more: storage is not low: expected ")
    assert first.text.endswith("the node read 3 % (declared)")
    assert [each.name for each in first.nodes] == ["w@alpha", "w@beta"]
    assert {each.read_at for each in first.nodes} == {as_datetime(START - 2 * SECOND)}
    assert [each.nodes[0].name for each in others] == ["w@alpha", "w@beta"]
    assert ["charging" in others[0].text, "labels gpu=a100" in others[1].text] == [True, True]
    assert (deadline.kind, deadline.until) == (ReasonKind.DEADLINE, as_datetime(START + 60 * SECOND))
    node(store, "w@gamma", readings=read(charging=True, storage_free_percent=50, labels={"gpu": "a100"}))
    assert why(store)[0] == ("ready", "nothing holds it up: w@gamma will claim it now")


def test_what_nodes_with_other_labels_read_is_of_no_account(store: Store):
    asked = Constraints(requires_charging=True, node_labels=("region=us",))
    for name in ("w@alpha", "w@beta"):
        node(store, name, readings=read(charging=True, labels={"region": "eu"}))
    node(store, "w@gamma", readings=read(charging=False, labels={"region": "us"}))
    put(store, job("a", constraints=asked))
    (_, first), (_, second) = why(store)
    assert first.startswith("a constraint is unmet on w@gamma: the node is charging: ")
    assert second.startswith("a constraint is unmet on w@alpha and 1 more: the node has labels region=us: ")


def test_constraints_of_a_later_version_are_named(store: Store):
    node(store, readings=read(charging=True))
    put(store, job("a", constraints=Constraints(requires_charging=True), deadline=60))
    later = json.dumps({"constraints": {"requires_charging": True, "requires_moonlight": True}, "deadline": START + 60})
    sql(store, "UPDATE workmanager_work SET options = :later", later=later)
    told = "it asks for requires_moonlight, which this version doesn't know: only nodes of a later one take it"
    assert why(store)[0] == ("constraint", told)
    move(store, SECOND)
    assert kinds(store) == ["ready", "deadline"]


def test_after_its_deadline_constraints_hold_nothing_up(store: Store):
    node(store, lease=HOUR, readings=read(charging=False))
    put(store, job("a", constraints=Constraints(requires_charging=True), deadline=60))
    assert kinds(store) == ["constraint", "deadline"]
    move(store, 61 * SECOND)
    store.pass_deadlines()
    assert kinds(store) == ["ready"]


def test_what_no_sensor_reads_is_unmet_and_said_so(store: Store):
    node(store)
    put(store, job("a", constraints=Constraints(custom=("license",))))
    told = "custom constraint license is met: not known to the node (nothing reads it)"
    assert why(store) == [("constraint", f"a constraint is unmet on w@alpha: {told}")]


def test_a_content_trigger_says_what_it_waits_for_and_who_watches(store: Store):
    node(store)
    put(
        store,
        job(
            "a",
            constraints=Constraints(
                content_uri_triggers=(
                    ContentUriTrigger("/in/*.csv"),
                    ContentUriTrigger("/etc/hosts"),
                )
            ),
        ),
    )
    told = "no node that could run it can watch files (celery-workmanager[files] is not installed there)"
    assert why(store) == [("content_trigger", f"it waits until /etc/hosts or /in/*.csv has changed and rests: {told}")]
    node(store, "w@beta", watches_files=True)
    assert why(store) == [
        ("content_trigger", "it waits until /etc/hosts or /in/*.csv has changed and rests: watched by w@beta")
    ]


# -- limits and quota -----------------------------------------------------------------------------------------------


def test_a_parked_work_says_who_holds_the_limit_and_how_many_come_before(store: Store):
    node(store, concurrency=9)
    put(store, *(job(each, concurrency=Limit("oven", 2)) for each in "abcde"))
    lanes = [lane_of(QUEUE, WORKER, "", LIMIT)]
    assert [each.id for each in store.claim_limited(lanes, "w@alpha", 1, 9)] == ["a", "b"]
    held, position = explain_stored(store, "e").reasons
    assert (held.kind, held.text) == (ReasonKind.CONCURRENCY, "2 of 2 run under the limit 'oven': a, b")
    assert (held.work_ids, held.count) == (("a", "b"), 2)
    assert (position.kind, position.count) == (ReasonKind.POSITION, 2)
    # Before it is enqueued, too; and only under this key.
    assert explain_new(store, job("f", concurrency=Limit("oven", 2)), QUEUE).first.kind is ReasonKind.CONCURRENCY
    assert explain_new(store, job("f", concurrency=Limit("stove", 2)), QUEUE).first.kind is ReasonKind.READY


def test_a_rate_says_when_it_is_free(store: Store):
    node(store, concurrency=9)
    put(store, job("a", rate=Rate("mail", 1, 60)), job("b", rate=Rate("mail", 1, 60)))
    store.claim_limited([lane_of(QUEUE, WORKER, "", LIMIT)], "w@alpha", 1, 9)
    told = "the rate 'mail' (1 in 0:01:00) is used up until 2030-03-17 17:47:40 UTC"
    assert why(store, "b") == [("rate", told)]


def test_a_key_that_a_prerequisite_will_fill_in_is_no_reason_yet(store: Store):
    node(store)
    enqueue(store, step("p"), step(job("a", concurrency=Limit("tenant:{tenant}", 1)), after=["p"]))
    assert kinds(store) == ["blocked"]
    succeed(store, "p", output='{"tenant": 7}')
    assert kinds(store) == ["ready"]


@pytest.mark.parametrize(
    ("policy", "means"),
    [
        (OutOfQuotaPolicy.DROP_WORK_REQUEST, "it is about to be dropped"),
        (OutOfQuotaPolicy.RUN_AS_NON_EXPEDITED_WORK_REQUEST, "it is about to become one that isn't expedited"),
    ],
)
def test_an_expedited_work_says_that_the_quota_is_used_up(store: Store, policy: OutOfQuotaPolicy, means: str):
    made = twin(store, expedited_quota={"": (1, 60)})
    node(made, concurrency=9)
    put(made, *(job(each, expedited=policy) for each in "ab"), "c")
    assert kinds(made, "b") == ["position"]
    take_one(made, "a", "w@alpha")
    told = f"the quota of expedited works is used up until 2030-03-17 17:47:40 UTC: {means}"
    assert why(made, "b") == [("quota", told)]
    made.claim_one("b", "w@alpha", 9)
    if policy is OutOfQuotaPolicy.DROP_WORK_REQUEST:
        (reason,) = explain_stored(made, "b").reasons
        assert "out of quota" in reason.text
    else:
        assert kinds(made, "b") == ["ready"]
        put(made, job("0", priority=9))
        assert kinds(made, "b") == ["quota", "position"]
    made.close()
