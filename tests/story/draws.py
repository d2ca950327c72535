"""What the steps of a random walk are drawn from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from celery_workmanager import OneTimeWorkRequest, PeriodicWorkRequest
from celery_workmanager.constraints import Constraints
from celery_workmanager.limits import Limit, Rate
from celery_workmanager.outcome import Ending
from celery_workmanager.policies import BackoffPolicy, CatchUp, ExistingWorkPolicy, NetworkType, OutOfQuotaPolicy
from celery_workmanager.requests import WorkRequest
from celery_workmanager.timing import as_timedelta
from tests.story.model_words import SECOND, Period, Spec

START = 1_700_000_000 * SECOND
NAMES = ("north", "south")
TAGS = ("red", "blue")
WORKERS = ("w.a", "w.b")
QUEUES = ("q", "slow")
#: What some works ask for, by what the model calls it: nodes meet some of it.
CONSTRAINTS: dict[str | None, dict[str, Any]] = {
    None: {},
    "storage": {"requires_storage_not_low": True},
    "network": {"required_network_type": NetworkType.CONNECTED},
}
#: Expedited works that may start: of all in how many seconds, and of a tag.
QUOTA = {"": (3, 30 * SECOND), "tag:red": (1, 60 * SECOND)}

picks = st.integers(0, 10**6)
policies = st.sampled_from([policy.name for policy in ExistingWorkPolicy])
periodic_policies = st.sampled_from(["KEEP", "UPDATE", "UPDATE", "CANCEL_AND_REENQUEUE"])
met_constraints = st.sampled_from([("storage", "network"), ("storage", "network"), ("storage",), ("network",), ()])
pauses = st.sampled_from(
    [("queue", "slow"), ("tag", "w.b"), ("tag", "red"), ("tag", "blue"), ("name", "north"), ("node", "n0")]
)
endings = st.sampled_from(
    [Ending.SUCCEEDED] * 6
    + [Ending.FAILED, Ending.RETRY, Ending.RETRY, *(Ending.STOPPED, Ending.GIVEN_BACK, Ending.LOST)]
)

_conditions = st.fixed_dictionaries(
    {},
    optional={
        "constraint": st.sampled_from(["storage", "network"]),
        "concurrency": st.sampled_from([("oven", 1), ("oven", 2), ("oven-{part}", 1)]),
        # After the longest delay: a work whose deadline comes before is warned of.
        "deadline": st.sampled_from([45, 90]).map(lambda seconds: seconds * SECOND),
    },
)
_rates = st.sampled_from([None, None, ("door", 2, 60 * SECOND), ("oven", 3, 100 * SECOND), ("{part}", 1, 7 * SECOND)])
_common = {
    "worker": st.sampled_from(WORKERS),
    "queue": st.sampled_from(["q", "q", "q", "slow"]),
    "delay": st.sampled_from([0, 0, 0, 0, 5, 40]).map(lambda seconds: seconds * SECOND),
    "priority": st.sampled_from([0, 0, 0, 9]),
    "tags": st.frozensets(st.sampled_from(TAGS), max_size=2),
    "max_attempts": st.sampled_from([None, None, 2]),
    "part": st.integers(0, 1),
}


@st.composite
def _one_time(draw: st.DrawFn) -> Spec:
    values: dict[str, Any] = draw(st.fixed_dictionaries(_common))
    values["expires"] = draw(st.sampled_from([None, None, None, None, 20 * SECOND, 100 * SECOND]))
    kind = draw(st.sampled_from(["plain", "plain", "plain", "conditions", "conditions", "files", "expedited"]))
    if kind == "expedited":
        values |= {"delay": 0, "expedited": draw(st.sampled_from(["RUN", "RUN", "DROP"]))}
        values["constraint"] = draw(st.sampled_from([None, "network"]))
    elif kind != "plain":
        values |= draw(_conditions) | {"rate": draw(_rates), "trigger": kind == "files"}
    return Spec(**values)


@st.composite
def _periodic(draw: st.DrawFn) -> Spec:
    values: dict[str, Any] = draw(st.fixed_dictionaries(_common))
    flex = draw(st.sampled_from([None, None, 20]))
    is_rate = draw(st.booleans())
    rules = ["SKIP", "ONCE", "ALL"] if is_rate else ["ONCE"]
    values |= draw(st.one_of(st.just({}), _conditions))
    if "concurrency" in values:
        # What doesn't run after all has entered and left again before anybody can look.
        rules = [each for each in rules if each != "SKIP"]
    values["period"] = Period(
        interval=draw(st.sampled_from([30, 100])) * SECOND,
        flex=None if flex is None else flex * SECOND,
        is_rate=is_rate,
        catch_up=draw(st.sampled_from(rules)),
        most=2,
        end=draw(st.sampled_from([None, None, START + 1_000 * SECOND, START + 10_000 * SECOND])),
        keep=draw(st.sampled_from([None, None, 2])),
    )
    return Spec(**values)


one_time, periodic = _one_time(), _periodic()


def request_of(spec: Spec, work_id: str, number: int) -> WorkRequest:
    """The request that `spec` stands for."""
    asked = dict(CONSTRAINTS[spec.constraint])
    if spec.trigger:
        asked["content_uri_triggers"] = ["/in"]
    options: dict[str, Any] = {
        "id": work_id,
        "tags": spec.tags,
        "queue": spec.queue,
        "initial_delay": as_timedelta(spec.delay),
        "backoff_policy": BackoffPolicy.EXPONENTIAL,
        "backoff_delay": as_timedelta(spec.backoff),
        "priority": spec.priority,
        "max_attempts": spec.max_attempts,
        "constraints": Constraints(**asked),
        "deadline": None if spec.deadline is None else as_timedelta(spec.deadline),
        "concurrency": None if spec.concurrency is None else Limit(*spec.concurrency),
        "rate": None if spec.rate is None else Rate(spec.rate[0], spec.rate[1], as_timedelta(spec.rate[2])),
    }
    given = {"n": number, "part": spec.part}
    if spec.period is not None:
        return PeriodicWorkRequest(spec.worker, given, **options, **_times(spec, spec.period))
    quota = {
        None: None,
        "RUN": OutOfQuotaPolicy.RUN_AS_NON_EXPEDITED_WORK_REQUEST,
        "DROP": OutOfQuotaPolicy.DROP_WORK_REQUEST,
    }
    expires = None if spec.expires is None else as_timedelta(spec.expires)
    return OneTimeWorkRequest(spec.worker, given, **options, expedited=quota[spec.expedited], expires=expires)


def _times(spec: Spec, period: Period) -> dict[str, Any]:
    return {
        "repeat_interval": as_timedelta(period.interval),
        "flex_interval": None if period.flex is None else as_timedelta(period.flex),
        "fixed_rate": period.is_rate,
        "catch_up": CatchUp[period.catch_up],
        "catch_up_limit": period.most,
        "end_at": _moment(period.end),
        "keep_runs": period.keep,
        "next_schedule_time_override": _moment(spec.override),
        "clear_next_schedule_time_override": spec.clears_override,
    }


def _moment(at: int | None) -> datetime | None:
    return None if at is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)
