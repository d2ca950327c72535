"""Ordinary entries: when they fire, and what happens to a fire whose beat dies, freezes, or can't reach the broker."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from celery import Celery
from celery.beat import SchedulingError
from celery.schedules import crontab, schedule, solar
from kombu.exceptions import EncodeError, OperationalError

from celery_workmanager.beat_entries import LEASE, LOOK, Entries, stored_name
from celery_workmanager.errors import StoreUnavailable
from celery_workmanager.ids import derived_id
from celery_workmanager.store import scheduling
from celery_workmanager.timing import SECOND, as_datetime, moment
from tests.beat.beats import Beat, Crash


@pytest.fixture
def app():
    with Celery("shop", broker="memory://", set_as_current=False) as made:
        yield made


@pytest.fixture
def beat_of(store, app):
    """Make beats of this store: ``beat_of(name, entry=schedule, …)``."""
    made = []

    def make(name="one", **entries):
        made.append(Beat(store, name, app, entries))
        return made[-1]

    yield make
    for each in made:
        each.close()


# -- when ----------------------------------------------------------------------------------------------------------


def test_an_interval_begins_with_the_first_start_and_does_not_drift(beat_of, store):
    beat = beat_of(tick=10.0)
    began = store.clock.now()
    assert beat.turn(9.9) == []
    assert beat.turn(60.2) == ["tick"] * 7
    assert beat.schedule["tick"].last_run_at == as_datetime(began + 70 * SECOND)
    assert beat.schedule["tick"].total_run_count == 7


def test_an_interval_is_kept_when_beats_change(beat_of):
    first = beat_of("one", tick=10.0)
    assert first.turn(15) == ["tick"]
    first.entries.release()
    second = beat_of("two", tick=10.0)
    assert second.turn(4.9) == []
    assert second.turn(0.2) == ["tick"]


def test_an_interval_that_was_missed_for_long_fires_once_and_begins_anew(beat_of, store):
    first = beat_of("one", tick=10.0)
    first.turn(15)
    store.clock.move(100 * SECOND)
    assert first.turn(9.9) == ["tick"]
    assert first.turn(0.2) == ["tick"]


def test_the_sleep_ends_exactly_when_the_next_entry_is_due(beat_of):
    beat = beat_of(tick=1.5, tock=40.0)
    beat.step()
    assert beat.step() == pytest.approx(1.5)


def test_a_crontab_fires_at_its_minutes_by_the_wall_clock_of_the_app(beat_of, app, store):
    app.conf.timezone = "Asia/Kolkata"  # half an hour off
    beat = beat_of(hourly=crontab(minute=30))
    store.clock.move(moment(as_datetime(store.clock.now()).replace(minute=59, second=58)) - store.clock.now())
    beat.step()
    assert beat.turn(2 * 3600, stride=50) == ["hourly", "hourly"]
    assert beat.schedule["hourly"].last_run_at.minute == 30


def test_relative_schedules_are_rounded_as_in_celery(beat_of, store):
    beat = beat_of(hourly=schedule(timedelta(hours=1), relative=True))
    beat.step()
    assert 0 < beat.turn(3 * 3600, stride=50).count("hourly") <= 3
    assert beat.schedule["hourly"].last_run_at.minute == 0


def test_solar_schedules_fire(beat_of):
    pytest.importorskip("ephem")
    beat = beat_of(dusk=solar("sunset", 40.4, -3.7))
    assert beat.turn(48 * 3600, stride=3600) == ["dusk", "dusk"]


def test_a_schedule_of_ones_own_is_asked_again_when_it_says_so(beat_of):
    class Thrice(schedule):
        def is_due(self, last_run_at):
            return next(answers)

    answers = iter([(False, 2.0), (True, 3.0), (False, 5.0), (False, 100.0)])
    beat = beat_of(own=Thrice(1))
    assert beat.turn(1.9) == []
    assert beat.turn(0.2) == ["own"]


def test_an_entry_whose_next_run_cannot_be_told_stops_no_other(beat_of):
    class Broken(schedule):
        def is_due(self, last_run_at):
            raise ValueError("never mind")

    beat = beat_of(broken=Broken(1), tick=10.0)
    assert beat.turn(30.5) == ["tick"] * 3


def test_entries_go_by_the_clock_of_the_database_unless_they_have_their_own(beat_of, app, store):
    def mine():
        return as_datetime(0)

    beat = beat_of(tick=10.0, own=schedule(5.0, nowfun=mine))
    assert beat.schedule["tick"].schedule.now() == as_datetime(store.clock.now())
    assert beat.schedule["own"].schedule.now() == as_datetime(0)


# -- one holder ------------------------------------------------------------------------------------------------------


def test_of_two_beats_one_fires(beat_of, store):
    beats = [beat_of("one", tick=1.0), beat_of("two", tick=1.0)]
    for _ in range(200):
        for beat in beats:
            beat.step()
        store.clock.move(SECOND // 10)
    assert (beats[0].names.count("tick"), beats[1].names) == (19, [])


def test_the_schedule_of_a_beat_that_froze_is_taken_over_within_ten_seconds(beat_of, store):
    first, second = beat_of("one", tick=1.0), beat_of("two", tick=1.0)
    first.turn(5.5)
    assert second.step() == LOOK
    begun = store.clock.now()
    while not second.sent:
        store.clock.move(max(1, round(second.step() * SECOND)))
        assert store.clock.now() - begun < 10 * SECOND
    first.step()
    first.turn(5)
    assert first.names == ["tick"] * 5  # what it sent before it froze
    assert not first.entries.is_held


def test_a_beat_that_gives_its_schedule_back_is_followed_at_the_next_look(beat_of, store):
    first, second = beat_of("one", tick=1.0), beat_of("two", tick=1.0)
    first.turn(1.5)
    second.step()
    first.entries.release()
    store.clock.move(round(LOOK * SECOND))
    second.step()
    assert second.entries.is_held


def test_a_beat_that_got_a_new_identity_takes_its_schedule_again(beat_of, store):
    beat = beat_of("one", tick=1.0)
    beat.turn(1.5)
    store.unregister("one")
    other = beat_of("reborn", tick=1.0)
    beat.name = other.name
    assert beat.turn(1) == ["tick"]


# -- crash points ------------------------------------------------------------------------------------------------------


def crash_at(beat, monkeypatch, where):
    """Let the beat's process end at a point of its next fire."""

    def end(*_args, **_kwargs):
        raise Crash

    if where == "before the claim":
        monkeypatch.setattr(scheduling, "claim", end)
    elif where == "before the message":
        beat.publish = end
    else:
        monkeypatch.setattr(scheduling, "confirm", end)
    with pytest.raises(Crash):
        beat.turn(10)
    monkeypatch.undo()


@pytest.mark.parametrize("where", ["before the claim", "before the message", "before the confirmation"])
def test_a_fire_survives_the_death_of_its_beat_and_keeps_its_id(beat_of, store, monkeypatch, where):
    first = beat_of("one", tick=60.0)
    first.turn(59)
    at = store.clock.now() + SECOND
    crash_at(first, monkeypatch, where)
    second = beat_of("two", tick=60.0)
    second.turn(LEASE + 2)
    expected = ("tick", derived_id("shop", "tick", at))
    assert second.sent == [expected]
    assert first.sent == ([expected] if where == "before the confirmation" else [])
    assert second.turn(51.5) == ["tick"]


@pytest.mark.parametrize("where", ["before the message", "before the confirmation"])
def test_a_fire_survives_a_restart_too(beat_of, store, monkeypatch, where):
    first = beat_of("one", tick=60.0)
    first.turn(59)
    crash_at(first, monkeypatch, where)
    store.give_up(["one"])
    second = beat_of("two", tick=60.0)
    second.step()
    assert {*first.sent, *second.sent} == set(second.sent)
    assert second.names == ["tick"]


def test_a_fire_that_the_signal_to_end_comes_upon_is_confirmed_and_not_sent_again(beat_of, store, monkeypatch):
    first = beat_of("one", tick=60.0)
    first.turn(59)

    def interrupted(*_):
        monkeypatch.undo()
        raise SystemExit

    monkeypatch.setattr(scheduling, "confirm", interrupted)
    with pytest.raises(SystemExit):
        first.turn(2)
    store.give_up(["one"])
    second = beat_of("two", tick=60.0)
    second.turn(30)
    assert (first.names, second.names) == (["tick"], [])


def test_a_beat_that_froze_before_its_message_does_not_send_it_when_it_comes_back(beat_of, store, monkeypatch):
    first, second = beat_of("one", tick=60.0), beat_of("two", tick=60.0)
    first.turn(59)
    claim = scheduling.claim

    def freeze(*args):
        monkeypatch.undo()
        done = claim(*args)
        second.turn(LEASE + 3)
        return done

    monkeypatch.setattr(scheduling, "claim", freeze)
    first.turn(2)
    assert (first.sent, second.names) == ([], ["tick"])
    assert not first.entries.is_held


def test_a_message_whose_confirmation_could_not_be_written_is_sent_again_under_its_id(beat_of, store, monkeypatch):
    beat = beat_of("one", tick=60.0)
    beat.turn(59)

    def away(*_):
        monkeypatch.undo()
        raise StoreUnavailable("store", "gone")

    monkeypatch.setattr(scheduling, "confirm", away)
    with pytest.raises(StoreUnavailable):
        beat.turn(2)
    beat.turn(2)
    assert len(beat.sent) == 2
    assert len(set(beat.sent)) == 1
    assert beat.turn(50) == []


def test_a_confirmation_whose_answer_was_lost_is_found_in_the_store(beat_of, store, monkeypatch):
    beat = beat_of("one", tick=60.0)
    beat.turn(59)
    confirm = scheduling.confirm

    def away(*args):
        monkeypatch.undo()
        confirm(*args)
        raise StoreUnavailable("store", "gone")

    monkeypatch.setattr(scheduling, "confirm", away)
    with pytest.raises(StoreUnavailable):
        beat.turn(2)
    assert beat.turn(58) == []
    assert beat.names == ["tick"]
    assert beat.turn(3) == ["tick"]


def test_a_claim_whose_answer_was_lost_is_found_in_the_store(beat_of, store, monkeypatch):
    beat = beat_of("one", minutely=crontab())
    beat.turn(59)
    claim = scheduling.claim

    def away(*args):
        monkeypatch.undo()
        claim(*args)
        raise StoreUnavailable("store", "gone")

    monkeypatch.setattr(scheduling, "claim", away)
    with pytest.raises(StoreUnavailable):
        beat.turn(61)
    assert beat.turn(30) == ["minutely"]


# -- what goes wrong with a message ------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OperationalError("gone"), ConnectionError("gone"), SchedulingError("gone")])
def test_while_the_broker_is_away_nothing_is_lost_and_the_schedule_is_kept(beat_of, error):
    beat, other = beat_of("one", tick=10.0), beat_of("two", tick=10.0)
    beat.turn(9)

    def away(entry, task_id):
        tried.append(task_id)
        if isinstance(error, SchedulingError):
            error.__context__ = OperationalError("gone")
        raise error

    tried: list[str] = []
    beat.publish = away
    assert beat.turn(5) == []
    assert other.step() == LOOK
    beat.publish = lambda *_: None
    assert beat.turn(2) == ["tick"]
    assert set(tried) == {beat.sent[-1][1]}
    assert beat.turn(4.1) == ["tick"]


def test_an_entry_that_is_refused_again_and_again_starves_no_other(beat_of):
    beat = beat_of(bad=1.0, tick=10.0)

    def refuse(entry, task_id):
        if entry.name == "bad":
            raise ConnectionError("for a reason of its own")

    beat.publish = refuse
    assert beat.turn(32) == ["tick"] * 3


def test_what_can_never_be_sent_is_logged_and_stops_no_other(beat_of, caplog):
    beat = beat_of(bad=10.0, tick=10.0)

    def refuse(entry, task_id):
        if entry.name == "bad":
            raise EncodeError("a set")

    beat.publish = refuse
    assert beat.turn(30.5) == ["tick"] * 3
    assert sum("'bad' can't be sent" in record.getMessage() for record in caplog.records) == 3


# -- what changes between two starts ---------------------------------------------------------------------------------


def test_entries_come_change_and_go_between_two_starts(beat_of):
    first = beat_of("one", kept=10.0, changed=100.0, gone=10.0)
    assert Counter(first.turn(15)) == {"kept": 1, "gone": 1}
    first.entries.release()
    second = beat_of("two", kept=10.0, changed=10.0, new=10.0)
    # The changed one is overdue by its new schedule and goes on with that; the new one begins now.
    assert second.turn(0.5) == ["changed"]
    assert Counter(second.turn(5)) == {"kept": 1, "changed": 1}
    assert second.turn(5) == ["new"]


def test_a_fire_under_way_of_an_entry_that_is_gone_is_forgotten(beat_of, monkeypatch):
    first = beat_of("one", tick=60.0)
    first.turn(59)
    crash_at(first, monkeypatch, "before the message")
    second = beat_of("two", tock=60.0)
    assert second.turn(LEASE + 30) == []


def test_a_name_that_no_column_takes_is_kept_under_another(beat_of):
    long = "shop.add(" + "1, " * 200 + ")"
    assert stored_name("tick") == "tick"
    assert len(stored_name(long)) <= 255
    assert stored_name(long) == stored_name(long) != stored_name(long + " ")
    assert stored_name("a\nb").isprintable()


def test_a_schedule_without_entries_is_held_all_the_same(beat_of, store, app):
    beat = Beat(store, "one", app, {})
    try:
        assert beat.step() > 1
        assert beat.entries.is_held
        assert isinstance(beat.entries, Entries)
    finally:
        beat.close()
