"""The places of storms: a store, a broker, workers and beats, and all that can be done to them."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from celery_workmanager import WorkManager, schema
from celery_workmanager.database import Database
from tests import services
from tests.chaos import history
from tests.chaos.clocks import Clock, why_no_clock
from tests.chaos.network import Cable, Detour, elsewhere, why_no_namespace
from tests.chaos.servers import MariaServer, RabbitServer
from tests.proxy import Proxy
from tests.story import story_app
from tests.story.cluster import running_cluster
from tests.story.cluster import why_not as why_no_cluster
from tests.story.workers import StoryBeat, StoryWorker, wait_until

SETTINGS: dict[str, Any] = {"poll_interval": 0.5, "max_interruptions": 1000, "stop_grace": 1.0}
_DISK = "256m"
#: Their pools, and how many works each runs at a time.
_WORKERS = {"one": ("prefork", 3), "two": ("threads", 6), "three": ("prefork", 3)}


@dataclass
class Broker:
    """What can be done to a broker."""

    stop: Callable[[], None]
    start: Callable[[], None]
    flush: Callable[[], None]
    proxy: Proxy
    #: Its URL, by host and port.
    url: Callable[[str, int], str]


@dataclass
class Server:
    """What can be done to a database's server."""

    crash: Callable[[], None]
    halt: Callable[[], None]
    start: Callable[[], None]
    cut: Callable[[], None]
    proxy: Proxy
    #: The store's URL, by host and port.
    url: Callable[[str, int], str]


@dataclass
class Place:
    """Where one storm rages. All that it holds ends with the `stack` it was made in."""

    title: str
    folder: Path
    #: The store's URL for the auditor, and for everybody else.
    direct: str
    url: str
    lease: float = 5.0
    server: Server | None = None
    broker: Broker | None = None
    disk: Disk | None = None
    workers: list[StoryWorker] = field(default_factory=list)
    beats: list[StoryBeat] = field(default_factory=list)
    #: Those who seem to be on other machines: that they are dead is seen by their leases alone.
    far: list[StoryWorker] = field(default_factory=list)
    #: What the worker of that name is connected by, and its own clock.
    links: dict[str, Cable | Detour] = field(default_factory=dict)
    clocks: dict[str, Clock] = field(default_factory=dict)
    #: What this machine can't do, in one line each.
    skipped: list[str] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        return {"lease": self.lease, **SETTINGS}

    @property
    def broker_url(self) -> str:
        return "memory://" if self.broker is None else self.broker.url("127.0.0.1", self.broker.proxy.port)

    def producer(self) -> WorkManager:
        """A manager as an application has it."""
        return WorkManager.get_instance(story_app.build(self.url, self.broker_url, **self.settings))

    def auditor(self) -> WorkManager:
        """A manager whose way to the store is never disturbed."""
        return WorkManager.get_instance(story_app.build(self.direct, **self.settings))

    def prepare(self) -> None:
        """Make the tables, and have the database keep their history."""
        database = Database(self.direct)
        schema.migrate(database)
        history.keep(database.engine())
        database.close()

    def start(self, stack: ExitStack) -> None:
        """Start three workers and two beats; the second worker is on a network of its own where there is one."""
        for name, (pool, slots) in _WORKERS.items():
            worker = self._worker(stack, name, pool, slots)
            stack.callback(worker.end)
            self.workers.append(worker)
        if self.server is not None and not self.far:
            self.skipped.append("deaths that are seen by leases alone: nobody can seem to be on another machine here")
        for number in (1, 2):
            beat = StoryBeat(self.folder, self.url, broker=self.broker_url, name=f"beat-{number}", **self.settings)
            stack.callback(beat.end)
            self.beats.append(beat)
        for each in (*self.workers, *self.beats):
            each.start()

    def await_nodes(self, manager: WorkManager) -> None:
        """Wait until each worker works."""
        nodes = manager.store.nodes
        wait_until(lambda: sum(node.runs_works for node in nodes()) == len(self.workers), what="all nodes")

    def _worker(self, stack: ExitStack, name: str, pool: str, slots: int) -> StoryWorker:
        url, broker, prefix, environment = self.url, self.broker_url, tuple[str, ...](), {}
        if name == "two" and self.server is not None and self.broker is not None:
            link = self._link(stack)
            ports = link.ports(self.server.proxy, self.broker.proxy)
            url, broker = self.server.url(link.host, ports[0]), self.broker.url(link.host, ports[1])
            prefix = link.prefix
            self.links[name] = link
        if name == "three" and self.server is not None and self._has_clocks():
            self.clocks[name] = clock = Clock(self.folder)
            environment = clock.environment
        distance = elsewhere(f"machine-{name}") if name != "one" and self.server is not None else ()
        made = StoryWorker(
            self.folder,
            url,
            broker=broker,
            pool=pool,
            name=name,
            concurrency=slots,
            prefix=prefix + distance,
            environment=environment,
            **self.settings,
        )
        if distance:
            self.far.append(made)
        return made

    def _has_clocks(self) -> bool:
        lacking = why_no_clock()
        self.skipped += [] if lacking is None else [f"clock stepped: {lacking}"]
        return lacking is None

    def _link(self, stack: ExitStack) -> Cable | Detour:
        """The cable that was laid for the proxies, or a way around it."""
        link = next(iter(self.links.values()), None)
        if link is None:
            link = Detour()
            stack.callback(link.close)
        return link


class Disk:
    """A small file system of the storm's own, for the store's file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "workmanager", str(folder)], check=True)

    def fill(self) -> None:
        """Leave not a byte."""
        with suppress(OSError), (self._folder / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))

    def free(self) -> None:
        (self._folder / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self._folder)], check=False)


@contextmanager
def held(store: str) -> Iterator[None]:
    """Somebody else's transaction that has the write lock of a SQLite store."""
    connection = sqlite3.connect(store.removeprefix("sqlite:///"), isolation_level=None, timeout=30)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def on_sqlite(stack: ExitStack, folder: Path) -> Place:
    """One machine, one file, no broker."""
    place = Place("SQLite alone", folder, "", "")
    where = folder
    if os.geteuid() == 0:
        place.disk = Disk(where := folder / "disk")
        stack.callback(place.disk.close)
    else:
        place.skipped.append("disk full: not root")
    place.url = place.direct = f"sqlite:///{where / 'store.sqlite3'}"
    place.skipped.append("node cut off, clock stepped: the nodes of a SQLite store are on one machine, with one clock")
    return place


def on_postgresql(stack: ExitStack, folder: Path) -> Place:
    """PostgreSQL and Redis."""
    cluster = stack.enter_context(running_cluster())
    hosts, links, skipped = _network(stack)
    proxy = _proxy(stack, cluster.port, hosts)
    server = Server(
        crash=lambda: cluster.stop("immediate"), halt=lambda: cluster.stop("fast"), start=cluster.start,
        cut=lambda: services.throw_out("postgres", cluster.url), proxy=proxy,
        url=lambda host, port: cluster.url.replace(f"127.0.0.1:{cluster.port}", f"{host}:{port}"),
    )  # fmt: skip
    broker = _redis(stack, folder, hosts)
    url = server.url("127.0.0.1", proxy.port)
    title = "PostgreSQL and Redis"
    return Place(title, folder, cluster.url, url, server=server, broker=broker, links=links, skipped=skipped)


def on_mariadb(stack: ExitStack, folder: Path) -> Place:
    """MariaDB and RabbitMQ."""
    maria = MariaServer(folder / "mariadb")
    stack.callback(maria.stop)
    maria.start()
    services.administer("CREATE DATABASE chaos", url=maria.url(database=""))
    hosts, links, skipped = _network(stack)
    proxy = _proxy(stack, maria.port, hosts)
    server = Server(
        crash=maria.stop, halt=lambda: maria.stop(signal.SIGTERM), start=maria.start,
        cut=lambda: services.throw_out("chaos", maria.url()), proxy=proxy,
        url=lambda host, port: maria.url().replace(f"127.0.0.1:{maria.port}", f"{host}:{port}"),
    )  # fmt: skip
    lacking = RabbitServer.why_not()
    if lacking is None:
        broker, title = _rabbit(stack, folder, hosts), "MariaDB and RabbitMQ"
    else:
        broker, title = _redis(stack, folder, hosts), "MariaDB and Redis"
        skipped.append(f"RabbitMQ, so Redis instead: {lacking}")
    url = server.url("127.0.0.1", proxy.port)
    return Place(title, folder, maria.url(), url, server=server, broker=broker, links=links, skipped=skipped)


def _network(stack: ExitStack) -> tuple[tuple[str, ...], dict[str, Cable | Detour], list[str]]:
    """The addresses that proxies listen at, the second worker's cable, and why there is none."""
    lacking = why_no_namespace()
    if lacking is not None:
        return ("127.0.0.1",), {}, [f"network namespace, so a proxy cuts the node off: {lacking}"]
    cable = Cable(0)
    stack.callback(cable.close)
    return ("127.0.0.1", cable.host), {"two": cable}, []


def _proxy(stack: ExitStack, port: int, hosts: tuple[str, ...]) -> Proxy:
    proxy = Proxy(port, hosts)
    stack.callback(proxy.close)
    return proxy


def _redis(stack: ExitStack, folder: Path, hosts: tuple[str, ...]) -> Broker:
    server = services.RedisServer(folder)
    server.start()
    stack.callback(server.stop)

    def flush() -> None:
        with redis.Redis(port=server.port) as client:
            client.flushall()

    def url(host: str, port: int) -> str:
        return f"redis://{host}:{port}/0"

    return Broker(server.stop, server.start, flush, _proxy(stack, server.port, hosts), url)


def _rabbit(stack: ExitStack, folder: Path, hosts: tuple[str, ...]) -> Broker:
    server = RabbitServer(folder / "rabbitmq")
    stack.callback(server.close)
    server.start()
    return Broker(server.stop, server.start, server.flush, _proxy(stack, server.port, hosts), server.url)


@dataclass(frozen=True)
class Kind:
    """A place, and why there can't be one here."""

    make: Callable[[ExitStack, Path], Place]
    why_not: Callable[[], str | None]


KINDS = {
    "sqlite": Kind(on_sqlite, lambda: None),
    "postgresql": Kind(on_postgresql, lambda: why_no_cluster() or services.why_not("redis-server")),
    "mariadb": Kind(on_mariadb, lambda: MariaServer.why_not() or services.why_not("redis-server")),
}


@contextmanager
def place_of(kind: str, keep: Path | None = None) -> Iterator[tuple[Place, ExitStack]]:
    """A place in a folder of its own, gone without a trace after the body; `keep`: where its logs go."""
    # Not below pytest's own folder, which the servers' users may not enter.
    folder = Path("/tmp") / f"workmanager-chaos-{os.getpid()}-{kind}"  # a socket's path must be short
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o755)
    try:
        with ExitStack() as stack:
            yield KINDS[kind].make(stack, folder), stack
    finally:
        if keep is not None:
            logs = (path for path in folder.iterdir() if path.is_file() and path.suffix != ".rdb")
            for path in logs:
                (keep / kind).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, keep / kind)
        shutil.rmtree(folder, ignore_errors=True)
