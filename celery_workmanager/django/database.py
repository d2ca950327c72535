"""The store's database as the project's own code reaches it: through Django's connection, in Django's transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.transaction import atomic, on_commit
from sqlalchemy import Connection

from celery_workmanager import news
from celery_workmanager.database import IDLE_AT_MOST, Database, idle_within
from celery_workmanager.django.addresses import url_of
from celery_workmanager.django.aliases import store_alias
from celery_workmanager.django.facade import engine_over
from celery_workmanager.settings import Settings

T = TypeVar("T")


class DjangoDatabase(Database):
    """The database of a Django alias. Inside ``transaction.atomic`` each call is a savepoint, else a transaction.

    Engines get connections of their own (`apart`): what a view has open never holds them up.
    """

    def __init__(
        self, alias: str, *, lock_wait: float = 5.0, idle: int = IDLE_AT_MOST, is_pooled: bool = False
    ) -> None:
        command = "manage.py migrate" + ("" if alias == DEFAULT_DB_ALIAS else f" --database={alias}")
        url = url_of(connections[alias])
        super().__init__(url, lock_wait=lock_wait, idle=idle, migrated_by=command, is_pooled=is_pooled)
        self.alias = alias

    @property
    def is_joined(self) -> bool:  # type: ignore[override]
        """Whether this thread is inside a transaction of Django's, or manages its transactions by hand."""
        connection = connections[self.alias]
        by_hand = connection.connection is not None and not connection.autocommit
        return bool(connection.in_atomic_block or by_hand)

    def apart(self) -> Database:
        """The same database without Django; one in memory exists only inside Django."""
        if self.in_memory:
            return self
        return Database(
            self.url,
            lock_wait=self.lock_wait,
            idle=self.idle,
            migrated_by=self.migrated_by,
            is_pooled=self.is_pooled,
        )

    async def in_thread(self, call: Callable[..., T], *args: Any) -> T:
        """What `call` returns, in the thread that Django's own async calls use, so on the same connection."""
        return await sync_to_async(call, thread_sensitive=True)(*args)

    @contextmanager
    def transaction(self, connection: Connection | None = None, *, relaxed: bool = False) -> Iterator[Connection]:
        """A transaction of Django's, or a savepoint in the one that is open; or the caller's `connection`."""
        del relaxed
        if connection is not None:
            with super().transaction(connection) as theirs:
                yield theirs
            return
        with self._explained:
            self._recover()
            with atomic(using=self.alias), engine_over(self.alias).connect() as own, super().transaction(own) as guest:
                yield guest

    @contextmanager
    def plain(self, *, relaxed: bool = False) -> Iterator[Connection]:
        """Django's connection as it is: in a transaction, or with each statement one of its own."""
        del relaxed
        with self._explained:
            self._recover()
            with engine_over(self.alias).connect() as own:
                yield own

    def run(self, work: Callable[[Connection], T], connection: Connection | None = None, *, relaxed: bool = False) -> T:
        """Run `work` in one transaction; one that is the caller's is never tried again."""
        if connection is None and self.is_joined:
            return self._run(work, relaxed=relaxed)
        return super().run(work, connection, relaxed=relaxed)

    def run_single(self, work: Callable[[Connection], T]) -> T:
        """Run `work`, in a transaction: only Django knows what it has begun."""
        return self.run(work)

    def _run(self, work: Callable[[Connection], T], *, relaxed: bool) -> T:
        with self.transaction(relaxed=relaxed) as own:
            if self.listener is None:
                return work(own)
            with news.collected(own, self.listener) as told:
                done = work(own)
            if told:
                on_commit(told.tell, using=self.alias)
            return done

    def _recover(self) -> None:
        # A process without requests has nobody else to replace a connection that was lost.
        if connections[self.alias].errors_occurred and not self.is_joined:
            connections[self.alias].close_if_unusable_or_obsolete()


def database_of(settings: Settings) -> Database:
    """The database of a WorkManager in this project."""
    return DjangoDatabase(
        store_alias(),
        lock_wait=settings.name_wait,
        idle=idle_within(settings.lease),
        is_pooled=settings.transaction_pooling,
    )
