"""What is done to pictures: read any kind, blur in strips, write whole or not at all, and draw one."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps, UnidentifiedImageError

#: The formats a picture is saved in; one that came in another becomes a PNG.
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
QUALITY = {
    "JPEG": {"quality": 92},
    "PNG": {"compress_level": 1},  # a third of the time for a tenth more bytes
    "WEBP": {"quality": 90},
}

#: How often the whole picture is blurred.
PASSES = {1: 1, 2: 3, 3: 6}

# The largest cameras make 200 megapixels; Pillow refuses at twice this number, as a bomb.
Image.MAX_IMAGE_PIXELS = 200_000_000


class UnusableError(Exception):
    """A file that can't be blurred; its text is the reason, for the user."""


def check(path: Path) -> None:
    """Raise UnusableError unless the file begins like a picture; fast, however large it is."""
    if not path.exists():
        raise UnusableError(f"{path} does not exist")
    if not path.is_file():
        raise UnusableError(f"{path} is not a file")
    try:
        Image.open(path).close()
    except UnidentifiedImageError:
        raise UnusableError(f"{path} is not a picture") from None
    except Exception as error:  # each of Pillow's decoders has its own kinds
        raise UnusableError(f"{path} cannot be read: {error}") from error


def load(path: Path) -> tuple[Image.Image, str]:
    """Read the picture upright, in a mode that can be blurred, with the format it is to be saved in."""
    check(path)
    try:
        with Image.open(path) as opened:
            kind = opened.format if opened.format in SUFFIXES else "PNG"
            return _blurrable(ImageOps.exif_transpose(opened)), kind or "PNG"
    except Exception as error:  # a picture that begins well and is broken further on
        raise UnusableError(f"{path} cannot be read: {error}") from error


def _blurrable(picture: Image.Image) -> Image.Image:
    """Grey stays grey and transparency stays; palettes, CMYK and the like become colours."""
    if picture.mode.startswith("I"):  # 16 bits a pixel, which a plain conversion would cut off at white
        return picture.convert("I").point(lambda value: value / 256).convert("L")
    if picture.mode in ("L", "RGB"):
        return picture.copy()
    if picture.mode == "CMYK":
        picture.info.pop("icc_profile", None)  # it describes inks
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def soften(canvas: Image.Image, level: int) -> Iterator[float]:
    """Blur the canvas in place, strip by strip; yields the share that is done after each strip."""
    radius = max(canvas.size) / 250
    margin = math.ceil(4 * radius) + 1  # further away no pixel matters
    height = max(2 * margin, canvas.height // 12)
    tops = range(0, canvas.height, height)
    strips = PASSES[level] * len(tops)
    for number in range(strips):
        if number % len(tops) == 0:
            source = _premultiplied(canvas)
        top = tops[number % len(tops)]
        above, below = max(0, top - margin), min(canvas.height, top + height + margin)
        strip = source.crop((0, above, canvas.width, below)).filter(ImageFilter.GaussianBlur(radius))
        strip = strip.crop((0, top - above, canvas.width, min(top + height, canvas.height) - above))
        canvas.paste(strip.convert(canvas.mode), (0, top))
        yield (number + 1) / strips


def _premultiplied(canvas: Image.Image) -> Image.Image:
    """A copy to read from; the colour of invisible pixels must not bleed into the visible ones."""
    return canvas.convert("RGBa") if canvas.mode == "RGBA" else canvas.copy()


def write(picture: Image.Image, path: Path, kind: str) -> None:
    """Write the picture with its profile and EXIF; the path never shows half a file."""
    kept = {key: picture.info[key] for key in ("exif", "icc_profile") if picture.info.get(key)}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        picture.save(part, kind, **QUALITY[kind], **kept)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def draw(width: int = 3600, height: int = 2400) -> Image.Image:
    """A landscape: an evening sky, a sun and four ridges."""
    gradient = Image.linear_gradient("L").resize((width, height))
    canvas = ImageOps.colorize(gradient, black="#1d2b64", mid="#f7797d", white="#fbd786")
    glow = Image.radial_gradient("L").resize((height, height))
    light = Image.new("RGB", (width, height))
    light.paste(ImageOps.colorize(glow, black="#ffe9b0", mid="#000000", white="#000000"), (width // 3, 0))
    canvas = ImageChops.screen(canvas, light)
    pen = ImageDraw.Draw(canvas)
    x, y, radius = width // 3 + height // 2, height // 2, height // 14
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill="#fff6d5")
    for ridge, colour in enumerate(("#b0546c", "#7a3b5e", "#45264a", "#1b1430")):
        pen.polygon([(0, height), *_ridge(ridge, width, height), (width, height)], fill=colour)
    return canvas


def _ridge(number: int, width: int, height: int) -> list[tuple[int, int]]:
    """The outline of one row of mountains, from left to right."""
    base, swing = height * (0.60 + 0.10 * number), height * 0.05
    waves = [(1.7 + number, 0.9 * number, 1.0), (5.3 + 2 * number, 2.0, 0.45), (23.0 + 7 * number, 4.0, 0.12)]

    def rise(x: int) -> float:
        turn = math.tau * x / width
        return sum(size * math.sin(speed * turn + shift) for speed, shift, size in waves)

    return [(x, round(base - swing * rise(x))) for x in range(0, width + 8, 8)]
