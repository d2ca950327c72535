"""The demo as a user runs it: real processes on the embedded default, killed at the worst moment."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from PIL import Image

from example_project.blur_o_matic import picture

# A blur takes seconds, and on a busy machine minutes.
pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
DEMO = [sys.executable, "-m", "example_project.blur_o_matic.demo"]
RUNS = """
import json
from example_project.blur_o_matic.app import work_manager
works = work_manager.get_work_infos_for_unique_work("blur_o_matic")
print(json.dumps({info.worker_name.rsplit(".", 1)[-1]: [info.state.name, info.runs] for info in works}))
"""


class Home:
    """A checkout's state of its own, and the demo run in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._environment = {**os.environ, "BLUR_O_MATIC_HOME": str(path), "PYTHONUNBUFFERED": "1", "TERM": "xterm"}

    def run(self, *arguments: str, command: Sequence[str] = DEMO) -> subprocess.CompletedProcess[str]:
        """A run from its beginning to its end."""
        with self.start(*arguments, command=command) as process:
            output, _ = process.communicate(timeout=240)
            return subprocess.CompletedProcess(process.args, process.returncode, output)

    @contextmanager
    def start(
        self, *arguments: str, command: Sequence[str] = DEMO, stdout: int = subprocess.PIPE
    ) -> Iterator[subprocess.Popen[str]]:
        """A run that is under way."""
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    @contextmanager
    def in_the_middle_of_a_blur(self, photo: Path) -> Iterator[subprocess.Popen[str]]:
        """A run of a picture that takes long, at some percent between its beginning and its end."""
        with self.start("--level", "3", str(photo)) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if re.match(r"blur +RUNNING +[1-9]", line):
                    break
            yield process

    def worker(self) -> psutil.Process:
        """The Celery worker that the demo started last."""
        return psutil.Process(int((self.path / ".state/demo.lock").read_text()))

    @contextmanager
    def held(self) -> Iterator[None]:
        """The worker's pool stands still meanwhile, so that the blur is under way however slow all else is."""
        pool = self.worker().children()
        for child in pool:
            child.suspend()
        try:
            yield
        finally:
            for child in pool:
                with suppress(psutil.NoSuchProcess):
                    child.resume()

    def runs(self) -> dict[str, list[object]]:
        """The state of each work of the chain and how often it ran."""
        works: dict[str, list[object]] = json.loads(self.run(command=[sys.executable, "-c", RUNS]).stdout)
        return works


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "home")
    home.path.mkdir()
    yield home
    try:
        left = home.worker()
    except (FileNotFoundError, psutil.NoSuchProcess):
        return
    left.kill()
    pytest.fail(f"expected no worker to be left behind, got: {left}")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A large photograph, whose blur takes seconds."""
    path = tmp_path_factory.mktemp("photos") / "holiday.jpg"
    picture.draw(4500, 3000).save(path, quality=80)
    return path


def saved(run: subprocess.CompletedProcess[str]) -> Path:
    assert run.returncode == 0, run.stdout
    found = re.search(r"^Saved: (.+)$", run.stdout, re.MULTILINE)
    assert found, run.stdout
    return Path(found[1])


def test_without_an_image_it_draws_one_and_blurs_it(home: Home):
    run = home.run()
    with Image.open(saved(run)) as result:
        assert (result.format, result.size) == ("PNG", (3600, 2400))
    assert re.search(r"^save +SUCCEEDED +100 %", run.stdout, re.MULTILINE)
    assert home.runs() == {name: ["SUCCEEDED", 1] for name in ("cleanup", "blur", "save")}


def test_on_a_terminal_the_table_is_live(home: Home, tmp_path: Path):
    Image.new("RGB", (90, 60), "teal").save(tmp_path / "small.png")
    ours, theirs = os.openpty()
    with home.start(str(tmp_path / "small.png"), stdout=theirs):
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # how a terminal says that nobody is there any more
            while piece := os.read(ours, 65536):
                shown += piece
        os.close(ours)
    assert "○ cleanup" in shown.decode()
    assert shown.decode().rpartition("✔ save")[2].count("Saved: ") == 1


def test_a_photograph_comes_out_upright_in_its_own_format(home: Home, tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (90, 60), "teal").save(tmp_path / "ein Bild's größe.jpg", exif=exif)
    run = home.run("--level", "1", str(tmp_path / "ein Bild's größe.jpg"))
    with Image.open(saved(run)) as result:
        assert (result.format, result.size) == ("JPEG", (60, 90))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing.jpg", None, "does not exist"),
        ("diary.jpg", b"Dear diary", "is not a picture"),
        ("broken.png", b"\x89PNG\r\n\x1a\n" + bytes(30), "is not a picture|cannot be read"),
    ],
)
def test_what_is_no_picture_fails_the_chain_with_its_reason(home, tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    run = home.run(str(tmp_path / name))
    assert run.returncode == 1
    assert re.search(f"cleanup FAILED: .*{name} ({reason})", run.stdout), run.stdout
    assert {state for state, _ in home.runs().values()} == {"FAILED"}


@pytest.mark.parametrize("level", ["0", "4", "much"])
def test_an_unknown_level_is_refused_at_once(home: Home, level: str):
    run = home.run("--level", level)
    assert (run.returncode, run.stdout) == (1, f"expected LEVEL to be 1, 2 or 3, got: {level}\n")


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_a_blur_loses_nothing(home: Home, photo: Path):
    with home.in_the_middle_of_a_blur(photo) as first:
        home.worker().kill()
        output, _ = first.communicate(timeout=30)
    assert first.returncode == 1
    assert "Nothing is lost" in output
    second = home.run()
    assert saved(second).name == "holiday-blurred-3.jpg"
    assert "An earlier run was interrupted" in second.stdout
    assert home.runs() == {"cleanup": ["SUCCEEDED", 1], "blur": ["SUCCEEDED", 2], "save": ["SUCCEEDED", 1]}


@pytest.mark.slow
def test_a_second_demo_is_refused_while_one_is_under_way(home: Home, photo: Path):
    with home.in_the_middle_of_a_blur(photo) as first:
        with home.held():
            second = home.run()
        assert second.returncode == 2
        assert "under way (cleanup SUCCEEDED, blur RUNNING, save BLOCKED); KEEP" in second.stdout
        output, _ = first.communicate(timeout=240)
    assert first.returncode == 0
    assert "holiday-blurred-3.jpg" in output


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_after_ctrl_c_the_next_run_finishes_the_chain(home: Home, photo: Path, how: signal.Signals):
    with home.in_the_middle_of_a_blur(photo) as first:
        first.send_signal(how)
        output, _ = first.communicate(timeout=240)
    assert first.returncode == 130
    assert "Nothing is lost" in output
    assert saved(home.run()).name == "holiday-blurred-3.jpg"


@pytest.mark.slow
def test_a_demo_that_was_killed_leaves_its_worker_to_the_next_run(home: Home, photo: Path):
    with home.in_the_middle_of_a_blur(photo) as first, ExitStack() as stack:
        orphan = home.worker()
        with home.held():
            first.kill()
            first.wait()
            second = stack.enter_context(home.start())
            assert second.stdout is not None
            assert any("finishing it first" in line for line in second.stdout)
        output, _ = second.communicate(timeout=240)
    assert "holiday-blurred-3.jpg" in output
    assert not orphan.is_running()
