"""The plans of the statements that run all day, over a store full of works that they must not read.

`python -m tests.store.query_plans [rows] [PostgreSQL URL]` prints them as docs/query-plans.md shows them.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg.sql import Literal
from sqlalchemy import Connection, event, text

from celery_workmanager import schema
from celery_workmanager.lanes import LIMIT, lane_of
from celery_workmanager.limits import Limit
from celery_workmanager.outcome import Ending
from celery_workmanager.overview import MOST, held
from celery_workmanager.pauses import PauseKind, PauseTarget
from celery_workmanager.query import WorkQuery
from celery_workmanager.store import Store, claiming, pausing
from celery_workmanager.timing import SECOND
from tests import services
from tests.stores import (
    APPEND,
    HOUR,
    QUEUE,
    START,
    WORKER,
    end,
    job,
    make_store,
    put,
    put_named,
    register,
    sql,
    start,
    take,
    take_one,
)

#: What each duty is, with the index that must carry it and a sentence for the document.
DUTIES: dict[str, tuple[str, str]] = {
    "ready lanes": ("work_ready", "One probe a lane with ready works, however many wait in each."),
    "look beside pauses": ("pause", "The same, and the few pauses; a paused lane is left out, however full it is."),
    "look into lanes": ("work_ready", "The head of each lane that the node has not looked into before."),
    "claim": ("work_ready", "Reads as many entries of a lane as it may take, already in order."),
    "claim from many lanes": ("work_ready", "The same for each lane; the heads are merged."),
    "claim after prerequisites": ("pkey", "The outputs of the parents, by their keys."),
    "next moment": ("work_due", "The first entry of four small indexes."),
    "promote": ("work_due", "The entries that are due, and those rows by their keys."),
    "expire": ("work_expires", "The entries that have expired."),
    "pass deadlines": ("work_deadline", "The entries whose deadline has come, and those rows by their keys."),
    "start": ("pkey", "By key."),
    "claim under limits": (
        "work_parked",
        "A claim; then limits and permits by their keys, and the first parked works.",
    ),
    "release limits": ("permit_work", "The permits of what has ended, and the first parked works of their keys."),
    "wake from limits": ("limit_wake", "The keys that are to be looked at, and the first parked works of each."),
    "forget limits": ("limit", "A page of the keys, and the permits of each."),
    "settle": ("pkey", "By key; children by the edges of their parents."),
    "settle a failure": ("pkey", "By key, and down the edges."),
    "owned": ("work_node", "What the node holds, and nothing else."),
    "heal": ("work_node", "The works of the lost node; claims of unknown nodes by the same index."),
    "prune": ("work_prune", "The entries whose retention has ended, oldest first."),
    "sweep": ("work_blocked", "One page of the blocked works."),
    "append to a name": ("member", "The members of the name, by key."),
    "cancel a tag": ("tag_tag", "The works of the tag, those of the worker of that name, and down the edges."),
    "pause a tag": ("tag_tag", "A page of the tag's works by its index, the rows by their keys."),
    "resume a tag": ("tag_tag", "The same; whether something else holds them by their keys."),
    "pause a name": ("member", "A page of the name's works, the rows by their keys."),
    "carry on with pauses": ("pause", "The few pauses, and nothing else."),
    "count what is held": ("work_held", "The first entries of a small index."),
    "list a tag": ("tag_tag", "The works of a tag, and those of a worker, by their indexes."),
}
#: What may take part in a transaction of a user's, on a connection whose planner we told nothing.
JOINED = ("settle", "settle a failure", "prune", "append to a name", "cancel a tag")


@dataclass(frozen=True)
class Planned:
    """A statement and how the database means to run it."""

    statement: str
    plan: str

    @property
    def reads_a_whole_table(self) -> bool:
        """Whether it reads every row of a table that may be large."""
        large = "workmanager_(work|edge|tag|member|limit)"
        server = re.search(f"Seq Scan on {large}", self.plan)
        # A minimum over all rows is called a search too.
        file = re.search(rf"(SCAN|SEARCH) ({large}|child|parent)\b(?!.* INDEX )", self.plan)
        innodb = re.search(rf"({large}|child|parent): (ALL|index)\b", self.plan)
        return bool(server or file or innodb)


# -- a full store --------------------------------------------------------------------------------------------

_NUMBERS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows) ",
    "postgresql": "",
    "mariadb": "",
}
_FROM = {
    "sqlite": "FROM n",
    "postgresql": "FROM generate_series(1, :rows) AS n(i)",
    "mariadb": "FROM (SELECT seq AS i FROM seq_1_to_1000000 WHERE seq <= :rows) AS n",
}
_ID = {
    "sqlite": "printf('w%08d', i)",
    "postgresql": "'w' || lpad(i::text, 8, '0')",
    "mariadb": "'w' || lpad((i), 8, '0')",
}


def fill(store: Store, rows: int) -> None:
    """Of `rows` works: half finished, three tenths delayed, a fifth blocked; and a few that are ready, claimed, due."""
    dialect = store.database.dialect
    head, source, name = _NUMBERS[dialect], _FROM[dialect], _ID[dialect]
    state = "CASE WHEN i % 10 < 5 THEN 2 WHEN i % 10 < 8 THEN 0 ELSE 4 END"
    parked = "(i BETWEEN 60000 AND 62000 AND i % 10 BETWEEN 5 AND 7)"
    values = {"rows": rows, "lane": lane_of(QUEUE, WORKER), "now": START, "hour": HOUR}
    work = f"""INSERT INTO workmanager_work (id, worker, queue, state, lane, ready_lane, urgency, run_at, due_at,
        parked_by, expires_at, deadline_at, run_attempt_count, runs, interruptions, generation, stop_reason, waits_for,
        has_parents, has_children, created_at, enqueued_at, finished_at, prune_at, version, options, input, output)
        {head} SELECT {name}, '{WORKER}', '{QUEUE}', {state}, :lane, NULL, 255, :now + i,
        CASE WHEN i % 10 BETWEEN 5 AND 7 AND NOT {parked} THEN :now + :hour + i END,
        CASE WHEN {parked} THEN 'busy' END,
        CASE WHEN i % 10 = 5 THEN :now + 2 * :hour + i END, CASE WHEN i % 10 = 6 THEN :now + 3 * :hour + i END,
        0, 0, 0, 0, -256, CASE WHEN i % 10 > 7 THEN 1 END, CASE WHEN i % 10 > 7 THEN 1 ELSE 0 END,
        CASE WHEN i % 10 BETWEEN 6 AND 7 THEN 1 ELSE 0 END, :now, :now, CASE WHEN i % 10 < 5 THEN :now END,
        CASE WHEN i % 10 < 5 THEN :now + :hour + i END, 1, '{{}}', '{{}}', NULL {source}"""
    parent = name.replace("i)", "i - 2)").replace("i::text", "(i - 2)::text")
    edge = f"""INSERT INTO workmanager_edge (parent, child, position)
        {head} SELECT {parent}, {name}, 0 {source} WHERE i % 10 > 7"""
    tag = f"INSERT INTO workmanager_tag (work, tag) {head} SELECT {name}, 'tag ' || (i % 20000) {source}"
    member = f"INSERT INTO workmanager_member (name, work) {head} SELECT 'name ' || i, {name} {source} WHERE i % 4 = 0"
    limit = f"""INSERT INTO workmanager_limit ("key", full_at, wake_at)
        {head} SELECT 'key ' || i, :now, CASE WHEN i % 4 = 0 THEN :now + i END {source} WHERE i % 50 = 0"""
    permit = f"""INSERT INTO workmanager_permit ("key", work, token)
        {head} SELECT 'key ' || i, {name}, i {source} WHERE i % 50 = 0"""
    with store.database.transaction() as connection:
        if dialect == "mariadb":
            connection.execute(text("SET sql_mode = CONCAT(@@sql_mode, ',PIPES_AS_CONCAT,ANSI_QUOTES')"))
        for statement in (work, edge, tag, member, limit, permit):
            used = {key: value for key, value in values.items() if f":{key}" in statement}
            connection.execute(text(statement), used)
        # A few hundred that have something to do.
        for change in (
            "ready_lane = lane, due_at = NULL WHERE id <= 'w00003000' AND due_at IS NOT NULL",
            f"due_at = {START - 1} WHERE id BETWEEN 'w00003000' AND 'w00003500' AND due_at IS NOT NULL",
            f"expires_at = {START - 1} WHERE id BETWEEN 'w00004000' AND 'w00004300' AND expires_at IS NOT NULL",
            f"deadline_at = {START - 1} WHERE id BETWEEN 'w00006000' AND 'w00006300' AND due_at IS NOT NULL",
            f"prune_at = {START - 1} WHERE id BETWEEN 'w00005000' AND 'w00005060' AND prune_at IS NOT NULL",
        ):
            connection.execute(text(f"UPDATE workmanager_work SET {change}"))
    # As servers do in time. SQLite has no statistics unless somebody asks for them.
    tables = ", ".join(f"workmanager_{name}" for name in ("work", "edge", "tag", "member"))
    refreshing = {"postgresql": "VACUUM ANALYZE", "mariadb": f"ANALYZE TABLE {tables}"}
    if dialect in refreshing:
        with store.database.plain() as connection:
            connection.execute(text(refreshing[dialect]))


# -- what is run ---------------------------------------------------------------------------------------------


def duties(store: Store) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each duty by its name, to be done once in this order."""
    register(store)
    register(store, "lost", lease=-SECOND)
    yield "ready lanes", store.ready_lanes
    elsewhere = PauseTarget(PauseKind.QUEUE, "elsewhere")
    pausing.pause(store, elsewhere)
    yield "look beside pauses", store.look
    pausing.resume(store, elsewhere)
    claiming.forget_lanes()
    yield "look into lanes", lambda: store.look([])
    yield "claim", lambda: take(store, 16)
    yield "claim from many lanes", lambda: take(store, 16, workers=[WORKER, "one", "two"])
    yield "next moment", store.next_moment
    yield "expire", store.expire
    yield "promote", store.promote
    yield "pass deadlines", store.pass_deadlines
    begun, ended = take(store, 8), take(store, 8)
    busy: dict[str, Any] = {"concurrency": Limit("busy", 4)}
    put(store, *(job(f"busy-{n}", **busy) for n in range(9)))
    limited = [lane_of(QUEUE, WORKER, "", LIMIT)]
    held_back = store.claim_limited(limited, "node", 7, 3)
    sql(store, "UPDATE workmanager_limit SET wake_at = :at WHERE workmanager_limit.key = 'busy'", at=START)
    yield "claim under limits", lambda: store.claim_limited(limited, "node", 8, 1)
    store.release = lambda ids: None  # type: ignore[method-assign]
    end(store, *held_back)
    del store.release
    yield "release limits", lambda: store.release([claim.id for claim in held_back])
    yield "wake from limits", store.wake_limited
    yield "forget limits", lambda: store.forget_limits("")
    yield "start", lambda: start(store, *begun)
    parents = [take_one(store, each) for each in ("w00002006", "w00002007")]
    yield "settle", lambda: end(store, parents[0], *ended)
    yield "claim after prerequisites", lambda: take_one(store, "w00002008")
    yield "settle a failure", lambda: end(store, parents[1], ending=Ending.FAILED)
    yield "owned", lambda: store.owned("node")
    take(store, 50, node="lost")
    yield "heal", lambda: [store.heal(START), store.heal(START), store.heal(START)]
    yield "prune", lambda: store.prune(only_expired=True)
    yield "sweep", lambda: store.sweep("w00001000")
    yield "append to a name", lambda: put_named(store, "name 5000", APPEND, "appended")
    yield "cancel a tag", lambda: store.cancel_matching(tag="tag 9")
    red, named = PauseTarget(PauseKind.TAG, "tag 8"), PauseTarget(PauseKind.NAME, "name 6000")
    yield "pause a tag", lambda: pausing.pause(store, red)
    yield "pause a name", lambda: pausing.pause(store, named)
    yield "carry on with pauses", lambda: pausing.go_on(store, {})
    with store.database.plain() as connection:
        yield "count what is held", lambda: held(connection, MOST)
    yield "resume a tag", lambda: pausing.resume(store, red)
    yield "list a tag", lambda: store.work_infos(WorkQuery(tags=("tag 7",), limit=50))


@contextmanager
def recorded(store: Store) -> Iterator[list[tuple[str, Any]]]:
    """The statements that are run meanwhile, each with (the first of) its parameters."""
    found: dict[str, Any] = {}

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if re.match(r"(WITH|SELECT|UPDATE|DELETE)\b", statement) and "workmanager_" in statement:
            found.setdefault(statement, parameters[0] if many else parameters)

    engines = {store.database.engine(), store.database.engine(relaxed=True)}
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    statements: list[tuple[str, Any]] = []
    try:
        yield statements
    finally:
        statements += found.items()
        for engine in engines:
            event.remove(engine, "before_cursor_execute", note)


def explained(
    connection: Connection, statement: str, parameters: Any, *, generic: bool = False, analyze: bool = False
) -> Planned:
    """How the database would run a statement; `generic`: as one that was prepared, for any parameters.

    `analyze`: how PostgreSQL has run it, with the rows that were met.
    """
    if connection.dialect.name == "sqlite":
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
        depth = {0: -1}
        for number, parent, _, _ in rows:
            depth[number] = depth[parent] + 1
        return Planned(statement, "\n".join("  " * depth[row[0]] + row[3] for row in rows))
    if connection.dialect.name == "mariadb":
        named = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).mappings()
        steps = (f"{row['table']}: {row['type']} {row['key']} ({row['Extra']})" for row in named)
        return Planned(statement, "\n".join(steps))
    how = "ANALYZE, COSTS OFF" if analyze else "COSTS OFF"
    if not generic:
        rows = connection.exec_driver_sql(f"EXPLAIN ({how}) {statement}", parameters).all()
        return Planned(statement, "\n".join(row[0] for row in rows))
    names: list[str] = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
    numbered = re.sub(r"%\((\w+)\)s", lambda match: f"${names.index(match[1]) + 1}", statement).replace("%%", "%")
    values = ", ".join(Literal(parameters[name]).as_string() for name in names)
    driver: Any = connection.connection.driver_connection
    driver.execute("SET plan_cache_mode = force_generic_plan")
    driver.execute(f"PREPARE asked AS {numbered}")
    rows = driver.execute(f"EXPLAIN ({how}) EXECUTE asked{f'({values})' if names else ''}").fetchall()
    driver.execute("DEALLOCATE asked")
    return Planned(statement, "\n".join(row[0] for row in rows))


def plans(store: Store, *, generic: bool = False) -> dict[str, list[Planned]]:
    """The plans of every statement of every duty."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for name, duty in duties(store):
        with recorded(store) as statements:
            duty()
        found[name] = statements
    users = services.users_engine(store.database.url)
    try:
        with store.database.plain() as own, users.connect() as joined:
            return {
                name: [explained(joined if name in JOINED else own, *each, generic=generic) for each in statements]
                for name, statements in found.items()
            }
    finally:
        users.dispose()


# -- the document --------------------------------------------------------------------------------------------

_INTRODUCTION = """# Query plans

What the store's everyday statements read, in a store of {rows:,} works: half of them finished, three tenths delayed, a
fifth blocked, and a few hundred that are ready, due, expired or past their retention. None of these statements may read
a whole table; `tests/store/test_query_plans.py` holds them to it over a smaller store: on MariaDB, too, and on
PostgreSQL also with the plan of a prepared statement, which fits any parameters. Our own connections ask PostgreSQL's
planner to prefer indexes even before it has statistics; what may take part in a user's transaction is shown as a
connection without that asks for it.

To make this document again: `python -m tests.store.query_plans 1000000 > docs/query-plans.md` (some minutes; it makes
and drops a database of its own). Keys of tables and the order of columns stand in `celery_workmanager/tables.py`.
"""


#: Lists of ids, in a plan.
_LONG = re.compile(r"\{[^{}]{40,}\}")


def document(rows: int, of: dict[str, dict[str, list[Planned]]]) -> str:
    """The plans of each database, a chapter each."""
    parts = [_INTRODUCTION.format(rows=rows)]
    for database, found in of.items():
        parts.append(f"## {database}\n")
        for name, planned in found.items():
            parts.append(f"### {name.capitalize()}\n\n{DUTIES[name][1]}\n")
            shown = list(dict.fromkeys(_LONG.sub("{…}", each.plan) for each in planned))
            parts.append("```text\n" + "\n\n".join(shown) + "\n```\n")
    return "\n".join(parts).rstrip() + "\n"


def main(rows: int, url: str) -> None:
    """Fill a store of each kind and print the plans."""
    found: dict[str, dict[str, list[Planned]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for title, address in (("PostgreSQL", url), ("SQLite", f"sqlite:///{Path(folder) / 'plans.sqlite3'}")):
            store = make_store(address)
            schema.migrate(store.database)
            fill(store, rows)
            found[title] = plans(store)
            store.close()
    print(document(rows, found), end="")


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    address = services.make_database("wm_query_plans")
    try:
        main(count, address)
    finally:
        services.drop_database("wm_query_plans")
