"""A store full of works that have nothing to do costs nodes nothing: no everyday statement reads a whole table."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from celery_workmanager.circumstances import explain_stored
from celery_workmanager.pauses import PauseKind, PauseTarget
from celery_workmanager.planning import Step
from celery_workmanager.policies import ExistingWorkPolicy
from celery_workmanager.store import Store, pausing
from tests.store import query_plans
from tests.store.query_plans import DUTIES, Planned
from tests.stores import emptied, end, enqueue, job, make_store, put, put_named, step, take

ROWS = 100_000
DOCUMENT = Path(__file__).parents[2] / "docs" / "query-plans.md"


def whole_tables(plans: dict[str, list[Planned]]) -> list[str]:
    return [
        f"{name}: {each.statement}\n{each.plan}" for name in plans for each in plans[name] if each.reads_a_whole_table
    ]


def check(plans: dict[str, list[Planned]]) -> None:
    assert plans.keys() == DUTIES.keys()
    assert whole_tables(plans) == []
    for name, planned in plans.items():
        index = DUTIES[name][0]
        used = "\n\n".join(each.plan for each in planned)
        found = f"workmanager_{index}" in used or (
            index == "pkey" and re.search("_pkey|sqlite_autoindex|PRIMARY", used)
        )
        assert found, f"{name}: expected {index} to be used, got:\n{used}"


@pytest.mark.parametrize("generic", [False, True])
def test_no_everyday_statement_reads_a_whole_table_of_a_server(postgresql: Store, generic: bool):
    query_plans.fill(postgresql, ROWS)
    check(query_plans.plans(postgresql, generic=generic))


@pytest.mark.mariadb
def test_no_everyday_statement_reads_a_whole_table_of_mariadb(mariadb_store_url: str):
    """There it would also wait for whoever holds a row that it only passes."""
    store = make_store(emptied(mariadb_store_url))
    query_plans.fill(store, ROWS)
    assert whole_tables(query_plans.plans(store)) == []
    store.close()


def test_no_everyday_statement_reads_a_whole_table_of_a_file(tmp_path: Path):
    store = make_store(f"sqlite:///{tmp_path / 'store.sqlite3'}")
    store.open()
    query_plans.fill(store, ROWS)
    check(query_plans.plans(store))
    store.close()


def test_a_claim_reads_what_it_takes_when_statistics_are_from_a_time_when_nothing_was_ready(postgresql: Store):
    """As when many works become due at once, some time after the last look at the table."""
    put(postgresql, *(job(f"later-{n:04}", initial_delay=60) for n in range(2000)))
    with postgresql.database.plain() as connection:
        connection.execute(text("VACUUM ANALYZE"))
    put(postgresql, *(job(f"now-{n:04}") for n in range(2000)))
    seen = postgresql.look()
    with query_plans.recorded(postgresql) as statements:
        postgresql.look()
        postgresql.claim(seen.lanes, "node", 1, 16, stamp=seen.stamp)
        postgresql.claim_promptly(seen.lanes, "node", 1, 16)
        postgresql.next_moment()
    with postgresql.database.plain(relaxed=True) as connection:
        for statement, parameters in statements:
            rows = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, COSTS OFF) {statement}", parameters).scalars()
            most = max(int(found) for row in rows for found in re.findall(r"actual time=\S+ rows=(\d+)", row))
            assert most <= 16, statement


def rows_met(plan: str) -> int:
    """The most rows that one step of a plan (with ANALYZE) has read, those included that it threw away."""
    met, most = 0, 0
    for line in plan.splitlines():
        if found := re.search(r"actual time=\S+ rows=(\d+) loops=(\d+)", line):
            loops = int(found[2])
            met = int(found[1]) * loops
        elif found := re.search(r"Rows Removed by Filter: (\d+)", line):
            met += int(found[1]) * loops
        most = max(most, met)
    return most


@pytest.mark.parametrize("generic", [False, True])
@pytest.mark.parametrize("statistics", ["none", "of an emptied table"])
def test_nodes_read_what_they_take_whatever_the_statistics_say(postgresql: Store, statistics: str, generic: bool):
    """As after a quiet night: the table was vacuumed while it was empty, and kept its pages since somebody read it."""
    if statistics != "none":
        put(postgresql, *(job(f"gone-{n:04}") for n in range(1000)))
        postgresql.empty()
        with postgresql.database.plain() as connection:
            connection.execute(text("VACUUM (ANALYZE, TRUNCATE OFF) workmanager_work"))
            pages = connection.execute(text("SELECT relpages FROM pg_class WHERE relname = 'workmanager_work'"))
            assert pages.scalar_one() > 10
    put(postgresql, *(job(f"w{n:04}") for n in range(2000)))
    enqueue(postgresql, *(step(f"child-{n:02}", after=[f"w{n:04}"]) for n in range(32)))
    with query_plans.recorded(postgresql) as claiming:
        claims = [claim for _ in range(4) for claim in postgresql.claim(postgresql.look().lanes, "node", 1, 16)]
        postgresql.next_moment()
    with query_plans.recorded(postgresql) as ending:
        end(postgresql, *claims[48:])
        postgresql.write_starts([(claim, 1) for claim in claims[:16]])
        end(postgresql, *claims[:16])
    for statements, relaxed in ((claiming, True), (ending, False)):
        with postgresql.database.plain(relaxed=relaxed) as connection:
            for each in statements:
                found = query_plans.explained(connection, *each, generic=generic, analyze=True)
                # Of 2 000, former versions of the same rows included: explaining runs the statements once more.
                assert rows_met(found.plan) <= 500, f"{found.statement}\n{found.plan}"


def explained_by_an_old_plan(store: Store, asked: tuple[str, Any], fill: Callable[[], object]) -> str:
    """The plan that a session makes in the emptied store, for any parameters, as it reads what `fill` makes.

    It keeps such a plan until somebody gathers statistics.
    """
    statement, parameters = asked
    places = list(parameters)
    for number, place in enumerate(places, start=1):
        statement = statement.replace(f"%({place})s", f"${number}")
    execute = "EXECUTE asked(" + ", ".join(f"'{parameters[place]}'" for place in places) + ")"
    store.empty()
    with store.database.plain() as connection:
        connection.execute(text("VACUUM"))
        connection.exec_driver_sql("SET plan_cache_mode = force_generic_plan")
        connection.exec_driver_sql(f"PREPARE asked AS {statement}")
        assert connection.exec_driver_sql(execute).all() == []
        fill()
        plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN (ANALYZE) {execute}").scalars())
        connection.exec_driver_sql("DEALLOCATE asked")
        connection.exec_driver_sql("RESET plan_cache_mode")
    return plan


def test_keep_reads_the_works_of_its_name_by_a_plan_from_a_time_without_works(postgresql: Store):
    keep = ExistingWorkPolicy.KEEP
    steps = [Step((job(f"w{n:04}"),), name=f"n{n:04}", policy=keep) for n in range(1000)]
    enqueue(postgresql, *steps)
    with query_plans.recorded(postgresql) as statements:
        assert put_named(postgresql, "n0500", keep, "another").works == ()
    [asked] = statements
    plan = explained_by_an_old_plan(postgresql, asked, lambda: enqueue(postgresql, *steps))
    assert rows_met(plan) == 1, plan


def test_what_a_work_waited_for_is_read_by_a_plan_from_a_time_without_works(postgresql: Store):
    pairs = [step(f"w{n:04}") for n in range(300)]
    pairs += [step(f"child-{n:04}", after=[f"w{n:04}"]) for n in range(300)]
    enqueue(postgresql, *pairs)
    end(postgresql, *take(postgresql, 4))
    with query_plans.recorded(postgresql) as statements:
        claims = take(postgresql, 300)
    [asked] = [each for each in statements if "workmanager_edge" in each[0]]
    assert len(asked[1]) == sum(claim.id.startswith("child") for claim in claims) == 4
    plan = explained_by_an_old_plan(postgresql, asked, lambda: enqueue(postgresql, *pairs))
    assert rows_met(plan) == 4, plan


def test_the_document_speaks_of_every_duty():
    written = DOCUMENT.read_text()
    assert [f"### {name.capitalize()}" in written for name in DUTIES] == [True] * len(DUTIES)


def test_an_explanation_is_a_few_statements_none_of_which_reads_a_whole_table(store: Store):
    query_plans.fill(store, 20_000)
    pausing.pause(store, PauseTarget(PauseKind.TAG, "tag 2006"))
    for work, first in (("w00002996", "no_node"), ("w00002006", "paused"), ("w00002008", "blocked")):
        with query_plans.recorded(store) as statements:
            reasons = explain_stored(store, work).reasons
        assert reasons[0].kind.value == first
        assert len(statements) <= 8
        with store.database.plain() as connection:
            found = [query_plans.explained(connection, *each) for each in statements]
        assert [each for each in found if each.reads_a_whole_table] == []


def test_a_rare_tag_or_name_is_cancelled_by_its_own_index_though_most_works_have_the_same_tag(tmp_path: Path):
    """SQLite with statistics: the average tag is that of all works, so walking through them seems cheap."""
    store = make_store(f"sqlite:///{tmp_path / 'store.sqlite3'}")
    put(store, *(job(f"many-{n:04}", tags={"many"}) for n in range(1000)))
    with store.database.plain() as connection:
        connection.execute(text("ANALYZE"))
    put(store, job("rare", tags={"rare"}))
    with query_plans.recorded(store) as statements:
        store.cancel_matching(unique_name="none")
        store.cancel_matching(tag="rare")
    with store.database.plain() as connection:
        for statement, parameters in statements:
            if statement.startswith("SELECT"):
                plan = "\n".join(
                    row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                )
                assert "autoindex_workmanager_work_1 (id>?)" not in plan, plan
    store.close()
