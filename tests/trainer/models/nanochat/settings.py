"""The settings of the tiny nanochat of `make.py`. This file needs neither torch nor JAX."""

from __future__ import annotations

from pathlib import Path

GOLDEN = Path(__file__).parent / "golden.npz"

ROWS, LENGTH, VOCABULARY, WINDOW = 2, 12, 40, 5
SIZES = {"n_layer": 3, "n_head": 6, "n_kv_head": 2, "n_embd": 24}
RATES = {"unembedding_lr": 0.008, "embedding_lr": 0.3, "matrix_lr": 0.02, "scalar_lr": 0.5}
"""The settings of the original's optimizer. Rates of AdamW are multiplied by sqrt(768 / width) there."""
SCHEDULE = ((0.5, 0.85, 0.28), (1.0, 0.91, 0.2), (0.7, 0.97, 0.07))
"""For each step the factor of all rates, and the momentum and the weight decay of matrices."""
