"""What the steps of a random walk are drawn from."""

from __future__ import annotations

from hypothesis import strategies as st

from celery_workmanager.outcome import Ending
from celery_workmanager.policies import ExistingWorkPolicy
from tests.story.model import SECOND, Spec

NAMES = ("north", "south")
TAGS = ("red", "blue")

picks = st.integers(0, 10**6)
policies = st.sampled_from([policy.name for policy in ExistingWorkPolicy])
specs = st.builds(
    lambda worker, delay, expires, flags, tags, most: Spec(
        worker=worker,
        delay=0 if flags == 2 else delay * SECOND,
        expires=expires and expires * SECOND,
        priority=9 if flags == 1 else 0,
        expedited=flags == 2,
        tags=tags,
        max_attempts=most,
    ),
    st.sampled_from(["w.a", "w.b"]),
    st.sampled_from([0, 0, 0, 0, 5, 40]),
    st.sampled_from([None, None, None, None, None, 20, 100]),
    st.sampled_from([0, 0, 0, 1, 2]),
    st.frozensets(st.sampled_from(TAGS), max_size=2),
    st.sampled_from([None, None, 2]),
)
endings = st.sampled_from(
    [Ending.SUCCEEDED] * 6
    + [Ending.FAILED, Ending.RETRY, Ending.RETRY, *(Ending.STOPPED, Ending.GIVEN_BACK, Ending.LOST)]
)
