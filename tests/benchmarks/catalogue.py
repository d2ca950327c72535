"""Every system that a row may ask for, by the name of its line."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.environments import python_of
from tests.benchmarks.servers import Absent, Server, Servers, slowly
from tests.benchmarks.system import System

PREFORK = ("-P", "prefork", "-c", "2")
#: The other pools, and how many jobs each runs at once. A greenlet costs next to nothing, and so there are many.
POOLS = {"threads": 2, "solo": 1, "gevent": 100}
LARGE = {"WORKMANAGER_BENCH_TEXT": "10000"}
#: Works beside those that are measured, which use what most works don't.
BESIDE = {"WORKMANAGER_BENCH_BESIDE": "1000"}
#: Limits that each work of a drain has: over how many keys they are spread, and how many of a key run at once.
LIMITS = {", one key with room": "1:100000", ", 100 keys with room": "100:1000", ", one key, two at once": "1:2"}

#: What part of the jobs is drained of systems that are slower than the fastest.
_BRISK, _SLOW = 2, 8

REFERENCE = "Celery, Redis"
RABBITMQ = "Celery, RabbitMQ, no results"
RESULTS_IN_SQL = "Celery, Redis, results in PostgreSQL"
SQLITE, POSTGRESQL, MARIADB = "SQLite", "PostgreSQL", "MariaDB"
SLOW_SQLITE, SLOW_POSTGRESQL = "SQLite, +1 ms a flush", "PostgreSQL, +1 ms a flush"
PEERS = ("procrastinate", "oban", "pgqueuer")


class Catalogue:
    """Makes each system once; `folder` holds SQLite files and logs."""

    def __init__(self, servers: Servers, folder: Path) -> None:
        self._servers, self._folder = servers, folder
        self._made: dict[str, System | Absent] = {}

    def get(self, name: str) -> System:
        """The system of that name. Raises Absent when it can't be had, each time with the first reason."""
        if name not in self._made:
            try:
                self._made[name] = self._makers()[name](name)
            except Absent as reason:
                self._made[name] = reason
        made = self._made[name]
        if isinstance(made, Absent):
            raise made
        return made

    def close(self) -> None:
        """End the drivers."""
        for made in self._made.values():
            if isinstance(made, System):
                made.close()

    def _makers(self) -> Mapping[str, Callable[[str], System]]:
        return {
            REFERENCE: self._plain,
            f"{REFERENCE}, acks late": lambda name: self._plain(name, {"WORKMANAGER_BENCH_ACKS_LATE": "1"}),
            f"{REFERENCE}, 10 kB": lambda name: self._plain(name, LARGE),
            RABBITMQ: self._rabbitmq,
            RESULTS_IN_SQL: self._results_in_sql,
            SQLITE: self._sqlite,
            f"{SQLITE}, 10 kB": lambda name: self._sqlite(name, LARGE),
            SLOW_SQLITE: lambda name: self._sqlite(name, slowly(self._folder)),
            POSTGRESQL: self._postgresql,
            f"{POSTGRESQL}, constraints and limits": lambda name: self._postgresql(name, BESIDE),
            f"{POSTGRESQL}, events": lambda name: self._postgresql(name, celery=(*PREFORK, "-E")),
            f"{SQLITE}, constraints and limits": lambda name: self._sqlite(name, BESIDE),
            f"{SQLITE}, events": lambda name: self._sqlite(name, celery=(*PREFORK, "-E")),
            f"{POSTGRESQL}, 10 kB": lambda name: self._postgresql(name, LARGE),
            f"{MARIADB}, 10 kB": lambda name: self._durable(name, self._servers.mariadb, LARGE, part=_BRISK),
            **{f"{SQLITE}{each}": partial(self._limited, self._sqlite) for each in LIMITS},
            **{f"{POSTGRESQL}{each}": partial(self._limited, self._postgresql) for each in LIMITS},
            SLOW_POSTGRESQL: lambda name: self._durable(name, self._servers.slow_postgresql),
            MARIADB: lambda name: self._durable(name, self._servers.mariadb, part=_BRISK),
            **{f"{REFERENCE}, {pool}": partial(self._plain, celery=_on(pool)) for pool in POOLS},
            **{f"{SQLITE}, {pool}": partial(self._sqlite, celery=_on(pool)) for pool in POOLS},
            **{f"{POSTGRESQL}, {pool}": partial(self._postgresql, celery=_on(pool)) for pool in POOLS},
            "procrastinate": lambda name: self._peer(name, part=_SLOW),
            "oban": lambda name: self._peer(name, part=_BRISK),
            "pgqueuer": self._peer,
            "celery-once": self._once,
            "COPY, bare": self._floor,
            "the pool, no store": lambda name: System(name, "limit"),
            "Django on PostgreSQL": lambda name: self._django(name, self._servers.postgresql.database(_slug(name))),
            "Django on SQLite": lambda name: self._django(name, self._file(name)),
            "Django on MariaDB": lambda name: self._django(name, self._servers.mariadb.database(_slug(name))),
            "growth on SQLite": self._growth_on_sqlite,
            "growth on PostgreSQL": lambda name: self._growth(name, self._servers.postgresql),
            "growth on MariaDB": lambda name: self._growth(name, self._servers.mariadb),
        }

    def _plain(
        self, name: str, environment: Mapping[str, str] | None = None, celery: Sequence[str] = PREFORK
    ) -> System:
        redis = self._servers.redis
        where = {"WORKMANAGER_BENCH_BROKER": redis.url, "WORKMANAGER_BENCH_RESULTS": redis.url}
        return _celery(name, "plain", {**where, **(environment or {})}, [redis], celery, part=_SLOW)

    def _rabbitmq(self, name: str) -> System:
        rabbitmq = self._servers.rabbitmq
        return _celery(name, "plain", {"WORKMANAGER_BENCH_BROKER": rabbitmq.url}, [rabbitmq], part=_BRISK)

    def _results_in_sql(self, name: str) -> System:
        redis, postgresql = self._servers.redis, self._servers.postgresql
        where = {
            "WORKMANAGER_BENCH_BROKER": redis.url,
            "WORKMANAGER_BENCH_RESULTS": f"db+{postgresql.database(_slug(name))}",
        }
        return _celery(name, "plain", where, [redis, postgresql], part=_SLOW)

    def _sqlite(
        self,
        name: str,
        environment: Mapping[str, str] | None = None,
        celery: Sequence[str] = PREFORK,
        *,
        part: int = 1,
    ) -> System:
        where = {"WORKMANAGER_BENCH_STORE": self._file(name)}
        return _celery(name, "durable", {**where, **(environment or {})}, [], celery, part=part)

    def _postgresql(self, name: str, environment: Mapping[str, str] | None = None, **how: Any) -> System:
        return self._durable(name, self._servers.postgresql, environment, **how)

    @staticmethod
    def _limited(make: Callable[..., System], name: str) -> System:
        """Works with a limit each; where few may run at once, each end lets one more begin, and that takes long."""
        kind = name[name.index(",") :]
        return make(name, {"WORKMANAGER_BENCH_LIMIT": LIMITS[kind]}, part=_SLOW if LIMITS[kind].endswith(":2") else 1)

    def _durable(
        self,
        name: str,
        server: Server,
        environment: Mapping[str, str] | None = None,
        celery: Sequence[str] = PREFORK,
        *,
        part: int = 1,
    ) -> System:
        where = {"WORKMANAGER_BENCH_STORE": server.database(_slug(name))}
        return _celery(name, "durable", {**where, **(environment or {})}, [server], celery, part=part)

    def _peer(self, name: str, *, part: int = 1) -> System:
        python, server = python_of(name), self._servers.postgresql
        where = {"WORKMANAGER_BENCH_DSN": server.database(_slug(name)).replace("+psycopg", "")}
        driver = f"{name}_driver"
        return System(name, driver, python=python, environment=where, servers=[server], database=_slug(name), part=part)

    def _once(self, name: str) -> System:
        redis = self._servers.redis
        where = {"WORKMANAGER_BENCH_BROKER": redis.url}
        return System(name, "once", python=python_of(name), environment=where, servers=[redis])

    def _floor(self, name: str) -> System:
        server = self._servers.postgresql
        where = {"WORKMANAGER_BENCH_DSN": server.database(_slug(name)).replace("+psycopg", "")}
        return System(name, "floor", environment=where, servers=[server], database=_slug(name))

    def _django(self, name: str, url: str) -> System:
        return System(name, "django_site", environment={"SITE_DATABASE_URL": url})

    def _growth(self, name: str, server: Server) -> System:
        urls = [server.database(f"{_slug(name)}_{number}") for number in range(3)]
        return System(name, "growth", environment={"WORKMANAGER_BENCH_STORES": " ".join(urls)}, servers=[server])

    def _growth_on_sqlite(self, name: str) -> System:
        urls = [self._file(f"{name}_{number}") for number in range(3)]
        return System(name, "growth", environment={"WORKMANAGER_BENCH_STORES": " ".join(urls)})

    def _file(self, name: str) -> str:
        return f"sqlite:///{self._folder / _slug(name)}.sqlite3"


def _on(pool: str) -> Sequence[str]:
    return ("-P", pool, "-c", str(POOLS[pool]))


def _celery(
    name: str,
    driver: str,
    environment: Mapping[str, str],
    servers: Sequence[Server],
    celery: Sequence[str] = PREFORK,
    *,
    part: int = 1,
) -> System:
    return System(
        name,
        driver,
        python=sys.executable,
        celery=celery,
        environment=environment,
        servers=servers,
        database=_slug(name),
        part=part,
    )


def _slug(name: str) -> str:
    return "bench_" + re.sub(r"\W+", "_", name.lower())
