"""Passwords and input are in no log, no error and no event beyond what Celery itself sends."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery.bin.base import CLIContext
from click.testing import CliRunner
from kombu.connection import Connection
from sqlalchemy import make_url, text
from sqlalchemy.exc import SQLAlchemyError

from celery_workmanager import OneTimeWorkRequest, State, WorkManager, schema
from celery_workmanager.cli import work
from celery_workmanager.database import Database
from celery_workmanager.errors import InvalidSetting, StoreUnavailable, WorkManagerError
from celery_workmanager.hidden import hiding
from celery_workmanager.query import WorkQuery
from celery_workmanager.settings import Settings
from tests import services
from tests.security import secrets_app
from tests.stores import make_store
from tests.story.cluster import Cluster, running_cluster, why_not
from tests.story.workers import ROOT, wait_until

PASSWORD, TASK, CALL = "pass-kept-to-itself", "input-kept-to-itself", "argument-kept-to-itself"
SECRETS = (PASSWORD, TASK, CALL)


def leaks(told: str, *secrets: str) -> list[str]:
    """The lines that tell a secret."""
    return [line for line in told.splitlines() if any(secret in line for secret in secrets or SECRETS)]


# -- a worker that tells everything it does ------------------------------------------------------------------------


class Stage:
    """A worker at DEBUG over a database and a broker with passwords, and who listens to its events."""

    def __init__(self, folder: Path, cluster: Cluster, broker: str) -> None:
        self.folder, self.cluster = folder, cluster
        login = make_url(cluster.url).set(password=PASSWORD)
        self.store = login.render_as_string(hide_password=False)
        self.broker, self.queue = broker, f"secrets-{os.getpid()}"
        self.app = secrets_app.build(self.store, broker, self.queue)
        self.manager = WorkManager.get_instance(self.app)
        self.events: list[dict[str, Any]] = []
        self._receiver: Any = None

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    @property
    def environment(self) -> dict[str, str]:
        names = {secrets_app.STORE: self.store, secrets_app.BROKER: self.broker, secrets_app.QUEUE: self.queue}
        return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", **names}

    def celery(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "celery", "-A", "tests.security.secrets_app", *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, **options)

    def said(self, *arguments: str) -> str:
        """What `celery work …` prints."""
        return CliRunner().invoke(work, arguments, obj=CLIContext(self.app, no_color=False, workdir=None)).output

    @contextmanager
    def at_work(self) -> Iterator[None]:
        listening = threading.Thread(target=self._listen, daemon=True)
        listening.start()
        wait_until(lambda: self._receiver is not None, what="the receiver listens")
        with (self.folder / "log").open("wb") as log:
            process = self.celery("worker", "-E", "-l", "DEBUG", "-c", "2", stdout=log, stderr=log)
        try:
            wait_until(lambda: "ready." in self.log, what="a worker that is ready")
            yield
            process.terminate()
            process.wait(60)
        finally:
            process.kill()
            process.wait()
            self._receiver.should_stop = True
            listening.join(60)

    def _listen(self) -> None:
        with self.app.connection_for_read() as connection:
            receiver = self.app.events.Receiver(connection, handlers={"*": self.events.append})
            receiver.on_consume_ready = lambda *_, **__: setattr(self, "_receiver", receiver)
            receiver.capture()

    def states(self) -> dict[str, State]:
        return {info.id: info.state for info in self.manager.get_work_infos(WorkQuery())}

    def put(self) -> None:
        """Works of every kind, with a secret in each."""
        names = [name for name in self.app.tasks if name.startswith("secrets.")]
        for name in names:
            self.manager.enqueue(OneTimeWorkRequest(name, {"secret": TASK}))
            self.app.tasks[name].delay(CALL)
        self.app.send_task(names[0], (CALL,), queue=self.queue)
        self.app.send_task(names[0], kwargs={"secret": CALL}, queue=self.queue, input_merger="x:y")


@pytest.fixture
def stage(tmp_path: Path, free_redis: services.RedisServer) -> Iterator[Stage]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Connection(free_redis.url) as connection:
        connection.default_channel.client.config_set("requirepass", PASSWORD)
    broker = free_redis.url.replace("redis://", f"redis://:{PASSWORD}@")
    with running_cluster() as cluster:
        schema_of(cluster.url)
        made = Stage(tmp_path, cluster, broker)
        yield made
        made.app.close()
        made.manager.store.close()


def schema_of(url: str) -> None:
    database = Database(url)
    schema.migrate(database)
    database.close()


@pytest.mark.slow
def test_a_worker_at_debug_tells_no_secret_also_while_its_database_is_gone(stage: Stage):
    with stage.at_work():
        stage.put()
        wait_until(lambda: len(found := stage.states()) >= 11 and all(s.is_finished for s in found.values()))
        stage.cluster.stop("fast")
        wait_until(lambda: "is away" in stage.log, what="a worker that misses its store")
        away = [stage.said(*each) for each in (("doctor", "-t", "0"), ("status",), ("why", "x"))]
        stage.cluster.start()
        wait_until(lambda: "is back" in stage.log, what="a worker that has its store again")
        done = stage.manager.enqueue(OneTimeWorkRequest("secrets.fail", {"secret": TASK}))
        wait_until(lambda: stage.states()[done.ids[0]] is State.FAILED)
        shown = [stage.said(*each) for each in (("doctor",), ("status",), ("list",), ("nodes",))]
        inspect = stage.app.control.inspect(timeout=5)
        shown += [stage.app.bugreport(), repr(inspect.conf(with_defaults=True)), repr(inspect.stats())]
    assert all("workmanager_store_url" in each for each in shown[-3:-1]), shown[-3:-1]
    assert leaks(stage.log) == []
    assert [leaks("\n".join(each)) for each in (away, shown)] == [[], []]
    assert "does" in away[0] or "expected" in away[0]
    # As with any task, Celery tells what a task was called with: as it is received (and sent), and nowhere else.
    telling = {event["type"]: sorted(k for k in event if leaks(str(event[k]))) for event in stage.events
               if leaks(str(event))}  # fmt: skip
    assert set(telling) <= {"task-received", "task-sent"}
    assert {key for keys in telling.values() for key in keys} <= {"args", "kwargs"}
    errors = [info.error for info in stage.manager.get_work_infos(WorkQuery()) if info.error is not None]
    assert leaks("\n".join(f"{error.message}\n{error.traceback}" for error in errors)) == []


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:PORT/x",
        f"postgresql://127.0.0.1:PORT/x?user=me&password={PASSWORD}",
        f"mysql+pymysql://me:{PASSWORD}@127.0.0.1:PORT/x",
        f"mysql://127.0.0.1:PORT/x?user=me&password={PASSWORD}",
    ],
)
def test_a_server_that_is_away_is_named_without_its_password(url):
    store = make_store(url.replace("PORT", str(services.free_port())))
    with pytest.raises(StoreUnavailable) as caught:
        store.open()
    store.close()
    assert "***" in str(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        assert leaks(f"{error} {error!r}") == []
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{PASSWORD}@host:port/x",
        f"no url {PASSWORD}",
        f"oracle://me:{PASSWORD}@host/x",
        f"postgresql+nothing://me:{PASSWORD}@host/x",
        f"sqlite:///{PASSWORD}" + "x" * 3000,
        PASSWORD.encode(),
        {"url": PASSWORD},
        "",
    ],
)
def test_a_url_that_cannot_be_read_is_not_shown(url):
    with pytest.raises(InvalidSetting, match="expected setting workmanager_store_url to be") as caught:
        Database(Settings.from_mapping({"workmanager_store_url": url}).store_url).engine()
    assert leaks(str(caught.value) + repr(vars(caught.value))) == []


def test_settings_do_not_show_the_url():
    assert leaks(repr(Settings(store_url=f"postgresql://me:{PASSWORD}@host/x"))) == []


def test_celery_and_django_hide_the_url_among_settings():
    from celery.app.utils import HIDDEN_SETTINGS
    from django.views.debug import SafeExceptionReporterFilter

    for names in (HIDDEN_SETTINGS, hiding(SafeExceptionReporterFilter.hidden_settings)):
        assert hiding(hiding(names)).pattern.count("STORE_URL") == 1
        assert hiding(names).search("CELERY_WORKMANAGER_STORE_URL")
        assert hiding(names).search("SECRET_KEY")


@pytest.mark.parametrize("statement", ["SELECT * FROM nowhere WHERE :value = ''", "SELECT :value FROM"])
def test_statements_that_fail_tell_no_parameters(statement, store, caplog):
    caplog.set_level(logging.DEBUG, "sqlalchemy")
    with pytest.raises((SQLAlchemyError, WorkManagerError)) as caught, store.database.transaction() as connection:
        connection.execute(text(statement), {"value": TASK})
    assert leaks(f"{caught.value} {caplog.text}") == []
