"""Writes the goldens of vectors of texts: tiny random models of transformers, and the loss of sentence-transformers.

Each file embedders/NAME.npz has the config.json, the weights, rows of padded texts with their lengths, their vectors,
and the loss of ``MultipleNegativesRankingLoss`` with its gradient with respect to every weight. See make.py for the
environment:

    goldens/bin/python -m tests.trainer.models.goldens.make_embedders
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from tests.parity.transformers_models import fill, gradients, weights_of
from tests.parity.weights import in_files
from tests.trainer.models.goldens.cases import CASES, VOCABULARY

HERE = Path(__file__).parent / "embedders"
LENGTHS = ((5, 9, 3), (1, 6, 8), (7, 2, 4), (4, 5, 5))
"""Of the query, of its text, and of one that does not belong to it."""
SCALE = 20.0
MODELS = {"llama": "last", "modernbert-untied": "mean", "modernbert": "cls"}


def loss_of(vectors: Any) -> Any:
    """The formula of sentence-transformers (Henderson et al. 2017, section 4.4), of vectors [row, text, embed]."""
    rows = torch.nn.functional.normalize(vectors, dim=-1)
    candidates = torch.cat([rows[:, text] for text in range(1, rows.shape[1])])
    scores = SCALE * rows[:, 0] @ candidates.T
    return torch.nn.functional.cross_entropy(scores, torch.arange(len(rows))), scores


def golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of one file."""
    kind, settings = CASES[name]
    config = transformers.AutoConfig.for_model(kind, **json.loads(json.dumps(settings | {"pad_token_id": 0})))
    config._attn_implementation = "eager"
    of = transformers.AutoModelForMaskedLM if MODELS[name] != "last" else transformers.AutoModelForCausalLM
    model = of.from_config(config, attn_implementation="eager").to(torch.float32).eval()
    noise, lengths = np.random.default_rng(1), np.array(LENGTHS).reshape(-1)
    weights = fill(model, noise, np.float16, offset=False)
    mask = np.arange(lengths.max()) < lengths[:, None]
    tokens = noise.integers(1, VOCABULARY, mask.shape) * mask
    there = torch.from_numpy(mask.astype(np.int64))
    found = model.model(input_ids=torch.from_numpy(tokens), attention_mask=there).last_hidden_state
    last = found[torch.arange(len(lengths)), torch.from_numpy(lengths) - 1]
    mean = (found * there[..., None]).sum(1) / there.sum(1, keepdim=True)
    vectors = {"last": last, "mean": mean, "cls": found[:, 0]}[MODELS[name]]
    loss, scores = loss_of(vectors.reshape(*np.shape(LENGTHS), -1))
    loss.backward()
    document = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    return {
        "config": np.frombuffer(json.dumps(document, default=str).encode(), np.uint8),
        "pooling": np.array(MODELS[name]),
        "tokens": tokens.astype(np.int32).reshape(*np.shape(LENGTHS), -1),
        "lengths": np.array(LENGTHS, np.int32),
        "vectors": vectors.detach().numpy(),
        "right": (scores.argmax(1) == torch.arange(len(scores))).sum().numpy(),
        "loss": loss.detach().numpy(),
        **{f"weight {one}": value for one, value in in_files(kind, weights).items()},
        **{f"gradient {one}": value for one, value in in_files(kind, gradients(weights_of(model))).items()},
    }


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for one in MODELS:
        np.savez_compressed(HERE / f"{one}.npz", **golden(one))
