"""Uploads, good and bad (run by Django's test runner, see `test_site`)."""

from __future__ import annotations

import io
import tracemalloc

from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import TestCase
from PIL import Image

from celery_workmanager import State
from celery_workmanager.testing import WorkManagerTestKit
from example_project.website import chains
from example_project.website.celery import app
from example_project.website.models import ALBUM, PREVIEWS, UPLOADS, Picture
from example_project.website.uploads import MAX_BYTES
from tests.example.pictures import MAKE, bomb, encoded, of_a_camera, photo


def files() -> set[str]:
    return {path.name for folder in (UPLOADS, PREVIEWS, ALBUM) if folder.is_dir() for path in folder.iterdir()}


class Uploading(TestCase):
    def setUp(self) -> None:
        self.kit = self.enterContext(WorkManagerTestKit(app))
        self.before = files()

    def send(self, content: bytes | None, name: str = "a.jpg", content_type: str = "image/jpeg", **fields: object):
        data = {"level": 1, "policy": "replace", **fields}
        if content is not None:
            data["photo"] = SimpleUploadedFile(name, content, content_type)
        return self.client.post("/", data)

    def assert_refused(self, answer, why: str) -> None:
        assert answer.status_code == 400
        self.assertContains(answer, why, status_code=400)
        assert (Picture.objects.count(), files()) == (0, self.before)

    def test_a_photograph_goes_through_the_chain(self):
        answer = self.send(of_a_camera())
        picture = Picture.objects.get()
        self.assertRedirects(answer, f"/pictures/{picture.id}/")
        assert [info.state for info in chains.works_of(picture)] == [State.ENQUEUED, State.BLOCKED, State.BLOCKED]
        self.assertContains(self.client.get(answer.url), "Cancel")
        assert self.kit.run_until_idle() == 3
        page = self.client.get(answer.url)
        self.assertContains(page, "See file")
        self.assertNotContains(page, "Cancel")

    def test_the_file_is_upright_and_without_the_camera_s_notes(self):
        answer = self.send(of_a_camera())
        self.kit.run_until_idle()
        file = self.client.get(f"{answer.url}file")
        assert file["Content-Type"] == "image/jpeg"
        assert file["Content-Disposition"] == 'inline; filename="blurred-1.jpg"'
        assert file["X-Content-Type-Options"] == "nosniff"
        assert file["Content-Security-Policy"] == "default-src 'none'; sandbox"
        with Image.open(io.BytesIO(file.content)) as result:
            assert (result.format, result.size, result.getexif().get(MAKE)) == ("JPEG", (60, 90), None)
        with Image.open(io.BytesIO(self.client.get(f"{answer.url}preview").content)) as preview:
            assert (preview.format, preview.size, dict(preview.getexif())) == ("JPEG", (60, 90), {})

    def test_it_may_be_downloaded(self):
        answer = self.send(photo(kind="WEBP"))
        self.kit.run_until_idle()
        file = self.client.get(f"{answer.url}file?download")
        assert file["Content-Disposition"] == 'attachment; filename="blurred-1.webp"'

    def test_the_content_says_what_it_is_and_not_the_client(self):
        self.send(photo(kind="PNG"), name="a.html", content_type="text/html")
        assert Picture.objects.get().suffix == ".png"

    def test_a_transparent_picture_has_a_preview(self):
        self.send(encoded(Image.new("RGBA", (40, 30), (200, 0, 0, 0)), "PNG"))
        with Image.open(Picture.objects.get().preview) as preview:
            assert preview.convert("RGB").getpixel((5, 5)) == (255, 255, 255)

    def test_a_name_with_a_path_is_only_shown(self):
        evil = "../../../etc/<b>passwd</b>\r\n\u202egpj.exe"
        answer = self.send(photo(), name=evil)
        picture = Picture.objects.get()
        assert files() - self.before == {f"{picture.id}.jpg"}, "one name, in two folders"
        assert "/" not in picture.name
        assert picture.name.isprintable()
        self.assertNotContains(self.client.get(answer.url), "<b>")

    def test_what_is_no_picture_is_refused(self):
        for content in (b"Dear diary", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"GIF89a" + bytes(20), b""):
            self.assert_refused(self.send(content), "This is not a JPEG, PNG or WebP picture.")

    def test_a_picture_that_ends_too_early_is_refused(self):
        for kind in ("JPEG", "PNG", "WEBP"):
            whole = photo(600, 400, kind)
            self.assert_refused(self.send(whole[: len(whole) // 2]), "This picture is damaged.")

    def test_a_bomb_is_refused_before_it_is_decoded(self):
        tracemalloc.start()
        for size in ((60_000, 60_000), (9_000, 6_000)):
            self.assert_refused(self.send(bomb(*size)), "more than 50 megapixels")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
        tracemalloc.stop()

    def test_a_file_above_the_limit_is_refused(self):
        self.assert_refused(self.send(photo() + bytes(MAX_BYTES)), "larger than 25 MB")

    def test_what_is_missing_is_asked_for(self):
        self.assert_refused(self.send(None), "Choose a photo first.")

    def test_levels_policies_and_labels_that_are_none_are_refused(self):
        for fields in ({"level": 4}, {"level": "much"}, {"policy": "seize"}, {"label": "../x"}, {"label": "x" * 31}):
            answer = self.send(photo(), **fields)
            assert answer.status_code == 400, fields
            assert Picture.objects.count() == 0
