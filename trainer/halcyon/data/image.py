"""Images as a model sees them: squares of pixels.

A file is decoded by Pillow, a package of its own, turned as its EXIF data says, and resized to a square by Pillow, as
the slow image processors of transformers do: bilinear for Gemma 3, bicubic for Qwen. Pixels are whole numbers, so what
a model sees is a function of the cached numbers.
"""

import base64
import io
from typing import Any

import numpy as np

from halcyon.data.named_files import BadFile
from halcyon.host.errors import BadConfiguration
from halcyon_api.package import missing

MOST_BYTES = 32 * 2**20
"""Largest file."""
MOST_PIXELS = 40 * 10**6
"""Most pixels of a file."""
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_INLINE = "data:"


def inline(value: Any) -> Any:
    """The bytes of a ``data:`` URI; any other value as it is.

    Raises:
        BadFile: It is such a URI without an image in base64.
    """
    if not isinstance(value, str) or not value.startswith(_INLINE):
        return value
    head, _, body = value.partition(",")
    try:
        if head.startswith(f"{_INLINE}image/") and head.endswith(";base64"):
            return base64.b64decode(body, validate=True)
    except ValueError:
        pass
    raise BadFile("is no data: URI of an image in base64", "write it as data:image/png;base64,...")


def pixels(content: bytes, side: int, *, cubic: bool = False) -> np.ndarray:
    """The pixels of a file: uint8 [side, side, 3].

    Args:
        content: The bytes of a png, jpeg, webp, gif or bmp file.
        side: Pixels of a side.
        cubic: See `ImageShape`.

    Raises:
        BadFile: It is no such file, or above a limit. Above it, nothing is decoded.
        BadConfiguration: Pillow is not there.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise BadConfiguration(f"images need a decoder: {missing('PIL')}") from None
    if len(content) > MOST_BYTES:
        raise BadFile(f"has {len(content):,} bytes; the limit is {MOST_BYTES:,}", "make it smaller")
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if (count := image.width * image.height) > MOST_PIXELS:
                raise BadFile(f"has {count:,} pixels; the limit is {MOST_PIXELS:,}", "make it smaller")
            turned = ImageOps.exif_transpose(image).convert("RGB")
            how = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
            return np.asarray(turned.resize((side, side), how))
    except BadFile:
        raise
    except Exception:  # a decoder raises anything for a stranger's file
        raise BadFile("is no image that can be read", "give a png, jpeg, webp, gif or bmp file") from None
