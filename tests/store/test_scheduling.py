"""Who holds a schedule, and what becomes of an entry's fire when beats die, freeze and come back."""

from __future__ import annotations

import pytest

from celery_workmanager.store import scheduling
from celery_workmanager.store.scheduling import EntryRow, ScheduleRow
from celery_workmanager.timing import SECOND
from tests.stores import register, together, twin

LENGTH = 7 * SECOND


def take(store, holder="one", name="shop"):
    return scheduling.take(store, name, holder, LENGTH)


def load(store, mine, *tasks, works=()):
    return scheduling.load(store, mine, tasks, works, lambda *_: None)


def held(store, holder="one", *tasks):
    """The schedule in the hands of `holder`, with these entries."""
    register(store, holder)
    mine = take(store, holder)
    return mine, load(store, mine, *tasks).entries


def stored(store):
    with store.database.plain() as connection:
        return scheduling.schedules(connection)


def test_a_schedule_that_nobody_holds_is_taken(store):
    register(store, "one")
    mine = take(store)
    assert mine == ScheduleRow("shop", "one", 1, store.clock.now() + LENGTH)
    assert stored(store) == [mine]


def test_a_schedule_stays_with_who_holds_it_until_the_lease_ends(store):
    register(store, "one")
    register(store, "two")
    mine = take(store)
    store.clock.move(LENGTH)
    assert take(store, "two") == mine
    store.clock.move(1)
    assert take(store, "two") == ScheduleRow("shop", "two", 2, store.clock.now() + LENGTH)


def test_a_holder_that_renews_keeps_it(store):
    register(store, "one")
    register(store, "two")
    mine = take(store)
    store.clock.move(LENGTH)
    assert scheduling.renew(store, mine, LENGTH)
    store.clock.move(LENGTH)
    assert take(store, "two").holder == "one"


def test_a_holder_whose_process_is_known_to_be_gone_is_not_waited_for(store):
    register(store, "one")
    register(store, "two")
    take(store)
    store.give_up(["one"])
    assert take(store, "two").holder == "two"


def test_a_holder_whose_node_was_declared_lost_is_not_waited_for(store):
    register(store, "one")
    register(store, "two")
    take(store)
    store.unregister("one")
    assert take(store, "two").holder == "two"


def test_a_schedule_that_was_given_back_is_taken_at_once_and_not_twice(store):
    for each in ("one", "two", "three"):
        register(store, each)
    scheduling.release(store, take(store))
    assert take(store, "two").holder == "two"
    assert take(store, "three").holder == "two"


def test_who_comes_back_too_late_renews_and_gives_back_nothing(store):
    register(store, "one")
    register(store, "two")
    mine = take(store)
    store.clock.move(LENGTH + 1)
    theirs = take(store, "two")
    assert not scheduling.renew(store, mine, LENGTH)
    scheduling.release(store, mine)
    assert stored(store) == [theirs]


def test_of_many_that_take_at_once_one_gets_it(store):
    beats = [f"beat-{number}" for number in range(4)]
    others = [twin(store) for _ in beats]
    for each in beats:
        register(store, each)
    try:
        found = together(*(lambda s=s, b=b: take(s, b) for s, b in zip(others, beats, strict=True)))
    finally:
        for other in others:
            other.close()
    assert len({row.holder for row in found}) == 1
    assert {row.token for row in found} == {1}


def test_apps_that_share_a_store_have_schedules_of_their_own(store):
    register(store, "one")
    register(store, "two")
    assert take(store, "one", "shop").holder == "one"
    assert take(store, "two", "bank").holder == "two"
    load(store, take(store, "one", "shop"), "tidy")
    assert load(store, take(store, "two", "bank")).entries == {}
    assert set(load(store, take(store, "one", "shop"), "tidy").entries) == {"tidy"}


# -- entries -----------------------------------------------------------------------------------------------------


def test_a_new_entry_counts_as_run_now_and_a_known_one_keeps_what_it_was(store):
    mine, entries = held(store, "one", "old")
    began = store.clock.now()
    assert entries == {"old": EntryRow("old", False, began, 0)}
    store.clock.move(SECOND)
    found = load(store, mine, "old", "new").entries
    assert found == {"old": EntryRow("old", False, began, 0), "new": EntryRow("new", False, began + SECOND, 0)}


def test_an_entry_that_left_the_configuration_is_forgotten(store):
    mine, _ = held(store, "one", "old", "other")
    began = store.clock.now()
    store.clock.move(SECOND)
    assert set(load(store, mine, "other").entries) == {"other"}
    assert load(store, mine, "old", "other").entries["old"].last_run_at == began + SECOND


def test_entries_that_stood_for_works_and_do_so_no_more_are_told(store):
    register(store, "one")
    mine = take(store)
    assert load(store, mine, "plain", works=["kept", "gone", "changed"]).gone_works == []
    found = load(store, mine, "plain", "changed", works=["kept"])
    assert sorted(found.gone_works) == ["changed", "gone"]
    assert {name: row.is_work for name, row in found.entries.items()} == {
        "plain": False, "changed": False, "kept": True,
    }  # fmt: skip


def test_works_are_changed_in_the_same_transaction(store):
    register(store, "one")
    mine = take(store)

    def refuse(connection, contents):
        assert set(contents.entries) == {"tidy"}
        raise RuntimeError

    found = together(lambda: scheduling.load(store, mine, ["tidy"], [], refuse))
    assert isinstance(found[0], RuntimeError)
    assert load(store, mine).entries == {}


def test_a_fire_is_claimed_and_confirmed_once(store):
    mine, entries = held(store, "one", "tidy")
    row, now = entries["tidy"], store.clock.now() + SECOND
    assert scheduling.claim(store, mine, row, now)
    assert scheduling.confirm(store, mine, row, now)
    assert not scheduling.confirm(store, mine, row, now)
    assert load(store, mine, "tidy").entries["tidy"] == EntryRow("tidy", False, now, 1)
    assert not scheduling.claim(store, mine, row, now + 1)


def test_one_fire_is_under_way_at_a_time(store):
    mine, entries = held(store, "one", "tidy")
    row, now = entries["tidy"], store.clock.now()
    assert scheduling.claim(store, mine, row, now)
    assert not scheduling.claim(store, mine, row, now + 1)
    assert scheduling.claim(store, mine, row, now)


def test_a_holder_that_died_after_its_claim_leaves_the_fire_to_the_next(store):
    mine, entries = held(store, "one", "tidy")
    now = store.clock.now()
    scheduling.claim(store, mine, entries["tidy"], now)
    store.clock.move(LENGTH + 1)
    theirs, found = held(store, "two", "tidy")
    assert found["tidy"].firing_at == now
    assert scheduling.claim(store, theirs, found["tidy"], now)


def test_a_holder_that_froze_before_its_claim_fires_nothing(store):
    mine, entries = held(store, "one", "tidy")
    store.clock.move(LENGTH + 1)
    held(store, "two", "tidy")
    assert not scheduling.claim(store, mine, entries["tidy"], store.clock.now())
    assert load(store, take(store, "two"), "tidy").entries["tidy"].firing_at is None


@pytest.mark.parametrize("_again", range(10))
def test_a_claim_that_comes_while_another_takes_over_is_seen_or_refused(server, _again):
    """Two connections: the new holder's look waits for no claim, and misses none."""
    mine, entries = held(server, "one", "tidy")
    server.clock.move(LENGTH + 1)
    register(server, "two")
    theirs, now, other = take(server, "two"), server.clock.now(), twin(server)
    try:
        claimed, found = together(
            lambda: scheduling.claim(other, mine, entries["tidy"], now), lambda: load(server, theirs, "tidy")
        )
    finally:
        other.close()
    assert claimed is (found.entries["tidy"].firing_at == now)


def test_a_confirmation_that_comes_late_is_true_all_the_same(store):
    """It was published: the next holder needn't do it again, and does so at most under the same id."""
    mine, entries = held(store, "one", "tidy")
    now = store.clock.now() + SECOND
    scheduling.claim(store, mine, entries["tidy"], now)
    store.clock.move(LENGTH + 1)
    theirs, found = held(store, "two", "tidy")
    assert scheduling.confirm(store, mine, entries["tidy"], now)
    assert not scheduling.claim(store, theirs, found["tidy"], now)
