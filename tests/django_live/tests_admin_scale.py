"""What the admin reads of a store full of works: counted, not timed.

The limits are made small instead of the store large: what must not grow with the store
is seen as well with 10 000 works.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from celery_workmanager import State
from celery_workmanager.ids import new_id
from tests.django_live.conftest import kit_for

LIST = "/admin/celery_workmanager/work/"
WORKS = 10_000
#: Rows that a page may read of it, and instructions of SQLite's machine for them.
FEW = 3_000
STEPS = 60_000

PAGES = [
    "",
    "?p=3",
    "?state=SUCCEEDED",
    "?state=FAILED",
    "?state=ENQUEUED",
    "?state=RUNNING",
    "?state=BLOCKED",
    "?state=CANCELLED",
    "?tag=all",
    "?tag=rare",
    "?tag=all&state=FAILED",
    "?tag=all&queue=nowhere",
    "?name=all",
    "?worker=paint&state=CANCELLED",
    "?worker=rare",
    "?node=kit",
    "?kind=periodic",
    "?queue=celery",
    "?queue=nowhere",
    "?q=all",
    "?q=0",
    "?q=rare",
]


#: The ids of the works that were stored, by alias.
stored: dict[str, list[str]] = {}


@pytest.fixture
def kit(alias, access, monkeypatch) -> Iterator[Any]:
    """A kit that leaves the store as it is: the database goes with the process."""
    with kit_for(access, None, monkeypatch) as kit:
        yield kit


@pytest.fixture
def full(kit, alias, monkeypatch) -> list[str]:
    """A store with a tag, a unique name and a worker that nearly all works have."""
    from celery_workmanager.django import admin as django_admin
    from celery_workmanager.django import admin_filters, admin_list

    monkeypatch.setattr(admin_list, "MOST", 200)
    monkeypatch.setattr(django_admin, "MOST", 200)
    monkeypatch.setattr(admin_filters, "LOOKED_THROUGH", 500)
    monkeypatch.setattr(admin_filters, "MOST_FOUND", 50)
    if alias not in stored:
        stored[alias] = fill(alias)
    return stored[alias]


def fill(alias: str) -> list[str]:
    from django.db import connections

    from celery_workmanager.django.models import Member, Name, Tag, Work

    ids = [new_id() for _ in range(WORKS)]
    now = time.time_ns() // 1000
    Work.objects.bulk_create([work(each, number, now) for number, each in enumerate(ids)], batch_size=1_000)
    Name.objects.create(name="all")
    tags = [Tag(work=each, tag="all") for each in ids] + [Tag(work=each, tag="rare") for each in ids[:5]]
    Tag.objects.bulk_create(tags, batch_size=1_000)
    Member.objects.bulk_create([Member(name="all", work=each) for each in ids], batch_size=1_000)
    with connections[alias].cursor() as cursor:
        cursor.execute("ANALYZE")
    return ids


def work(work_id: str, number: int, now: int) -> Any:
    from celery_workmanager.django.models import Work

    failed = number % 1_000 == 1
    facts: dict[str, Any] = {"state": State.FAILED if failed else State.SUCCEEDED, "finished_at": now, "prune_at": now}
    if number < 3:
        facts = {"state": State.RUNNING, "node": "incarnation", "token": 1, "started_at": now}
    elif number < 50:
        facts = {"state": State.BLOCKED, "waits_for": 1}
    elif number < 100:
        facts = {"state": State.ENQUEUED, "due_at": now, "period_at": now}
    plain = dict.fromkeys(
        ("urgency", "run_attempt_count", "runs", "interruptions", "generation", "has_parents", "has_children"), 0
    )
    return Work(
        id=work_id, worker="rare" if number % 2_500 == 7 else "paint", queue="celery", lane=1, run_at=now,
        created_at=now, enqueued_at=now, version=1, stop_reason=-256, options="{}", input="{}", **plain, **facts,
    )  # fmt: skip


@pytest.fixture
def admin(kit) -> Iterator[Any]:
    from django.contrib.auth.models import User
    from django.test import Client

    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    yield client
    User.objects.all().delete()


def rows_read(plan: dict[str, Any]) -> int:
    """Of tables and indexes, in all parts of a plan that was carried out."""
    below = sum(rows_read(part) for part in plan.get("Plans", []))
    if "Scan" not in plan["Node Type"]:
        return below
    rows = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
    return below + int(rows * plan["Actual Loops"])


@contextmanager
def counted(alias: str, limit: int = FEW) -> Iterator[list[str]]:
    """Holds the statements that are run on the store to a few rows."""
    from django.db import connections
    from django.db.transaction import atomic
    from django.test.utils import CaptureQueriesContext

    connection = connections[alias]
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 100

    statements: list[str] = []
    connection.ensure_connection()
    if alias == "default":
        connection.connection.set_progress_handler(step, 100)
    with CaptureQueriesContext(connection) as queries:
        yield statements
    statements += [query["sql"] for query in queries]
    if alias == "default":
        connection.connection.set_progress_handler(None, 0)
        assert steps < STEPS * limit // FEW, statements
        return
    with atomic(alias), connection.cursor() as cursor:
        # So small a table is read faster without an index; a large one is not.
        cursor.execute("SET LOCAL enable_seqscan = off")
        for statement in statements:
            if statement.startswith("SELECT"):
                cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}")
                plans = cursor.fetchone()[0]
                plan = (json.loads(plans) if isinstance(plans, str) else plans)[0]["Plan"]
                assert rows_read(plan) < limit, f"{statement}\n{json.dumps(plan, indent=1)}"


def look(client: Any, path: str) -> Any:
    response = client.get(LIST + path)
    assert response.status_code == 200
    return response


def test_no_page_of_the_list_reads_the_store(full, admin, alias):
    for page in PAGES:
        with counted(alias) as statements:
            look(admin, page)
        assert len(statements) < 22, f"{page}: {len(statements)}"


def test_what_the_list_says_of_what_it_leaves_out(full, admin):
    changelist = look(admin, "").context["cl"]
    assert (changelist.result_count, changelist.is_capped) == (200, True)
    assert "the newest 200 can be turned to" in look(admin, "").content.decode()
    looked_through = look(admin, "?state=FAILED")
    assert "among the newest 500 works" in looked_through.content.decode()
    assert looked_through.context["cl"].result_count == 0
    assert look(admin, "?state=BLOCKED").context["cl"].result_count == 47
    assert look(admin, "?kind=periodic&state=ENQUEUED").context["cl"].result_count == 50
    assert look(admin, "?worker=rare").context["cl"].result_count == 4


def test_a_works_page_reads_that_work(full, admin, alias):
    with counted(alias) as statements:
        look(admin, f"{full[WORKS // 2]}/change/")
    assert len(statements) < 22


def test_the_number_of_statements_is_that_of_the_page_not_of_its_works(full, admin, alias, monkeypatch):
    from celery_workmanager.django.admin import WorkAdmin

    def statements(per_page: int) -> int:
        monkeypatch.setattr(WorkAdmin, "list_per_page", per_page)
        with counted(alias) as found:
            look(admin, "?state=SUCCEEDED")
        return len(found)

    assert statements(5) == statements(100)
