"""`make demo`: starts a worker, sends a picture through cleanup, blur and save, and shows it live.

Exit codes: 0 the picture is saved; 1 it isn't, and the screen says why; 2 another demo is under way.
"""

from __future__ import annotations

import argparse
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from celery_workmanager import ExistingWorkPolicy, OneTimeWorkRequest, Operation, State, WorkInfo
from celery_workmanager.errors import InvalidRequest
from example_project.blur_o_matic import picture
from example_project.blur_o_matic.app import work_manager
from example_project.blur_o_matic.config import PICTURES
from example_project.blur_o_matic.screen import Screen, name_of, note_of
from example_project.blur_o_matic.stage import LOG, Stage
from example_project.blur_o_matic.tasks import blur, cleanup, save

CHAIN = "blur_o_matic"
ORDER = ("cleanup", "blur", "save")


class WorkerDiedError(Exception):
    """The worker ended before the chain did."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration and return its exit code."""
    options = _options(arguments)
    screen, stage = Screen(), Stage()
    alone = stage.take()
    try:
        operation = _enqueue(options.image, options.level)
    except InvalidRequest as error:
        screen.say(str(error), "bold red")
        return 1
    if not alone:
        if not operation.applied:
            return _refused(screen)
        stage.take(wait=True)  # the other demo has shown its chain's end and is leaving
    screen.say("Blur-O-Matic: cleanup, blur, save", "bold")
    if not operation.applied:
        screen.say(f"An earlier run was interrupted; finishing it first: {_task(_works())}", "yellow")
    try:
        with stage.worker() as worker, screen:
            works = _watch(worker, screen)
    except WorkerDiedError as error:
        screen.say(f"{error}; see {LOG}. Nothing is lost: run it again and the chain goes on.", "red")
        return 1
    except KeyboardInterrupt:
        screen.say("Stopped. Nothing is lost: run it again and the chain goes on.", "yellow")
        return 130
    return _end(screen, works, mine=operation.applied)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description="Blur a picture with a durable chain of works.")
    parser.add_argument("--level", default="2", help="how much: 1, 2 or 3")
    parser.add_argument("image", nargs="?", help="a picture; without it, one is drawn")
    options = parser.parse_args(arguments)
    if options.level not in ("1", "2", "3"):
        parser.exit(1, f"expected LEVEL to be 1, 2 or 3, got: {options.level}\n")
    options.level = int(options.level)
    return options


def _enqueue(image: str | None, level: int) -> Operation:
    """Enqueue the chain, unless one of its name is unfinished: then that one is kept."""
    path = Path(image).expanduser().absolute() if image else PICTURES / "landscape.png"
    if not image and not path.exists():
        picture.write(picture.draw(), path, "PNG")
    return (
        work_manager.begin_unique_work(
            CHAIN, ExistingWorkPolicy.KEEP, OneTimeWorkRequest(cleanup, {"image": str(path)})
        )
        .then(OneTimeWorkRequest(blur, {"level": level}))
        .then(OneTimeWorkRequest(save))
        .enqueue()
    )


def _watch(worker: subprocess.Popen[bytes], screen: Screen) -> list[WorkInfo]:
    """Show every change of the chain until it has ended."""
    changes: queue.SimpleQueue[list[WorkInfo]] = queue.SimpleQueue()
    threading.Thread(target=_observe, args=(changes,), daemon=True).start()
    while True:
        try:
            works = changes.get(timeout=0.2)
        except queue.Empty:
            if worker.poll() is not None:
                raise WorkerDiedError(f"The worker ended with code {worker.returncode}") from None
            continue
        screen.show(works)
        if all(info.state.is_finished for info in works):
            return works


def _observe(changes: queue.SimpleQueue[list[WorkInfo]]) -> None:
    for works in work_manager.observe_work_infos_for_unique_work(CHAIN):
        changes.put(_in_order(works))


def _works() -> list[WorkInfo]:
    return _in_order(work_manager.get_work_infos_for_unique_work(CHAIN))


def _in_order(works: Sequence[WorkInfo]) -> list[WorkInfo]:
    return sorted(works, key=lambda info: ORDER.index(name_of(info)))


def _task(works: Sequence[WorkInfo]) -> str:
    """What the chain was asked to do."""
    return f"{works[0].input_data['image']}, level {works[1].input_data['level']}"


def _refused(screen: Screen) -> int:
    under_way = ", ".join(f"{name_of(info)} {info.state.name}" for info in _works())
    screen.say(f"Another demo is under way ({under_way}); KEEP lets it finish, and this one was not started.", "red")
    return 2


def _end(screen: Screen, works: Sequence[WorkInfo], *, mine: bool) -> int:
    """Say how the chain ended."""
    broken = next((info for info in works if info.state is not State.SUCCEEDED), None)
    if broken is not None:
        screen.say(f"{name_of(broken)} {broken.state.name}: {note_of(broken)}".rstrip(": "), "bold red")
        return 1
    screen.say(f"Saved: {works[-1].output_data['saved']}", "bold green")
    if not mine:
        screen.say("That was the earlier run's picture. Run it again for another one.")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite end, like Ctrl-C
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # before anything was started
        sys.exit(130)
