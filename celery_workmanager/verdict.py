"""What the end of a run does to its work. Pure: a claim and an outcome in, a change of the row out.

Source: WorkManager, ``WorkerWrapper`` (success, failure, retry, interruption).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from celery_workmanager.call import facts_of
from celery_workmanager.errors import AttemptsExhausted, UnsupportedOperation, WorkerLost
from celery_workmanager.lifecycle import MOVE_OF_ENDING, Move, is_poisoned, reaches
from celery_workmanager.outcome import Claim, Ending, Outcome, Standing
from celery_workmanager.periods import Periodicity, caught_up, following_moment, run_moment
from celery_workmanager.terms import Terms, backoff_of, backoff_wait, prune_moment
from celery_workmanager.timing import SECOND, next_run_at
from celery_workmanager.work import RunOutcome, State, StopReason, WorkError

EMPTY = "{}"


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run of a periodic work, as its history keeps it; moments in microseconds."""

    outcome: RunOutcome
    #: Periods that had ended before it.
    period: int
    scheduled_at: int
    finished_at: int
    stop_reason: StopReason
    output: str | None
    error: str | None
    #: How many runs the history keeps.
    keep: int


@dataclass(slots=True, eq=False)
class PeriodicPart:
    """What a verdict on periodic work writes beside."""

    #: Where the work stands from now on; None: as before.
    standing: Standing | None = None
    run: EndedRun | None = None
    #: Whether the output of an earlier run stays.
    keeps_output: bool = True
    #: Whether the period that begins has a deadline of its own, which counts from the moment of its run.
    has_deadline: bool = False


@dataclass(slots=True, eq=False)
class Verdict:
    """A change of one row, guarded by its id and the token of its run. Times in microseconds."""

    id: str
    worker: str
    node: str
    token: int
    move: Move
    state: State
    run_attempt_count: int
    interruptions: int
    #: When the run began, if it did; written unless its start has been written before.
    started_at: int | None
    finished_at: int | None = None
    prune_at: int | None = None
    run_at: int = 0
    enqueued_at: int | None = None
    stop_reason: StopReason = StopReason.NOT_STOPPED
    output: str | None = None
    error: str | None = None
    keeps_progress: bool = False
    #: The work has counted under limits of the fleet until now.
    has_permits: bool = False
    #: When it was claimed, others depended on it.
    has_children: bool = False
    #: A retry is no longer expedited (WorkManager, "Expedited work").
    loses_privilege: bool = False
    #: Of a failed task call: what runs because of it, and the bodies of the chords that fail with it.
    errbacks: tuple[dict[str, Any], ...] = ()
    chord: tuple[str, ...] = ()
    #: What the next run is given instead of what this one was (the JSON of a task call).
    input: str | None = None
    #: The works that take this one's place (JSON).
    replacement: str | None = None
    period: PeriodicPart | None = None
    #: The generation that was judged, and the way to judge by the options of a later one (see `judge_updated`).
    generation: int = 0
    again: Callable[..., Verdict] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it only finishes its own work, as far as is known: nothing is stopped, replaced or caused by it."""
        return not self.has_children and self._is_simple

    @property
    def only_releases(self) -> bool:
        """Whether it only finishes its own work, so that others need no longer wait for it, as far as is known."""
        return self.has_children and self.state is State.SUCCEEDED and self._is_simple

    @property
    def _is_simple(self) -> bool:
        return (
            self.state.is_finished
            and self.stop_reason is StopReason.NOT_STOPPED
            and not self.errbacks
            and self.input is None
            and self.replacement is None
            and self.period is None
        )


def judge(claim: Claim, outcome: Outcome, now: int, monotonic: float, terms: Terms) -> Verdict:
    """Decide what `outcome` makes of `claim`'s work at `now`; `monotonic` is the same moment on the monotonic clock."""
    began = outcome.started_at is not None
    if claim.standing is not None and outcome.ending is Ending.REPLACED:
        outcome = replace(outcome, ending=Ending.FAILED, output=None, error=_IRREPLACEABLE)
    move = MOVE_OF_ENDING[outcome.ending]
    verdict = Verdict(
        id=claim.id,
        worker=claim.worker,
        node=claim.node,
        token=claim.token,
        move=move,
        state=reaches(move),
        run_attempt_count=claim.run_attempt_count + began,
        interruptions=claim.interruptions,
        started_at=None if outcome.started_at is None else now - round((monotonic - outcome.started_at) * SECOND),
        enqueued_at=claim.enqueued_at,
        generation=claim.generation,
        has_permits=claim.has_permits,
        has_children=claim.has_children,
        again=partial(judge_updated, claim, outcome, now, monotonic, terms),
    )
    _JUDGES[outcome.ending](verdict, claim, outcome, now, terms)
    if claim.standing is not None:
        _go_on(verdict, claim, claim.standing, outcome, now, terms)
    return verdict


def last_straw(claim: Claim, outcome: Outcome, max_interruptions: int) -> Exception | None:
    """Why a work fails although its run asked for another, or was lost; ``None`` when it runs again."""
    if outcome.ending is Ending.RETRY:
        most, attempts = claim.options.get("max_attempts"), claim.run_attempt_count + (outcome.started_at is not None)
        return None if most is None or attempts < most else AttemptsExhausted(claim.id, attempts)
    if outcome.ending is Ending.LOST and is_poisoned(claim.interruptions + 1, max_interruptions):
        return WorkerLost(claim.id, claim.interruptions + 1)
    return None


def judge_updated(
    claim: Claim,
    outcome: Outcome,
    now: int,
    monotonic: float,
    terms: Terms,
    generation: int,
    options: dict[str, Any],
    override: tuple[int | None, int] = (None, 0),
) -> Verdict:
    """Judge a run whose work was updated while it ran: delays, attempts and retention are those of the update.

    `override`: the moment set for the next run, and its generation, as they are now.
    """
    standing = claim.standing
    if standing is not None:
        is_new = override[1] != standing.override_generation
        standing = replace(standing, override_at=override[0], override_generation=override[1], override_is_new=is_new)
    updated = replace(claim, generation=generation, options=options, run_at=None, standing=standing)
    return judge(updated, outcome, now, monotonic, terms)


def _finish(verdict: Verdict, claim: Claim, now: int, terms: Terms) -> None:
    verdict.finished_at = now
    verdict.prune_at = prune_moment(now, claim.enqueued_at, claim.options, terms)


def _fail(verdict: Verdict, claim: Claim, now: int, terms: Terms) -> None:
    facts = facts_of(claim.options)
    verdict.errbacks, verdict.chord = tuple(facts.get("errbacks", ())), tuple(facts.get("chord", ()))
    _finish(verdict, claim, now, terms)


def _succeeded(verdict: Verdict, claim: Claim, outcome: Outcome, now: int, terms: Terms) -> None:
    verdict.output = outcome.output or EMPTY
    _finish(verdict, claim, now, terms)


def _failed(verdict: Verdict, claim: Claim, outcome: Outcome, now: int, terms: Terms) -> None:
    verdict.output = outcome.output or EMPTY
    verdict.error = outcome.error
    # Progress is deleted when a Result was returned, not when the worker threw.
    verdict.keeps_progress = outcome.output is None
    _fail(verdict, claim, now, terms)


def _give_up(verdict: Verdict, claim: Claim, error: Exception, now: int, terms: Terms) -> None:
    verdict.move, verdict.state = Move.FAIL, State.FAILED
    verdict.output = EMPTY
    verdict.error = WorkError.from_exception(error).to_json()
    _fail(verdict, claim, now, terms)


def _retry(verdict: Verdict, claim: Claim, outcome: Outcome, now: int, terms: Terms) -> None:
    last = last_straw(claim, outcome, terms.max_interruptions)
    if last is not None:
        _give_up(verdict, claim, last, now, terms)
        return
    verdict.enqueued_at = now
    verdict.loses_privilege = True
    verdict.input = outcome.output
    verdict.error = outcome.error
    if outcome.after is not None and not (claim.standing and claim.standing.override_is_new):
        verdict.run_at = now + round(outcome.after * SECOND)
    else:
        verdict.run_at = _next_run(verdict, claim, terms)


def _next_run(verdict: Verdict, claim: Claim, terms: Terms) -> int:
    if claim.standing is not None:
        standing = _after_run(claim.standing) if verdict.move is Move.RETRY else claim.standing
        wait = backoff_wait(claim.options, terms.limits, verdict.run_attempt_count)
        return run_moment(standing, verdict.enqueued_at or 0, verdict.run_attempt_count, wait, terms.limits)
    return next_run_at(
        enqueued_at=verdict.enqueued_at or 0,
        attempts=verdict.run_attempt_count,
        **backoff_of(claim.options, terms.limits),
    )


def _go_back(verdict: Verdict, claim: Claim, terms: Terms) -> None:
    if terms.limits.counts_system_stops:
        verdict.run_at = _next_run(verdict, claim, terms)
        return
    # A run that the system ended is no attempt, so that deploys don't burn retries: as if it had not been claimed.
    _undo_claim(verdict, claim, terms)


def _undo_claim(verdict: Verdict, claim: Claim, terms: Terms) -> None:
    verdict.run_attempt_count = claim.run_attempt_count
    verdict.run_at = _next_run(verdict, claim, terms) if claim.run_at is None else claim.run_at


def _stopped(verdict: Verdict, claim: Claim, outcome: Outcome, now: int, terms: Terms) -> None:
    verdict.stop_reason = outcome.reason
    verdict.keeps_progress = True
    if outcome.reason is StopReason.FOREGROUND_SERVICE_TIMEOUT and not terms.limits.counts_system_stops:
        # Its own doing, not the system's: begun again at once, it would only be stopped again, without end.
        verdict.enqueued_at = now
        verdict.run_at = _next_run(verdict, claim, terms)
    else:
        _go_back(verdict, claim, terms)


def _lost(verdict: Verdict, claim: Claim, outcome: Outcome, now: int, terms: Terms) -> None:
    verdict.stop_reason = StopReason.UNKNOWN
    verdict.interruptions += 1
    last = last_straw(claim, outcome, terms.max_interruptions)
    if last is not None:
        _give_up(verdict, claim, last, now, terms)
        return
    _go_back(verdict, claim, terms)


def _given_back(verdict: Verdict, claim: Claim, outcome: Outcome, now: int, terms: Terms) -> None:
    del outcome, now
    verdict.keeps_progress = True
    if claim.start_written:
        # RUNNING was written in advance: what never began must not look like a run.
        verdict.move = Move.STOP
    _undo_claim(verdict, claim, terms)


def _replaced(verdict: Verdict, claim: Claim, outcome: Outcome, now: int, terms: Terms) -> None:
    del claim, now, terms
    verdict.replacement = outcome.output


# -- periodic work -----------------------------------------------------------------------------------------------------

_IRREPLACEABLE = WorkError.from_exception(
    UnsupportedOperation("a periodic work can't be replaced by other works; enqueue them instead")
).to_json()
_OUTCOMES = {
    Move.SUCCEED: RunOutcome.SUCCEEDED,
    Move.FAIL: RunOutcome.FAILED,
    Move.RETRY: RunOutcome.RETRIED,
    Move.STOP: RunOutcome.STOPPED,
    Move.HEAL: RunOutcome.LOST,
}


def _go_on(verdict: Verdict, claim: Claim, standing: Standing, outcome: Outcome, now: int, terms: Terms) -> None:
    """What would finish one-time work ends a period; its run goes into the history in any case."""
    period = Periodicity.of(claim.options) or Periodicity()
    part = verdict.period = PeriodicPart()
    if outcome.ending is not Ending.GIVEN_BACK:
        keep = terms.keep_runs if period.keep is None else period.keep
        part.run = EndedRun(
            _OUTCOMES[verdict.move], standing.count, standing.at, now, verdict.stop_reason, verdict.output,
            verdict.error, keep,
        )  # fmt: skip
    if verdict.state.is_finished:
        part.keeps_output = False
        part.standing = _end_period(verdict, claim, standing, period, now, terms)
        part.has_deadline = not verdict.state.is_finished and "deadline_after" in claim.options
    elif verdict.move is Move.RETRY:
        # What made the run happen at this moment is used up, unless it was set while the work ran.
        part.standing = _after_run(standing)


def _after_run(standing: Standing) -> Standing:
    """Without the override that this run was moved by."""
    return replace(standing, override_at=standing.override_at if standing.override_is_new else None)


def _end_period(
    verdict: Verdict, claim: Claim, standing: Standing, period: Periodicity, now: int, terms: Terms
) -> Standing:
    """Source: WorkManager, ``WorkerWrapper.resetPeriodicAndResolve``: success, failure and exception alike."""
    left = replace(_after_run(standing), count=standing.count + 1)
    following = following_moment(period, standing, now)
    verdict.errbacks, verdict.chord = (), ()
    if following is None and left.override_at is None:
        verdict.move, verdict.state = Move.SUCCEED, State.SUCCEEDED
        return left
    verdict.move, verdict.state = Move.END_PERIOD, reaches(Move.END_PERIOD)
    verdict.finished_at = verdict.prune_at = None
    verdict.run_attempt_count = verdict.interruptions = 0
    verdict.stop_reason = StopReason.NOT_STOPPED
    verdict.enqueued_at = now
    if period.call is not None and claim.inputs[:1] != [period.call]:
        verdict.input = period.call
    at = left.override_at if following is None else following
    left = replace(left, at=at or 0)
    verdict.run_at = run_moment(left, now, 0, 0, terms.limits)
    return left


def catch_up(claim: Claim, now: int, terms: Terms) -> Verdict | None:
    """Let a claimed periodic work pass over what it has missed; a verdict when it doesn't run now, after that."""
    standing = claim.standing
    if standing is None or standing.was_begun or claim.run_attempt_count or standing.override_at is not None:
        return None
    period = Periodicity.of(claim.options) or Periodicity()
    at = caught_up(period, standing.at, now)
    if at == standing.at:
        return None
    if at is not None and at <= now:
        claim.standing = replace(standing, at=at)
        return None
    verdict = judge(claim, Outcome(Ending.GIVEN_BACK), now, 0.0, terms)
    if at is None:
        verdict.move, verdict.state = Move.SUCCEED, State.SUCCEEDED
        _finish(verdict, claim, now, terms)
    else:
        verdict.period, verdict.run_at = PeriodicPart(replace(standing, at=at)), at
    return verdict


_JUDGES = {
    Ending.SUCCEEDED: _succeeded,
    Ending.FAILED: _failed,
    Ending.RETRY: _retry,
    Ending.STOPPED: _stopped,
    Ending.LOST: _lost,
    Ending.GIVEN_BACK: _given_back,
    Ending.REPLACED: _replaced,
}
