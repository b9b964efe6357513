"""Writes `golden.npz`: a tiny nanochat with random weights, computed by the original in float32.

The file has the weights by their names in the original, two rows of tokens and targets, the logits, the mean cross
entropy, its gradient of every weight, the weights after three optimizer steps on the same rows, and the rates, momenta
and weight decays of these steps.

It needs a checkout of the original (commit 92d63d4) and an environment with torch, which the project does not install:

    TORCHDYNAMO_DISABLE=1 NANOCHAT_DTYPE=float32 PYTHONPATH=CHECKOUT:. python -m tests.trainer.models.nanochat.make
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from nanochat.gpt import GPT, GPTConfig

from tests.trainer.models.nanochat.settings import GOLDEN, LENGTH, RATES, ROWS, SCHEDULE, SIZES, VOCABULARY, WINDOW


def main(path: Path = GOLDEN) -> None:
    """Compute and write the file."""
    noise = np.random.default_rng(7)
    model = _model(noise)
    tokens, targets = (torch.from_numpy(array) for array in noise.integers(0, VOCABULARY, (2, ROWS, LENGTH)))
    found: dict[str, Any] = {"tokens": tokens.numpy(), "targets": targets.numpy()}
    found |= {f"weight {name}": one.detach().numpy().astype(np.float16) for name, one in model.named_parameters()}
    found["logits"] = model(tokens).detach().numpy()
    optimizer = model.setup_optimizer(**RATES)
    for number, (factor, momentum, decay) in enumerate(SCHEDULE):
        model.zero_grad(set_to_none=True)
        loss = model(tokens, targets)
        loss.backward()
        if number == 0:
            found["loss"] = loss.detach().numpy()
            found |= {f"gradient {name}": one.grad.numpy().copy() for name, one in model.named_parameters()}
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
            if group["kind"] == "muon":
                group["momentum"], group["weight_decay"] = momentum, decay
        optimizer.step()
    found |= {f"after {name}": one.detach().numpy() for name, one in model.named_parameters()}
    np.savez_compressed(path, **found)


def _model(noise: np.random.Generator) -> Any:
    model = GPT(
        GPTConfig(sequence_len=LENGTH, vocab_size=VOCABULARY, window_pattern="SL", **SIZES), pad_vocab_size_to=1
    )
    model.init_weights()
    # The original's shortest window has 128 positions; (n, 0) is n positions before a token, and its own.
    model.window_sizes = [(WINDOW - 1, 0) if block == 0 else (-1, 0) for block in range(SIZES["n_layer"])]
    with torch.no_grad():
        for name, one in model.named_parameters():
            scale = 0.8 if "wte" in name or "value_embeds" in name else 0.3
            drawn = scale * noise.standard_normal(tuple(one.shape)) + (1.0 if "resid" in name else 0.0)
            one.copy_(torch.from_numpy(drawn.astype(np.float16).astype(np.float32)))
    return model


if __name__ == "__main__":
    main()
