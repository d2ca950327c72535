"""What a release may do to the schema of the last one: add, and nothing else (docs/upgrading.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import inspect, text

from celery_workmanager.database import Database


@dataclass(frozen=True)
class Table:
    """A table as the database tells of it."""

    columns: dict[str, Any]
    indexes: dict[str, Any]
    key: tuple[str, ...]
    rules: frozenset[str]


def anatomy(database: Database) -> dict[str, Table]:
    """The store's tables, columns, indexes and constraints."""
    with database.plain() as connection:
        found = inspect(connection)
        names = [name for name in found.get_table_names() if name.startswith("workmanager_")]
        return {name: _table(found, name) for name in names}


def _table(found: Any, name: str) -> Table:
    rules = [*found.get_foreign_keys(name), *found.get_unique_constraints(name), *found.get_check_constraints(name)]
    return Table(
        {each["name"]: (str(each["type"]), each["nullable"], each["default"]) for each in found.get_columns(name)},
        {each["name"]: (tuple(each["column_names"]), bool(each["unique"])) for each in found.get_indexes(name)},
        tuple(found.get_pk_constraint(name)["constrained_columns"]),
        frozenset(map(str, rules)),
    )


def broken(before: dict[str, Table], after: dict[str, Table]) -> list[str]:
    """What has been done that a version which knows only `before` can't work with."""
    told = [f"table {name} is gone" for name in before.keys() - after.keys()]
    for name in before.keys() & after.keys():
        told += [f"{name}: {each}" for each in _broken(before[name], after[name])]
    return sorted(told)


def _broken(before: Table, after: Table) -> list[str]:
    told = [f"column {name} is gone" for name in before.columns.keys() - after.columns.keys()]
    told += [f"index {name} is gone" for name in before.indexes.keys() - after.indexes.keys()]
    told += ["the key is another"] if before.key != after.key else []
    told += ["a new constraint"] if after.rules - before.rules else []
    for name, (kind, is_nullable, default) in after.columns.items():
        if name in before.columns:
            told += [f"column {name} has changed"] if before.columns[name] != after.columns[name] else []
        elif not is_nullable and default is None:
            told.append(f"column {name} ({kind}) has to be given by every INSERT")
    for name, index in after.indexes.items():
        if name in before.indexes:
            told += [f"index {name} has changed"] if before.indexes[name] != index else []
        elif index[1]:
            told.append(f"index {name} refuses rows")
    return told


def change(database: Database, *statements: str) -> None:
    """Change tables as a migration might."""
    with database.transaction() as connection:
        for each in statements:
            connection.execute(text(each))
