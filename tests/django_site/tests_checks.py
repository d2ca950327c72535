"""`manage.py check`, the settings and the router (run by Django's test runner, see `test_site`)."""

from __future__ import annotations

import os
from functools import partial
from unittest.mock import patch

import psycopg
import pytest
from celery import Celery
from django.core.management import call_command
from django.db import connection, connections, router, transaction
from django.test import SimpleTestCase, TransactionTestCase, override_settings
from sqlalchemy.engine import make_url

from celery_workmanager import OneTimeWorkRequest, WorkManager
from celery_workmanager.django.addresses import url_of
from celery_workmanager.django.checks import check_project
from celery_workmanager.django.models import Work
from celery_workmanager.django.router import WorkManagerRouter
from celery_workmanager.errors import ConfigurationError, StoreNotMigrated
from tests.django_site.celery import app as celery_app
from tests.django_site.models import Order
from tests.django_site.shop import app_with
from tests.django_site.tasks import bake


def found() -> list[str]:
    return [message.id.rpartition(".")[2] for message in check_project()]


def sentence() -> str:
    return check_project()[0].msg


class Checks(SimpleTestCase):
    databases = frozenset({"default", "other"})

    def setUp(self) -> None:
        self.apps = [celery_app]
        self.enterContext(patch("celery_workmanager.django.checks._get_active_apps", lambda: self.apps))

    def test_nothing_is_wrong(self):
        assert check_project() == []
        call_command("check", fail_level="WARNING", verbosity=0)

    def test_a_setting_that_isn_t_one(self):
        with override_settings(CELERY_WORKMANAGER_LAESE=3):
            assert found() == ["E001"]
            assert "did you mean 'CELERY_WORKMANAGER_LEASE'" in sentence()

    def test_a_setting_of_the_wrong_type(self):
        with override_settings(CELERY_WORKMANAGER_LEASE="soon"):
            assert found() == ["E001"]
            assert "CELERY_WORKMANAGER_LEASE" in sentence()
            assert "'soon'" in sentence()

    def test_a_setting_given_in_code(self):
        self.apps = [Celery("apart", set_as_current=False)]
        WorkManager(self.apps[0], settings={"lease": 0})
        assert found() == ["E001"]

    def test_an_alias_that_isn_t_there(self):
        with override_settings(CELERY_WORKMANAGER_DATABASE="elsewhere"):
            assert found() == ["E002"]
            assert "'default', 'other'" in sentence()

    def test_no_router_for_another_alias(self):
        with override_settings(CELERY_WORKMANAGER_DATABASE="other"):
            assert found() == []
            with override_settings(DATABASE_ROUTERS=[]):
                assert found() == ["E005"]

    def test_no_autocommit(self):
        with patch.dict(connection.settings_dict, AUTOCOMMIT=False):
            assert found() == ["E004"]

    def test_a_store_elsewhere(self):
        self.apps = [Celery("apart", set_as_current=False)]
        WorkManager(self.apps[0], "sqlite:///apart.sqlite3")
        assert found() == ["W002"]

    def test_no_work_manager(self):
        self.apps = []
        assert found() == ["W001"]

    def test_sqlite_that_is_not_ready_for_several_processes(self):
        other = connections["other"]
        with (
            override_settings(CELERY_WORKMANAGER_DATABASE="other"),
            patch.dict(other.settings_dict, NAME=os.devnull, OPTIONS={"timeout": 1}),
        ):
            assert found() == ["W003", "W004", "W005"]


class Routes(SimpleTestCase):
    def test_only_the_chosen_alias_has_the_tables(self):
        with override_settings(CELERY_WORKMANAGER_DATABASE="other"):
            assert (router.db_for_read(Work), router.db_for_write(Work)) == ("other", "other")
            assert router.allow_migrate_model("other", Work)
            assert not router.allow_migrate_model("default", Work)

    def test_other_tables_are_other_routers_affair(self):
        ours = WorkManagerRouter()
        assert (ours.db_for_read(Order), ours.allow_migrate("default", "django_site")) == (None, None)


class AnotherAlias(TransactionTestCase):
    databases = frozenset({"default", "other"})

    def setUp(self) -> None:
        self.enterContext(override_settings(CELERY_WORKMANAGER_DATABASE="other"))
        # When the test databases were made, the tables had no place in this one.
        migrate = partial(call_command, "migrate", "celery_workmanager", database="other", verbosity=0)
        migrate("zero", fake=True)
        self.manager = WorkManager(app_with())
        with pytest.raises(StoreNotMigrated, match="`manage.py migrate --database=other`"):
            self.manager.get_last_cancel_all_time()
        migrate()
        self.addCleanup(migrate, "zero")

    def test_calls_are_part_of_its_transactions(self):
        with transaction.atomic(using="default"), transaction.atomic(using="other"):
            self.manager.enqueue(OneTimeWorkRequest(bake, {"order": 1}))
            assert Work.objects.count() == 1
            transaction.set_rollback(True, using="other")
            Order.objects.create(title="bread")
        assert (Work.objects.count(), Order.objects.count()) == (0, 1)


class Server:
    """A connection to a server, as far as its address goes."""

    alias = "default"

    Database = psycopg

    def __init__(self, vendor: str, **settings: object) -> None:
        self.vendor = vendor
        self.settings_dict = (
            dict.fromkeys(("NAME", "USER", "PASSWORD", "HOST", "PORT"), "") | {"OPTIONS": {}} | settings
        )


class Addresses(SimpleTestCase):
    def test_all_that_django_knows_of_a_server(self):
        options = {"sslmode": "require", "connect_timeout": 3, "pool": True, "server_side_binding": True}
        url = url_of(
            Server("postgresql", NAME="shop", USER="me", PASSWORD="p@ss/word", HOST="db", PORT="5433", OPTIONS=options)
        )
        assert url == make_url("postgresql+psycopg://me:p%40ss%2Fword@db:5433/shop?sslmode=require&connect_timeout=3")

    def test_a_role_is_taken_on(self):
        options = {"assume_role": "shop", "options": "-c search_path=shop"}
        url = url_of(Server("postgresql", NAME="shop", OPTIONS=options))
        assert url.query == {"options": "-c search_path=shop -c role=shop"}

    def test_sockets_and_services(self):
        assert url_of(Server("postgresql", NAME="shop", HOST="/run/postgresql")).host == "/run/postgresql"
        assert url_of(Server("postgresql", OPTIONS={"service": "shop"})).query == {"service": "shop"}

    def test_encryption_and_sockets_of_mysql(self):
        safe = Server("mysql", NAME="shop", HOST="db", OPTIONS={"charset": "utf8mb4", "ssl": {"ca": "/ca.pem"}})
        assert url_of(safe).query == {"charset": "utf8mb4", "ssl_ca": "/ca.pem"}
        local = Server("mysql", NAME="shop", HOST="/run/mysqld.sock")
        assert url_of(local).query == {"unix_socket": "/run/mysqld.sock"}

    def test_what_can_t_be_a_store(self):
        with pytest.raises(ConfigurationError, match="SQLite, PostgreSQL, MariaDB or MySQL, got: oracle"):
            url_of(Server("oracle"))
