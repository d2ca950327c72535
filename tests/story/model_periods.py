"""When periodic work runs, in the reference model: moments are counted out one by one."""

from __future__ import annotations

from collections.abc import Iterator

from tests.story.model_words import SECOND, Job, Period, Spec

#: No run is moved to less than this after the end of the last one.
SHORTEST = SECOND


def within(period: Period, at: int) -> int | None:
    """`at`, unless it is after the end."""
    return None if period.end is not None and at > period.end else at


def occurrences(period: Period, at: int) -> Iterator[int]:
    """The moments from `at` on, up to the end."""
    while within(period, at) is not None:
        yield at
        at += period.interval


def first_moment(spec: Spec, enqueued_at: int) -> int | None:
    """Flex is the last part of a period: the first run comes at its beginning."""
    period = spec.period
    assert period is not None
    wait = 0 if period.flex is None else period.interval - period.flex
    return within(period, enqueued_at + spec.delay + wait)


def after_missed(period: Period, at: int | None, now: int) -> int | None:
    """What is to run when `at` is the earliest that has not: it is missed when the following one has come."""
    if at is None or at > now or not period.is_rate:
        return at
    come, coming = list[int](), None
    for each in occurrences(period, at):
        if each > now:
            coming = each
            break
        come.append(each)
    if len(come) < 2:
        return at
    if period.catch_up == "SKIP":
        return coming
    return come[-1] if period.catch_up == "ONCE" else come[-period.most :][0]


def following(job: Job, now: int) -> int | None:
    """The moment of the run after the one that ends now."""
    period = job.spec.period
    assert period is not None
    if not period.is_rate:
        return within(period, now + period.interval)
    moved_to = job.at if job.override_at is None or job.override_is_new else job.override_at
    # Occurrences that a run was moved over are those it stood for.
    at = job.at + period.interval
    while at <= moved_to:
        at += period.interval
    return after_missed(period, within(period, at), now)


def after_update(job: Job, old: Spec, new: Spec) -> int | None:
    """The moment of a waiting run under another specification: what says the same stays as it was decided."""
    before, after = old.period, new.period
    assert before is not None
    assert after is not None
    if job.count == 0:
        is_same = before.moments == after.moments and old.delay == new.delay
        return within(after, job.at) if is_same else first_moment(new, job.enqueued_at or 0)
    if after.is_rate and before.moments == after.moments:
        return within(after, job.at)
    return within(after, (job.enqueued_at or 0) + after.interval)
