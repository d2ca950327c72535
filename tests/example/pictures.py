"""Files that visitors send: good pictures, and what pretends to be one."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

from example_project.blur_o_matic import picture

ORIENTATION, MAKE = 0x0112, 0x010F


def photo(width: int = 90, height: int = 60, kind: str = "JPEG", **options: object) -> bytes:
    """A landscape of that size."""
    return encoded(picture.draw(width, height), kind, **options)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def of_a_camera() -> bytes:
    """Held upright: stored lying on its side, with the camera's notes."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[MAKE] = "A camera"
    return photo(exif=exif)


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of some bytes that says it is huge."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    )
