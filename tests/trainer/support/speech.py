"""Sounds and a small Whisper, for tests of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

WHISPER: dict[str, Any] = {
    "family": "whisper",
    "numHiddenLayers": 2,
    "encoderLayers": 2,
    "hiddenSize": 32,
    "numAttentionHeads": 4,
    "numMelBins": 16,
    "maxSourcePositions": 10,
}
KINDS = (("wav", 16_000), ("flac", 8000), ("mp3", 22_050))


def tone(rate: int, hertz: float, seconds: float = 0.15, channels: int = 1) -> np.ndarray:
    """float32 [samples, channels]."""
    time = np.arange(int(rate * seconds), dtype=np.float64) / rate
    return np.repeat((0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)[:, None], channels, 1)


def clips(folder: Path, count: int = 24) -> dict[str, Any]:
    """A source of `spec.data.sources` with this number of sounds of several kinds, each with a word."""
    (folder / "clips").mkdir(parents=True)
    rows: list[str] = []
    for number in range(count):
        ending, rate = KINDS[number % 3]
        name = f"clips/{number}.{ending}"
        soundfile.write(folder / name, tone(rate, 200 + 100 * (number % 4)), rate)
        rows.append(json.dumps({"audio": name, "text": ("one", "two", "three", "four")[number % 4]}))
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    return {"name": "clips", "jsonl": {"paths": [str(folder / "rows.jsonl")]}, "format": {"speech": {}}}
