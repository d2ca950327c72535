"""The how-to of adopting it, carried out: the code is taken from the page itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import services
from tests.celery.pool_worker import wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adopting.md").read_text()

#: Enqueues checkouts; prints the value of the first.
CHECK_OUT = """
import sys, shop
results = [shop.checkout(f"customer {n}", {"tea": 2, "cup": 1, "pot": 1}) for n in range(int(sys.argv[1]))]
if sys.argv[2] == "wait":
    print(results[0].get(timeout=40))
"""


def block(language: str) -> str:
    """The page's code in this language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    return str(found)


class Shop:
    """The shop in a folder of its own, with a Redis of its own."""

    def __init__(self, folder: Path, redis: services.RedisServer) -> None:
        self.folder, self.redis = folder, redis
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "REDIS_URL": redis.url,
            "REMIND_EVERY": "0.5",
        }
        (folder / "shop.py").write_text(block("python"))

    def adopt(self) -> None:
        """Apply the page's diff."""
        diff = self.folder / "adopt.diff"
        diff.write_text(block("diff"))
        subprocess.run(
            ["git", "apply", diff.name], cwd=self.folder, check=True, env=self.environment | {"GIT_DIR": "/"}
        )

    @contextmanager
    def running(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """A process of the shop, which is killed in the end with all its children."""
        with (self.folder / f"{command[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "shop", *command],
                cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
            try:
                yield process
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def check_out(self, number: int = 1, *, wait: bool = True) -> str:
        """Let customers pay; what the first one's results say."""
        command = [sys.executable, "-c", CHECK_OUT, str(number), "wait" if wait else "go"]
        ended = subprocess.run(
            command, cwd=self.folder, env=self.environment, check=False, capture_output=True, text=True, timeout=60
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    def ledger(self) -> list[str]:
        """What has been written so far."""
        ledger = self.folder / "ledger.txt"
        return ledger.read_text().splitlines() if ledger.exists() else []

    def payments(self) -> set[str]:
        """Who has paid what."""
        return {line for line in self.ledger() if "pays" in line}


@pytest.fixture
def shop(tmp_path: Path, free_redis: services.RedisServer) -> Shop:
    return Shop(tmp_path, free_redis)


def test_the_change_is_small():
    changed = [line for line in block("diff").splitlines() if line.startswith("+") and not line.startswith("+++")]
    assert 0 < len(changed) < 10


@pytest.mark.parametrize("adopted", [False, True], ids=["before", "after"])
def test_the_shop_does_the_same_before_and_after(shop: Shop, adopted: bool):
    if adopted:
        shop.adopt()
    with shop.running("worker", "-c", "2"), shop.running("beat"):
        assert shop.check_out() == "42"
        assert shop.payments() == {"customer 0 pays 42"}
        wait_until(lambda: shop.ledger().count("reminded") >= 2, 30, "beat reminds")
    assert (shop.folder / "shop.sqlite3").exists() is adopted


def test_adopted_it_loses_nothing_whatever_is_killed_and_flushed(shop: Shop):
    shop.adopt()
    with shop.running("worker", "-c", "2"):
        shop.check_out(20, wait=False)
        wait_until(lambda: len(shop.payments()) >= 3, 30, "some have paid")
    shop.redis.stop()  # it keeps nothing on disk
    shop.redis.start()
    with shop.running("worker", "-c", "2"):
        wait_until(lambda: len(shop.payments()) == 20, 60, "everybody has paid")
    assert shop.payments() == {f"customer {n} pays 42" for n in range(20)}
