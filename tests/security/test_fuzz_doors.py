"""What comes in by the doors: command lines, and what browsers say they have seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_workmanager.django.feeds import Feed, versions_in
from celery_workmanager.query import WorkQuery
from tests.doors.conftest import Shell
from tests.security.fuzz import SOAK, accepted, anything, fuzzed
from tests.stores import REPLACE, make_store, put_chain, put_named

pytestmark = pytest.mark.timeout(0 if SOAK else 120)

_COMMANDS = [
    "status", "list", "show", "why", "tree", "nodes", "periodic", "cancel", "retry", "run-now", "pause", "resume",
    "prune", "migrate", "grants", "nothing",
]  # fmt: skip
_OPTIONS = [
    "--state", "--tag", "--name", "--queue", "--worker", "--node", "--limit", "--after", "--oldest", "--json", "-j",
    "--all", "--dry-run", "--check", "--schema", "--readings", "--nothing", "--", "-",
]  # fmt: skip
_WORDS = st.one_of(
    st.sampled_from(_OPTIONS),
    st.sampled_from(["a", "b", "running", "0", "-1", "1e9", "9" * 30, "%s", "' OR 1=1 --", "\x1b[31m", "\n", "\x00"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)


@pytest.fixture
def shell(sqlite_template: Path, tmp_path: Path) -> Iterator[Shell]:
    path = tmp_path / "store.sqlite3"
    shutil.copyfile(sqlite_template, path)
    made = make_store(f"sqlite:///{path}")
    put_chain(made, "a", ["b", "c"], "d")
    put_named(made, "name", REPLACE, "e")
    yield Shell(made)
    made.close()


@fuzzed(150)
@given(st.sampled_from(_COMMANDS), st.lists(_WORDS, max_size=4))
def test_command_lines(shell, command, words):
    answer = shell(command, *words, input="n\n")
    assert answer.code in (0, 1, 2)
    if answer.code == 0 and {"--json", "-j"} & set(words) and "--help" not in words and "--" not in words:
        json.loads(answer.text)
    # What a terminal obeys is written out.
    assert not answer.text.isprintable() or "\x1b" not in answer.text


_SEEN = st.one_of(
    anything,
    st.lists(st.tuples(st.sampled_from(["a", "b", "x", ""]), st.integers() | anything)).map(
        lambda pairs: "&".join(f"{key}={value}" for key, value in pairs)
    ),
    st.sampled_from(["&".join(f"x{n}=1" for n in range(5000)), "9" * 5000, "a=" + "9" * 18, "%FF=1", "a=٣"]),
)


@fuzzed(150)
@given(_SEEN, st.lists(st.sampled_from(["a", "b", "nobody"]), min_size=1, max_size=3, unique=True))
def test_what_a_browser_has_seen(shell, seen, ids):
    query = WorkQuery(ids, limit=50)
    versions = versions_in(seen, query)
    assert len(versions) <= 50
    assert all(0 <= version < 10**18 for version in versions.values())
    feed = Feed(shell.store, query, lambda info: info.id != "b", versions)
    feed.open()
    events = feed.chunk()
    assert events.count("event: ") <= 54
    assert all(line.startswith(("id: ", "event: ", "data: ", ":")) for line in events.split("\n") if line)
    # Works that the visitor may not see are as if they weren't there.
    assert '"id": "b", ' not in events


@fuzzed(80)
@given(st.lists(anything, max_size=3), st.lists(anything, max_size=2), st.lists(anything, max_size=2))
def test_what_a_page_asks_for(shell, ids, names, tags):
    query = accepted(lambda: WorkQuery(ids, names, tags, limit=50, newest_first=True))
    if query is not None:
        shell.store.work_infos(query)
