"""The tests of Celery's suite that end otherwise with Workers, and why; any other difference is an error of ours.

A test is named as pytest names it, without its parameters; a difference counts for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

_CANVAS, _CHAINS, _INSPECT = (
    "test_canvas.py",
    "test_group_chains.py::test_group_chains",
    "test_inspect.py::test_Inspect",
)
_CHORD, _STAMPING = f"{_CANVAS}::test_chord", f"{_CANVAS}::test_stamping_mechanism"
_TASKS, _RESULTS = "test_tasks.py::test_tasks", "test_tasks.py::test_task_redis_result_backend"


def _because(reason: str, within: str, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    return ((f"{within}::{name}", reason) for name in names)


#: Whatever the app's result backend is.
EXPECTED: Mapping[str, str] = dict(
    (
        *_because(
            "It sends a frozen signature twice: an id names one work, which runs once.",
            _CHORD,
            [
                "test_reapplying_frozen_chord_dispatches_body_again",
                "test_mutable_errback_called_by_chord_from_chain",
                "test_mutable_errback_called_by_chord_from_chain_tail",
                "test_mutable_errback_called_by_chord_from_group",
            ],
        ),
        *_because(
            "`add_to_chord` is refused: the header of a durable chord is known at its enqueue.",
            _CHORD,
            ["test_add_to_chord", "test_add_chord_to_chord"],
        ),
        *_because(
            "It waits for an errback among the children of a result: children are the works that wait for it.",
            _CHORD,
            ["test_chord_on_error"],
        ),
        *_because(
            "The header must run while its generator goes on: a durable chord is stored as a whole.",
            _CHORD,
            ["test_generator"],
        ),
        *_because(
            "A chord whose header fails tells the chord around it too, whose errbacks are called; Celery's isn't told.",
            _CHORD,
            ["test_nested_chord_header_link_error"],
        ),
        *_because(
            "It reads a private attribute of Celery's request: the callbacks of a work are edges in the store.",
            _STAMPING,
            ["test_linking_stamped_sig"],
        ),
        *_because(
            "It counts the published messages: all works are told of when the canvas is enqueued.",
            _CHAINS,
            ["test_large_group_pipeline"],
        ),
        *_because(
            "Arguments are stored by name, and no broker adds a priority.", _INSPECT, ["test_active", "test_query_task"]
        ),
        *_because(
            "Delays are kept in the store, not in the memory of a worker.",
            _INSPECT,
            ["test_scheduled"],
        ),
        *_because(
            "A work is a row whose state and result are known, whoever ignores them.",
            _TASKS,
            ["test_ignore_result"],
        ),
        *_because(
            "A work is a row whose state and result are known, whoever ignores them.",
            _RESULTS,
            ["test_retry_preserves_ignore_result_true"],
        ),
        *_because(
            "It revokes a stamp before any task has it: works that get a revoked stamp later are not revoked.",
            _TASKS,
            ["test_revoked_by_headers_simple_canvas", "test_revoked_by_headers_complex_canvas"],
        ),
        *_because(
            "It waits for the default of three retries: those of a Worker are unlimited, as on Android.",
            _TASKS,
            ["test_retry"],
        ),
        *_because(
            "`request.properties` is `None`: there is no message.",
            _TASKS,
            ["test_properties"],
        ),
        *_because(
            "The `ValueError` says it in our words.",
            _TASKS,
            ["test_soft_time_limit_exceeding_time_limit"],
        ),
        *_because(
            "It looks for subscriptions in Redis: results of works are read from the store.",
            _RESULTS,
            ["test_asyncresult_forget_cancels_subscription", "test_asyncresult_get_cancels_subscription"],
        ),
    )
)
#: Where the app's result backend is Redis.
EXPECTED_IN_REDIS: Mapping[str, str] = dict(
    _because(
        "`app.AsyncResult(id)` reads the app’s result backend; an id alone doesn’t say that it is a work’s.",
        _CHAINS,
        ["test_pending_chord_keeps_header_errback"],
    )
)
#: Where it is the store.
EXPECTED_IN_STORE: Mapping[str, str] = dict(
    _because(
        "A work is a row whose state is known, whoever ignores it.",
        _TASKS,
        ["test_send_task_without_ignore_result_uses_task_ignore_result"],
    )
)
