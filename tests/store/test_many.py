"""Changes of many works at once: what they write is what one after the other would have written."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Column, Update, event, text
from sqlalchemy.sql import visitors

from celery_workmanager import store as store_package
from celery_workmanager.outcome import Claim, Ending, Outcome
from celery_workmanager.policies import BackoffPolicy, OutOfQuotaPolicy
from celery_workmanager.requests import OneTimeWorkRequest
from celery_workmanager.settlement import Settlement
from celery_workmanager.store import Store
from celery_workmanager.store.many import Many
from celery_workmanager.tables import work
from celery_workmanager.timing import SECOND
from celery_workmanager.verdict import Verdict
from celery_workmanager.work import StopReason, WorkError
from tests.stores import (
    emptied,
    end,
    holding,
    info,
    job,
    make_store,
    move,
    put,
    put_chain,
    row,
    start,
    states,
    take,
    take_one,
    verdicts,
)

#: Texts that are quoted twice on their way, and must come out as they were.
TEXTS = (
    "", "plain", '"quoted" and \'quoted\'', "back\\slash \\n \\\\", "%s %(key)s :key ?", "Käse, 猫, 😀", "\u2028\u00a0",
    "\x00\x01\x1f\x7f\r\n\t", "\ud800", "[1, 2] $[0] NULL", "x" * 10_000, 'é"\\' * 3_000,
)  # fmt: skip


def dumped(value: str) -> str:
    """As JSON, with its characters as they are, but for the one that UTF-8 doesn't have."""
    return json.dumps(value, ensure_ascii=value == "\ud800")


def all_of_them() -> Iterator[tuple[str, Many]]:
    for module in pkgutil.iter_modules(store_package.__path__, f"{store_package.__name__}."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, Many):
                yield f"{module.name}.{name}", value


def read_by(expression: Any) -> set[str]:
    """The columns of works that an expression reads."""
    parts = visitors.iterate(expression)
    return {each.name for each in parts if isinstance(each, Column) and each.table.name == work.name}


def written_by(statement: Update) -> dict[str, Any]:
    return {column if isinstance(column, str) else column.name: value for column, value in _values_of(statement)}


def _values_of(statement: Update) -> Iterable[tuple[Any, Any]]:
    return (statement._values or {}).items()


def test_no_assignment_reads_a_column_that_another_one_assigns():
    """A join makes them in no promised order, and MySQL reads what it has assigned already."""
    known = dict(all_of_them())
    assert len(known) > 9
    for where, many in known.items():
        values = written_by(many.single)
        assert values, where
        for column, value in values.items():
            others = read_by(value) & (values.keys() - {column})
            assert not others, f"{where}: {column} reads {others}"


# -- ends ------------------------------------------------------------------------------------------------------------


def requests(prefix: str) -> list[OneTimeWorkRequest]:
    policy = OutOfQuotaPolicy.RUN_AS_NON_EXPEDITED_WORK_REQUEST
    return [
        *(job(f"{prefix}-text-{number:02}") for number in range(len(TEXTS))),
        job(f"{prefix}-expedited", expedited=policy),
        job(f"{prefix}-linear", backoff_policy=BackoffPolicy.LINEAR, backoff_delay=60),
        job(f"{prefix}-expires", expires=3600),
        *(job(f"{prefix}-{each}") for each in ("failed", "stopped", "back", "silent", "progress")),
    ]


def ends_of(store: Store, claims: dict[str, Claim], prefix: str) -> list[Verdict]:
    """Ends of all kinds, some of runs whose start has been written."""

    def one(name: str, ending: Ending = Ending.SUCCEEDED, **outcome: Any) -> Verdict:
        (verdict,) = verdicts(store, [claims[f"{prefix}-{name}"]], ending, **outcome)
        return verdict

    error = WorkError("ValueError", TEXTS[2]).to_json()
    return [
        *(one(f"text-{number:02}", output=dumped(value)) for number, value in enumerate(TEXTS)),
        one("expedited", Ending.RETRY),
        one("linear", Ending.RETRY),
        one("expires", output='"Käse"'),
        one("failed", Ending.FAILED, error=error),
        one("stopped", Ending.STOPPED, reason=StopReason.SYSTEM_PROCESSING),
        one("back", Ending.GIVEN_BACK),
        one("silent"),
        one("progress", Ending.STOPPED, reason=StopReason.SYSTEM_PROCESSING),
    ]


def as_written(store: Store, work_id: str) -> dict[str, Any]:
    kept = row(store, work_id)._asdict()
    return {name: value for name, value in kept.items() if name not in ("id", "token")} | {
        "has token": kept["token"] is not None
    }


def test_a_batch_of_ends_is_written_as_each_end_alone(store: Store):
    put(store, *requests("batch"), *requests("alone"))
    claims = {claim.id: claim for claim in take(store, 1000)}
    start(store, *(claim for each, claim in claims.items() if each.endswith(("0", "failed", "progress"))))
    store.write_progress([(claims[f"{prefix}-progress"], '{"at": "é"}') for prefix in ("batch", "alone")])
    move(store, SECOND)
    together, alone = ends_of(store, claims, "batch"), ends_of(store, claims, "alone")
    assert store.settle(together).accepted == {each.id for each in together}
    for each in alone:
        assert store.settle([each]).accepted == {each.id}
    for one, other in zip(together, alone, strict=True):
        assert as_written(store, one.id) == as_written(store, other.id)
    for number, value in enumerate(TEXTS):
        found = row(store, f"batch-text-{number:02}")
        assert (found.output, found.runs, found.run_attempt_count) == (dumped(value), 1, 1)


def test_starts_and_progress_of_many_are_their_own(store: Store):
    ids = [f"job-{number}" for number in range(9)]
    put(store, *ids)
    claims = take(store)
    at = store.clock.now()
    assert store.write_starts([(claim, at + number) for number, claim in enumerate(claims)]) == set(ids)
    told = [(claim, dumped(value)) for claim, value in zip(claims, TEXTS[-9:], strict=True)]
    assert store.write_progress(told) == set(ids)
    for number, (claim, progress) in enumerate(told):
        found = row(store, claim.id)
        assert (found.started_at, found.progress, found.runs) == (at + number, progress, 1)


def test_a_wide_fan_is_unblocked_failed_and_cancelled(store: Store):
    for root in ("good", "bad", "gone"):
        put_chain(store, root, [f"{root}-{number}" for number in range(12)])
    put(store, *(job(f"late-{number}", initial_delay=number + 1) for number in range(3)))
    end(store, take_one(store, "good"))
    end(store, take_one(store, "bad"), ending=Ending.FAILED, error=WorkError("ValueError", "é").to_json())
    store.cancel("gone")
    for number in range(12):
        assert info(store, f"good-{number}").state.name == "ENQUEUED"
        assert info(store, f"bad-{number}").state.name == "FAILED"
        assert info(store, f"gone-{number}").state.name == "CANCELLED"
    assert len(take(store, 100)) == 12


def test_an_end_that_lost_its_work_is_left_out_of_a_batch(store: Store):
    ids = [f"job-{number}" for number in range(8)]
    put(store, *ids)
    given = verdicts(store, take(store), Ending.SUCCEEDED, output="1")
    given[3].token += 1
    settled = store.settle(given)
    assert (settled.stale, settled.accepted) == ({given[3].id}, set(ids) - {given[3].id})
    assert row(store, given[3].id).output is None


# -- on MariaDB ------------------------------------------------------------------------------------------------------


@pytest.fixture
def mariadb(mariadb_store_url: str) -> Iterator[Store]:
    made = make_store(emptied(mariadb_store_url))
    yield made
    made.close()


@contextmanager
def updates(store: Store) -> Iterator[list[int]]:
    """How many rows of parameters each UPDATE was given that is sent meanwhile: more than one are sent one by one."""
    sent: list[int] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if statement.startswith("UPDATE"):
            sent.append(len(parameters) if many else 1)

    event.listen(store.database.engine(), "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(store.database.engine(), "before_cursor_execute", note)


def ended(store: Store, outputs: list[str]) -> None:
    """Put, claim and settle works with these outputs in one batch, and see that each has its own."""
    put(store, *(job(f"job-{number:03}") for number in range(len(outputs))))
    claims = sorted(take(store, 1000), key=lambda claim: claim.id)
    ends = [
        verdicts(store, [claim], Ending.SUCCEEDED, output=each) for claim, each in zip(claims, outputs, strict=True)
    ]
    assert len(store.settle([verdict for (verdict,) in ends]).accepted) == len(outputs)
    assert [row(store, claim.id).output for claim in claims] == outputs


@pytest.mark.mariadb
def test_a_batch_is_one_statement(mariadb: Store):
    with updates(mariadb) as sent:
        ended(mariadb, [json.dumps({"loaves": number}) for number in range(250)])
    assert sent == [1, 1]  # the claim, and the ends


@pytest.mark.mariadb
def test_large_outputs_are_several_statements_none_of_which_is_too_large(mariadb: Store):
    outputs = [json.dumps('"é' * 7_500, ensure_ascii=False) for _ in range(40)]
    outputs[7] = json.dumps("x" * 400_000)
    with updates(mariadb) as sent:
        ended(mariadb, outputs)
    assert 1 + 3 < len(sent) < 1 + 10
    assert set(sent) == {1}


@pytest.mark.mariadb
def test_one_end_of_a_batch_that_is_too_large_fails_alone(mariadb: Store):
    put(mariadb, *(f"job-{number}" for number in range(9)))
    with mariadb.database.plain() as connection:
        most = int(connection.execute(text("SELECT @@max_allowed_packet")).scalar_one())
    settlement = Settlement(mariadb, mariadb.clock)
    for claim in take(mariadb):
        output = json.dumps('"' * (most // 2)) if claim.id == "job-4" else "1"
        settlement.add(claim, Outcome(Ending.SUCCEEDED, output=output, started_at=mariadb.clock.monotonic()))
    settlement.write()
    assert settlement.is_empty
    found = states(mariadb)
    assert found.pop("job-4") == "FAILED"
    assert set(found.values()) == {"SUCCEEDED"}
    assert row(mariadb, "job-4").runs == 1


@pytest.mark.mariadb
def test_a_batch_waits_for_no_row_but_its_own(mariadb: Store):
    put(mariadb, *(f"job-{number:03}" for number in range(100)))
    claims = take(mariadb, 60)
    others = states(mariadb).keys() - {claim.id for claim in claims}
    with holding(mariadb, *others):
        assert start(mariadb, *claims) == {claim.id for claim in claims}
        assert end(mariadb, *claims).accepted == {claim.id for claim in claims}
