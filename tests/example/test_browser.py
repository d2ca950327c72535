"""The site in a real browser: what a visitor sees, with and without JavaScript, on a phone and on a desk."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from example_project.blur_o_matic import picture
from tests.conftest import need
from tests.example.open_site import OpenSite
from tests.example.pictures import photo

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
#: Milliseconds for what takes a worker's time.
PATIENCE = 45_000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSite]:
    need("chromium")
    with OpenSite(tmp_path_factory.mktemp("home")) as site:
        yield site


@pytest.fixture(scope="module")
def browser(site: OpenSite):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser
        browser.close()


class Visitor:
    """A page of a new visitor, and what went wrong on it."""

    def __init__(self, browser, site: OpenSite, **options: object) -> None:
        self.context = browser.new_context(base_url=site.url, viewport=PHONE, **options)
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._listen)
        self.page.on("request", self._follow)
        self._ours = f"{site.url}/", "blob:"

    def _listen(self, said) -> None:
        if said.type == "error":
            self.complaints.append(said.text)

    def _follow(self, asked) -> None:
        if not asked.url.startswith(self._ours):
            self.complaints.append(f"asks elsewhere: {asked.url}")

    def send(
        self, photo: Path, level: int = 1, policy: str = "replace", label: str = "", *, charging: bool = False
    ) -> None:
        self.page.goto("/")
        self.page.set_input_files("#id_photo", photo)
        self.page.check(f"input[name=level][value='{level}']")
        self.page.check(f"input[value={policy}]")
        self.page.fill("#id_label", label)
        self.page.set_checked("[name=charging]", charging)
        self.page.click("text=Blur it")
        self.page.wait_for_url(lambda url: "/pictures/" in url or policy == "keep")

    def wait_for_progress(self, pattern: str = r"^[1-9]\d? %$") -> str:
        note = self.step(2).locator("[data-part=note]").filter(has_text=re.compile(pattern))
        note.wait_for()
        return note.inner_text()

    def step(self, number: int):
        return self.page.locator(f".step:nth-child({number})")

    def states(self) -> list[str]:
        return [each.get_attribute("data-state") for each in self.page.locator("work-progress").all()]

    def marks(self) -> None:
        """Put something on the page that a reload would lose."""
        self.page.evaluate("document.documentElement.dataset.mark = 'mine'")

    def has_reloaded(self) -> bool:
        return self.page.get_attribute("html", "data-mark") is None


@pytest.fixture
def visit(browser, site: OpenSite):
    visitors: list[Visitor] = []

    def arrive(**options: object) -> Visitor:
        visitors.append(Visitor(browser, site, **options))
        return visitors[-1]

    yield arrive
    for each in visitors:
        each.context.close()
    assert [each.complaints for each in visitors] == [[]] * len(visitors)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "small.jpg"
    path.write_bytes(photo(300, 200))
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph whose blur takes seconds."""
    path = tmp_path_factory.mktemp("photos") / "large.jpg"
    picture.draw(4200, 2800).save(path, quality=80)
    return path


def test_a_picture_is_blurred_before_the_visitor_s_eyes(visit, large: Path):
    visitor = visit()
    visitor.send(large, level=2, label="holiday")
    visitor.marks()
    first = visitor.wait_for_progress()
    later = visitor.wait_for_progress(rf"^(?!{first})\d+ %$")
    assert int(later[:-2]) > int(first[:-2])
    file = visitor.page.get_by_role("link", name="See file")
    file.wait_for()
    assert visitor.states() == ["SUCCEEDED"] * 3
    assert not visitor.page.get_by_role("button", name="Cancel").is_visible()
    assert not visitor.has_reloaded()
    shown = visitor.page.locator(".frame img")
    assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") == 4200
    visitor.page.click("text=holiday")
    visitor.page.locator(".pictures li", has_text="Done").wait_for()


def test_a_running_picture_can_be_cancelled(visit, large: Path):
    visitor = visit()
    visitor.send(large, level=3)
    visitor.wait_for_progress()
    visitor.page.get_by_role("button", name="Cancel").click()
    visitor.page.get_by_text("It was cancelled.").wait_for()
    assert visitor.states() == ["SUCCEEDED", "CANCELLED", "CANCELLED"]
    assert not visitor.page.get_by_role("link", name="See file").is_visible()


def test_a_second_picture_is_kept_out_waits_or_replaces_the_first(visit, large: Path, small: Path):
    visitor = visit()
    visitor.send(large, level=3)
    visitor.wait_for_progress()
    watched = visitor.page
    visitor.page = visitor.context.new_page()
    visitor.send(small, policy="keep")
    visitor.page.get_by_text("This picture was not started").wait_for()
    visitor.send(small, policy="append")
    assert visitor.states() == ["BLOCKED"] * 3
    visitor.send(small, policy="replace")
    visitor.page.get_by_role("link", name="See file").wait_for()
    watched.get_by_text("A later picture replaced this one").wait_for()
    assert watched.locator("work-progress").count() == 0


@pytest.mark.slow
def test_a_worker_that_is_killed_and_started_again_goes_on_before_the_visitor_s_eyes(visit, site, large: Path):
    visitor = visit()
    visitor.send(large, level=2)
    visitor.marks()
    visitor.wait_for_progress(r"^[2-9]\d %$")
    os.killpg(site.part("worker").pid, signal.SIGKILL)
    visitor.page.get_by_role("link", name="See file").wait_for()
    assert not visitor.has_reloaded()


def test_a_constraint_is_lost_and_regained_before_the_visitor_s_eyes(visit, site, large: Path):
    visitor = visit()
    visitor.send(large, level=3, charging=True)
    visitor.marks()
    visitor.wait_for_progress()
    site.read(charging=False)
    visitor.page.get_by_text("Blur waits:").wait_for()
    assert visitor.states() == ["SUCCEEDED", "ENQUEUED", "BLOCKED"]
    watched, visitor.page = visitor.page, visitor.context.new_page()
    visitor.page.goto("/why/")
    visitor.page.locator(".waiting", has_text="charging").wait_for()
    visitor.page = watched
    site.read(charging=True)
    visitor.wait_for_progress()
    visitor.page.get_by_text("Blur waits:").wait_for(state="hidden")
    assert not visitor.has_reloaded()
    visitor.page.get_by_role("button", name="Cancel").click()


def test_everything_works_without_javascript(visit, small: Path):
    visitor = visit(java_script_enabled=False)
    visitor.send(small)
    while not visitor.page.get_by_role("link", name="See file").is_visible():
        visitor.page.get_by_role("link", name="Reload").click()
    assert visitor.states() == ["SUCCEEDED"] * 3
    with visitor.page.expect_download() as download:
        visitor.page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "blurred-1.jpg"


def test_a_file_that_is_too_large_is_refused_at_once_and_without_javascript_politely(visit, tmp_path: Path):
    (tmp_path / "film.jpg").write_bytes(photo() + bytes(60_000_000))
    visitor = visit()
    visitor.page.goto("/")
    visitor.page.set_input_files("#id_photo", tmp_path / "film.jpg")
    visitor.page.get_by_text("This file is larger than 25 MB.").wait_for()
    plain = visit(java_script_enabled=False)
    plain.page.goto("/")
    plain.page.set_input_files("#id_photo", tmp_path / "film.jpg")
    plain.page.click("text=Blur it")
    plain.page.get_by_role("heading", name="That is too large").wait_for()
    plain.complaints.clear()  # the browser tells of the 413


def test_nothing_overflows_on_a_phone_or_a_desk(visit, small: Path, tmp_path: Path):
    long = tmp_path / f"{'a_very_long_name' * 5}.jpg"
    long.write_bytes(small.read_bytes())
    visitor = visit()
    visitor.send(long, label="a label of thirty characters..".replace(".", "x"))
    for address in (visitor.page.url, "/", "/history/", "/why/"):
        visitor.page.goto(address)
        for size in (PHONE, DESK, {"width": 320, "height": 600}):
            visitor.page.set_viewport_size(size)
            width = visitor.page.evaluate("document.documentElement.scrollWidth")
            assert width <= size["width"], address
