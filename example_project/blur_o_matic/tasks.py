"""The three works of the chain: cleanup, blur, save. The output of each is the input of the next.

They are shared tasks: the terminal demonstration and the site run them in Celery apps of their own.
"""

from __future__ import annotations

from pathlib import Path

from celery import shared_task

from celery_workmanager import Result, Worker
from example_project.blur_o_matic import picture
from example_project.blur_o_matic.config import PICTURES, STATE

WORKBENCH = str(STATE / "workbench")


@shared_task(base=Worker, bind=True)
def cleanup(self: Worker, image: str, workbench: str = WORKBENCH) -> Result:
    """Clear the workbench of what earlier chains left there, and look whether there is a picture to blur."""
    bench = Path(workbench)
    bench.mkdir(parents=True, exist_ok=True)
    leftovers = list(bench.iterdir())
    for number, leftover in enumerate(leftovers, start=1):
        leftover.unlink(missing_ok=True)
        self.set_progress(percent=100 * number // len(leftovers))
    try:
        picture.check(Path(image))
    except picture.UnusableError as error:
        return Result.failure(reason=str(error))
    return Result.success(image=image, workbench=workbench)


@shared_task(base=Worker, bind=True)
def blur(self: Worker, image: str, workbench: str, level: int, keep_exif: bool = True) -> Result:
    """Blur the picture strip by strip onto the workbench, telling how far it is."""
    try:
        canvas, kind = picture.load(Path(image))
    except picture.UnusableError as error:
        return Result.failure(reason=str(error))
    if not keep_exif:  # it may say where and when a photograph was taken
        canvas.info.pop("exif", None)
    for share in picture.soften(canvas, level):
        if self.is_stopped:
            return Result.retry()
        self.set_progress(percent=round(100 * share))
    blurred = Path(workbench) / f"{Path(image).stem}-blurred-{level}.png"
    picture.write(canvas, blurred, "PNG")
    return Result.success(blurred=str(blurred), kind=kind)


@shared_task(base=Worker, bind=True)
def save(self: Worker, blurred: str, kind: str, album: str = str(PICTURES)) -> Result:
    """Put the picture into the album, in the format it came in."""
    canvas, _ = picture.load(Path(blurred))
    self.set_progress(percent=50)
    saved = (Path(album) / Path(blurred).name).with_suffix(picture.SUFFIXES[kind])
    saved.parent.mkdir(parents=True, exist_ok=True)
    picture.write(canvas, saved, kind)
    return Result.success(saved=str(saved))
