"""Whether two runs of the same steps have the same bits, and what that costs: 20 steps of the 1B Llama with each
`trainer.determinism`.

Attention is that of ``auto``, with documents apart.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import jax
import numpy as np

from halcyon_api.spec.trainer import DETERMINISM
from tests.accelerator.measure import Options
from tests.accelerator.rows import Row
from tests.accelerator.training import LLAMA_1B, LLAMA_TINY, VOCABULARY, Training, same_bits, spec_of

STEPS = 20


def rows(options: Options) -> Iterator[Row]:
    """One row for each value of ``trainer.determinism``."""
    model, vocabulary = options.pick((LLAMA_1B, VOCABULARY), (LLAMA_TINY, 512))
    batch, length = options.pick((4, 8192), (2, 64))
    for determinism in DETERMINISM:
        training = Training(
            spec_of(model, f"trainer.determinism={determinism}", batch=batch, length=length), vocabulary
        )
        steps = options.pick(STEPS, 3)
        first, seconds, losses = training.run(training.initial(), steps, least=steps)
        kept = jax.tree.map(np.asarray, first.model)  # in the host's memory: two states may not fit
        del first
        second, _, again = training.run(training.initial(), steps, least=steps)
        yield {
            "determinism": determinism,
            "in effect": training.program.determinism_in_effect.determinism,
            "steps": steps,
            "equal losses": sum(one.tobytes() == other.tobytes() for one, other in zip(losses, again, strict=True)),
            "same parameters": same_bits(kept, jax.tree.map(np.asarray, second.model)),
            "step ms": statistics.median(seconds) * 1e3,
            "last loss": float(losses[-1]),
        }
        del second
