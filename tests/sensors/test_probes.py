"""Probes of real sockets, also of such as never answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from time import monotonic

import pytest

from celery_workmanager.probes import probe

PATIENCE = 0.2
#: Far below what a probe without a time-out would wait, far above what a busy machine adds.
SOON = 5.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A port that accepts connections, by its backlog, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


class Answers(BaseHTTPRequestHandler):
    """Answers with the status that the path names."""

    def do_GET(self):
        self.send_response(int(self.path.split("?")[0].strip("/") or 200))
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_port_that_accepts_is_reachable(listener):
    assert probe(f"tcp://127.0.0.1:{port_of(listener)}", PATIENCE) == {"reachable": True}


def test_a_port_that_refuses_is_not():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = port_of(server)
    found = probe(f"tcp://127.0.0.1:{port}", PATIENCE)
    assert not found["reachable"]
    assert "refused" in found["why"]


def test_a_host_that_takes_no_connection_is_given_up(listener):
    listener.listen(0)
    queued = []
    try:
        for _ in range(4):  # until the backlog is full: further ones get no answer
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
            queued.append(client)
        began = monotonic()
        found = probe(f"tcp://127.0.0.1:{port_of(listener)}", PATIENCE)
        assert found == {"reachable": False, "why": "no answer in 0.2 s"}
        assert monotonic() - began < SOON
    finally:
        for client in queued:
            client.close()


def test_a_server_that_accepts_and_never_answers_is_given_up(listener):
    began = monotonic()
    found = probe(f"http://127.0.0.1:{port_of(listener)}/", PATIENCE)
    assert found == {"reachable": False, "why": "no answer in 0.2 s"}
    assert monotonic() - began < SOON


@pytest.mark.parametrize(("path", "is_reachable"), [("", True), ("/404?x=1", True), ("/500", False), ("/503", False)])
def test_a_server_that_can_serve_is_reachable(web, path, is_reachable):
    assert probe(web + path, SOON)["reachable"] is is_reachable


def test_a_server_that_speaks_no_http_or_no_tls_is_not_reachable(web, listener):
    def answer():
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"220 mail\r\n")

    threading.Thread(target=answer, daemon=True).start()
    assert not probe(f"http://127.0.0.1:{port_of(listener)}/", SOON)["reachable"]
    secure = probe(web.replace("http:", "https:"), SOON)
    assert not secure["reachable"]
    assert "SSL" in secure["why"]


def test_a_host_without_an_address_is_not_reachable():
    found = probe("tcp://nowhere.invalid:80", SOON)
    assert not found["reachable"]
    assert found["why"]
