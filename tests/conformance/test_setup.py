"""Set-up, settings, routing, and every kind of bad input."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from celery import Celery

from celery_workmanager import OneTimeWorkRequest, Worker, WorkManager, WorkManagerError
from celery_workmanager.testing import WorkManagerTestKit
from tests import services
from tests.conftest import STORES


def make_app(**conf) -> Celery:
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(conf)

    @app.task(base=Worker, shared=False, name="images.blur")
    def blur(**_):
        """Nothing."""

    return app


def test_the_manager_is_found_at_its_app(monkeypatch):
    app = make_app()
    assert not WorkManager.is_initialized(app)
    with pytest.raises(RuntimeError, match=r"expected WorkManager\(app\) to be called first, got: app 'shop'"):
        WorkManager.get_instance(app)
    manager = WorkManager(app)
    assert app.workmanager is manager
    assert WorkManager.get_instance(app) is manager
    assert WorkManager.is_initialized(app)
    monkeypatch.setattr("celery._state._tls.current_app", app)
    assert WorkManager.get_instance() is manager


def test_a_second_manager_for_an_app_is_an_error():
    app = make_app()
    WorkManager(app)
    with pytest.raises(RuntimeError, match="expected one WorkManager for an app, got: a second one for 'shop'"):
        WorkManager(app)


def test_a_manager_belongs_to_a_celery_app():
    with pytest.raises(ValueError, match="expected app to be a Celery app"):
        WorkManager("shop")


def test_settings_have_defaults_and_come_from_celerys_configuration():
    manager = WorkManager(make_app())
    assert manager.settings.store_url == "sqlite:///workmanager.sqlite3"
    assert (manager.settings.profile, manager.settings.lease) == ("server", 15.0)
    app = make_app(workmanager_store_url="sqlite:///x.db", workmanager_profile="android", workmanager_lease=3)
    manager = WorkManager(app)
    assert (manager.settings.store_url, manager.settings.profile) == ("sqlite:///x.db", "android")
    assert manager.settings.lease == 3.0


def test_arguments_go_before_the_configuration_with_or_without_the_prefix():
    app = make_app(workmanager_store_url="sqlite:///x.db", workmanager_lease=3)
    manager = WorkManager(app, "sqlite:///y.db", {"lease": 4, "workmanager_profile": "android"})
    settings = manager.settings
    assert (settings.store_url, settings.lease, settings.profile) == ("sqlite:///y.db", 4.0, "android")


def test_an_app_may_be_configured_after_its_manager():
    app = make_app()
    manager = WorkManager(app)
    app.conf.workmanager_profile = "android"
    assert manager.settings.profile == "android"


@pytest.mark.parametrize("namespace", ["CELERY", None])
def test_settings_obey_celerys_namespace(namespace):
    prefix = "CELERY_" if namespace else ""
    values = {"WORKMANAGER_STORE_URL": "sqlite:///n.db", "WORKMANAGER_LEASE": 5} if namespace else {
        "workmanager_store_url": "sqlite:///n.db", "workmanager_lease": 5
    }  # fmt: skip
    app = Celery("django", set_as_current=False)
    app.config_from_object(
        SimpleNamespace(**{prefix + key: value for key, value in values.items()}), namespace=namespace
    )
    settings = WorkManager(app).settings
    assert (settings.store_url, settings.lease) == ("sqlite:///n.db", 5.0)


@pytest.mark.parametrize(
    ("conf", "sentence"),
    [
        ({"workmanager_stor_url": "x"}, "expected a known setting, got: 'workmanager_stor_url'; did you mean"),
        ({"workmanager_lease": "soon"}, "expected setting workmanager_lease to be .*, got: 'soon'"),
        ({"workmanager_lease": -1}, "expected setting workmanager_lease to be .*, got: -1"),
        ({"workmanager_lease": True}, "expected setting workmanager_lease"),
        ({"workmanager_profile": "ios"}, "to be 'server' or 'android', got: 'ios'"),
        ({"workmanager_max_in_flight": 0}, "expected setting workmanager_max_in_flight"),
        ({"workmanager_store_url": 5}, "expected setting workmanager_store_url"),
    ],
    ids=str,
)
def test_an_unknown_or_ill_typed_setting_is_an_error_that_says_what_was_expected(conf, sentence):
    manager = WorkManager(make_app(**conf))
    with pytest.raises(ValueError, match=sentence) as caught:
        manager.enqueue(OneTimeWorkRequest("images.blur"))
    assert isinstance(caught.value, WorkManagerError)


def test_an_unknown_django_setting_is_an_error_too():
    app = Celery("django", set_as_current=False)
    app.config_from_object(SimpleNamespace(CELERY_WORKMANAGER_LEESE=5), namespace="CELERY")
    manager = WorkManager(app)
    with pytest.raises(ValueError, match="did you mean 'workmanager_lease'"):
        _ = manager.settings


def test_an_unknown_worker_is_refused_and_the_nearest_named():
    with WorkManagerTestKit(make_app()) as kit:
        with pytest.raises(LookupError, match="registered worker, got: 'images.blurr'; did you mean 'images.blur'"):
            kit.work_manager.enqueue(OneTimeWorkRequest("images.blurr"))
        with pytest.raises(LookupError, match="registered worker"):
            kit.work_manager.enqueue(OneTimeWorkRequest("celery.chord"))  # a task, but no Worker


@pytest.mark.parametrize(
    ("routes", "queue"),
    [
        (None, "celery"),
        ({"images.*": {"queue": "pictures"}}, "pictures"),
        ({"images.blur": "blurring"}, "blurring"),
        ({"other": {"queue": "x"}}, "celery"),
        ([lambda name, *_, **__: {"queue": f"by-{name}"}], "by-images.blur"),
    ],
)
def test_a_work_goes_to_the_queue_celery_routes_its_worker_to(routes, queue):
    with WorkManagerTestKit(make_app(task_routes=routes)) as kit:
        wm = kit.work_manager
        assert wm.get_work_info_by_id(wm.enqueue(OneTimeWorkRequest("images.blur")).id).queue == queue
        own = OneTimeWorkRequest("images.blur", queue="own")
        assert wm.get_work_info_by_id(wm.enqueue(own).id).queue == "own"


def test_the_default_queue_is_the_apps():
    with WorkManagerTestKit(make_app(task_default_queue="mine")) as kit:
        wm = kit.work_manager
        assert wm.get_work_info_by_id(wm.enqueue(OneTimeWorkRequest("images.blur")).id).queue == "mine"


# -- stores that can't be used ------------------------------------------------------------------------------------


def test_an_unreachable_database_is_a_clear_error_at_once():
    url = f"postgresql+psycopg://nobody:secret@127.0.0.1:{services.free_port()}/x"
    manager = WorkManager(make_app(), url)
    with pytest.raises(ConnectionError, match="expected store postgresql") as caught:
        manager.enqueue(OneTimeWorkRequest("images.blur"))
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value, WorkManagerError)


@pytest.mark.postgresql
def test_a_server_without_the_tables_says_how_to_make_them(postgresql_url):
    services.empty_database(postgresql_url)
    manager = WorkManager(make_app(), postgresql_url)
    for use in (lambda: manager.enqueue(OneTimeWorkRequest("images.blur")), lambda: manager.get_work_info_by_id("x")):
        with pytest.raises(WorkManagerError, match="run `celery -A proj work migrate`"):
            use()
    manager.store.close()


def test_an_embedded_store_makes_itself(tmp_path):
    manager = WorkManager(make_app(), f"sqlite:///{tmp_path / 'deep' / 'store.db'}")
    assert manager.enqueue(OneTimeWorkRequest("images.blur")).applied
    manager.store.close()


# -- the caller's transaction ---------------------------------------------------------------------------------------


@pytest.fixture(params=STORES)
def durable_kit(request, tmp_path):
    """A kit whose store other connections can reach."""
    url = (
        f"sqlite:///{tmp_path / 'x.db'}"
        if request.param == "sqlite"
        else request.getfixturevalue(f"{request.param}_url")
    )
    with WorkManagerTestKit(make_app(), url, profile="android") as kit:
        yield kit, url


@pytest.mark.parametrize("commits", [True, False])
def test_an_enqueue_joins_the_callers_transaction(durable_kit, commits):
    kit, url = durable_kit
    wm = kit.work_manager
    request, child = OneTimeWorkRequest("images.blur"), OneTimeWorkRequest("images.blur")
    engine = services.users_engine(url)
    with engine.connect() as connection:
        operation = wm.enqueue(request, connection=connection)
        assert operation.applied
        wm.begin_with(OneTimeWorkRequest("images.blur")).then(child).enqueue(connection=connection)
        assert wm.get_work_info_by_id(request.id) is None
        (connection.commit if commits else connection.rollback)()
    engine.dispose()
    assert (wm.get_work_info_by_id(request.id) is not None) is commits
    assert (wm.get_work_info_by_id(child.id) is not None) is commits
    assert kit.run_until_idle() == (3 if commits else 0)
