"""Guards and locks of the store: of enqueues, names and changes."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

CHANGES = (
    # -- names and enqueues -------------------------------------------------------------------------------------------
    Mutant(
        "the anchor of a unique name",
        "store/inserting.py",
        '        insert_many(connection, name, [{"name": each} for each in names], Meeting.LOCKED)\n',
        "",
        ("races/test_names.py",),
    ),
    Mutant(
        "the order in which names are locked",
        "store/inserting.py",
        "names = sorted(first)",
        "names = list(first)",
        ("races/test_names.py::test_names_are_locked_in_their_order_whatever_that_of_the_steps",),
    ),
    Mutant(
        "that a held name is waited for only so long",
        "store/inserting.py",
        "        if is_ours:\n            _set_lock_timeout(connection, lock_timeout(wait))\n",
        "        if is_ours:\n",
        ("races/test_names.py",),
    ),
    Mutant(
        "the pauses, for the first work under a name",
        "store/short_ways.py",
        "not_(LABELS_ARE_PAUSED.element), ",
        "",
        ("races/test_pause.py::test_the_first_work_under_a_name_that_is_paused_is_held",),
    ),
    Mutant(
        "the lock of a work that gets children",
        "store/inserting.py",
        "locking(rows, connection) if is_locked else rows",
        "rows",
        ("races/test_finishing.py",),
    ),
    Mutant(
        "that a work is told it has children",
        "store/inserting.py",
        "    _mark_parents(connection, insertion)\n",
        "",
        ("store/test_enqueue.py::test_a_step_may_follow_a_work_that_was_enqueued_before",),
    ),
    Mutant(
        "that what a policy deletes is cancelled first",
        "store/inserting.py",
        "cancel_with_descendants(connection, plan.delete, now, terms, only_unfinished_roots=True)",
        "list[str]()",
        ("store/test_policies.py::test_replace_cancels_foreign_dependents_before_it_deletes",),
    ),
    Mutant(
        "that what one name appends to and another one cancels is known as cancelled",
        "store/inserting.py",
        "                known |= dict.fromkeys(known.keys() & cancelled, State.CANCELLED)\n",
        "",
        ("store/test_policies.py::test_what_one_name_appends_to_and_another_one_replaces_is_cancelled",),
    ),
    Mutant(
        "that works of a paused label are held when they are enqueued",
        "store/inserting.py",
        "    if may_be_held and (held := _held(connection, labelled)):\n",
        "    if (held := set[str]()):\n",
        ("store/test_pause.py::test_works_that_are_enqueued_later_are_paused_too",),
    ),
    Mutant(
        "that an id which exists is asked for first in a transaction of the user's",
        "store/__init__.py",
        "look_for_ids = joined or any(step.parents for step in steps)",
        "look_for_ids = any(step.parents for step in steps)",
        ("store/test_enqueue.py::test_the_callers_transaction_goes_on_after_an_id_that_exists",),
    ),
    Mutant(
        "that what is written in a transaction of the user's is part of it",
        "database.py",
        "        if connection is not None:\n            with self.transaction(connection):\n                if",
        "        if False:\n            with self.transaction(connection):\n                if",
        ("store/test_enqueue.py::test_an_enqueue_in_the_callers_transaction_rolls_back_with_it",),
    ),
    Mutant(
        "that nothing is tried again in a transaction of the user's",
        "store/__init__.py",
        "            if joined:\n                raise\n",
        "",
        ("races/test_names.py::test_a_clash_of_ids_in_the_callers_transaction_is_the_callers_to_know",),
    ),
    Mutant(
        "that the loser of a conflict is run again",
        "database.py",
        "if attempt == _TRIES - 1 or not is_conflict(error):",
        "if True:",
        ("races/test_names.py::test_the_loser_of_a_deadlock_on_our_own_connection_is_run_again",),
    ),
    Mutant(
        "the write lock before a SQLite transaction of the user's reads",
        "database.py",
        "                    connection.execute(_TAKE_WRITE_LOCK)\n",
        "                    pass\n",
        ("store/test_enqueue.py::test_a_joined_sqlite_transaction_holds_the_write_lock_before_it_reads",),
    ),
    # -- changes ------------------------------------------------------------------------------------------------------
    Mutant(
        "that a cancel leaves what has finished",
        "store/cancelling.py",
        "doomed = [found[each] for each in sorted(found) if found[each].state in _UNFINISHED]",
        "doomed = [found[each] for each in sorted(found)]",
        ("store/test_cancel.py",),
    ),
    Mutant(
        "that what a finished work has unblocked is left by a cancel of many",
        "store/cancelling.py",
        "    if only_unfinished_roots:\n",
        "    if False:\n",
        ("store/test_cancel.py", "store/test_policies.py"),
    ),
    Mutant(
        "that an update leaves a run alone",
        "store/updating.py",
        "is_claimed = row.token is not None",
        "is_claimed = False",
        ("store/test_cancel.py",),
    ),
    Mutant(
        "the lock of a work that is updated",
        "store/updating.py",
        "connection.execute(locking(select(work).where(work.c.id == work_id), connection)).first()",
        "connection.execute(select(work).where(work.c.id == work_id)).first()",
        (
            "races/test_periods.py",
            "store/test_run_now.py",
        ),
    ),
    Mutant(
        "that a work which others wait for is kept",
        "store/deleting.py",
        "~_HAS_UNFINISHED_CHILD",
        "work.c.id.is_not(None)",
        ("store/test_upkeep.py::test_a_work_is_kept_while_a_direct_dependent_is_unfinished",),
    ),
    Mutant(
        "that a pause waits for those who could not see it",
        "store/pausing.py",
        "are_seen = is_joined or _wait_for_writers(store, task.target, patience)",
        "are_seen = True",
        ("races/test_pause.py",),
    ),
    Mutant(
        "that a pause comes back to what others held",
        "store/pausing.py",
        "is_last = not task.missed",
        "is_last = True",
        ("races/test_pause.py",),
    ),
)
