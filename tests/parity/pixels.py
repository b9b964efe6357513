"""Writes goldens/parts/pixels.npz: images as transformers prepares them for Gemma 3. It needs the environment of the
goldens, with Pillow."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

FILE = Path(__file__).parents[1] / "trainer" / "models" / "goldens" / "parts" / "pixels.npz"
SIDE = 16
CASES = {"wide": ("RGB", (37, 23)), "small": ("RGB", (5, 9)), "clear": ("RGBA", (20, 30)), "grey": ("L", (64, 8))}


def file_of(name: str) -> bytes:
    """A png file."""
    mode, (width, height) = CASES[name]
    colours = {"RGB": (3,), "RGBA": (4,), "L": ()}[mode]
    noise = np.random.default_rng(len(name)).integers(0, 256, (height, width, *colours)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise, mode).save(buffer, "PNG")
    return buffer.getvalue()


def main() -> None:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    prepare = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    images = {name: Image.open(io.BytesIO(file_of(name))).convert("RGB") for name in CASES}
    found = {name: prepare(image, return_tensors="np")["pixel_values"][0] for name, image in images.items()}
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    main()
