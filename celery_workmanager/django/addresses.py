"""The address of a Django database, for connections that aren't Django's."""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL

from celery_workmanager.errors import ConfigurationError

#: What Django makes of an option itself; all others are the driver's.
_DJANGOS_OWN = {
    "assume_role",
    "client_encoding",
    "context",
    "cursor_factory",
    "init_command",
    "isolation_level",
    "pool",
    "prepare_threshold",
    "server_side_binding",
}


def url_of(connection: Any) -> URL:
    """The SQLAlchemy URL of the database of a Django `connection`; of one in memory, an empty one of that kind.

    Raises ConfigurationError for a database that can't be a store.
    """
    given = connection.settings_dict
    if connection.vendor == "sqlite":
        return URL.create("sqlite", database=None if connection.is_in_memory_db() else str(given["NAME"]))
    if connection.vendor == "postgresql":
        if connection.Database.__name__ != "psycopg":
            raise ConfigurationError(f"expected psycopg 3 for database {connection.alias!r}, got: psycopg2")
        return _server_url("postgresql+psycopg", given, _postgresql_options(given["OPTIONS"]))
    if connection.vendor == "mysql":
        return _server_url(mysql_driver(connection), given, _mysql_options(given))
    raise ConfigurationError(
        f"expected database {connection.alias!r} to be SQLite, PostgreSQL, MariaDB or MySQL, got: {connection.vendor}"
    )


def mysql_driver(connection: Any) -> str:
    """What SQLAlchemy calls the driver behind a Django `connection`: PyMySQL may stand in for mysqlclient."""
    return "mysql+pymysql" if connection.Database.__name__ == "pymysql" else "mysql+mysqldb"


def _server_url(driver: str, given: dict[str, Any], options: dict[str, str]) -> URL:
    return URL.create(
        driver,
        username=given["USER"] or None,
        password=given["PASSWORD"] or None,
        host=None if "unix_socket" in options else given["HOST"] or None,
        port=int(given["PORT"]) if given["PORT"] else None,
        database=given["NAME"] or None,
        query=options,
    )


def _driver_options(options: dict[str, Any]) -> dict[str, str]:
    plain = {key: value for key, value in options.items() if key not in _DJANGOS_OWN}
    return {key: str(value) for key, value in plain.items() if isinstance(value, (str, int, float))}


def _mysql_options(given: dict[str, Any]) -> dict[str, str]:
    found = _driver_options(given["OPTIONS"])
    found |= {f"ssl_{key}": str(value) for key, value in given["OPTIONS"].get("ssl", {}).items()}
    if given["HOST"].startswith("/"):
        found["unix_socket"] = given["HOST"]
    return found


def _postgresql_options(options: dict[str, Any]) -> dict[str, str]:
    found = _driver_options(options)
    if role := options.get("assume_role"):
        found["options"] = f"{found.get('options', '')} -c role={role}".strip()
    return found
