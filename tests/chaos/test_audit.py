"""The auditor can complain: evidence that is in order, spoiled in one way for each promise."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from celery_workmanager.data import Data
from celery_workmanager.work import PeriodicityInfo, State, WorkInfo
from tests.chaos.audit import Audit, Evidence
from tests.chaos.history import Step
from tests.chaos.journal import Call, Fault, Notes
from tests.chaos.runs import Run, repeats, runs_of

NODE, OTHER, CHILD = 100, 200, 101
LEASE = 3.0
SECOND = 1_000_000
MOMENT = datetime(2030, 1, 1, tzinfo=UTC)


def line(event, work, at, token=1, *, node=NODE, pid=CHILD, **facts):
    return {"event": event, "id": work, "at": at, "token": token, "node": node, "pid": pid, **facts}


def start(work, at, token=1, **more):
    return line("start", work, at, token, **more)


def end(work, at, token=1, said="success", **more):
    return line("end", work, at, token, said=said, **more)


def period(at, of, token, **more):
    work = "beat"
    return [line("period", work, at, token, of=of, **more), line("period ended", work, at + 0.1, token, stopped=False)]


def finished(work, token, state=State.SUCCEEDED):
    return Step(work, State.ENQUEUED, state, owner=token)


def made(work, state=State.ENQUEUED):
    return Step(work, None, state)


def info(work, state=State.SUCCEEDED, token=1, **more):
    output = Data.of({"of": work, "pid": CHILD, "token": token}, "output") if state.is_finished else Data.EMPTY
    return WorkInfo(id=work, state=state, worker_name="story.step", output_data=output, **more)


def put_back(work, at, token=1):
    return Step(work, State.ENQUEUED, State.ENQUEUED, token, at=at)


def claimed(work, token=1):
    return Step(work, State.ENQUEUED, State.ENQUEUED, heir=token)


@pytest.fixture
def evidence():
    """A parent and its child, a periodic work, one that waits, and one that a later call replaced."""
    calls = [
        Call({"a": (), "b": ("a",)}, kept=("a", "b")),
        Call({"beat": ()}, kept=("beat",)),
        Call({"late": ()}, kept=("late",), delayed=True),
        Call({"old": ()}, name="north", kept=("old",)),
    ]
    infos = [
        info("a"),
        info("b", token=2, prerequisites=("a",)),
        info("late", State.ENQUEUED, next_schedule_time=MOMENT),
        info("beat", State.CANCELLED, periodicity_info=about(1)),
    ]
    steps = [
        made("a"), made("b", State.BLOCKED), claimed("a"), finished("a", 1),
        Step("b", State.BLOCKED, State.ENQUEUED), claimed("b", 2), finished("b", 2),
        made("beat"), Step("beat", State.ENQUEUED, State.ENQUEUED, period=1 * SECOND, ended=True),
        Step("beat", State.ENQUEUED, State.ENQUEUED, period=2 * SECOND, ended=True),
        made("late"), made("old"), Step("old", State.ENQUEUED, None),
    ]  # fmt: skip
    lines = [
        start("a", 10), end("a", 11), start("b", 12, 2), end("b", 13, 2), *period(20, SECOND, 5),
        *period(21, 2 * SECOND, 6),
    ]  # fmt: skip
    return Evidence(Notes(calls), infos, steps, lines, LEASE, explained={"late"}, until=2 * SECOND)


def about(seconds):
    return PeriodicityInfo(repeat_interval=timedelta(seconds=seconds), flex_interval=None, schedule="")


def broken(evidence):
    return {promise for promise, found in Audit(evidence).found.items() if found}


def with_info(evidence, work, **changes):
    evidence.infos = [replace(each, **changes) if each.id == work else each for each in evidence.infos]


def test_evidence_in_order_is_not_complained_of(evidence):
    audit = Audit(evidence)
    assert audit.anomalies == []
    assert audit.waiting == {"late"}
    assert audit.replaced == {"old"}


def test_a_work_that_is_gone(evidence):
    evidence.infos = [each for each in evidence.infos if each.id != "b"]
    assert broken(evidence) == {"lost"}


def test_a_named_work_that_nobody_deleted(evidence):
    evidence.steps.pop()
    assert broken(evidence) == {"lost"}


def test_a_work_that_waits_for_nothing(evidence):
    with_info(evidence, "late", next_schedule_time=None)
    assert broken(evidence) == {"lost"}


def test_a_work_whose_waiting_nobody_can_explain(evidence):
    evidence.explained.clear()
    assert broken(evidence) == {"lost"}


def test_a_work_that_was_accepted_and_never_stored(evidence):
    evidence.notes.calls.append(Call({"c": ()}, kept=("c",)))
    assert broken(evidence) == {"lost", "other"}


def test_a_finished_work_that_moves_again(evidence):
    evidence.steps.append(Step("a", State.SUCCEEDED, State.ENQUEUED))
    assert broken(evidence) == {"illegal transitions"}


def test_a_finished_work_that_is_written_again(evidence):
    evidence.steps.append(Step("a", State.SUCCEEDED, State.SUCCEEDED))
    assert broken(evidence) == {"illegal transitions"}


def test_a_blocked_work_that_is_claimed(evidence):
    evidence.steps.insert(4, Step("b", State.BLOCKED, State.RUNNING))
    assert "illegal transitions" in broken(evidence)


def test_a_history_with_a_hole(evidence):
    evidence.steps.append(Step("late", State.RUNNING, State.ENQUEUED))
    assert broken(evidence) == {"illegal transitions"}


def test_the_output_of_a_run_that_was_not_the_owner(evidence):
    evidence.lines += [start("a", 10.5, 7), end("a", 10.8, 7)]
    with_info(evidence, "a", output_data=Data.of({"of": "a", "token": 7}, "output"))
    assert "stale finishes accepted" in broken(evidence)


def test_a_success_that_nobody_owned(evidence):
    evidence.steps[3] = finished("a", None)
    assert broken(evidence) == {"stale finishes accepted"}


def test_a_success_of_a_run_that_never_ended(evidence):
    evidence.lines = [each for each in evidence.lines if each["event"] != "end" or each["id"] != "b"]
    assert broken(evidence) == {"stale finishes accepted"}


def test_a_child_before_its_parent(evidence):
    evidence.lines[2] = start("b", 10.5, 2)
    assert broken(evidence) == {"children before their parents"}


def test_a_child_of_a_failed_parent(evidence):
    evidence.steps[3] = finished("a", 1, State.FAILED)
    with_info(evidence, "a", state=State.FAILED)
    assert "children before their parents" in broken(evidence)


def test_a_forgotten_join(evidence):
    evidence.steps = [step for step in evidence.steps if step.work != "b" or step.was is None]
    evidence.lines = [each for each in evidence.lines if each["id"] != "b"]
    with_info(evidence, "b", state=State.BLOCKED)
    assert broken(evidence) == {"joins forgotten", "lost"}


def test_an_occurrence_that_ended_twice(evidence):
    evidence.steps.append(evidence.steps[9])
    assert broken(evidence) == {"periods doubled"}


def test_an_occurrence_that_ran_twice(evidence):
    evidence.lines += period(22, 2 * SECOND, 7)
    assert broken(evidence) == {"periods doubled"}


def test_an_occurrence_that_ran_again_because_its_process_died(evidence):
    evidence.lines += period(22, 2 * SECOND, 7)
    evidence.notes.faults.append(Fault("child killed", CHILD, 21, 21.1))
    assert broken(evidence) == set()


def test_a_missing_occurrence(evidence):
    evidence.lines += period(23, 4 * SECOND, 8)
    assert broken(evidence) == {"periods lost"}


def test_occurrences_that_ceased(evidence):
    evidence.until = 10 * SECOND
    assert broken(evidence) == {"periods lost"}


def test_a_name_that_is_held_by_nobody(evidence):
    evidence.unheld.append("'north' is held by finished works")
    assert broken(evidence) == {"names held by nobody"}


def test_half_an_enqueue(evidence):
    evidence.notes.calls.append(Call({"c": (), "d": ("c",)}))
    evidence.steps.append(made("c"))
    assert broken(evidence) == {"halves of an enqueue"}


def test_a_whole_enqueue_whose_answer_was_lost_is_none(evidence):
    evidence.notes.calls.append(Call({"c": ()}))
    evidence.steps.append(made("c"))
    assert broken(evidence) == set()


@pytest.mark.parametrize("call", [Call({"c": ()}, refused="StoreBusy"), Call({"c": ()}, kept=())])
def test_what_was_refused_and_stored_all_the_same(evidence, call):
    evidence.notes.calls.append(call)
    evidence.steps.append(made("c"))
    assert broken(evidence) == {"other"}


def test_a_work_that_nobody_enqueued(evidence):
    evidence.steps.append(made("c"))
    assert broken(evidence) == {"other"}


def test_what_others_noted(evidence):
    evidence.notes.broken.append("a worker has ended by itself")
    assert broken(evidence) == {"other"}


# -- repeats -------------------------------------------------------------------------------------------------------


@pytest.fixture
def again(evidence):
    """`a` ran twice: first on a node whose run was cut short."""
    evidence.lines[:2] = [start("a", 9), start("a", 10.5, 3, node=OTHER, pid=201), end("a", 11, 3, pid=201)]
    evidence.steps[2:4] = [
        claimed("a"),
        put_back("a", 10.25),
        claimed("a", 3),
        finished("a", 3),
    ]
    with_info(evidence, "a", output_data=Data.of({"of": "a", "token": 3}, "output"))
    return evidence


def test_a_repeat_for_no_reason(again):
    assert broken(again) == {"unexplained repeats"}


@pytest.mark.parametrize(
    "fault",
    [
        Fault("child killed", CHILD, 9.5, 9.5),
        Fault("worker killed", NODE, 9.5, 9.6),
        Fault("worker frozen, longer than a lease", NODE, 9.1, 13),
        Fault("node cut off (proxy)", NODE, 9.1, 13),
        Fault("database refuses", 0, 9.1, 10.4),
        Fault("database crashed", 0, 9.2, 9.3),
    ],
)
def test_repeats_with_a_reason(again, fault):
    again.notes.faults.append(fault)
    assert broken(again) == set()
    assert Audit(again).again == {fault.kind: 1}


@pytest.mark.parametrize(
    "fault",
    [
        Fault("child killed", 999, 9.5, 9.5),
        Fault("worker killed", NODE, 5, 5.1),
        Fault("worker killed", NODE, 20, 20.1),
        Fault("worker frozen, shorter than a lease", NODE, 9.1, 9.6),
        Fault("worker frozen, longer than a lease", OTHER, 9.1, 13),
        Fault("database refuses", 0, 9.1, 9.5),
        Fault("database connections cut", 0, 9.5, 9.5),
        Fault("database restarted", 0, 9.2, 9.3),
        Fault("broker killed", 0, 9, 11),
        Fault("broker unreachable", 0, 9, 15),
        Fault("clock stepped", NODE, 9.5, 9.5),
        Fault("beat killed", NODE, 9.5, 9.5),
    ],
)
def test_faults_that_excuse_no_repeat(again, fault):
    again.notes.faults.append(fault)
    assert broken(again) == {"unexplained repeats"}


def test_a_retry_is_no_interruption(again):
    again.lines.insert(1, end("a", 9.5, said="retry"))
    assert broken(again) == set()


def test_a_run_that_goes_on_beside_the_next_one(again):
    again.lines.insert(1, end("a", 10.9))
    again.notes.faults.append(Fault("node cut off (proxy)", NODE, 9.1, 13))
    assert broken(again) == {"runs that overlap, of a node that wasn't frozen"}
    again.notes.faults[0] = Fault("worker frozen, longer than a lease", NODE, 9.1, 13)
    assert broken(again) == set()


def test_a_work_that_is_back_long_after_the_nodes_death(again):
    again.lines[0] = start("a", 4)
    again.notes.faults.append(Fault("worker killed", NODE, 4.5, 4.6))
    assert broken(again) == {"back later than lease + 2 s"}
    assert Audit(again).delays == [5.75]


def test_a_work_that_is_back_in_time(again):
    again.notes.faults.append(Fault("worker killed", NODE, 9.5, 9.6))
    assert Audit(again).delays == [0.75]


def test_a_work_that_is_back_in_time_may_wait_for_its_turn(again):
    again.lines[0] = start("a", 4)
    again.steps[3] = put_back("a", 9)
    again.notes.faults.append(Fault("worker killed", NODE, 4.5, 4.6))
    assert broken(again) == set()
    assert Audit(again).delays == [4.5]


def test_a_work_whose_claim_a_crash_took_with_it_is_back_when_it_runs_again(again):
    again.steps[2:4] = []
    again.notes.faults.append(Fault("worker killed", NODE, 9.5, 9.6))
    assert Audit(again).delays == [1.0]


def test_a_re_run_that_the_store_held_up_is_not_measured(again):
    again.lines[0] = start("a", 4)
    again.notes.faults += [Fault("worker killed", NODE, 4.5, 4.6), Fault("database slow", 0, 5, 9)]
    assert Audit(again).delays == []


@pytest.fixture
def watched(again):
    """`a` ran on a node that was killed in the last act, and ran again a second later."""
    again.notes.watched["a"] = NODE
    again.notes.faults.append(Fault("worker killed", NODE, 9.5, 9.6))
    return again


def test_a_watched_work_that_runs_again_in_time(watched):
    assert broken(watched) == set()
    assert Audit(watched).delays == [1.0]


def test_a_watched_work_that_runs_again_late(watched):
    watched.lines[0] = start("a", 4)
    watched.notes.faults[0] = Fault("worker killed", NODE, 4.5, 4.6)
    assert broken(watched) == {"back later than lease + 2 s"}
    assert Audit(watched).delays == [6.0]


def test_a_watched_work_that_never_runs_again(watched):
    watched.lines[:3] = [start("a", 9), end("a", 11)]
    watched.steps[2:6] = [claimed("a"), finished("a", 1)]
    with_info(watched, "a", output_data=Data.of({"of": "a", "token": 1}, "output"))
    assert broken(watched) == {"back later than lease + 2 s"}


def test_a_watched_work_whose_earlier_retry_is_no_re_run(watched):
    watched.lines[1:3] = [end("a", 9.1, said="retry"), start("a", 9.2, 3), end("a", 11, 3)]
    assert broken(watched) == {"back later than lease + 2 s"}


def test_a_watched_work_that_never_ran(watched):
    watched.notes.watched["late"] = NODE
    assert broken(watched) == {"back later than lease + 2 s"}


def test_runs_are_read_by_their_tokens():
    lines = [start("a", 1, 1), start("a", 2, 2, pid=201), end("a", 3, 1), end("a", 4, 2, "stopped", pid=201)]
    runs = runs_of(lines)
    assert runs == [
        Run("a", 1, CHILD, NODE, 1, None, 3, "success"),
        Run("a", 2, 201, NODE, 2, None, 4, "stopped"),
    ]
    assert list(repeats(runs)) == [(runs[0], runs[1])]


def test_a_machine_that_was_too_busy_to_keep_time_is_no_defect(again):
    again.notes.stalls.append(Fault("machine too busy", 0, 9.1, 9.5))
    assert broken(again) == {"unexplained repeats"}
    again.notes.stalls.append(Fault("machine too busy", 0, 9.6, 10.4))
    assert broken(again) == set()
    assert Audit(again).again == {"machine too busy": 1}


def test_trouble_of_two_kinds_at_a_time_counts_once(again):
    again.notes.faults += [Fault("database refuses", 0, 9.1, 9.9), Fault("database slow", 0, 9.2, 9.9)]
    assert broken(again) == {"unexplained repeats"}
