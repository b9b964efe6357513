"""Arrays of the files that tests compare with."""

from pathlib import Path

import numpy as np

__all__ = ["load_arrays"]


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file, which is closed at once."""
    with np.load(path) as file:
        return dict(file)
