"""The history of every work, kept by triggers of the database itself: what the engine did, not what it says it did."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text

from celery_workmanager.work import State

_TABLE = {
    "sqlite": "CREATE TABLE chaos_history (seq INTEGER PRIMARY KEY AUTOINCREMENT, {columns})",
    "postgresql": "CREATE TABLE chaos_history (seq BIGSERIAL PRIMARY KEY, {columns})",
    "mariadb": "CREATE TABLE chaos_history (seq BIGINT AUTO_INCREMENT PRIMARY KEY, {columns})",
}
_COLUMNS = (
    "work VARCHAR(155) NOT NULL, was INTEGER, became INTEGER, owner BIGINT, heir BIGINT, period BIGINT,"
    " ended INTEGER NOT NULL, at BIGINT NOT NULL"
)
#: Microseconds since 1970, of the statement rather than its transaction.
_NOW = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER)",
    "postgresql": "CAST(extract(epoch from clock_timestamp()) * 1000000 AS BIGINT)",
    "mariadb": "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)",
}
_INTO = "INSERT INTO chaos_history (work, was, became, owner, heir, period, ended, at)"
_MADE = f"{_INTO} VALUES (NEW.id, NULL, NEW.state, NULL, NEW.token, NEW.period_at, 0, {{now}});"
_GONE = f"{_INTO} VALUES (OLD.id, OLD.state, NULL, OLD.token, NULL, OLD.period_at, 0, {{now}});"
_CHANGED = f"""{_INTO} VALUES (OLD.id, OLD.state, NEW.state, OLD.token, NEW.token, OLD.period_at,
    CASE WHEN NEW.period_count > OLD.period_count THEN 1 ELSE 0 END, {{now}});"""
#: A new state or owner, the end of a period, and anything that befalls a finished work.
_TELLING = """OLD.state <> NEW.state OR {differ_token} OR OLD.period_count <> NEW.period_count
    OR (OLD.state IN ({finished}) AND ({differ_output} OR {differ_finished} OR OLD.runs <> NEW.runs))"""
_FINISHED = ", ".join(str(int(state)) for state in State if state.is_finished)


@dataclass(frozen=True, slots=True)
class Step:
    """One change of a work's row. `owner` held it before (a token), `heir` holds it after."""

    work: str
    was: State | None
    became: State | None
    owner: int | None = None
    heir: int | None = None
    #: The occurrence of periodic work that was due or running.
    period: int | None = None
    #: Whether it ended a period.
    ended: bool = False
    #: When, in monotonic seconds of this machine.
    at: float = 0.0


def keep(engine: Engine) -> None:
    """Have the database keep the history of its works from now on."""
    dialect = "mariadb" if engine.dialect.name in ("mariadb", "mysql") else engine.dialect.name
    with engine.begin() as connection:
        connection.execute(text(_TABLE[dialect].format(columns=_COLUMNS)))
        for statement in _TRIGGERS[dialect]():
            connection.exec_driver_sql(statement)


def steps(connection: Connection) -> list[Step]:
    """All that was kept, in order."""
    rows = connection.execute(text(f"SELECT {', '.join(Step.__slots__)} FROM chaos_history ORDER BY seq"))
    booted = time.time() - time.monotonic()
    return [
        Step(
            row.work, _state(row.was), _state(row.became), row.owner, row.heir, row.period, bool(row.ended),
            row.at / 1_000_000 - booted,
        )
        for row in rows
    ]  # fmt: skip


def _state(number: int | None) -> State | None:
    return None if number is None else State(number)


def _telling(differ: str) -> str:
    names = {f"differ_{name.split('_')[0]}": differ.format(name) for name in ("token", "output", "finished_at")}
    return _TELLING.format(finished=_FINISHED, **names)


def _kept(dialect: str) -> list[str]:
    return [each.format(now=_NOW[dialect]) for each in (_MADE, _CHANGED, _GONE)]


def _sqlite() -> list[str]:
    telling, (made, changed, gone) = _telling("OLD.{0} IS NOT NEW.{0}"), _kept("sqlite")
    on = "ON workmanager_work"
    return [
        f"CREATE TRIGGER chaos_made AFTER INSERT {on} BEGIN {made} END",
        f"CREATE TRIGGER chaos_changed AFTER UPDATE {on} WHEN {telling} BEGIN {changed} END",
        f"CREATE TRIGGER chaos_gone AFTER DELETE {on} BEGIN {gone} END",
    ]


def _postgresql() -> list[str]:
    telling = _telling("OLD.{0} IS DISTINCT FROM NEW.{0}")
    made, changed, gone = _kept("postgresql")
    bodies = {"INSERT": made, "UPDATE": f"IF {telling} THEN {changed} END IF;", "DELETE": gone}
    statements = []
    for event, body in bodies.items():
        name = f"chaos_{event.lower()}"
        statements += [
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NULL; END $$",
            f"CREATE TRIGGER {name} AFTER {event} ON workmanager_work FOR EACH ROW EXECUTE FUNCTION {name}()",
        ]
    return statements


def _mariadb() -> list[str]:
    telling, (made, changed, gone) = _telling("NOT (OLD.{0} <=> NEW.{0})"), _kept("mariadb")
    on = "ON workmanager_work FOR EACH ROW"
    return [
        f"CREATE TRIGGER chaos_made AFTER INSERT {on} {made}",
        f"CREATE TRIGGER chaos_changed AFTER UPDATE {on} BEGIN IF {telling} THEN {changed} END IF; END",
        f"CREATE TRIGGER chaos_gone AFTER DELETE {on} {gone}",
    ]


_TRIGGERS = {"sqlite": _sqlite, "postgresql": _postgresql, "mariadb": _mariadb}
