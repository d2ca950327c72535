"""The store in Django's admin: what it shows, what it lets whom do, and what it writes into the log."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils.html import escape

from celery_workmanager import ExistingWorkPolicy, OneTimeWorkRequest, PeriodicWorkRequest, State
from tests.django_live import site

LIST = "/admin/celery_workmanager/work/"


@pytest.fixture
def user(kit) -> Any:
    """Makes a client of a member of the staff with these permissions."""
    from django.contrib.admin.models import LogEntry
    from django.contrib.auth.models import Permission, User
    from django.test import Client

    def client(*permissions: str) -> Client:
        member = User.objects.create_user(f"member-{User.objects.count()}", is_staff=True)
        for codename in permissions:
            member.user_permissions.add(Permission.objects.get(codename=codename))
        browser = Client()
        browser.force_login(member)
        return browser

    yield client
    LogEntry.objects.all().delete()
    User.objects.all().delete()


@pytest.fixture
def viewer(user) -> Any:
    return user("view_work")


def listed(client: Any, **query: str) -> list[str]:
    response = client.get(LIST, query)
    assert response.status_code == 200
    return [row.id for row in response.context["cl"].result_list]


def told(response: Any) -> list[str]:
    return [str(message) for message in response.context["messages"]]


def log() -> list[tuple[str, str]]:
    from django.contrib.admin.models import LogEntry

    return [(entry.object_id, entry.change_message) for entry in LogEntry.objects.order_by("id")]


# -- the list ---------------------------------------------------------------------------------------------------------


def test_filters(kit, wm, viewer, paint):
    done, failed = paint("one"), paint("two", fails=True)
    kit.run_until_idle()
    waiting = paint("one", request={"initial_delay": 60, "queue": "slow"})
    first = wm.enqueue_unique_work("gallery", ExistingWorkPolicy.KEEP, OneTimeWorkRequest(site.paint)).ids[0]

    assert listed(viewer) == [first, waiting, failed, done]
    assert listed(viewer, state="SUCCEEDED") == [done]
    assert listed(viewer, state="ENQUEUED") == [first, waiting]
    assert listed(viewer, tag="one") == [waiting, done]
    assert listed(viewer, tag="paint") == [first, waiting, failed, done]
    assert listed(viewer, tag="one", state="ENQUEUED") == [waiting]
    assert listed(viewer, name="gallery") == [first]
    assert listed(viewer, worker="paint", queue="slow") == [waiting]
    assert listed(viewer, queue="nowhere") == []
    assert listed(viewer, node="kit") == []


def test_what_runs_and_what_is_blocked(kit, wm, viewer, monkeypatch):
    works = wm.begin_with(OneTimeWorkRequest(site.paint)).then(OneTimeWorkRequest(site.paint)).enqueue().ids
    seen: dict[str, Any] = {}

    def look() -> None:
        seen.update({state: listed(viewer, state=state) for state in ("RUNNING", "BLOCKED")})
        seen["node"] = listed(viewer, node="kit")

    monkeypatch.setattr(site, "while_painting", look)
    kit.run_one()

    assert seen == {"RUNNING": [works[0]], "BLOCKED": [works[1]], "node": [works[0]]}


def test_periodic_works(wm, viewer, paint):
    paint()
    request = PeriodicWorkRequest(site.paint, repeat_interval=timedelta(hours=1))
    every_hour = wm.enqueue(request).ids[0]

    assert listed(viewer, kind="periodic") == [every_hour]


def test_search(wm, viewer, paint):
    work, other = paint("landscape"), paint()
    named = wm.enqueue_unique_work("gallery-7%", ExistingWorkPolicy.KEEP, OneTimeWorkRequest(site.paint)).ids[0]

    assert listed(viewer, q=work) == [work]
    assert listed(viewer, q=work[:-1] if work[:-1] != other[:-1] else work) == [work]
    assert listed(viewer, q="landscape") == [work]
    assert listed(viewer, q="gallery-7%") == listed(viewer, q="gallery") == [named]
    assert listed(viewer, q="gallery_7") == []
    assert listed(viewer, q="Gallery") == []


@pytest.mark.parametrize("query", ["state=NOWHERE", "tag=%00", "kind=x", "p=999999", "q=%00", "node=%27%22"])
def test_nonsense_is_no_error(viewer, paint, query):
    paint()
    assert viewer.get(f"{LIST}?{query}").status_code in {200, 302}


def test_lookups_of_other_columns_are_refused(viewer, paint):
    paint()
    assert viewer.get(f"{LIST}?error__icontains=x").status_code in {302, 400}


def test_the_list_tells_what_matters(kit, viewer, paint):
    paint("landscape", fails=True, secret="too dry")
    kit.run_until_idle()

    html = viewer.get(LIST).content.decode()

    assert "FAILED" in html
    assert "landscape" in html
    assert "no paint for too dry" in html


# -- one work ---------------------------------------------------------------------------------------------------------


def page_of(client: Any, work: str) -> str:
    from celery_workmanager.django.admin_detail import address_of

    response = client.get(address_of(work))
    assert response.status_code == 200
    return response.content.decode()


def test_a_works_page(kit, wm, viewer):
    first = OneTimeWorkRequest(site.paint, {"colour": "<blue>"}, tags={"t"}, id="a/b c")
    chain = wm.begin_with(first).then([OneTimeWorkRequest(site.paint, {"fails": True}), OneTimeWorkRequest(site.paint)])
    works = chain.enqueue().ids
    kit.run_until_idle()
    failed = next(each for each in works if wm.get_work_info_by_id(each).state is State.FAILED)

    html = page_of(viewer, "a/b c")
    assert "&lt;blue&gt;" in html
    assert "<blue>" not in html
    assert html.count("<rect") == 3
    assert html.count('<path d="M2') == 2
    assert html.count('aria-current="true"') == 1

    html = page_of(viewer, failed)
    assert "ValueError: no paint for" in html
    assert "Traceback" in html


def test_why_a_work_waits(kit, wm, viewer, paint):
    waiting, done = paint(request={"initial_delay": 3600}), paint()
    kit.run_until_idle()
    wm.pause(queue="celery")

    assert [
        reason for reason in wm.explain(waiting).reasons if escape(reason.text) not in page_of(viewer, waiting)
    ] == []
    assert "Why it waits" not in page_of(viewer, done)


def test_past_and_coming_runs_and_stops(kit, wm, viewer):
    from celery_workmanager.django.models import Stop

    request = PeriodicWorkRequest(site.paint, repeat_interval=timedelta(hours=1))
    work = wm.enqueue(request).ids[0]
    kit.run_until_idle()
    Stop.objects.create(work=work, number=1, reason=6, at=1, run_attempt_count=1)

    html = page_of(viewer, work)

    assert "Past runs" in html
    assert "Next runs" in html
    assert "CONSTRAINT_CHARGING" in html


def test_an_unknown_work_sends_back_to_the_site(viewer):
    for nowhere in ("nowhere", "x" * 300):
        assert viewer.get(f"{LIST}{nowhere}/change/").status_code == 302


# -- permissions ------------------------------------------------------------------------------------------------------


def test_who_may_only_look(viewer, wm, paint):
    work = paint()

    html = page_of(viewer, work)

    assert "<form" not in html.split('id="content-main"')[1]
    assert "action" not in viewer.get(LIST).context["cl"].model_admin.get_actions(viewer.get(LIST).wsgi_request)
    for name in ("cancel", "retry", "run_now", "nonsense"):
        assert viewer.post(f"{LIST}{work}/do/{name}/").status_code == 403
        viewer.post(LIST, {"action": name, "_selected_action": [work]})
    assert viewer.post(f"{LIST}pauses/", {"pause": "", "kind": "queue", "label": "celery"}).status_code == 403
    assert viewer.post(f"{LIST}{work}/change/", {"state": 2}).status_code in {200, 403}
    assert viewer.post(f"{LIST}{work}/delete/", {"post": "yes"}).status_code == 403
    assert viewer.get(f"{LIST}add/").status_code == 403
    assert wm.get_work_info_by_id(work).state is State.ENQUEUED
    assert wm.paused() == []
    assert log() == []


def test_who_may_not_even_look(user, paint):
    nobody, work = user(), paint()

    for path in ("", f"{work}/change/", "pauses/", f"{work}/history/"):
        assert nobody.get(LIST + path).status_code == 403


def test_a_get_changes_nothing(user, wm, paint):
    work = paint()
    assert user("view_work", "cancel_work").get(f"{LIST}{work}/do/cancel/").status_code == 405
    assert wm.get_work_info_by_id(work).state is State.ENQUEUED


# -- actions ----------------------------------------------------------------------------------------------------------


def test_cancel_one(user, wm):
    works = wm.begin_with(OneTimeWorkRequest(site.paint)).then(OneTimeWorkRequest(site.paint)).enqueue().ids
    client = user("view_work", "cancel_work")

    response = client.post(f"{LIST}{works[0]}/do/cancel/", follow=True)

    assert told(response) == ["1 changed."]
    assert {wm.get_work_info_by_id(each).state for each in works} == {State.CANCELLED}
    ((work, message),) = log()
    assert work == works[0]
    assert works[1] in message
    assert message in client.get(f"{LIST}{works[0]}/history/").content.decode()


def test_retry_and_run_now(kit, user, wm, paint):
    client = user("view_work", "retry_work", "run_work")
    failed, waiting = paint(fails=True), paint(request={"initial_delay": 3600})
    kit.run_until_idle()

    client.post(f"{LIST}{failed}/do/retry/")
    client.post(f"{LIST}{waiting}/do/run_now/")
    assert told(client.post(f"{LIST}{waiting}/do/run_now/", follow=True))[-1] == "Nothing to change in 1."
    kit.run_until_idle()

    again = next(each for each in wm.get_work_infos_by_tag("alice") if each.retry_of == failed)
    assert wm.get_work_info_by_id(waiting).state is State.SUCCEEDED
    assert log() == [(failed, f"Enqueued again as {again.id}."), (waiting, "Set to run now.")]


def test_actions_on_several(user, wm, paint):
    client = user("view_work", "cancel_work", "retry_work")
    works = [paint(), paint(), paint(fails=True)]

    data = {"action": "cancel", "_selected_action": [*works[:2], "gone"]}
    assert told(client.post(LIST, data, follow=True)) == ["2 changed."]
    data = {"action": "retry", "_selected_action": works}
    answers = told(client.post(LIST, data, follow=True))

    assert answers[0] == "2 changed."
    assert answers[1].startswith(f"{works[2]}: expected")
    assert len(log()) == 4


def test_all_that_a_filter_leaves(user, wm, paint, monkeypatch):
    from celery_workmanager.django import admin

    monkeypatch.setattr(admin, "MOST_CHANGED", 3)
    client = user("view_work", "cancel_work")
    works = [paint("these") for _ in range(5)]
    other = paint()

    data = {"action": "cancel", "_selected_action": [works[0]], "select_across": "1"}
    answers = told(client.post(f"{LIST}?tag=these", data, follow=True))

    assert answers == ["3 changed.", "Only the first 3 were looked at: there are more."]
    assert wm.get_work_info_by_id(other).state is State.ENQUEUED


def test_pause_and_resume(user, wm, paint):
    client = user("view_work", "pause_work")
    paint()

    answer = client.post(f"{LIST}pauses/", {"pause": "", "kind": "tag", "label": "alice"}, follow=True)
    assert told(answer) == ["tag alice: paused."]
    assert "alice" in answer.content.decode()
    assert [(str(each.kind), each.label) for each in wm.paused()] == [("tag", "alice")]
    client.post(f"{LIST}pauses/", {"resume": "", "kind": "tag", "label": "alice"}, follow=True)

    assert wm.paused() == []
    assert log() == [("tag:alice", "Paused."), ("tag:alice", "Resumed.")]
    for nonsense in ({"kind": "planet", "label": "x"}, {"kind": "tag", "label": ""}, {}):
        answer = client.post(f"{LIST}pauses/", {"pause": "", **nonsense}, follow=True)
        assert told(answer)[-1].startswith("expected")


def test_without_its_entry_in_the_log_nothing_is_changed(user, wm, alias, paint, monkeypatch):
    from celery_workmanager.django.admin import WorkAdmin

    def refuse(*_: Any) -> None:
        raise RuntimeError("the log is full")

    client, work = user("view_work", "cancel_work"), paint()
    monkeypatch.setattr(WorkAdmin, "log_change", refuse)
    with pytest.raises(RuntimeError, match="the log is full"):
        client.post(f"{LIST}{work}/do/cancel/")

    assert wm.get_work_info_by_id(work).state is State.ENQUEUED
