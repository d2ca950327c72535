"""Works that become ready by the end of another one, and are claimed in the transaction that ends it.

So a link of a chain takes one transaction, not two and a look. Only a node that has just found nothing to claim does
it, and it takes no more than it can begin at once: nobody who has waited longer is overtaken.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from celery_workmanager.outcome import Claim
from celery_workmanager.store import claiming
from celery_workmanager.store.graph import Locked


@dataclass(frozen=True, slots=True)
class Taker:
    """The node that writes an end and has room for up to `room` works of its `lanes`."""

    node: str
    token: int
    lanes: Collection[int]
    room: int


def claim(connection: Connection, released: Sequence[Locked], taker: Taker, now: int) -> list[Claim]:
    """Claim works for `taker` that were `released` just now; all or none of those that it could run.

    Expedited ones need more than room (their quota), and go the usual way.
    """
    ready = [each.id for each in released if each.lane in taker.lanes and '"expedited"' not in each.options]
    if len(ready) > taker.room:
        return []
    taken = (claiming.claim_one(connection, each, node=taker.node, token=taker.token, now=now) for each in ready)
    return [claim for some in taken for claim in some]
