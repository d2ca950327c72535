"""The image work of the demo, on the kinds of pictures that people have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageFilter

from example_project.blur_o_matic import picture

ORIENTATION = 0x0112


def checkered(mode: str, size: tuple[int, int] = (90, 60)) -> Image.Image:
    """A board of four squares, so that turning and blurring show."""
    board = Image.linear_gradient("L").resize(size).point(lambda value: 255 if value > 127 else 0)
    return board.convert(mode)


def pixel(canvas: Image.Image, x: int, y: int) -> tuple[int, ...]:
    value = canvas.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def blurred(canvas: Image.Image, level: int) -> list[float]:
    return list(picture.soften(canvas, level))


def test_strips_show_no_seams():
    """Blurring strip by strip gives what blurring the whole picture gives."""
    canvas = picture.draw(600, 900)
    whole = canvas.filter(ImageFilter.GaussianBlur(900 / 250))
    blurred(canvas, 1)
    assert ImageChops.difference(canvas, whole).getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize("level", [1, 2, 3])
def test_progress_rises_to_the_whole(level: int):
    shares = blurred(picture.draw(300, 300), level)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_higher_level_blurs_more():
    sharp = picture.draw(300, 200)
    left = []
    for level in (1, 2, 3):
        canvas = sharp.copy()
        blurred(canvas, level)
        edges = canvas.convert("L").filter(ImageFilter.FIND_EDGES)
        left.append(sum(value * count for value, count in enumerate(edges.histogram())))
    assert left == sorted(left, reverse=True)


def test_exif_orientation_is_applied_once(tmp_path: Path):
    """A photograph that was taken sideways is upright afterwards, and says so."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x010F] = "A camera"
    checkered("RGB", (90, 60)).save(tmp_path / "photo.jpg", exif=exif)
    canvas, kind = picture.load(tmp_path / "photo.jpg")
    picture.write(canvas, tmp_path / "again.jpg", kind)
    with Image.open(tmp_path / "again.jpg") as again:
        assert again.size == (60, 90)
        assert again.getexif().get(ORIENTATION, 1) == 1
        assert again.getexif()[0x010F] == "A camera"


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_transparency_is_kept_and_hidden_colours_do_not_bleed(tmp_path: Path, suffix: str):
    """What was invisible red leaves no red edge on the white that is seen."""
    source = Image.new("RGBA", (200, 200), (255, 0, 0, 0))
    source.paste((255, 255, 255, 255), (100, 0, 200, 200))
    source.save(tmp_path / f"sticker.{suffix}", lossless=True, exact=True)
    canvas, kind = picture.load(tmp_path / f"sticker.{suffix}")
    blurred(canvas, 3)
    assert kind == suffix.upper()
    assert canvas.mode == "RGBA"
    assert pixel(canvas, 0, 100)[3] == 0
    assert 0 < pixel(canvas, 99, 100)[3] < 255
    assert min(pixel(canvas, 99, 100)[:3]) > 240


@pytest.mark.parametrize(
    ("mode", "suffix", "loaded"),
    [
        ("1", "png", "RGB"),
        ("L", "jpg", "L"),
        ("LA", "png", "RGBA"),
        ("P", "gif", "RGB"),
        ("CMYK", "jpg", "RGB"),
    ],
)
def test_every_mode_can_be_blurred_and_saved(tmp_path: Path, mode: str, suffix: str, loaded: str):
    source = tmp_path / f"picture.{suffix}"
    checkered("RGB" if mode in ("P", "LA") else mode).convert(mode).save(source)
    canvas, kind = picture.load(source)
    assert canvas.mode == loaded
    blurred(canvas, 2)
    target = tmp_path / f"done{picture.SUFFIXES[kind]}"
    picture.write(canvas, target, kind)
    with Image.open(target) as done:
        assert (done.format, done.size) == (kind, (90, 60))


def test_sixteen_bits_keep_their_greys(tmp_path: Path):
    Image.new("I;16", (20, 20), 32768).save(tmp_path / "scan.png")
    canvas, _ = picture.load(tmp_path / "scan.png")
    assert canvas.getpixel((10, 10)) == 128


def test_a_transparent_palette_stays_transparent(tmp_path: Path):
    source = Image.new("P", (20, 20), 0)
    source.save(tmp_path / "icon.gif", transparency=0)
    canvas, kind = picture.load(tmp_path / "icon.gif")
    assert (canvas.mode, kind, pixel(canvas, 5, 5)[3]) == ("RGBA", "PNG", 0)


def not_there(path: Path) -> None:
    """Make nothing."""


def cut_off(path: Path) -> None:
    picture.write(picture.draw(400, 300), path, "JPEG")
    path.write_bytes(path.read_bytes()[:-2000])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (not_there, "does not exist"),
        (Path.mkdir, "is not a file"),
        (os.mkfifo, "is not a file"),
        (Path.touch, "is not a picture"),
        (lambda path: path.write_text("Dear diary"), "is not a picture"),
        (cut_off, "cannot be read"),
    ],
)
def test_what_cannot_be_blurred_says_why(tmp_path: Path, make, reason: str):
    path = tmp_path / "thing.jpg"
    make(path)
    with pytest.raises(picture.UnusableError, match=reason):
        picture.load(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    target = tmp_path / "done.jpg"
    target.write_text("old")
    with pytest.raises(OSError, match="cannot write mode"):
        picture.write(Image.new("RGBA", (4, 4)), target, "JPEG")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("done.jpg", "old")]
