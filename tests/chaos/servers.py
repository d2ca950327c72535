"""A MariaDB and a RabbitMQ of the storm's own, on free ports, which may be killed; the machine's own are left alone."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
from amqp.exceptions import ResourceLocked
from kombu.connection import Connection

from tests import services

_PATIENCE = 90.0


def _program(name: str, *places: str) -> str | None:
    found = [str(path) for place in places for path in Path("/").glob(f"{place}/{name}")]
    return found[0] if found else shutil.which(name) or shutil.which(name, path="/usr/sbin")


def _user(name: str) -> str | None:
    """The user to run a server as: servers refuse to be root's."""
    return name if os.geteuid() == 0 else None


def _lacks_user(name: str) -> str | None:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return f"running as root, and there is no user {name} to run a server as" if os.geteuid() == 0 else None
    return None


class _Server:
    """A process in a folder of its own."""

    user: str

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        if _user(self.user):
            shutil.chown(folder, self.user)
        self.port = services.free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def _begin(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, cwd=self._folder, user=_user(self.user), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _await(self) -> None:
        end = time.monotonic() + _PATIENCE
        while not self._answers():
            if time.monotonic() > end or self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"expected a server on port {self.port}, see {self._folder / 'log'}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        raise NotImplementedError

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it; SIGKILL is a crash."""
        if self._process is None:
            return
        if how is signal.SIGKILL:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, how)
        else:
            self._process.send_signal(how)
        self._process.wait(_PATIENCE)
        self._process = None


class MariaServer(_Server):
    """A MariaDB with all its durability."""

    user = "mysql"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        install = _program("mariadb-install-db")
        assert install is not None, self.why_not()
        as_user = [f"--user={self.user}"] if _user(self.user) else []
        subprocess.run(
            [install, "--no-defaults", f"--datadir={folder / 'data'}", "--auth-root-authentication-method=normal",
             "--skip-test-db", *as_user],
            check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120,
        )  # fmt: skip

    @staticmethod
    def why_not() -> str | None:
        """Why there can be none here; None when there can."""
        if _program("mariadbd") is None or _program("mariadb-install-db") is None:
            return "no mariadbd and mariadb-install-db (Debian: apt-get install mariadb-server)"
        return _lacks_user("mysql")

    def url(self, port: int | None = None, database: str = "chaos") -> str:
        """Where it is; with a proxy's `port`, through that."""
        return f"mariadb+pymysql://root@127.0.0.1:{port or self.port}/{database}"

    def start(self) -> None:
        """Start it and return once it answers."""
        program = _program("mariadbd")
        assert program is not None
        self._begin([
            program, "--no-defaults", f"--datadir={self._folder / 'data'}", f"--port={self.port}",
            f"--socket={self._folder / 'socket'}", "--bind-address=0.0.0.0", f"--pid-file={self._folder / 'pid'}",
            "--skip-name-resolve", "--innodb-buffer-pool-size=128M", "--max-connections=300",
        ])  # fmt: skip
        self._await()

    def _answers(self) -> bool:
        try:
            services.administer("SELECT 1", url=self.url(database=""))
        except Exception:  # noqa: BLE001 - whatever it is, it doesn't answer yet
            return False
        return True


class RabbitServer(_Server):
    """A RabbitMQ node with a port mapper of its own, that keeps nothing from one start to the next."""

    user = "rabbitmq"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._mapper = services.free_port()
        (folder / "empty").touch()
        self._environment = {
            "PATH": os.environ["PATH"], "HOME": str(folder), "ERL_EPMD_PORT": str(self._mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1", "RABBITMQ_NODENAME": f"chaos{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port), "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(services.free_port()), "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder), "RABBITMQ_CONF_ENV_FILE": str(folder / "empty"),
            "RABBITMQ_CONFIG_FILE": str(folder / "none"), "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "empty"),
        }  # fmt: skip

    @staticmethod
    def why_not() -> str | None:
        """Why there can be none here; None when there can."""
        if RabbitServer._program() is None or _program("epmd") is None:
            return "no rabbitmq-server (Debian: apt-get install rabbitmq-server)"
        return _lacks_user("rabbitmq")

    @staticmethod
    def _program() -> str | None:
        # Not Debian's wrapper, which knows one node only.
        return _program("rabbitmq-server", "usr/lib/rabbitmq/lib/*/sbin", "usr/lib/rabbitmq/bin")

    def start(self) -> None:
        """Start it (empty) and return once it answers."""
        shutil.rmtree(self._folder / "data", ignore_errors=True)
        program = self._program()
        assert program is not None
        self._begin([program], self._environment)
        self._await()

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Kill it, with its helpers in groups of their own; whatever it held is gone."""
        family = psutil.Process(self._process.pid).children(recursive=True) if self._process is not None else []
        super().stop(how)
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.kill()

    def close(self) -> None:
        """Stop it and its port mapper."""
        self.stop()
        for each in psutil.process_iter():
            with suppress(psutil.Error):
                if each.name() == "epmd" and each.environ().get("ERL_EPMD_PORT") == str(self._mapper):
                    each.kill()

    def flush(self) -> None:
        """Delete every queue."""
        program = _program("rabbitmqctl", "usr/lib/rabbitmq/lib/*/sbin", "usr/lib/rabbitmq/bin")
        assert program is not None
        listed = subprocess.run(
            [program, "-q", "--no-table-headers", "list_queues", "name"], env=self._environment, check=True,
            user=_user(self.user), cwd=self._folder, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        with Connection(self.url()) as connection:
            for queue in listed.stdout.split():
                # One that belongs to a connection alone is refused, and the channel closed.
                with suppress(ResourceLocked), connection.channel() as channel:
                    channel.queue_delete(queue)

    def url(self, host: str = "127.0.0.1", port: int | None = None) -> str:
        """Where it is; with a proxy's `port`, through that."""
        return f"amqp://guest:guest@{host}:{port or self.port}//"

    def _answers(self) -> bool:
        try:
            with Connection(self.url(), connect_timeout=2) as connection:
                connection.connect()
        except Exception:  # noqa: BLE001 - whatever it is, it doesn't answer yet
            return False
        return True
