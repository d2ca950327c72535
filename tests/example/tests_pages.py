"""Whose a picture is, what a second one does, and the other pages (run by Django's test runner, see `test_site`)."""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta

from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client, TestCase
from django.utils import timezone

from celery_workmanager import State
from celery_workmanager.testing import WorkManagerTestKit
from example_project.website import chains
from example_project.website.celery import app, plan_the_sweep, work_manager
from example_project.website.models import UPLOADS, Picture
from example_project.website.tasks import GRACE, KEPT, sweep
from tests.example.pictures import photo


class Visiting(TestCase):
    def setUp(self) -> None:
        self.kit = self.enterContext(WorkManagerTestKit(app))

    def send(self, client: Client | None = None, **fields: object) -> Picture:
        data = {"photo": SimpleUploadedFile("a.jpg", photo()), "level": 1, "policy": "replace", **fields}
        self.answer = (client or self.client).post("/", data)
        assert self.answer.status_code == 302
        return Picture.objects.latest("sent_at")

    def states(self, picture: Picture) -> list[str]:
        return [info.state.name for info in chains.works_of(picture)]

    # -- ownership ------------------------------------------------------------------------------------------------

    def test_a_stranger_finds_nothing(self):
        picture = self.send()
        self.kit.run_until_idle()
        works = chains.works_of(picture)
        stranger = Client()
        self.send(stranger)
        for client in (stranger, Client()):
            for path in ("", "file", "preview"):
                assert client.get(f"/pictures/{picture.id}/{path}").status_code == 404
            assert client.post(f"/pictures/{picture.id}/cancel").status_code == 404
            for work in works:
                assert client.get(f"/works/{work.id}/").status_code == 404
                assert client.get(f"/works/{work.id}/events").status_code == 404
            assert picture.name not in client.get(f"/pictures/{uuid.uuid4()}/").content.decode()
        assert self.client.get(f"/works/{works[0].id}/").json()["state"] == "SUCCEEDED"

    def test_a_stranger_s_history_is_his_own(self):
        self.send(label="home")
        stranger = Client()
        self.assertContains(stranger.get("/history/"), "Nothing here yet")
        self.assertContains(stranger.get("/history/home/"), "Nothing here yet")
        self.assertContains(stranger.get("/why/"), "Nothing of yours waits.")

    def test_an_ended_session_is_told_so(self):
        picture = self.send()
        self.client.session.flush()
        for path in (f"/pictures/{picture.id}/", f"/pictures/{picture.id}/file"):
            self.assertContains(self.client.get(path), "Your session has ended", status_code=404)
        answer = self.client.post(f"/pictures/{picture.id}/cancel")
        self.assertContains(answer, "Your session has ended", status_code=404)

    def test_after_an_ended_session_an_upload_begins_a_new_one(self):
        old = self.send()
        self.client.session.flush()
        new = self.send()
        assert new.visitor != old.visitor
        self.assertContains(self.client.get(self.answer.url), "Your earlier session had ended")

    def test_looking_makes_no_session(self):
        for path in ("/", "/history/", "/why/"):
            assert "sessionid" not in self.client.get(path).cookies

    def test_a_form_from_elsewhere_is_refused(self):
        answer = Client(enforce_csrf_checks=True).post("/", {"level": 1})
        self.assertContains(answer, "Please try again", status_code=403)

    # -- the chain of a visitor -----------------------------------------------------------------------------------

    def test_a_second_picture_replaces_the_first(self):
        first = self.send()
        second = self.send(policy="replace")
        self.assertContains(self.client.get(f"/pictures/{first.id}/"), "A later picture replaced this one")
        assert self.kit.run_until_idle() == 3
        assert self.states(second) == ["SUCCEEDED"] * 3

    def test_a_second_picture_that_keeps_the_first_is_not_started(self):
        first = self.send()
        kept = set(UPLOADS.iterdir())
        assert self.send(policy="keep") == first
        self.assertRedirects(self.answer, "/", fetch_redirect_response=False)
        self.assertContains(self.client.get("/"), "This picture was not started")
        assert set(UPLOADS.iterdir()) == kept
        assert self.states(first) == ["ENQUEUED", "BLOCKED", "BLOCKED"]

    def test_a_second_picture_can_wait_for_the_first(self):
        first = self.send()
        second = self.send(policy="append")
        assert self.states(second) == ["BLOCKED"] * 3
        assert self.kit.run_until_idle() == 6
        assert (self.states(first), self.states(second)) == (["SUCCEEDED"] * 3, ["SUCCEEDED"] * 3)
        assert first.blurred.exists()
        assert second.blurred.exists()

    def test_visitors_do_not_replace_each_other_s(self):
        mine = self.send()
        self.send(Client(), policy="replace")
        assert self.kit.run_until_idle() == 6
        assert self.states(mine) == ["SUCCEEDED"] * 3

    def test_cancelling_ends_the_chain(self):
        picture = self.send()
        answer = self.client.post(f"/pictures/{picture.id}/cancel", follow=True)
        self.assertContains(answer, "It was cancelled.")
        assert self.states(picture) == ["CANCELLED"] * 3
        assert self.client.get(f"/pictures/{picture.id}/file").status_code == 404
        assert self.client.get(f"/pictures/{picture.id}/cancel").status_code == 405

    def test_a_failure_is_told_with_its_reason(self):
        picture = self.send()
        picture.upload.unlink()
        self.kit.run_until_idle()
        self.assertContains(self.client.get(f"/pictures/{picture.id}/"), "does not exist")

    def test_a_picture_waits_for_power_if_it_was_asked_to_and_says_so(self):
        self.kit.node.set(charging=False)
        picture = self.send(charging="on")
        self.send(Client())
        assert self.kit.run_until_idle() == 3, "the other visitor's"
        self.assertContains(self.client.get(f"/pictures/{picture.id}/"), "Clean up waits:")
        self.assertContains(self.client.get("/why/"), "charging")
        self.kit.node.set(charging=True)
        assert self.kit.run_until_idle() == 3
        self.assertNotContains(self.client.get(f"/pictures/{picture.id}/"), "waits:")

    def test_every_picture_waits_for_storage(self):
        self.kit.node.set(storage_free_percent=1)
        self.send()
        assert self.kit.run_until_idle() == 0
        self.assertContains(self.client.get("/why/"), "storage")

    # -- history, what waits, the sweep ---------------------------------------------------------------------------

    def test_the_history_knows_labels(self):
        self.send(label="home")
        self.send(label="on the road", policy="append")
        everything = self.client.get("/history/")
        assert [picture.label for picture, _ in everything.context["pictures"]] == ["on the road", "home"]
        one = self.client.get("/history/on%20the%20road/")
        assert [(picture.label, state) for picture, state in one.context["pictures"]] == [
            ("on the road", State.BLOCKED)
        ]

    def test_what_waits_is_told(self):
        self.send()
        page = self.client.get("/why/").content.decode()
        assert page.index("Clean up") < page.index("Blur</dt>") < page.index("Save</dt>")

    def test_the_sweep_is_one_periodic_work(self):
        for _ in range(2):
            plan_the_sweep()
        assert len(work_manager.get_work_infos_for_unique_work("sweep")) == 1
        assert self.kit.run_until_idle() == 1
        self.assertContains(self.client.get("/why/"), "0 pictures swept out")

    def test_the_sweep_removes_old_pictures_but_none_that_is_under_way(self):
        old, under_way, fresh = self.send(), self.send(policy="append"), self.send(policy="append")
        for work in chains.works_of(old):
            assert self.kit.run_one(work.id)
        Picture.objects.exclude(id=fresh.id).update(sent_at=timezone.now() - KEPT - timedelta(minutes=1))
        stray, newcomer = UPLOADS / f"{uuid.uuid4()}.jpg", UPLOADS / f"{uuid.uuid4()}.jpg"
        for path in (stray, newcomer):
            path.touch()
        past = time.time() - GRACE.total_seconds() - 60
        os.utime(stray, (past, past))
        output = sweep().output_data
        assert (output["pictures"], output["files"]) == (1, 1)
        assert set(Picture.objects.all()) == {under_way, fresh}
        assert not old.blurred.exists()
        assert not stray.exists()
        assert newcomer.exists()
        newcomer.unlink()
