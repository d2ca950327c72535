"""PostgreSQL: a look and a claim in one statement, for a node that saw nothing and then heard the bell.

It claims only where a look and a claim would come to the same: all that is ready lies in the node's own lanes, and no
lane is paused. Otherwise it claims nothing, and the node looks.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import BigInteger, Connection, Text, all_, any_, bindparam, cast, func, select, true
from sqlalchemy.dialects.postgresql import ARRAY

from celery_workmanager.outcome import Claim
from celery_workmanager.sentences import Sentence
from celery_workmanager.store import claiming, lists
from celery_workmanager.store.marks import STAMP
from celery_workmanager.tables import work


def _statement() -> Sentence:
    lanes = claiming.ready_lanes_probed().cte("ready")
    own = cast(bindparam("own", type_=Text), ARRAY(BigInteger))
    is_elsewhere = select(lanes.c.lane).where(lanes.c.lane != all_(own)).exists()
    head = claiming.head(work.c.ready_lane == lanes.c.lane, bindparam("most", type_=BigInteger)).lateral("head")
    chosen = (
        select(head.c.id)
        .select_from(lanes.join(head, true()))
        .where(STAMP == 0, ~is_elsewhere)
        .order_by(head.c.urgency, head.c.run_at, head.c.id)
        .limit(lists.hidden(bindparam("most", type_=BigInteger)))
        .cte("chosen")
    )
    # A list, for the same reason as there.
    return Sentence(claiming.claiming(work.c.id == any_(func.array(select(chosen.c.id).scalar_subquery()))))


_CLAIM = _statement()


def claim(connection: Connection, lanes: Iterable[int], *, node: str, token: int, limit: int, now: int) -> list[Claim]:
    """Claim up to `limit` works from `lanes` for `node`, the most urgent and oldest first.

    Nothing, when anything is ready elsewhere, or any lane is paused.
    """
    own = "{" + ",".join(map(str, lanes)) + "}"
    rows = _CLAIM.say(connection, {"own": own, "most": limit, "at": now, "by": node, "with_token": token})
    return claiming.claims_of(connection, rows, node, token)
