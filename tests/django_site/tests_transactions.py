"""Calls take part in Django's transactions (run by Django's test runner, see `test_site`)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from unittest import skipIf, skipUnless
from unittest.mock import patch

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import SynchronousOnlyOperation
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.test import AsyncClient, TransactionTestCase

from celery_workmanager import ExistingWorkPolicy, OneTimeWorkRequest, State, WorkQuery
from celery_workmanager.app import WorkManager
from celery_workmanager.database import Database
from celery_workmanager.errors import DuplicateWorkId, StoreNotMigrated, StoreUnavailable, UniqueNameBusy
from celery_workmanager.events import Change
from celery_workmanager.store.base import StoreBase
from celery_workmanager.tables import metadata
from tests.django_site.celery import work_manager
from tests.django_site.models import Order
from tests.django_site.shop import app_with, chain
from tests.django_site.tasks import bake, deliver

IS_SQLITE = connection.vendor == "sqlite"
IN_MEMORY = IS_SQLITE and connection.is_in_memory_db()


class Oops(Exception):
    """What goes wrong in a block."""


def one(**options: Any) -> OneTimeWorkRequest:
    return OneTimeWorkRequest(bake, {"order": 1}, **options)


def count() -> int:
    return len(work_manager.get_work_infos(WorkQuery()))


def in_thread(call: Callable[[], Any]) -> Any:
    """What `call` returns or raises in a thread with a connection of its own."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(call())
        except Exception as error:  # noqa: BLE001 - told to who waits
            found.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout=30)
    return found[0]


class Committed(TransactionTestCase):
    """Emptied by statements that take PostgreSQL less time than the TRUNCATE of a flush."""

    def _fixture_teardown(self) -> None:
        tables = [*(table.name for table in metadata.sorted_tables), Order._meta.db_table]
        with transaction.atomic(), connection.cursor() as cursor:
            for table in tables:
                cursor.execute(f"DELETE FROM {table}")


class Transactions(Committed):
    def test_outside_of_one_a_call_is_one_of_its_own(self):
        first = one(id="same")
        work_manager.enqueue(first)
        with pytest.raises(DuplicateWorkId):
            work_manager.enqueue([one(), OneTimeWorkRequest(deliver, id="same")])
        assert count() == 1

    def test_rollback_takes_back_works_and_rows(self):
        with pytest.raises(Oops), transaction.atomic():
            order = Order.objects.create(title="bread")
            chain(work_manager, order).enqueue()
            assert (count(), Order.objects.count()) == (2, 1)
            raise Oops
        assert (count(), Order.objects.count()) == (0, 0)

    def test_commit_keeps_both(self):
        with transaction.atomic():
            chain(work_manager, Order.objects.create(title="bread")).enqueue()
        assert (count(), Order.objects.count()) == (2, 1)

    def test_rollback_to_a_savepoint_takes_back_what_came_after_it(self):
        with transaction.atomic():
            kept = work_manager.enqueue(one())
            with pytest.raises(Oops), transaction.atomic():
                work_manager.enqueue_unique_work("name", ExistingWorkPolicy.KEEP, one())
                raise Oops
            assert work_manager.enqueue_unique_work("name", ExistingWorkPolicy.KEEP, one()).applied
        assert count() == 2
        assert work_manager.get_work_info_by_id(kept.ids[0]).state is State.ENQUEUED

    def test_set_rollback(self):
        with transaction.atomic():
            work_manager.enqueue(one())
            transaction.set_rollback(True)
        assert count() == 0

    def test_every_kind_of_change_is_taken_back(self):
        with transaction.atomic():
            work_manager.enqueue([one(id="a"), one(id="b", initial_delay=3600)])
        with pytest.raises(Oops), transaction.atomic():
            work_manager.cancel_work_by_id("a")
            work_manager.run_now("b")
            work_manager.update_work(one(id="b", tags={"new"}))
            work_manager.pause(tag="new")
            work_manager.prune_work()
            bake.delay(2)
            raise Oops
        infos = work_manager.get_work_infos(WorkQuery())
        assert [(info.id, info.state.name, info.generation) for info in infos] == [
            ("a", "ENQUEUED", 0),
            ("b", "ENQUEUED", 0),
        ]
        assert work_manager.paused() == []

    def test_an_error_of_ours_leaves_the_transaction_usable(self):
        with transaction.atomic():
            work_manager.enqueue(one(id="same"))
            with pytest.raises(DuplicateWorkId):
                work_manager.enqueue(OneTimeWorkRequest(deliver, id="same"))
            Order.objects.create(title="bread")
        assert (count(), Order.objects.count()) == (1, 1)

    @skipIf(IS_SQLITE, "there Django's own atomic() commits what it did")
    def test_by_hand(self):
        transaction.set_autocommit(False)
        try:
            work_manager.enqueue(one())
            transaction.rollback()
            work_manager.enqueue(one())
            transaction.commit()
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)
        assert count() == 1

    @skipIf(connection.vendor == "mysql", "it is told how long to wait, too")
    def test_statements_are_counted_as_django_s(self):
        work_manager.enqueue(one())
        with self.assertNumQueries(4 if connection.vendor == "sqlite" else 3):
            # Begin, take SQLite's lock, write (which rings on PostgreSQL), commit.
            work_manager.enqueue(one())


class Telling(Committed):
    """What happens is told when Django has committed it."""

    def setUp(self) -> None:
        self.told: list[Change] = []
        database = work_manager.store.database
        self.addCleanup(setattr, database, "listener", database.listener)
        database.listener = self

    def wants(self, change: Change) -> bool:
        return change is Change.ENQUEUED

    def heard(self, change: Change, works: Any) -> None:
        self.told += [change] * len(works)

    def test_after_the_commit(self):
        with transaction.atomic():
            work_manager.enqueue([one(), one()])
            assert self.told == []
        assert self.told == [Change.ENQUEUED] * 2

    def test_nothing_of_what_was_rolled_back(self):
        with transaction.atomic():
            work_manager.enqueue(one())
            with pytest.raises(Oops), transaction.atomic():
                work_manager.enqueue(one())
                raise Oops
        assert len(self.told) == 1


class Requests(Committed):
    """ATOMIC_REQUESTS is on."""

    def test_a_view_that_fails(self):
        with pytest.raises(RuntimeError):
            self.client.get("/order/burnt/")
        assert (count(), Order.objects.count()) == (0, 0)

    def test_a_view_that_succeeds(self):
        assert self.client.get("/order/bread/").json()["seen"] == 2
        assert (count(), Order.objects.count()) == (2, 1)

    def test_async_views(self):
        async def ask() -> Any:
            return (await AsyncClient().get("/order-async/bread/")).json()

        assert async_to_sync(ask)()["seen"] is True
        assert (count(), Order.objects.count()) == (1, 1)

    def test_a_blocking_call_in_a_coroutine_is_refused_as_django_s_are(self):
        async def call() -> None:
            work_manager.enqueue(one())

        with pytest.raises(SynchronousOnlyOperation):
            async_to_sync(call)()

    def test_observing_in_a_coroutine(self):
        request = one()
        work_manager.enqueue(request)

        async def look() -> Any:
            return await anext(work_manager.aobserve_work_info_by_id(request.id))

        assert async_to_sync(look)().state is State.ENQUEUED


@skipIf(IN_MEMORY, "a database in memory has one connection")
class Connections(Committed):
    def test_threads_have_transactions_of_their_own(self):
        if IS_SQLITE:
            assert in_thread(lambda: work_manager.enqueue(one()).applied) is True
            assert count() == 1
            return
        with pytest.raises(Oops), transaction.atomic():
            work_manager.enqueue(one())
            assert in_thread(count) == 0
            assert in_thread(lambda: work_manager.enqueue(one()).applied) is True
            raise Oops
        assert count() == 1

    def test_engines_see_what_is_committed_and_nothing_else(self):
        engines = StoreBase(
            work_manager.store.database.apart(), work_manager.clock, work_manager.store.terms, name_wait=1
        )
        self.addCleanup(engines.close)
        assert type(engines.database) is Database
        with transaction.atomic():
            work_manager.enqueue(one())
            assert engines.work_infos(WorkQuery()) == []
        assert len(engines.work_infos(WorkQuery())) == 1

    def test_a_connection_closed_in_between(self):
        work_manager.enqueue(one())
        connection.close()
        work_manager.enqueue(one())
        assert count() == 2

    @skipUnless(connection.vendor == "postgresql", "the server ends a session")
    def test_a_connection_that_was_lost_is_replaced(self):
        work_manager.enqueue(one())
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            (pid,) = cursor.fetchone()

        def end() -> None:
            with connection.cursor() as other:
                other.execute("SELECT pg_terminate_backend(%s)", [pid])

        in_thread(end)
        with pytest.raises(StoreUnavailable):
            work_manager.enqueue(one())
        work_manager.enqueue(one())
        assert count() == 2

    @skipIf(IS_SQLITE, "a server is away")
    def test_a_server_that_is_away(self):
        with patch.dict(connection.settings_dict, PORT="1", OPTIONS={}):
            found = in_thread(lambda: work_manager.enqueue(one()))
        assert isinstance(found, StoreUnavailable)

    @skipIf(IS_SQLITE, "SQLite has one writer at a time")
    def test_a_name_that_another_transaction_holds(self):
        manager = WorkManager(app_with(name_wait=0.1))
        with transaction.atomic():
            manager.enqueue_unique_work("name", ExistingWorkPolicy.KEEP, one())

            def compete() -> Any:
                with transaction.atomic():
                    with pytest.raises(UniqueNameBusy):
                        manager.enqueue_unique_work("name", ExistingWorkPolicy.KEEP, one())
                    return Order.objects.create(title="goes on").title

            assert in_thread(compete) == "goes on"
        assert (count(), Order.objects.count()) == (1, 1)

    @skipUnless(connection.vendor == "postgresql", "its lock_timeout")
    def test_the_caller_s_lock_timeout_stays(self):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout TO '77ms'")
            work_manager.enqueue_unique_work("name", ExistingWorkPolicy.KEEP, one())
            cursor.execute("SHOW lock_timeout")
            assert cursor.fetchone() == ("77ms",)


class Schema(Committed):
    databases = frozenset({"default", "other"})

    def test_no_tables(self):
        manager = WorkManager(app_with())
        call_command("migrate", "celery_workmanager", "zero", verbosity=0)
        try:
            with pytest.raises(StoreNotMigrated, match="`manage.py migrate`"):
                manager.enqueue(one())
        finally:
            call_command("migrate", verbosity=0)
        assert manager.enqueue(one()).applied

    def test_models_have_all_their_migrations(self):
        call_command("makemigrations", check=True, dry_run=True, verbosity=0)
