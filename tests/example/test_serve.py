"""`make example` without a browser: its beginning and end, its databases, and requests that are too large."""

from __future__ import annotations

import http.client
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import services
from tests.celery.pool_worker import ROOT, wait_until
from tests.example.open_site import SERVE, OpenSite
from tests.example.pictures import photo

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSite]:
    with OpenSite(tmp_path_factory.mktemp("home")) as site:
        yield site


def see_the_file(site: OpenSite, page: str) -> None:
    visitor = {"Cookie": site.cookie}
    wait_until(lambda: "See file" in site.ask("GET", page, headers=visitor)[2], 40, "the picture is saved")
    status, headers, _ = site.ask("GET", f"{page}file", headers=visitor)
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    assert site.ask("GET", f"{page}file")[0] == 404


def test_a_picture_goes_through_on_the_embedded_default(site: OpenSite):
    see_the_file(site, site.send(photo()))
    assert {path.suffix for path in (site.state / "site").iterdir() if path.is_file()} >= {".sqlite3"}


def test_200_mb_are_refused_before_they_are_sent(site: OpenSite):
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", str(200 * MIB))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert "At most 25 MB will do" in answer.read().decode()
    connection.close()


def test_200_mb_without_a_word_of_their_size_fill_no_memory(site: OpenSite):
    server = site.part("uvicorn")
    before = server.memory_info().rss
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    connection.request("POST", "/", (bytes(MIB) for _ in range(200)), encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    assert server.memory_info().rss - before < 40 * MIB


def test_static_files_come_from_the_site_itself(site: OpenSite):
    for path, kind in (
        ("blur_o_matic/site.css", "text/css"),
        ("celery_workmanager/work-progress.js", "text/javascript"),
    ):
        status, headers, _ = site.ask("GET", f"/static/{path}")
        assert (status, headers.get_content_type()) == (200, kind)


def test_a_second_site_on_the_checkout_is_refused(site: OpenSite):
    run = subprocess.run(SERVE, cwd=ROOT, env=site.environment, capture_output=True, text=True, timeout=30, check=False)
    assert (run.returncode, run.stderr) == (
        1,
        "expected one site on this checkout, got: another one that runs already\n",
    )


def test_a_port_that_is_taken_is_refused_with_advice(site: OpenSite, tmp_path: Path):
    environment = {**site.environment, "BLUR_O_MATIC_HOME": str(tmp_path)}
    command = [*SERVE, "--port", str(site.port)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == 1
    assert f"expected 127.0.0.1:{site.port} to be free" in run.stderr
    assert "make example PORT=" in run.stderr


def test_a_part_that_dies_is_started_again(site: OpenSite):
    beat = site.part("beat")
    beat.kill()
    wait_until(lambda: site.part("beat").pid != beat.pid, what="a new beat")
    assert "The beat ended with code -9" in site.told


@pytest.mark.postgresql
@pytest.mark.redis
def test_a_picture_goes_through_on_postgresql_and_redis(tmp_path: Path, postgresql_url: str, redis_url: str):
    services.empty_database(postgresql_url)
    with OpenSite(tmp_path, BLUR_O_MATIC_DATABASE=postgresql_url, BLUR_O_MATIC_BROKER=redis_url) as site:
        see_the_file(site, site.send(photo()))
        assert not list((site.state / "site").glob("*.sqlite3"))
    services.empty_database(postgresql_url)
