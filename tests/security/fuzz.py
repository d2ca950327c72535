"""What fuzzing is made of: junk of every kind, and what a refusal must look like.

`WORKMANAGER_SOAK=20` tries two hundred times as much.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from celery_workmanager.errors import WorkManagerError

T = TypeVar("T")

SOAK = int(os.environ.get("WORKMANAGER_SOAK", "0"))
#: Python refuses to write such a number; hypothesis, which writes what it gives, is not given it.
HUGE = 10**5000
#: Any text, with what no database takes.
anything = st.text(st.characters(exclude_categories=()), max_size=40)
numbers = st.one_of(st.integers(), st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**400]), st.floats())
scalars = st.one_of(st.none(), st.booleans(), numbers, anything)
times = st.one_of(
    st.datetimes(), st.datetimes(timezones=st.just(UTC)), st.timedeltas(), st.dates(), st.times(),
    st.datetimes(timezones=st.timezones()),
)  # fmt: skip
strange = st.sampled_from([object(), object, b"\xff", {1}, (), frozenset(), lambda: None, ..., 1j, bytearray(b"x")])


def nested(depth: int) -> Any:
    """Containers in containers."""
    found: Any = 1
    for at in range(depth):
        found = [found] if at % 2 else {"deeper": found}
    return found


#: Values of JSON, and what json.loads makes of what isn't quite JSON.
jsons = st.recursive(
    st.one_of(scalars, st.sampled_from([50, 101, 3000]).map(nested)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(anything, inner, max_size=4),
    max_leaves=8,
)
junk = st.one_of(jsons, times, strange, st.dictionaries(scalars, scalars, max_size=3), st.lists(strange, max_size=3))


def fuzzed(examples: int) -> Any:
    """The settings of a property: so many examples, or for long."""
    return settings(
        max_examples=examples * 5 * SOAK if SOAK else examples // 2,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        print_blob=True,
        deadline=None,
    )


def accepted(make: Callable[[], T]) -> T | None:
    """What `make` returns; ``None`` when it refuses in our own words, and fails with whatever else it raises."""
    try:
        return make()
    except WorkManagerError as error:
        told = str(error)
        assert "expected" in told, told
        assert ", got: " in told, told
        told.encode()
        return None
