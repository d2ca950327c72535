"""complete(): the worker's own rows and the end of its work commit together, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import Engine, text

from celery_workmanager import Data, OneTimeWorkRequest, PeriodicWorkRequest, Result, Worker
from celery_workmanager.testing import WorkManagerTestKit
from tests import services
from tests.conftest import STORES


class Shop:
    """A kit, and a table of the user's own in the same database."""

    def __init__(self, kit: WorkManagerTestKit, engine: Engine) -> None:
        self.kit, self.wm, self.engine = kit, kit.work_manager, engine
        self.before: Any = lambda _: None
        self.then: Any = lambda _: None
        self.result: Any = Result.success(order=1)

    def orders(self) -> int:
        with self.engine.connect() as connection:
            found: int = connection.execute(text("SELECT count(*) FROM orders")).scalar_one()
        return found

    def enqueue(self, *after: OneTimeWorkRequest) -> str:
        request = OneTimeWorkRequest("order")
        chain = self.wm.begin_with(request)
        (chain.then(after) if after else chain).enqueue()
        return request.id

    def info(self, work_id: str):
        info = self.wm.get_work_info_by_id(work_id)
        assert info is not None
        return info


@pytest.fixture(params=STORES)
def shop(request: pytest.FixtureRequest, tmp_path) -> Iterator[Shop]:
    shop: Shop
    sqlite = f"sqlite:///{tmp_path / 'shop.db'}"
    url = sqlite if request.param == "sqlite" else request.getfixturevalue(f"{request.param}_url")
    engine = services.users_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS orders"))
        connection.execute(text("CREATE TABLE orders (id VARCHAR(40))"))
    app = Celery("shop", broker="memory://", set_as_current=False)

    @app.task(base=Worker, bind=True, name="order", shared=False)
    def order(self):
        shop.before(self.work_id)
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO orders VALUES (:id)"), {"id": self.work_id})
            self.complete(connection, shop.result)
            shop.then("inside")
        return shop.then("after")

    @app.task(base=Worker, name="next", shared=False)
    def following(**given):
        return given

    with WorkManagerTestKit(app, url, profile="android") as kit:
        shop = Shop(kit, engine)
        yield shop
    engine.dispose()


def test_both_commit_together_and_the_returned_value_is_ignored(shop):
    shop.then = lambda _: {"ignored": 1}
    work_id = shop.enqueue()
    assert shop.kit.run_until_idle() == 1
    info = shop.info(work_id)
    assert (info.state.name, info.output_data, shop.orders()) == ("SUCCEEDED", Data(order=1), 1)
    assert (info.run_attempt_count, info.runs) == (1, 1)
    assert shop.kit.run_until_idle() == 0


def test_what_depends_on_it_is_unblocked_by_the_same_commit(shop):
    after = OneTimeWorkRequest("next")
    shop.enqueue(after)
    assert shop.kit.run_until_idle() == 2
    assert shop.info(after.id).output_data == Data(order=1)


def test_an_exception_inside_the_transaction_undoes_both(shop):
    def then(where):
        if where == "inside":
            raise OSError("net")

    shop.then = then
    work_id = shop.enqueue()
    shop.kit.run_until_idle()
    assert (shop.info(work_id).state.name, shop.orders()) == ("FAILED", 0)


def test_an_exception_after_the_commit_changes_nothing(shop):
    def then(where):
        if where == "after":
            raise OSError("net")

    shop.then = then
    work_id = shop.enqueue()
    shop.kit.run_until_idle()
    assert (shop.info(work_id).state.name, shop.orders()) == ("SUCCEEDED", 1)


@pytest.mark.parametrize("point", ["claim", "start", "run", "finish"])
def test_whatever_dies_the_effect_happens_exactly_once(shop, point):
    after = OneTimeWorkRequest("next")
    work_id = shop.enqueue(after)
    shop.kit.crash_after(point)
    shop.kit.run_until_idle()
    shop.kit.lose_node()
    info = shop.info(work_id)
    if info.next_schedule_time is not None:
        shop.kit.clock.advance(info.next_schedule_time - shop.kit.clock.today())
    shop.kit.run_until_idle()
    assert (shop.info(work_id).state.name, shop.info(after.id).state.name) == ("SUCCEEDED", "SUCCEEDED")
    assert shop.orders() == 1


def test_a_failure_can_be_committed_too_and_goes_down_the_chain(shop):
    shop.result = Result.failure(why="sold out")
    after = OneTimeWorkRequest("next")
    work_id = shop.enqueue(after)
    shop.kit.run_until_idle()
    info = shop.info(work_id)
    assert (info.state.name, info.output_data, shop.orders()) == ("FAILED", Data(why="sold out"), 1)
    assert shop.info(after.id).state.name == "FAILED"


def test_a_plain_mapping_is_a_success_and_a_retry_is_refused(shop):
    shop.result = {"a": 1}
    first = shop.enqueue()
    shop.kit.run_until_idle()
    assert shop.info(first).output_data == Data(a=1)
    shop.result = Result.retry()
    second = shop.enqueue()
    shop.kit.run_until_idle()
    assert (shop.info(second).state.name, shop.orders()) == ("FAILED", 1)


def test_a_run_that_lost_its_work_cannot_complete_and_its_rows_are_undone(shop):
    shop.before = shop.wm.cancel_work_by_id
    work_id = shop.enqueue()
    shop.kit.run_until_idle()
    assert (shop.info(work_id).state.name, shop.orders()) == ("CANCELLED", 0)


# -- periodic work -----------------------------------------------------------------------------------------------------


def enqueue_periodic(shop, **options) -> str:
    return shop.wm.enqueue(PeriodicWorkRequest("order", repeat_interval=3600, **options)).id


def test_the_end_of_a_period_is_committed_with_the_rows(shop):
    work_id = enqueue_periodic(shop)
    assert shop.kit.run_until_idle() == 1
    info = shop.info(work_id)
    assert (info.state.name, info.period_count, info.output_data, shop.orders()) == ("ENQUEUED", 1, Data(order=1), 1)
    assert (info.run_attempt_count, info.runs, info.node, info.finished_at) == (0, 1, None, None)
    assert (info.next_schedule_time - shop.kit.clock.today()).total_seconds() == 3600
    assert [run.outcome.name for run in shop.wm.get_runs(work_id)] == ["SUCCEEDED"]
    shop.kit.clock.advance(info.next_schedule_time - shop.kit.clock.today())
    assert shop.kit.run_until_idle() == 1
    assert [run.number for run in shop.wm.get_runs(work_id)] == [2, 1]


def test_a_period_whose_transaction_is_undone_has_not_ended(shop):
    shop.then = lambda where: 1 / 0 if where == "inside" else None
    work_id = enqueue_periodic(shop)
    shop.kit.run_until_idle()
    assert shop.orders() == 0
    assert [run.outcome.name for run in shop.wm.get_runs(work_id)] == ["FAILED"]


def test_an_exception_after_the_end_of_the_period_changes_nothing(shop):
    shop.then = lambda where: 1 / 0 if where == "after" else None
    work_id = enqueue_periodic(shop)
    shop.kit.run_until_idle()
    assert (shop.info(work_id).error, shop.info(work_id).output_data) == (None, Data(order=1))
    assert [run.outcome.name for run in shop.wm.get_runs(work_id)] == ["SUCCEEDED"]


def test_a_run_that_has_ended_its_period_still_holds_its_work(shop):
    """Two runs of one periodic work never overlap, however short its interval."""
    held = []

    def then(where):
        if where == "after":
            shop.kit.clock.advance(timedelta(hours=5))
            shop.wm.store.promote()
            (info,) = shop.wm.get_work_infos_by_tag("order")
            held.append((info.state.name, shop.wm.run_now(info.id).applied))
            held.append(shop.wm.store.claim_one(info.id, "other", 1))

    shop.then = then
    work_id = enqueue_periodic(shop)
    shop.kit.run_one()
    assert held == [("RUNNING", False), []]
    assert shop.info(work_id).period_count == 1
    assert shop.kit.run_one()


@pytest.mark.parametrize("point", ["claim", "start", "run", "finish"])
def test_whatever_dies_the_effect_of_a_period_happens_exactly_once(shop, point):
    work_id = enqueue_periodic(shop, backoff_delay=30)
    shop.kit.crash_after(point)
    shop.kit.run_until_idle()
    shop.kit.lose_node()
    shop.kit.clock.advance(timedelta(minutes=30))
    shop.kit.run_until_idle()
    info = shop.info(work_id)
    assert (info.state.name, info.period_count, shop.orders()) == ("ENQUEUED", 1, 1)
    assert shop.wm.get_runs(work_id)[0].outcome.name == "SUCCEEDED"
    shop.kit.clock.advance(timedelta(minutes=60))
    assert shop.kit.run_until_idle() == 1
    assert shop.orders() == 2


def test_an_update_after_the_end_of_the_period_decides_about_the_next_one(shop):
    def then(where):
        if where == "after":
            shop.wm.update_work(PeriodicWorkRequest("order", id=work_id, repeat_interval=7200))

    shop.then = then
    work_id = enqueue_periodic(shop)
    shop.kit.run_until_idle()
    assert (shop.info(work_id).next_schedule_time - shop.kit.clock.today()).total_seconds() == 7200


def test_a_cancel_after_the_end_of_the_period_keeps_its_run(shop):
    shop.then = lambda where: where == "after" and shop.wm.cancel_all_work() and None
    work_id = enqueue_periodic(shop)
    shop.kit.run_until_idle()
    assert shop.info(work_id).state.name == "CANCELLED"
    assert [run.outcome.name for run in shop.wm.get_runs(work_id)] == ["SUCCEEDED"]


def test_the_last_period_finishes_the_work_in_the_transaction(shop):
    work_id = enqueue_periodic(shop, end_at=shop.kit.clock.today())
    shop.kit.run_until_idle()
    assert (shop.info(work_id).state.name, shop.orders()) == ("SUCCEEDED", 1)
    assert [run.outcome.name for run in shop.wm.get_runs(work_id)] == ["SUCCEEDED"]
