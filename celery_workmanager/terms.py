"""The terms under which rules judge: limits and times that settings decide, and how a work's options are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from celery_workmanager.bounds import Bound, quota_bounds
from celery_workmanager.policies import BackoffPolicy
from celery_workmanager.retention import prune_at
from celery_workmanager.settings import Limits, Settings
from celery_workmanager.timing import SECOND, backoff, micros

#: WorkManager, ``WorkRequest.DEFAULT_BACKOFF_DELAY_MILLIS``.
DEFAULT_BACKOFF = 30 * SECOND


class Backoff(TypedDict):
    """The arguments of `timing.next_run_at` that a work's options decide."""

    initial_delay: int
    policy: BackoffPolicy
    delay: int
    longest: int


@dataclass(frozen=True, slots=True)
class Terms:
    """What settings decide about works."""

    #: Limits of the profile.
    limits: Limits
    #: How long finished works are kept, in microseconds.
    retention: int
    #: After how many lost processes a work is given up.
    max_interruptions: int
    #: How many past runs of a periodic work are kept.
    keep_runs: int
    #: How many stops of a work's runs are kept.
    keep_stops: int
    #: How many expedited works may start, of the app ("") and by tag.
    expedited_quota: Mapping[str, Bound]

    @classmethod
    def of(cls, settings: Settings) -> Terms:
        """The terms that `settings` decide."""
        return cls(
            limits=settings.limits,
            retention=round(settings.retention * SECOND),
            max_interruptions=settings.max_interruptions,
            keep_runs=settings.keep_runs,
            keep_stops=settings.keep_stops,
            expedited_quota=_quota_of(settings),
        )


def _quota_of(settings: Settings) -> Mapping[str, Bound]:
    given = settings.expedited_quota or {}
    return quota_bounds({name: (n, micros(per)) for name, (n, per) in given.items()})


def backoff_of(options: Mapping[str, Any], limits: Limits) -> Backoff:
    """How a work with `options` waits before its first run and between retries."""
    return {
        "initial_delay": options.get("initial_delay", 0),
        "policy": BackoffPolicy(options.get("backoff_policy", 0)),
        "delay": options.get("backoff_delay", DEFAULT_BACKOFF),
        "longest": micros(limits.max_backoff),
    }


def backoff_wait(options: Mapping[str, Any], limits: Limits, attempts: int) -> int:
    """How long a work with `options` waits after run number `attempts` asked for another, in microseconds."""
    terms = backoff_of(options, limits)
    return backoff(terms["policy"], terms["delay"], attempts, terms["longest"])


def prune_moment(finished_at: int, enqueued_at: int | None, options: Mapping[str, Any], terms: Terms) -> int:
    """The moment from which a finished work with `options` may be pruned."""
    keep = options.get("keep", 0)
    return prune_at(finished_at, enqueued_at, keep, terms.retention, from_enqueue=terms.limits.prune_from_enqueue)
