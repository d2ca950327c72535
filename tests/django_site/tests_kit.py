"""The testing kit inside Django's test cases (run by Django's test runner, see `test_site`)."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test import TestCase, TransactionTestCase
from django.test.utils import CaptureQueriesContext

from celery_workmanager import OneTimeWorkRequest, State, WorkQuery
from celery_workmanager.testing import WorkManagerTestKit
from tests.django_site.celery import app, work_manager
from tests.django_site.models import Order
from tests.django_site.shop import chain
from tests.django_site.tasks import bake, deliver, fill, sell, sell_outside


def states() -> list[State]:
    return [info.state for info in work_manager.get_work_infos(WorkQuery())]


class InsideATransaction(TestCase):
    @classmethod
    def setUpTestData(cls) -> None:
        cls.order = Order.objects.create(title="bread")
        cls.ids = chain(work_manager, cls.order).enqueue().ids

    def setUp(self) -> None:
        self.kit = self.enterContext(WorkManagerTestKit(app))

    def test_1_works_of_set_up_run(self):
        assert states() == [State.ENQUEUED, State.BLOCKED]
        assert self.kit.run_until_idle() == 2
        assert states() == [State.SUCCEEDED] * 2
        assert work_manager.get_work_info_by_id(self.ids[1]).output_data == {"delivered": self.order.pk}

    def test_2_what_a_test_did_is_rolled_back(self):
        assert states() == [State.ENQUEUED, State.BLOCKED]
        assert list(work_manager.store.nodes()) == []

    def test_views_and_works_share_the_test_s_transaction(self):
        answer = self.client.get("/order/cake/").json()
        assert answer["seen"] == 2
        assert self.kit.run_until_idle() == 4
        assert work_manager.get_work_info_by_id(answer["ids"][1]).state is State.SUCCEEDED

    def test_a_view_that_fails_leaves_nothing(self):
        before = states()
        with pytest.raises(RuntimeError, match="taken back"):
            self.client.get("/order/burnt/")
        assert (states(), Order.objects.count()) == (before, 1)

    async def test_async_views_share_the_test_s_transaction(self):
        answer = (await self.async_client.get("/order-async/tart/")).json()
        assert answer["seen"] is True
        assert await Order.objects.acount() == 2

    def test_time_is_the_kit_s_for_whoever_holds_the_app_s_work_manager(self):
        request = OneTimeWorkRequest(bake, {"order": 9}, initial_delay=timedelta(hours=1))
        work_manager.enqueue(request)
        self.kit.run_until_idle()
        assert work_manager.get_work_info_by_id(request.id).state is State.ENQUEUED
        self.kit.clock.advance(timedelta(hours=1))
        assert self.kit.run_until_idle() == 1

    def test_a_work_enqueues_in_its_own_transaction(self):
        fill.delay("pie")
        assert self.kit.run_until_idle() == 5
        assert set(states()) == {State.SUCCEEDED}

    def test_a_work_ends_in_its_own_transaction(self):
        sold = OneTimeWorkRequest(sell, {"title": "bun"})
        failed = OneTimeWorkRequest(sell, {"title": "burnt bun", "fails": True})
        work_manager.enqueue([sold, failed])
        self.kit.run_until_idle()
        infos = [work_manager.get_work_info_by_id(each.id) for each in (sold, failed)]
        assert infos[0].output_data == {"order": Order.objects.get(title="bun").pk}
        assert (infos[1].state, infos[1].error.message) == (State.FAILED, "both are taken back")
        assert not Order.objects.filter(title="burnt bun").exists()

    def test_calls_and_changes(self):
        called = bake.delay(order=5)
        work_manager.pause(tag="order")
        work_manager.cancel_work_by_id(called.id)
        assert self.kit.run_until_idle() == 0
        work_manager.resume(tag="order")
        self.kit.keep_up()
        assert work_manager.paused() == []
        assert self.kit.run_until_idle() == 2
        work_manager.prune_work()
        assert states() == []

    def test_statements_can_be_shown(self):
        """As with DEBUG, or in a toolbar."""
        with CaptureQueriesContext(connection) as captured:
            work_manager.enqueue(OneTimeWorkRequest(bake, {"order": "100 %s?"}, tags={"%d"}))
            assert self.kit.run_until_idle() == 3
            work_manager.cancel_all_work()
        assert any("INTO workmanager_tag" in each["sql"] for each in captured)

    def test_what_nobody_wants_to_hear_of_leaves_no_callback(self):
        with self.captureOnCommitCallbacks() as callbacks:
            work_manager.enqueue(OneTimeWorkRequest(deliver, {"baked": 1}))
        assert callbacks == []


class Flushed(TransactionTestCase):
    def test_a_work_that_ends_in_no_transaction(self):
        with WorkManagerTestKit(app) as kit:
            called = sell_outside.delay()
            kit.run_until_idle()
            error = work_manager.get_work_info_by_id(called.id).error
        assert error.message == "expected connection to be that of your transaction, got: None"

    def test_1_leaves_works(self):
        with WorkManagerTestKit(app) as kit:
            chain(work_manager, Order.objects.create(title="bread")).enqueue()
            assert kit.run_until_idle() == 2
        assert states() == [State.SUCCEEDED] * 2

    def test_2_finds_none(self):
        assert states() == []
        assert work_manager.enqueue(OneTimeWorkRequest(bake, {"order": 1})).applied
