"""``work-progress.js`` in a browser, before a server with threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests import services
from tests.django_live import site

playwright = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.parametrize("alias", ["default"], indirect=True)

VISITOR = {"Visitor": "alice"}


@pytest.fixture
def kit_url(tmp_path) -> str:
    """Not Django's database, which must not be used beside Playwright's event loop."""
    return f"sqlite:///{tmp_path / 'store.sqlite3'}"


class Site:
    """The site on a port of its own, to be stopped and started."""

    def __init__(self) -> None:
        self.port = services.free_port()
        self._server: Any = None

    def start(self) -> None:
        from django.core.handlers.wsgi import WSGIHandler
        from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler

        class Quiet(WSGIRequestHandler):
            def log_message(self, *_: Any) -> None:
                """No line for each request."""

        self._server = ThreadedWSGIServer(("127.0.0.1", self.port), Quiet)
        self._server.daemon_threads = True
        self._server.set_app(WSGIHandler())
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def page(self, **ids: list[str]) -> str:
        query = "&".join(f"{key}={each}" for key, several in ids.items() for each in several)
        return f"http://127.0.0.1:{self.port}/page/?{query}"


@pytest.fixture
def server(kit) -> Iterator[Site]:
    site = Site()
    site.start()
    yield site
    site.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as tools:
        try:
            browser = tools.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"without Chromium: {error}")
        yield browser
        browser.close()


@pytest.fixture
def page(browser) -> Iterator[Any]:
    with browser.new_context(extra_http_headers=VISITOR) as context:
        context.set_default_timeout(10_000)
        yield context.new_page()


def element(page, work):
    return page.locator(f'work-progress[data-work="{work}"]')


def expect_state(page, work, state):
    playwright.expect(element(page, work)).to_have_attribute("data-state", state, timeout=10_000)


def test_a_page_follows_its_works(kit, server, page, paint, monkeypatch):
    works = [paint(), paint(request={"initial_delay": 60})]
    bare = paint("bare")
    page.goto(server.page(id=works, bare=[bare]))
    expect_state(page, bare, "ENQUEUED")
    assert page.evaluate("performance.getEntriesByType('resource').filter(e => e.name.includes('/events')).length") <= 1

    def look() -> None:
        playwright.expect(element(page, works[0]).get_by_role("progressbar")).to_have_attribute("value", "40")
        playwright.expect(element(page, works[0]).get_by_role("status")).to_have_text("Running")

    with monkeypatch.context() as during:
        during.setattr(site, "while_painting", look)
        kit.run_one(works[0])
    expect_state(page, works[0], "SUCCEEDED")
    kit.run_until_idle()
    expect_state(page, bare, "SUCCEEDED")

    told = page.evaluate("told")
    assert told.count(["workfinish", works[0], "SUCCEEDED"]) == 1
    assert ["workchange", bare, "ENQUEUED"] in told
    assert element(page, works[0]).get_by_role("progressbar").get_attribute("aria-label") == "a picture"
    assert element(page, works[1]).get_by_role("status").text_content() == "Waiting"


def test_a_page_survives_its_server(kit, server, page, paint):
    work = paint(request={"initial_delay": 60})
    page.goto(server.page(id=[work]))
    server.stop()
    kit.driver.set_initial_delay_met(work)
    kit.run_until_idle()
    server.start()

    expect_state(page, work, "SUCCEEDED")


@pytest.mark.parametrize("why", ["delete window.EventSource", "EventSource = function () { throw 1 }"])
def test_without_a_stream_a_page_polls(kit, server, page, paint, why):
    page.add_init_script(why)
    poll = {} if why.startswith("delete") else {"poll": "1"}
    work, doomed = paint(request={"initial_delay": 60}), paint()
    page.goto(server.page(id=[work, doomed], **poll))
    kit.run_until_idle()
    expect_state(page, doomed, "SUCCEEDED")
    kit.driver.set_initial_delay_met(work)
    kit.run_until_idle()

    expect_state(page, work, "SUCCEEDED")


def test_a_stranger_sees_nothing_but_what_the_page_shows(kit, server, browser, paint):
    work = paint()
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(server.page(bare=[work]))
        page.wait_for_function("told.length")

        assert page.evaluate("told") == [["workgone", work, None]]
        assert element(page, work).text_content() == ""


def test_without_scripts_the_server_has_said_it_all(kit, server, browser, paint):
    work = paint()
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(server.page(id=[work]))

        assert element(page, work).get_by_role("status").text_content() == "Waiting"
        assert element(page, work).get_by_role("progressbar").is_visible()
