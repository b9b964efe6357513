"""Writes goldens/parts/pixels.npz: images as transformers prepares them for Gemma 3 and Qwen 2.5-VL. It needs the environment of the
goldens, with Pillow."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

FILE = Path(__file__).parents[1] / "trainer" / "models" / "goldens" / "parts" / "pixels.npz"
SIDE = 16
CASES = {"wide": ("RGB", (37, 23)), "small": ("RGB", (5, 9)), "clear": ("RGBA", (20, 30)), "grey": ("L", (64, 8))}
SQUARES = {"larger": ("RGB", (40, 40)), "smaller": ("RGB", (6, 6))}


def file_of(name: str) -> bytes:
    """A png file."""
    mode, (width, height) = (CASES | SQUARES)[name]
    colours = {"RGB": (3,), "RGBA": (4,), "L": ()}[mode]
    noise = np.random.default_rng(len(name)).integers(0, 256, (height, width, *colours)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise, mode).save(buffer, "PNG")
    return buffer.getvalue()


def main() -> None:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    prepare = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    images = {name: Image.open(io.BytesIO(file_of(name))).convert("RGB") for name in CASES | SQUARES}
    found = {name: prepare(images[name], return_tensors="np")["pixel_values"][0] for name in CASES}
    area, half = {"shortest_edge": SIDE**2, "longest_edge": SIDE**2}, [0.5] * 3
    squares = Qwen2VLImageProcessorPil(patch_size=SIDE, merge_size=1, size=area, image_mean=half, image_std=half)
    for name in SQUARES:  # one patch of two frames
        patch = squares(images[name], return_tensors="np")["pixel_values"]
        found[name] = patch.reshape(3, 2, SIDE, SIDE)[:, 0]
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    main()
