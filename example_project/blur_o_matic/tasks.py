"""The three works of the chain: cleanup, blur, save. The output of each is the input of the next."""

from __future__ import annotations

from pathlib import Path

from celery_workmanager import Result, Worker
from example_project.blur_o_matic import picture
from example_project.blur_o_matic.app import app
from example_project.blur_o_matic.config import PICTURES, STATE

WORKBENCH = STATE / "workbench"


@app.task(base=Worker, bind=True)
def cleanup(self: Worker, image: str) -> Result:
    """Clear the workbench of what earlier chains left there, and look whether there is a picture to blur."""
    WORKBENCH.mkdir(parents=True, exist_ok=True)
    leftovers = list(WORKBENCH.iterdir())
    for number, leftover in enumerate(leftovers, start=1):
        leftover.unlink(missing_ok=True)
        self.set_progress(percent=100 * number // len(leftovers))
    try:
        picture.check(Path(image))
    except picture.UnusableError as error:
        return Result.failure(reason=str(error))
    return Result.success(image=image)


@app.task(base=Worker, bind=True)
def blur(self: Worker, image: str, level: int) -> Result:
    """Blur the picture strip by strip onto the workbench, telling how far it is."""
    try:
        canvas, kind = picture.load(Path(image))
    except picture.UnusableError as error:
        return Result.failure(reason=str(error))
    for share in picture.soften(canvas, level):
        if self.is_stopped:
            return Result.retry()
        self.set_progress(percent=round(100 * share))
    blurred = WORKBENCH / f"{Path(image).stem}-blurred-{level}.png"
    picture.write(canvas, blurred, "PNG")
    return Result.success(image=str(blurred), kind=kind)


@app.task(base=Worker, bind=True)
def save(self: Worker, image: str, kind: str) -> Result:
    """Put the picture among the pictures, in the format it came in."""
    canvas, _ = picture.load(Path(image))
    self.set_progress(percent=50)
    saved = (PICTURES / Path(image).name).with_suffix(picture.SUFFIXES[kind])
    picture.write(canvas, saved, kind)
    return Result.success(image=str(saved))
