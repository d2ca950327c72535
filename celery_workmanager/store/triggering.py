"""Works that wait for changes of files: read by the nodes that watch for them, and claimed when these have come.

What has changed is written into the options, and the lane becomes that of a work that waits for nothing: whatever
happens to the run, the next one has the same changes.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Text, bindparam, or_, select, update

from celery_workmanager.bell import ring
from celery_workmanager.lanes import LIMIT, Lane
from celery_workmanager.outcome import Claim
from celery_workmanager.store import Store, claiming
from celery_workmanager.store.marks import LANE_IS_OPEN, NODE_IS_OPEN
from celery_workmanager.tables import work
from celery_workmanager.triggers import Triggered

#: Works that one node watches for.
MOST = 1_000


@dataclass(frozen=True, slots=True)
class Waiting:
    """A work that waits for its trigger, as it was seen."""

    id: str
    generation: int
    lane: int
    queue: str
    worker: str
    #: From when on changes count (microseconds).
    since: int
    options: dict[str, Any]


_WAITING = select(
    work.c.id, work.c.generation, work.c.ready_lane, work.c.queue, work.c.worker, work.c.enqueued_at, work.c.options
)


def waiting(store: Store, lanes: Collection[int]) -> list[Waiting]:
    """The works of `lanes`, whose works wait for triggers, in the order of their ids."""
    some = _WAITING.where(work.c.ready_lane.in_(lanes)).order_by(work.c.id).limit(MOST)
    store.open()
    with store.database.plain() as connection:
        rows = connection.execute(some).all()
    return [Waiting(*row[:5], since=row.enqueued_at or 0, options=json.loads(row.options)) for row in rows]


_AS_SEEN = (
    work.c.id == bindparam("key"),
    work.c.ready_lane == bindparam("seen_lane"),
    work.c.generation == bindparam("seen_generation"),
    or_(work.c.expires_at.is_(None), work.c.expires_at > bindparam("at")),
    LANE_IS_OPEN,
    NODE_IS_OPEN,
)
_FIRE = (
    update(work)
    .where(*_AS_SEEN)
    .values(options=bindparam("told", type_=Text), lane=bindparam("next_lane"), ready_lane=bindparam("next_lane"))
)


def fire(store: Store, seen: Waiting, triggered: Triggered, node: str, token: int) -> list[Claim]:
    """Claim a work whose files have changed; an empty list when it is no longer as it was seen.

    One with limits of the fleet isn't claimed: from now on it waits for these.
    """
    options = seen.options | {"triggered": triggered.to_json()}
    lane = Lane.of(seen.queue, seen.worker, options)
    now = store.clock.now()
    binds = {
        "key": seen.id, "seen_lane": seen.lane, "seen_generation": seen.generation, "at": now,
        "told": json.dumps(options), "next_lane": lane.number, "by": node,
    }  # fmt: skip

    def claimed(connection: Connection) -> list[Claim]:
        if not connection.execute(_FIRE, binds).rowcount:
            return []
        if lane.mark == LIMIT:
            ring(connection)
            return []
        return claiming.claim_one(connection, seen.id, node=node, token=token, now=now)

    return store.database.run(claimed)
