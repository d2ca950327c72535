"""What docs/security.md claims of the code: nothing from outside becomes SQL, a command, a template or an import."""

from __future__ import annotations

import ast
import logging
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from celery import Celery

from celery_workmanager import OneTimeWorkRequest, Worker, WorkManager
from celery_workmanager.constraints import Constraints, check_target
from celery_workmanager.custom_constraints import custom_constraint
from celery_workmanager.errors import InvalidRequest, UnknownConstraint, UnknownWorker
from celery_workmanager.limits import Limit, key_for
from celery_workmanager.messages import call_in
from celery_workmanager.outcome import Ending
from celery_workmanager.probes import probe
from celery_workmanager.query import WorkQuery
from celery_workmanager.store import Store
from tests import services
from tests.celery.in_process import InProcess
from tests.stores import KEEP, info, job, put, put_named, states

PACKAGE = Path(__file__).parents[2] / "celery_workmanager"

#: What runs whatever it is given; nobody here needs it.
FORBIDDEN = {"eval", "exec", "compile", "__import__", "popen", "Popen", "check_output", "mark_safe"}
#: Modules that nobody here reads from outside with.
UNWANTED = {"subprocess", "pty", "shelve", "yaml", "dill", "cloudpickle", "jsonpickle"}
#: Who imports by name: a command of a fixed list, a name of a fixed table, what a setting or an entry point says.
IMPORTERS = {"cli/__init__.py", "__init__.py", "custom_constraints.py", "control.py", "django/access.py"}
#: SQL that isn't written in SQLAlchemy's expressions, put together of constants and of what a database is called.
SQL_OF_PARTS = {"bell.py", "schema.py", "sqlite.py", "mysql.py", "postgresql.py", "overview.py", "grants.py"}


@cache
def trees() -> list[tuple[str, ast.AST]]:
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if "migrations" not in path.parts]
    return [(path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())) for path in paths]


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            yield getattr(function, "id", getattr(function, "attr", "")), node


def is_of(call: ast.Call, module: str, name: str) -> bool:
    function = call.func
    return isinstance(function, ast.Attribute) and (getattr(function.value, "id", ""), function.attr) == (module, name)


def test_nothing_is_evaluated_and_no_shell_is_called():
    found = [
        (name, called) for name, tree in trees() for called, call in calls(tree)
        if (called in FORBIDDEN or is_of(call, "os", "system")) and not is_of(call, "re", "compile")
        and (name, called) != ("sentences.py", "compile")  # SQLAlchemy's, of a statement
    ]  # fmt: skip
    imported = [
        (name, alias.name) for name, tree in trees() for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names if {alias.name, getattr(node, "module", None)} & UNWANTED
    ]  # fmt: skip
    assert found == imported == []


def test_nothing_is_unpickled():
    found = [
        (name, called) for name, tree in trees() for called, call in calls(tree)
        if called in ("load", "loads", "Unpickler")
        and isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") in ("pickle", "marshal")
    ]  # fmt: skip
    # What a pool's process of our own has left in memory that it shares with its parent.
    assert set(found) <= {("landing.py", "loads"), ("kit_engine.py", "loads")}, found


def test_only_those_import_by_name_who_have_a_list_or_are_told_by_settings():
    names = ("import_module", "import_string", "symbol_by_name", "load_object")
    found = {name for name, tree in trees() for called, _ in calls(tree) if called in names}
    assert found <= IMPORTERS


def test_sql_is_put_together_in_few_places_and_of_constants():
    found = {
        name for name, tree in trees() for called, call in calls(tree)
        if called in ("text", "execute", "exec_driver_sql", "literal_column")
        and any(isinstance(each, ast.JoinedStr) for each in call.args)
        and not (called == "literal_column" and name in ("tables.py", "store/limiting.py", "store/many.py"))
    }  # fmt: skip
    assert found <= SQL_OF_PARTS, found


# -- workers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def manager(store: Store) -> Iterator[WorkManager]:
    app = Celery("claims", broker="memory://", set_as_current=False)

    @app.task(base=Worker, name="shop.bake", shared=False)
    def bake(**_):
        """Nobody runs it."""

    made = WorkManager(app, store_url=store.database.url.render_as_string(hide_password=False))
    vars(made).update(store=store, engine_store=store, clock=store.clock)
    yield made
    app.close()


NOT_WORKERS = ["os.system", "os:system", "subprocess.run", "celery.backend_cleanup", "shop.bake ", "../shop.bake"]


@pytest.mark.parametrize("name", NOT_WORKERS)
def test_only_a_registered_worker_is_enqueued(manager, name):
    with pytest.raises(UnknownWorker):
        manager.enqueue(OneTimeWorkRequest(name, {"command": "true"}))
    assert manager.get_work_infos(WorkQuery()) == []


@pytest.mark.parametrize("name", NOT_WORKERS[:3])
def test_a_row_that_names_something_else_fails(name):
    """Written into the store past us, and claimed: nothing is looked for beyond the app's registry."""
    place = InProcess()
    before = set(sys.modules)
    outcome = place.run(name, {"command": "true"})
    assert outcome.ending is Ending.FAILED
    assert "UnknownWorker" in str(outcome.error)
    assert set(sys.modules) == before


def test_a_row_that_names_a_module_for_its_merger_fails(tmp_path, monkeypatch):
    (tmp_path / "merger_of_a_row.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    place = InProcess()
    bake = place.task(name="bake")(_bake)
    outcome = place.run(bake, {}, claim={"options": {"merger": "merger_of_a_row:Merger"}})
    assert outcome.ending is Ending.FAILED
    assert "merger_of_a_row" not in sys.modules


def _bake(**_):
    """Nobody runs it to an end."""


def test_stamps_of_a_message_are_no_options():
    class Letter:
        def __init__(self):
            stamps = {"as_data": True, "tag": "a", "eta": "x"}
            self.content_type, self.properties = "application/json", dict[str, str]()
            self.payload = [list[int](), dict[str, int](), dict[str, int]()]
            self.headers = {"id": "1", "stamps": stamps, "stamped_headers": ["tag", "id"]}

    options = call_in(Letter()).options
    assert options["tag"] == "a"
    assert not {"as_data", "eta"} & set(options)


def test_a_custom_constraint_is_one_of_those_that_settings_or_packages_bring():
    with pytest.raises(UnknownConstraint):
        custom_constraint("os.system:true", {})


# -- SQL, logs -----------------------------------------------------------------------------------------------------

HOSTILE = [
    "'; DROP TABLE workmanager_work; --", '" OR ""="', "%", "_", "a%s", ":x", "{0}", "${x}", "\\", "a`b", "é\u202e",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_only_ever_a_value(store, text):
    put(store, "other")
    put_named(store, text, KEEP, job(text, tags=[text], queue=text, worker=text, input={text: text}))
    found = info(store, text)
    assert (found.unique_names, found.queue, found.worker_name) == ((text,), text, text)
    assert dict(found.input_data) == {text: text}
    for query in (WorkQuery.from_tags(text), WorkQuery.from_unique_names(text), WorkQuery(queues=[text])):
        assert [each.id for each in store.work_infos(query)] == [text]
    assert store.cancel_matching(tag=text) == [text]
    assert states(store)["other"] == "ENQUEUED"


@pytest.mark.parametrize("text", ["a\nFORGED", "a\rFORGED", "\x1b[2J", "a\x00b", "\u0085", "\ud800"])
def test_no_name_holds_what_a_log_or_a_terminal_would_obey(text):
    for options in ({"id": text}, {"tags": [text]}, {"queue": text}, {"worker": text}, {"trace_tag": text}):
        with pytest.raises(InvalidRequest) as caught:
            OneTimeWorkRequest(options.pop("worker", "shop.bake"), **options)
        assert "\n" not in str(caught.value)
        assert str(caught.value).isprintable()
    for limits in ({"custom": [text]}, {"reachable": [f"tcp://{text}:1"]}, {"node_labels": [text]}):
        with pytest.raises(InvalidRequest):
            Constraints(**limits)


def test_the_key_of_a_limit_reaches_into_no_object():
    for key in ("{a.__class__}", "{a[0]}", "{a!r}", "{a:>99999999}", "{}", "{0}"):
        with pytest.raises(InvalidRequest):
            Limit(key, 1)
    assert key_for("{a}", {"a": "{b}", "b": "secret"}) == "{b}"


def test_input_is_not_shown_by_the_error_of_a_limit(caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(InvalidRequest) as caught:
        key_for("tenant:{tenant}", {"tenant": ["input-kept-to-itself"]})
    assert "input-kept" not in str(caught.value)


# -- probes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd", "gopher://x:1/", "ftp://x/", "unix:///run/x", "tcp://x", "tcp://x:1/path", "x:1", "//x:1",
        "http://user:pass@x/", "tcp://x:99999", "http://x\r\nHost: y/", "http://[::1", "data:,x", "HTTP:x",
    ],
)  # fmt: skip
def test_a_probe_is_of_a_port_or_a_page_and_nothing_else(target):
    with pytest.raises(InvalidRequest):
        check_target("reachable", target)


def test_a_probe_follows_no_redirect_and_tells_nothing_of_what_it_reads():
    import http.server
    import threading

    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(b"body-of-the-answer")

        def log_message(self, *_):
            """Quietly."""

    with http.server.HTTPServer(("127.0.0.1", services.free_port()), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            found = probe(f"http://127.0.0.1:{server.server_port}/here", 10)
        finally:
            server.shutdown()
            serving.join()
    assert asked == ["/here"]
    assert found == {"reachable": True, "why": "status 302"}
