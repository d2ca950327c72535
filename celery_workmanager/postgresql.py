"""PostgreSQL: how connections of ours are opened, also through a pooler that lends them out by the transaction.

Behind such a pooler (PgBouncer with ``pool_mode = transaction``) each transaction may be in another session of the
server, which other programs were in before and will be in after it. So nothing may be left in a session: no setting, no
prepared statement, nothing listened to.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event

from celery_workmanager.quiet import is_quiet, look_after
from celery_workmanager.sentences import OURS

#: What a session of ours has set, whoever is asked for it.
_SETTINGS = {
    # Before a table has statistics (a minute in the life of a store, or after a bulk load) the planner would read all
    # of it to find a few rows by their keys, and sort all that is claimable to find the head of a lane.
    "enable_seqscan": "off",
    # Our statements read few rows, but the planner fears many: beside a million works it compiled each look for lanes,
    # which took ten milliseconds.
    "jit": "off",
}
_RELAXED = {"enable_bitmapscan": "off", "synchronous_commit": "off"}
#: Set with the others as a session is opened, to see whether they have arrived.
_MARK = "workmanager.own_session"


class Route:
    """The way to the server: whether a pooler shares its sessions among transactions; ``None``: not known yet."""

    def __init__(self, *, is_shared: bool = False) -> None:
        self.is_shared: bool | None = is_shared or None

    def connect(self, dialect: Any, args: list[Any], options: dict[str, Any], settings: dict[str, str]) -> Any:
        """A connection whose session has `settings`, or one to a pooler, whose transactions must have them.

        They are sent as it is opened. A pooler can't keep them, and refuses them or drops them: so it shows.
        """
        if not self.is_shared:
            wanted = " ".join(f"-c {name}={value}" for name, value in {**settings, _MARK: "1"}.items())
            given = f"{options.get('options', '')} {wanted}".strip()
            try:
                made = dialect.connect(*args, **{**options, "options": given})
            except dialect.loaded_dbapi.OperationalError as error:
                if not _is_about_options(str(error)):
                    raise
            else:
                if self.is_shared is False or _is_our_own(made):
                    self.is_shared = False
                    return made
                made.close()
            self.is_shared = True
        return dialect.connect(*args, **{**options, "prepare_threshold": None})


def _is_about_options(told: str) -> bool:
    # PgBouncer: "unsupported startup parameter: options"; others say that they don't support command-line options.
    return "support" in told and "option" in told


def _is_our_own(connection: Any) -> bool:
    was, connection.autocommit = connection.autocommit, True
    marked = connection.execute(f"SELECT current_setting('{_MARK}', true)").fetchone()
    connection.autocommit = was
    return marked is not None and marked[0] == "1"


def open_engine(url: URL, route: Route, *, relaxed: bool, idle: int) -> Engine:
    """An engine whose commits are durable or, if `relaxed`, may be lost with the server's machine.

    `idle`: the seconds after which the server takes back a transaction in which nothing happens.
    """
    engine = create_engine(
        url,
        # Our statements lock and look again; a server whose default is stricter would only refuse them.
        isolation_level="READ COMMITTED",
        pool_size=5,
        max_overflow=10,
        hide_parameters=True,
        connect_args=_reach(url),
    )
    # A process that is frozen inside a transaction must not keep its rows from those who take over.
    settings = {**_SETTINGS, **(_RELAXED if relaxed else {}), "idle_in_transaction_session_timeout": f"{idle}s"}

    def connect(dialect: Any, _record: Any, args: list[Any], options: dict[str, Any]) -> Any:
        return route.connect(dialect, args, options, settings)

    setting = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())

    def begin(connection: Connection) -> None:
        if route.is_shared:
            connection.exec_driver_sql(f"SELECT {setting}")

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "begin", begin)
    look_after(engine, _socket, _ask)
    event.listen(engine, "checkout", _in_transactions)
    return engine


def _reach(url: URL) -> dict[str, Any]:
    """How soon a server that doesn't answer is given up, unless the URL says otherwise."""
    patience = {"connect_timeout": 5, "keepalives_idle": 5, "keepalives_interval": 2, "tcp_user_timeout": 10_000}
    return {key: value for key, value in patience.items() if key not in url.query}


def prepare(connection: Connection, is_plain: bool) -> None:
    """Get a connection of ours ready for a transaction or, `is_plain`, for statements that are one each."""
    if OURS not in connection.get_execution_options():
        connection.execution_options(**{OURS: True})
    # Past SQLAlchemy, which would take note of each change, and undo them all one day.
    driver: Any = connection.connection.driver_connection
    if driver.autocommit is not is_plain:
        driver.autocommit = is_plain


def is_alive(connection: Connection) -> bool:
    """Whether one that was at rest can be used: the server hasn't closed it, as far as one can see."""
    if connection.closed or connection.invalidated:
        return False
    return is_quiet(connection.connection.driver_connection, _socket)


def _socket(dbapi: Any) -> Any:
    return dbapi.fileno()


def _ask(dbapi: Any) -> bool:
    dbapi.execute("SELECT 1")
    dbapi.rollback()
    return True


def _in_transactions(dbapi: Any, _record: Any, _proxy: Any) -> None:
    # Whoever gives one back leaves it as it was used, see `prepare`.
    if dbapi.autocommit:
        dbapi.autocommit = False
