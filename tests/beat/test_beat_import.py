"""`work import-schedules`: django-celery-beat's own tables, and what becomes of each row."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner

from celery_workmanager import Worker
from celery_workmanager.beat_import import plan, rows
from celery_workmanager.canvas_graph import PUBLISH_WORKER
from celery_workmanager.cli import work
from celery_workmanager.errors import NoSchedules
from celery_workmanager.testing import WorkManagerTestKit


def _bake(cake: str, layers: int = 1) -> None:
    """Nothing."""


def _mail(to: str) -> None:
    """Nothing."""


NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def tables():
    """django-celery-beat's models over tables of its own, in memory."""
    pytest.importorskip("django_celery_beat")
    monkey = pytest.MonkeyPatch()
    monkey.setenv("DJANGO_SETTINGS_MODULE", "tests.beat.django_settings")
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    from django_celery_beat import models

    yield models
    monkey.undo()


@pytest.fixture
def models(tables):
    yield tables
    for model in (tables.PeriodicTask, tables.IntervalSchedule, tables.CrontabSchedule, tables.SolarSchedule):
        model.objects.all().delete()


@pytest.fixture
def app(models):
    with Celery("shop", broker="memory://", set_as_current=False) as made:
        made.task(base=Worker, name="shop.bake", shared=False)(_bake)
        made.task(name="shop.mail", shared=False)(_mail)
        yield made


@pytest.fixture
def kit(app):
    with WorkManagerTestKit(app) as made:
        yield made


@pytest.fixture
def put(models):
    """Store a PeriodicTask: every ten minutes, unless told otherwise."""

    def stored(name="row", task="shop.bake", **fields):
        if not any(kind in fields for kind in ("interval", "crontab", "solar", "clocked")):
            fields["interval"] = models.IntervalSchedule.objects.create(every=10, period="minutes")
        return models.PeriodicTask.objects.create(name=name, task=task, **fields)

    return stored


def planned(app):
    return {each.name: each for each in plan(app, rows(), NOW)}


def call_of(request):
    return json.loads(request.call.arguments)


def test_a_row_of_a_worker_becomes_its_periodic_work(kit, app, put):
    put(kwargs='{"cake": "plum"}', args="[]", queue="ovens", priority=7, headers='{"of": "us"}')
    request = planned(app)["row"].request
    assert (request.worker_name, request.repeat_interval, request.fixed_rate) == (
        "shop.bake", timedelta(minutes=10), True,
    )  # fmt: skip
    assert (request.queue, request.priority) == ("ovens", 7)
    assert call_of(request) == {"args": [], "kwargs": {"cake": "plum"}}
    assert json.loads(request.call.facts)["headers"] == {
        "of": "us", "periodic_task_name": "row", "celery_beat_task": True,
    }  # fmt: skip


def test_the_rhythm_of_a_row_goes_on(kit, app, put):
    put("old", kwargs='{"cake": "plum"}', last_run_at=NOW - timedelta(minutes=4))
    put("new", kwargs='{"cake": "plum"}')
    found = planned(app)
    assert found["old"].request.start_at == NOW + timedelta(minutes=6)
    assert (found["new"].request.start_at, found["new"].request.initial_delay) == (None, timedelta(minutes=10))


def test_a_crontab_keeps_its_time_zone_and_a_row_its_ends(kit, app, put, models):
    nightly = models.CrontabSchedule.objects.create(hour="3", minute="30", timezone="Europe/Madrid")
    put(crontab=nightly, kwargs='{"cake": "plum"}', start_time=NOW + timedelta(days=1), expires=NOW + timedelta(days=9))
    request = planned(app)["row"].request
    assert (str(request.schedule), request.timezone) == ("30 3 * * *", "Europe/Madrid")
    assert (request.start_at, request.end_at) == (NOW + timedelta(days=1), NOW + timedelta(days=9))


def test_a_row_of_an_ordinary_task_becomes_a_work_that_sends_its_message(kit, app, put):
    put(task="shop.mail", args='["us"]', queue="post", expire_seconds=60)
    put("elsewhere", task="other.task", kwargs='{"a": 1}')
    found = planned(app)
    assert found["row"].is_message
    assert found["row"].request.worker_name == PUBLISH_WORKER
    assert call_of(found["elsewhere"].request)["kwargs"]["signature"]["task"] == "other.task"
    assert planned(app)["row"].said == ""


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"enabled": False}, "disabled"),
        ({"one_off": True}, "once"),
        ({"expires": NOW - timedelta(days=1)}, "expired"),
        ({"kwargs": '{"pie": 1}'}, "cake"),
        ({"kwargs": "{"}, "JSON"),
        ({"name": "celery.backend_cleanup"}, "every beat"),
        ({"name": "configured"}, "beat_schedule"),
    ],
)
def test_what_cannot_be_brought_over_is_left_out_and_says_why(kit, app, put, fields, reason):
    app.conf.beat_schedule = {"configured": {"task": "shop.bake", "schedule": 1}}
    put(**{"kwargs": '{"cake": "plum"}', **fields})
    (found,) = plan(app, rows(), NOW)
    assert found.request is None
    assert reason in found.said


def test_a_solar_row_is_left_out(kit, app, put, models):
    solar = models.SolarSchedule.objects.create(event="sunset", latitude=40, longitude=3)
    put(solar=solar)
    assert "solar" in planned(app)["row"].said


def run(app, *arguments):
    done = CliRunner().invoke(work, ["import-schedules", *arguments], obj=CLIContext(app, no_color=True, workdir=None))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_the_command_stores_them_and_says_what_it_left_out(kit, app, put):
    put("bake", kwargs='{"cake": "plum"}')
    put("never", enabled=False)
    dry = run(app, "--dry-run")
    assert "1 periodic work would be stored, 1 left out." in dry.output
    assert kit.work_manager.get_work_infos_for_unique_work("beat:bake") == []
    done = run(app)
    assert (done.exit_code, "it is disabled" in done.output) == (1, True)
    (info,) = kit.work_manager.get_work_infos_for_unique_work("beat:bake")
    assert info.periodicity_info.repeat_interval == timedelta(minutes=10)
    told = json.loads(run(app, "--json").stdout)
    assert [(each["name"], each["becomes"]) for each in told["schedules"]] == [("bake", "runs"), ("never", None)]
    (again,) = kit.work_manager.get_work_infos_for_unique_work("beat:bake")
    assert (again.id, again.next_schedule_time) == (info.id, info.next_schedule_time)


def test_a_message_is_sent_at_each_period_with_an_id_of_its_own(kit, app, put, monkeypatch):
    put("mail", task="shop.mail", args='["us"]', queue="post")
    run(app)
    sent = []
    monkeypatch.setattr(
        type(app.tasks["shop.mail"]), "apply_async",
        lambda self, args=None, kwargs=None, **options: sent.append((list(args), options["task_id"], options["queue"])),
    )  # fmt: skip
    for _ in range(2):
        kit.clock.advance(timedelta(minutes=10))
        kit.run_until_idle()
    assert [(args, queue) for args, _, queue in sent] == [(["us"], "post")] * 2
    assert len({task_id for _, task_id, _ in sent}) == 2


def test_without_its_tables_the_command_says_so(kit, app, tables, monkeypatch):
    monkeypatch.setitem(sys.modules, "django_celery_beat.models", None)
    with pytest.raises(NoSchedules, match="django-celery-beat"):
        rows()
    done = run(app)
    assert (done.exit_code, "django-celery-beat" in done.output) == (1, True)
