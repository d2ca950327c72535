"""The scheduler class: what Celery's configuration becomes, and which entries are works of their own."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from celery import Celery
from celery.beat import BeatLazyFunc
from celery.schedules import crontab, schedule

from celery_workmanager import Constraints, ExistingWorkPolicy, Limit, OneTimeWorkRequest, State, Worker
from celery_workmanager.beat import WorkManagerScheduler
from celery_workmanager.beat_works import zone_of
from celery_workmanager.errors import InvalidRequest, NotInitialized
from celery_workmanager.testing import WorkManagerTestKit
from celery_workmanager.timekeeper import Timekeeper
from celery_workmanager.timing import SECOND

MINUTE = 60.0


@pytest.fixture
def app():
    with Celery("shop", broker="memory://", set_as_current=False) as made:
        made.task(base=Worker, name="shop.bake", shared=False)(_bake)
        made.task(base=Worker, name="shop.brief", shared=False, expires=10)(_bake)
        made.task(name="shop.mail", shared=False)(_mail)
        yield made


def _bake(cake: str = "plum", layers: int = 1) -> None:
    """Nothing."""


def _mail(to: str = "us") -> None:
    """Nothing."""


@pytest.fixture
def kit(app):
    with WorkManagerTestKit(app) as made:
        # A whole minute: what fires at the turns of minutes does so as often in every run.
        made.clock.step(-(made.clock.now() % round(MINUTE * SECOND)))
        yield made


@pytest.fixture
def begin(app, kit, monkeypatch):
    """Start a beat with these entries; its node is registered at once, and the clock is the test's."""
    monkeypatch.setattr(Timekeeper, "start", lambda self: self.renew())
    made = []

    def started(schedule, **options):
        app.conf.beat_schedule = schedule
        made.append(WorkManagerScheduler(app, **options))
        made[-1].tick()
        return made[-1]

    yield started
    for each in made:
        each.close()


def entry(task="shop.bake", every=MINUTE, **more):
    return {"task": task, "schedule": every, **more}


def works(kit, name):
    return kit.work_manager.get_work_infos_for_unique_work(f"beat:{name}")


def pass_(scheduler, kit, seconds):
    """Let beat and works do what they would do in this time."""
    clock = kit.clock
    end = clock.now() + round(seconds * SECOND)
    while clock.now() < end:
        pause = min(scheduler.tick(), (end - clock.now()) / SECOND, 1.0)
        clock.advance(timedelta(seconds=max(0.001, pause)))
        kit.run_until_idle()


# -- what Celery asks of a scheduler -----------------------------------------------------------------------------------


def test_an_app_without_a_work_manager_is_refused():
    with Celery("bare", broker="memory://", set_as_current=False) as bare, pytest.raises(NotInitialized):
        WorkManagerScheduler(bare)


def test_a_lazy_one_touches_nothing(app, kit):
    app.conf.beat_schedule = {"bake": entry()}
    lazy = WorkManagerScheduler(app, lazy=True, schedule_filename="celerybeat-schedule")
    assert (lazy.schedule, lazy.info) == ({}, f"    . store -> {kit.work_manager.store.database.shown_url}")
    lazy.close()
    assert kit.work_manager.store.nodes() == []


def test_the_longest_sleep_is_the_one_that_was_asked_for(app, begin):
    assert begin({}).tick() <= 300
    app.conf.beat_max_loop_interval = 0.25
    assert begin({}).tick() == 0.25
    assert begin({}, max_interval=0.125).tick() == 0.125


def test_periodic_tasks_that_modules_add_are_entries_too(app, begin):
    app.add_periodic_task(MINUTE, app.tasks["shop.mail"].s("them"), name="added")
    scheduler = WorkManagerScheduler(app)
    assert scheduler.schedule["added"].args == ("them",)
    scheduler.close()


def test_closing_gives_the_schedule_back_and_says_goodbye(kit, begin):
    scheduler = begin({"mail": entry("shop.mail")})
    assert [node.runs_works for node in kit.work_manager.store.nodes()] == [False]
    scheduler.close()
    scheduler.close()
    assert kit.work_manager.store.nodes() == []


def test_a_signal_that_comes_inside_a_tick_touches_nothing_before_the_stack_is_unwound(kit, begin, monkeypatch):
    scheduler = begin({})

    def handler(self):
        scheduler.close()
        assert len(kit.work_manager.store.nodes()) == 1
        raise SystemExit

    monkeypatch.setattr(WorkManagerScheduler, "_turn", handler)
    with pytest.raises(SystemExit):
        scheduler.tick()
    scheduler.close()
    assert kit.work_manager.store.nodes() == []


# -- ordinary entries --------------------------------------------------------------------------------------------------


def test_an_entry_is_sent_with_its_options(app, kit, begin, monkeypatch):
    sent = []
    monkeypatch.setattr(
        type(app.tasks["shop.mail"]), "apply_async",
        lambda self, args, kwargs, producer=None, **options: sent.append((args, kwargs, options)),
    )  # fmt: skip
    lazily = BeatLazyFunc(lambda: "now")
    options = {"queue": "post", "priority": 3, "expires": 9, "headers": {"of": "us"}}
    scheduler = begin({"mail": entry("shop.mail", args=(lazily,), kwargs={"b": lazily}, options=options)})
    pass_(scheduler, kit, MINUTE + 1)
    ((args, kwargs, used),) = sent
    assert (args, kwargs) == (["now"], {"b": "now"})
    assert {name: used[name] for name in ("queue", "priority", "expires")} == {
        "queue": "post", "priority": 3, "expires": 9,
    }  # fmt: skip
    assert used["headers"].pop("celery_beat_task", True)  # since Celery 5.6
    assert used["headers"] == {"of": "us"}
    assert options["headers"] == {"of": "us"}  # the user's are left alone
    assert len(used["task_id"]) == 36


def test_an_entry_of_a_task_that_is_unknown_here_is_sent_by_its_name(app, kit, begin, monkeypatch):
    sent = []
    monkeypatch.setattr(app, "send_task", lambda name, *_, **options: sent.append((name, options["task_id"])))
    pass_(begin({"far": entry("far.away")}), kit, 2 * MINUTE + 1)
    assert [name for name, _ in sent] == ["far.away"] * 2
    assert len(set(sent)) == 2


# -- entries that are works --------------------------------------------------------------------------------------------


def test_an_entry_of_a_worker_is_a_periodic_work(kit, begin):
    scheduler = begin({"bake": entry(args=("cherry",), options={"queue": "ovens", "priority": 7})})
    (info,) = works(kit, "bake")
    assert (info.state, info.worker_name, info.queue, info.priority) == (State.ENQUEUED, "shop.bake", "ovens", 7)
    assert info.periodicity_info.repeat_interval == timedelta(minutes=1)
    assert info.next_schedule_time - info.enqueued_at == timedelta(minutes=1)
    pass_(scheduler, kit, 2 * MINUTE + 1)
    (info,) = works(kit, "bake")
    assert info.period_count == 2


def test_an_entry_may_have_constraints_and_limits(kit, begin):
    asked = Constraints(node_labels=("oven",))
    options = {"constraints": asked.to_json(), "deadline": 30, "concurrency": Limit("ovens", 2)}
    begin({"bake": entry(options=options)})
    (info,) = works(kit, "bake")
    assert (info.constraints, info.deadline) == (asked, timedelta(seconds=30))
    assert info.concurrency == Limit("ovens", 2)


def test_a_crontab_entry_goes_by_the_time_zone_of_the_app(app, kit, begin):
    app.conf.timezone = "Europe/Madrid"
    begin({"bake": entry(every=crontab(hour=3, minute=30))})
    (info,) = works(kit, "bake")
    assert info.periodicity_info.schedule == "30 3 * * * Europe/Madrid"


def test_starting_again_changes_what_is_changed_and_keeps_the_rhythm(kit, begin):
    first = begin({"same": entry(), "other": entry(), "gone": entry()})
    before = {name: works(kit, name)[0] for name in ("same", "other", "gone")}
    pass_(first, kit, 30)
    first.close()
    begin({"same": entry(), "other": entry(every=crontab(minute=0)), "new": entry()})
    (same,), (other,), (new,) = (works(kit, name) for name in ("same", "other", "new"))
    assert (same.id, same.next_schedule_time) == (before["same"].id, before["same"].next_schedule_time)
    assert (other.id, other.periodicity_info.repeat_interval) == (before["other"].id, None)
    assert new.state is State.ENQUEUED
    assert works(kit, "gone")[0].state is State.CANCELLED


def test_an_entry_that_becomes_ordinary_is_no_work_any_more(kit, begin, app):
    begin({"bake": entry()}).close()
    begin({"bake": entry("shop.mail")})
    assert works(kit, "bake")[0].state is State.CANCELLED


def test_an_entry_that_left_and_comes_back_runs_again(kit, begin):
    begin({"bake": entry()}).close()
    begin({}).close()
    begin({"bake": entry()})
    assert works(kit, "bake")[-1].state is State.ENQUEUED


class Own(schedule):
    """Somebody's own schedule."""


def _noon():
    return datetime.fromisoformat("2026-01-01T12:00:00+00:00")


@pytest.mark.parametrize(
    "more",
    [
        {"options": {"expires": 30}},
        {"options": {"countdown": 1}},
        {"every": Own(MINUTE)},
        {"every": schedule(MINUTE, relative=True)},
        {"kwargs": {"cake": BeatLazyFunc(lambda: "cherry")}},
        {"task": "shop.brief"},
        {"options": {"deadline": datetime(2100, 1, 1, tzinfo=UTC)}},
    ],
    ids=["expires", "countdown", "own schedule", "relative", "lazy arguments", "expires by its task", "deadline"],
)
def test_what_no_periodic_work_can_say_is_a_one_time_work_at_each_fire(kit, begin, more):
    scheduler = begin({"bake": entry(**more)})
    assert works(kit, "bake") == []
    pass_(scheduler, kit, 2 * MINUTE + 2)
    infos = kit.work_manager.get_work_infos_by_tag(more.get("task", "shop.bake"))
    assert [info.state for info in infos] == [State.SUCCEEDED] * 2


def test_intervals_below_a_second_are_fired_by_beat(kit, begin):
    scheduler = begin({"bake": entry(every=0.5)})
    pass_(scheduler, kit, 2.1)
    assert len(kit.work_manager.get_work_infos_by_tag("shop.bake")) == 4


def test_a_fire_that_was_enqueued_before_its_beat_died_is_enqueued_once(kit, begin):
    scheduler = begin({"bake": entry(options={"expires": 30})})
    publish = scheduler._publish
    entries = scheduler._entries

    def twice(entry, task_id):
        publish(entry, task_id)
        publish(entry, task_id)

    entries._publish = twice
    pass_(scheduler, kit, MINUTE + 1)
    assert len(kit.work_manager.get_work_infos_by_tag("shop.bake")) == 1
    assert scheduler.schedule["bake"].total_run_count == 1


def test_arguments_that_do_not_fit_are_told_at_the_start(app, kit):
    app.conf.beat_schedule = {"bake": entry(kwargs={"pie": 1})}
    with pytest.raises(InvalidRequest, match="'bake'"):
        WorkManagerScheduler(app)


def test_an_entry_whose_name_is_taken_by_other_work_stops_no_other(kit, begin, caplog):
    kit.work_manager.enqueue_unique_work(
        "beat:bake", ExistingWorkPolicy.KEEP, OneTimeWorkRequest("shop.bake", initial_delay=3600)
    )
    begin({"bake": entry(), "other": entry()})
    assert works(kit, "other")[0].state is State.ENQUEUED
    assert "'bake' is left out" in caplog.text


def test_the_call_says_that_beat_made_it(kit, begin):
    scheduler = begin({"bake": entry(options={"headers": {"of": "us"}})})
    request = scheduler._durable["bake"]
    assert json.loads(request.call.facts)["headers"] == {"of": "us", "celery_beat_task": True}


@pytest.mark.parametrize(
    ("conf", "zone"), [({}, "UTC"), ({"timezone": "Asia/Tokyo"}, "Asia/Tokyo"), ({"timezone": "UTC"}, "UTC")]
)
def test_the_time_zone_of_an_app_is_an_iana_name(conf, zone):
    with Celery("zones", broker="memory://", set_as_current=False) as made:
        made.conf.update(conf)
        assert zone_of(made) == zone
