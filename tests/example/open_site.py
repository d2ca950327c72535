"""The site as `make example` runs it: site, worker and beat in processes of their own."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from tests.celery.pool_worker import ROOT, wait_until
from tests.services import free_port

SERVE = [sys.executable, "-u", "-m", "example_project.website.serve"]


class OpenSite:
    """A context manager; at its end the site has been stopped with Ctrl-C, and no process is left behind."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.state = home / ".state"
        own = {"BLUR_O_MATIC_HOME": str(home), "PYTHONWARNINGS": "ignore", "DJANGO_SETTINGS_MODULE": "somebody.elses"}
        self.environment = {**os.environ, **own, **environment}
        self._told = home / "told"
        self._runner: psutil.Popen

    @property
    def told(self) -> str:
        """What it has said so far."""
        return self._told.read_text()

    def __enter__(self) -> Self:
        with self._told.open("wb") as told:
            self._runner = psutil.Popen(
                [*SERVE, "--port", str(self.port)],
                cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=told, stderr=told,
            )  # fmt: skip
        try:
            wait_until(lambda: f"{self.url}/ " in self.told or self._runner.poll() is not None, 60, "the site opens")
            assert self._runner.poll() is None, self.told
        except AssertionError:
            self.__exit__(AssertionError)
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        processes = self._runner.children(recursive=True)
        self._runner.send_signal(signal.SIGINT)
        try:
            code = self._runner.wait(45)
        finally:
            left = [each for each in processes if each.is_running()]
            for each in [*left, self._runner]:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        if kind is None:
            assert (code, left) == (0, []), self.told
            assert "Stopped." in self.told

    def part(self, word: str) -> psutil.Process:
        """The process of the worker, the beat, or the site (uvicorn)."""

        def find() -> psutil.Process | None:
            for each in self._runner.children():
                with suppress(psutil.Error):  # it has ended and is not yet started again
                    if word in each.cmdline():
                        return each
            return None

        return wait_until(find, what=f"a process of {word}")

    def read(self, **readings: object) -> None:
        """Tell the worker what its node reads."""
        (self.state / "site/readings.json").write_text(json.dumps(readings))

    def send(self, photo: bytes, **fields: object) -> str:
        """What a browser sends, by hand; returns the address of the picture's page and keeps the visitor's cookie."""
        status, headers, page = self.ask("GET", "/")
        token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', page)
        assert status == 200
        assert token
        csrf = headers["Set-Cookie"].partition(";")[0]
        values = {"csrfmiddlewaretoken": token[1], "level": 1, "policy": "replace", **fields}
        parts = [
            f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in values.items()
        ]
        head = '--x\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\n\r\n'
        body = "".join([*parts, head]).encode() + photo + b"\r\n--x--\r\n"
        sent = {"Cookie": csrf, "Content-Type": "multipart/form-data; boundary=x"}
        status, headers, page = self.ask("POST", "/", body, sent)
        assert status == 302, page
        self.cookie = next(each for each in headers.get_all("Set-Cookie", []) if "sessionid" in each).partition(";")[0]
        return headers["Location"]

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, str]:
        """One request of its own connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        connection.close()
        return answer.status, answer.headers, text
