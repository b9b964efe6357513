"""Writes goldens/parts/log_mel.npz: features of a sound by transformers. It needs the environment of the goldens."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FILE = Path(__file__).parents[1] / "trainer" / "models" / "goldens" / "parts" / "log_mel.npz"
EVERY = 11
"""Frames from one that is kept to the next."""


def sound() -> np.ndarray:
    """2.7 seconds: a rising tone with some noise: int16 [samples]."""
    time = np.arange(43_211) / 16_000
    noise = np.random.default_rng(7).standard_normal(len(time))
    return np.rint(12_000 * np.sin(2 * np.pi * (90 + 1300 * time) * time) + 300 * noise * time).astype(np.int16)


def main() -> None:
    from transformers import WhisperFeatureExtractor

    # The path with NumPy, in float64: that with torch differs from it by 1.5e-5, because it is float32.
    samples = np.pad(sound() / np.float32(2**15), (0, 480_000 - len(sound())))[None]
    found = {
        str(bands): WhisperFeatureExtractor(feature_size=bands)._np_extract_fbank_features(samples, "cpu")[0].T[::EVERY]
        for bands in (80, 128)
    }
    np.savez_compressed(FILE, **{bands: array[:60] for bands, array in found.items()})


if __name__ == "__main__":
    main()
