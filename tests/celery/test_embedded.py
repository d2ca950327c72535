"""The broker without a server: no reader takes a message that isn't written yet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from queue import Empty

import pytest
from kombu.connection import Connection
from kombu.exceptions import ChannelError
from kombu.transport import filesystem

from celery_workmanager import embedded
from tests.celery.pool_worker import ROOT

_QUEUE = "post"


def _options(folder: Path) -> dict[str, str]:
    return {"data_folder_in": str(folder), "data_folder_out": str(folder), "control_folder": str(folder / "bindings")}


@pytest.fixture
def channel(tmp_path: Path):
    embedded.install()
    with Connection("filesystem://", transport_options=_options(tmp_path)) as connection:
        yield connection.channel()


def _file(channel, name: str, content: object = None) -> Path:
    path = Path(channel.data_folder_in) / f"{name}.{_QUEUE}.msg"
    path.write_text("" if content is None else json.dumps(content))
    return path


def test_messages_are_taken_in_their_order_and_once(channel):
    channel._put(_QUEUE, {"letter": 1})
    _file(channel, "9999999999_second", {"letter": 2})
    assert [channel._get(_QUEUE), channel._get(_QUEUE)] == [{"letter": 1}, {"letter": 2}]
    with pytest.raises(Empty):
        channel._get(_QUEUE)


def test_a_message_that_is_not_written_yet_is_left_and_holds_nothing_up(channel):
    unwritten = _file(channel, "1_unwritten")
    _file(channel, "2_written", {"letter": 2})
    assert channel._get(_QUEUE) == {"letter": 2}
    with pytest.raises(Empty):
        channel._get(_QUEUE)
    unwritten.write_text(json.dumps({"letter": 1}))
    assert channel._get(_QUEUE) == {"letter": 1}


def test_who_reads_while_another_writes_waits_for_all_of_it(channel, monkeypatch):
    """What a writer has begun, it holds locked: at the lock, and not before, the rest gets there."""
    path = _file(channel, "1_half")
    path.write_text('{"letter"')
    lock = filesystem.lock

    def written_meanwhile(file, flags):
        assert flags == filesystem.LOCK_SH
        path.write_text('{"letter": 1}')
        lock(file, flags)

    monkeypatch.setattr(filesystem, "lock", written_meanwhile)
    assert channel._get(_QUEUE) == {"letter": 1}


def test_another_reader_may_be_quicker(channel, monkeypatch):
    first, _ = _file(channel, "1_taken", {"letter": 1}), _file(channel, "2_left", {"letter": 2})
    unlock = filesystem.unlock

    def taken_meanwhile(file):
        unlock(file)
        first.unlink(missing_ok=True)

    monkeypatch.setattr(filesystem, "unlock", taken_meanwhile)
    assert channel._get(_QUEUE) == {"letter": 2}


@pytest.fixture
def kept(channel, tmp_path) -> Path:
    """Where messages are kept once they are taken."""
    folder = tmp_path / "read"
    folder.mkdir()
    channel.connection.client.transport_options |= {"store_processed": True, "processed_folder": str(folder)}
    return folder


def test_processed_messages_are_kept_where_that_was_asked_for(channel, kept):
    path = _file(channel, "1_kept", {"letter": 1})
    assert channel._get(_QUEUE) == {"letter": 1}
    assert [each.name for each in kept.iterdir()] == [path.name]


@pytest.mark.usefixtures("kept")
def test_a_message_that_cannot_be_read_is_an_error_of_the_channel(channel, monkeypatch):
    """As Kombu has it, whose callers expect no other."""
    _file(channel, "1_unreadable", {"letter": 1})

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError("not yours")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ChannelError, match="expected a message that can be read, got: not yours"):
        channel._get(_QUEUE)


_LATE = """
from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import ChannelError
from kombu.transport import filesystem
from celery_workmanager import WorkManager

before = Connection("filesystem://").get_transport_cls()
assert before is filesystem.Transport
app = Celery("late", broker="filesystem://")
WorkManager(app, store_url="sqlite://")
print(app.connection_for_write().get_transport_cls().__module__)
"""


def test_an_app_gets_it_also_where_another_used_the_broker_before():
    """In a process of its own: Kombu remembers what a scheme means for as long as it lives."""
    told = subprocess.run([sys.executable, "-c", _LATE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "celery_workmanager.embedded"
