"""What the end of a run does to its work: each ending under each profile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from celery_workmanager.lifecycle import Move
from celery_workmanager.outcome import Claim, Ending, Outcome, Standing
from celery_workmanager.settings import Limits, Settings
from celery_workmanager.store import ending, lists
from celery_workmanager.terms import Terms, backoff_of
from celery_workmanager.timing import SECOND
from celery_workmanager.verdict import Verdict, catch_up, judge
from celery_workmanager.work import State, StopReason, WorkError

NOW = 1_000_000 * SECOND
ENQUEUED = NOW - 100 * SECOND
DAY = 86_400 * SECOND
MONOTONIC = 500.0
BOOM = WorkError("ValueError", "boom").to_json()
PROFILES = {name: Terms.of(Settings(profile=name)) for name in ("android", "server")}

both = pytest.mark.parametrize("profile", PROFILES)


def claim(**fields: Any) -> Claim:
    given = {
        "id": "w", "worker": "x", "queue": "q", "token": 7, "node": "n", "run_attempt_count": 2, "interruptions": 1,
        "generation": 0, "inputs": ["{}"], "enqueued_at": ENQUEUED, "run_at": ENQUEUED, "options": {},
    }  # fmt: skip
    return Claim(**{**given, **fields})


def verdict(ending: Ending, profile: str = "android", started: bool = True, of: Claim | None = None, **fields: Any):
    outcome = Outcome(ending, started_at=MONOTONIC - 3 if started else None, **fields)
    return judge(of or claim(), outcome, NOW, MONOTONIC, PROFILES[profile])


def test_the_row_is_guarded_by_the_id_and_token_of_the_run():
    found = verdict(Ending.SUCCEEDED)
    assert (found.id, found.token) == ("w", 7)


@both
def test_success_stores_the_output_and_deletes_progress(profile):
    found = verdict(Ending.SUCCEEDED, profile, output='{"a":1}')
    assert (found.move, found.state) == (Move.SUCCEED, State.SUCCEEDED)
    assert (found.output, found.error, found.keeps_progress) == ('{"a":1}', None, False)
    assert (found.run_attempt_count, found.finished_at) == (3, NOW)
    assert found.started_at == NOW - 3 * SECOND
    assert found.stop_reason is StopReason.NOT_STOPPED


@both
def test_a_returned_failure_stores_its_output_and_deletes_progress(profile):
    found = verdict(Ending.FAILED, profile, output='{"why":"x"}')
    assert (found.state, found.output, found.error, found.keeps_progress) == (
        State.FAILED,
        '{"why":"x"}',
        None,
        False,
    )


@both
def test_an_exception_stores_no_output_keeps_its_text_and_keeps_progress(profile):
    found = verdict(Ending.FAILED, profile, error=BOOM)
    assert (found.state, found.output, found.error, found.keeps_progress) == (State.FAILED, "{}", BOOM, True)


@both
def test_an_input_that_cannot_be_merged_fails_without_an_attempt(profile):
    found = verdict(Ending.FAILED, profile, started=False, error=BOOM)
    assert (found.state, found.run_attempt_count, found.started_at) == (State.FAILED, 2, None)


@both
def test_a_retry_waits_for_the_backoff_from_now_and_is_no_longer_expedited(profile):
    found = verdict(Ending.RETRY, profile)
    assert (found.state, found.run_attempt_count) == (State.ENQUEUED, 3)
    assert (found.enqueued_at, found.run_at) == (NOW, NOW + 120 * SECOND)
    assert found.loses_privilege
    assert (found.keeps_progress, found.stop_reason) == (False, StopReason.NOT_STOPPED)


def test_a_retry_with_a_time_of_its_own_waits_for_that():
    assert verdict(Ending.RETRY, after=5.5).run_at == NOW + 5_500_000
    assert verdict(Ending.RETRY, after=0.0).run_at == NOW


def test_a_retry_obeys_linear_backoff_and_its_own_delay():
    options = {"backoff_policy": 1, "backoff_delay": 10 * SECOND}
    assert verdict(Ending.RETRY, of=claim(options=options)).run_at == NOW + 30 * SECOND


@both
def test_the_last_attempt_that_asks_for_a_retry_fails(profile):
    found = verdict(Ending.RETRY, profile, of=claim(options={"max_attempts": 3}))
    assert (found.move, found.state, found.finished_at) == (Move.FAIL, State.FAILED, NOW)
    assert "AttemptsExhausted" in (found.error or "")
    assert verdict(Ending.RETRY, profile, of=claim(options={"max_attempts": 4})).state is State.ENQUEUED


def test_on_android_a_stop_costs_an_attempt_and_keeps_the_moment_of_enqueue():
    found = verdict(Ending.STOPPED, "android", reason=StopReason.DEVICE_STATE)
    assert (found.state, found.stop_reason, found.run_attempt_count) == (State.ENQUEUED, StopReason.DEVICE_STATE, 3)
    assert (found.enqueued_at, found.run_at) == (ENQUEUED, ENQUEUED + 120 * SECOND)
    assert found.keeps_progress


def test_on_a_server_a_stop_leaves_the_work_as_if_it_had_not_been_claimed():
    found = verdict(Ending.STOPPED, "server", reason=StopReason.SYSTEM_PROCESSING)
    assert (found.stop_reason, found.run_attempt_count) == (StopReason.SYSTEM_PROCESSING, 2)
    assert (found.enqueued_at, found.run_at) == (ENQUEUED, ENQUEUED)
    assert found.keeps_progress


def test_a_run_that_was_in_the_foreground_for_too_long_waits_for_its_backoff():
    found = verdict(Ending.STOPPED, "server", reason=StopReason.FOREGROUND_SERVICE_TIMEOUT)
    assert (found.state, found.stop_reason) == (State.ENQUEUED, StopReason.FOREGROUND_SERVICE_TIMEOUT)
    assert (found.run_attempt_count, found.keeps_progress) == (3, True)
    assert (found.enqueued_at, found.run_at) == (NOW, NOW + 4 * 30 * SECOND)


@both
def test_a_lost_process_counts_an_interruption_and_deletes_progress(profile):
    found = verdict(Ending.LOST, profile)
    assert (found.move, found.state, found.stop_reason) == (Move.HEAL, State.ENQUEUED, StopReason.UNKNOWN)
    assert (found.interruptions, found.keeps_progress) == (2, False)
    assert found.run_attempt_count == (3 if profile == "android" else 2)


@both
def test_a_work_that_lost_its_process_too_often_fails_for_good(profile):
    found = verdict(Ending.LOST, profile, of=claim(interruptions=9))
    assert (found.move, found.state, found.interruptions) == (Move.FAIL, State.FAILED, 10)
    assert "WorkerLost" in (found.error or "")
    assert (found.output, found.finished_at) == ("{}", NOW)


@both
def test_what_never_began_goes_back_as_if_it_had_not_been_claimed(profile):
    due = ENQUEUED + 7 * SECOND
    found = verdict(Ending.GIVEN_BACK, profile, started=False, of=claim(run_at=due))
    assert (found.move, found.state) == (Move.GIVE_BACK, State.ENQUEUED)
    assert (found.run_attempt_count, found.interruptions, found.run_at, found.keeps_progress) == (2, 1, due, True)


@both
def test_what_was_marked_as_running_in_advance_and_never_began_is_no_attempt_either(profile):
    found = verdict(Ending.GIVEN_BACK, profile, started=False, of=claim(start_written=True))
    assert (found.move, found.run_attempt_count, found.interruptions) == (Move.STOP, 2, 1)


def test_results_are_kept_from_the_enqueue_on_android_and_from_the_finish_on_a_server():
    of = claim(options={"keep": 2 * DAY})
    assert verdict(Ending.SUCCEEDED, "android", of=of).prune_at == ENQUEUED + 3 * DAY
    assert verdict(Ending.SUCCEEDED, "server", of=of).prune_at == NOW + 3 * DAY


def judged_again(found: Verdict, options: dict[str, Any]) -> Verdict:
    assert found.again is not None
    return found.again(5, options)


def test_an_update_during_the_run_decides_about_the_backoff_that_follows():
    again = judged_again(verdict(Ending.RETRY), {"backoff_policy": 1, "backoff_delay": 60 * SECOND})
    assert (again.run_at, again.generation) == (NOW + 180 * SECOND, 5)


def test_an_update_during_the_run_decides_about_attempts_and_retention():
    assert judged_again(verdict(Ending.RETRY), {"max_attempts": 3}).state is State.FAILED
    kept = judged_again(verdict(Ending.SUCCEEDED, "server"), {"keep": DAY})
    assert kept.prune_at == NOW + 2 * DAY


def test_an_update_of_what_was_only_claimed_decides_about_its_delay():
    fresh = claim(run_attempt_count=0, run_at=ENQUEUED)
    found = verdict(Ending.GIVEN_BACK, started=False, of=fresh)
    assert judged_again(found, {"initial_delay": 500 * SECOND}).run_at == ENQUEUED + 500 * SECOND


# -- periodic work -----------------------------------------------------------------------------------------------------

HOUR = 3600 * SECOND
HOURLY = {"period": {"interval": HOUR}}


def periodic(options: dict[str, Any] | None = None, **standing: Any) -> Claim:
    return claim(options=HOURLY | (options or {}), standing=Standing(**{"count": 4, "at": ENQUEUED, **standing}))


@both
@pytest.mark.parametrize(
    ("ending", "fields", "keeps_progress"),
    [(Ending.SUCCEEDED, {}, False), (Ending.FAILED, {"output": "{}"}, False), (Ending.FAILED, {"error": BOOM}, True)],
)
def test_each_end_of_a_run_ends_a_period(profile, ending, fields, keeps_progress):
    found = verdict(ending, profile, of=periodic(), **fields)
    assert (found.move, found.state) == (Move.END_PERIOD, State.ENQUEUED)
    assert (found.run_attempt_count, found.interruptions, found.enqueued_at, found.run_at) == (0, 0, NOW, NOW + HOUR)
    assert found.period.standing == Standing(5, NOW + HOUR)
    assert (found.finished_at, found.prune_at, found.stop_reason) == (None, None, StopReason.NOT_STOPPED)
    assert found.keeps_progress is keeps_progress
    assert found.period.run is not None
    assert (found.period.run.period, found.period.run.scheduled_at, found.period.run.keep) == (4, ENQUEUED, 20)


@both
def test_a_retry_keeps_the_period_open_and_the_output_of_the_last_one(profile):
    found = verdict(Ending.RETRY, profile, of=periodic(override_at=ENQUEUED))
    assert (found.move, found.run_at, found.period.keeps_output) == (Move.RETRY, NOW + 120 * SECOND, True)
    assert found.period.standing == Standing(4, ENQUEUED)


def test_a_stop_leaves_an_override_as_it_is_and_its_moment_is_past():
    found = verdict(Ending.STOPPED, "android", of=periodic(count=0, override_at=ENQUEUED), reason=StopReason.USER)
    assert (found.period.standing, found.run_at, found.run_attempt_count) == (None, ENQUEUED, 3)


@both
def test_the_last_attempt_and_the_last_loss_fail_the_period(profile):
    exhausted = verdict(Ending.RETRY, profile, of=periodic({"max_attempts": 3}))
    assert (exhausted.move, exhausted.state) == (Move.END_PERIOD, State.ENQUEUED)
    poisoned = periodic()
    poisoned.interruptions = 9
    lost = verdict(Ending.LOST, profile, of=poisoned)
    assert (lost.move, lost.interruptions) == (Move.END_PERIOD, 0)
    assert "WorkerLost" in (lost.error or "")
    assert lost.period.run is not None
    assert (lost.period.run.outcome.name, lost.period.run.stop_reason) == ("FAILED", StopReason.UNKNOWN)


@both
def test_when_no_occurrence_is_left_the_work_has_succeeded_even_if_its_last_run_failed(profile):
    options = {"period": {"interval": HOUR, "end": NOW}, "call": {"errbacks": [{"x": 1}]}}
    found = verdict(Ending.FAILED, profile, of=periodic(options), error=BOOM)
    assert (found.move, found.state, found.finished_at, found.error) == (Move.SUCCEED, State.SUCCEEDED, NOW, BOOM)
    assert found.errbacks == ()
    assert found.prune_at is not None


def test_an_override_of_an_update_during_the_run_is_for_the_next_one():
    first = verdict(Ending.SUCCEEDED, of=periodic(override_at=ENQUEUED, override_generation=1))
    assert first.again is not None
    same = first.again(5, HOURLY, (ENQUEUED, 1))
    assert same.period.standing == Standing(5, NOW + HOUR, None, 1)
    new = first.again(5, HOURLY, (NOW + 7 * HOUR, 2))
    assert (new.run_at, new.period.standing.at) == (NOW + 7 * HOUR, NOW + HOUR)
    soon = first.again(5, HOURLY, (NOW, 2))
    assert soon.run_at == NOW + 900 * SECOND
    retried = verdict(Ending.RETRY, of=periodic(override_generation=1), after=5.0)
    assert retried.again is not None
    assert retried.again(5, HOURLY, (NOW + 7 * HOUR, 2)).run_at == NOW + 7 * HOUR


def test_a_periodic_work_cannot_be_replaced_by_other_works():
    found = verdict(Ending.REPLACED, of=periodic(), output="[]")
    assert (found.move, found.replacement) == (Move.END_PERIOD, None)
    assert "UnsupportedOperation" in (found.error or "")


def test_a_call_that_a_retry_has_changed_begins_its_next_period_as_it_was():
    options = {"period": {"interval": HOUR, "call": "original"}}
    changed, same = periodic(options), periodic(options)
    changed.inputs, same.inputs = ["other"], ["original"]
    assert verdict(Ending.SUCCEEDED, of=changed).input == "original"
    assert verdict(Ending.SUCCEEDED, of=same).input is None


RATE = {"period": {"interval": HOUR, "is_rate": True}}


@pytest.mark.parametrize(
    ("standing", "attempts"),
    [({"was_begun": True}, 0), ({"override_at": NOW - 5 * HOUR}, 0), ({}, 1)],
    ids=["begun", "moved", "tried"],
)
def test_what_was_begun_or_moved_is_not_missed(standing, attempts):
    given = periodic(RATE, at=NOW - 5 * HOUR, **standing)
    given.options["period"] = RATE["period"] | {"catch_up": "skip"}
    given.run_attempt_count = attempts
    assert catch_up(given, NOW, PROFILES["server"]) is None
    assert given.standing is not None
    assert given.standing.at == NOW - 5 * HOUR


def test_a_claim_that_skips_what_it_has_missed_is_put_off():
    given = periodic({"period": RATE["period"] | {"catch_up": "skip"}}, at=NOW - 5 * HOUR - 1)
    given.run_attempt_count = 0
    found = catch_up(given, NOW, PROFILES["server"])
    assert found is not None
    assert (found.move, found.run_at, found.period.run, found.period.keeps_output) == (
        Move.GIVE_BACK,
        NOW + HOUR - 1,
        None,
        True,
    )
    assert found.period.standing == Standing(4, NOW + HOUR - 1)


def test_the_options_of_a_work_become_the_arguments_of_the_formulas():
    defaults = backoff_of({}, Limits.android())
    assert defaults == {"initial_delay": 0, "policy": 0, "delay": 30 * SECOND, "longest": 5 * 3600 * SECOND}


#: Of each fact of a verdict that is written, one like no other's.
OTHER = {
    "id": "another", "token": 9, "state": State.FAILED, "run_attempt_count": 8, "interruptions": 9,
    "started_at": NOW - 1, "finished_at": NOW - 1, "prune_at": NOW + 7, "run_at": NOW + 7, "enqueued_at": NOW - 9,
    "stop_reason": StopReason.QUOTA, "output": '{"b":2}', "error": BOOM, "keeps_progress": True,
    "loses_privilege": True,
}  # fmt: skip


@pytest.mark.parametrize("fact", OTHER)
@pytest.mark.parametrize("how", [Ending.SUCCEEDED, Ending.RETRY])
def test_what_a_batch_says_of_a_run_is_what_the_run_says_by_itself(how: Ending, fact: str):
    """Whether it is said once for all of them, or of each."""
    one = verdict(how, output='{"a":1}')
    runs = [one, replace(one, **{fact: OTHER[fact] if getattr(one, fact) != OTHER[fact] else not OTHER[fact]})]
    assert ending.binds(runs[0], NOW) != ending.binds(runs[1], NOW)
    for some in (runs, runs[::-1], runs[:1]):
        alike, values = ending.batch(some, NOW)
        for name in ending.PARAMETERS:
            told = [ending.binds(each, NOW)[name] for each in some]
            is_list = not alike or name in ending._OWN
            assert values[name] == (lists.joined(told) if is_list else told[0])
            assert is_list or told.count(told[0]) == len(told)


def test_nothing_else_is_written_of_a_verdict():
    found: set[str] = set()
    for one in (verdict(Ending.SUCCEEDED), verdict(Ending.GIVEN_BACK, started=False)):
        before = ending.binds(one, NOW)
        for fact, other in OTHER.items():
            after = ending.binds(replace(one, **{fact: other}), NOW)
            found |= {name for name in before if after[name] != before[name]}
    assert found == set(ending.PARAMETERS)


def test_verdicts_on_other_generations_are_not_alike():
    runs = [verdict(Ending.SUCCEEDED), verdict(Ending.SUCCEEDED, of=claim(generation=1))]
    alike, values = ending.batch(runs, NOW)
    assert (alike, values["as_of"]) == (False, lists.joined([0, 1]))
