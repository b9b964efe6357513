"""Writes the goldens of models with labels: tiny random ones, computed by ``ForSequenceClassification`` of transformers.

Each file classifiers/NAME.npz has the config.json, the weights, rows of padded tokens with their lengths and labels,
and what transformers computes: logits, the loss, and the gradient of the loss with respect to every weight. See make.py
for the environment:

    goldens/bin/python -m tests.trainer.models.goldens.make_classifiers
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

HERE = Path(__file__).parent / "classifiers"
LENGTHS, LENGTH = (14, 9, 4), 14
LABELS = ("bad", "so so", "good")
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3-window-tied": {},
    "gemma2": {},
    "gemma3": {},
    "mixtral": {},
    "modernbert": {"classifier_pooling": "cls"},
    "modernbert-untied": {"classifier_pooling": "mean"},
}


def golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of one file."""
    kind, settings = CASES[name]
    named = {str(number): label for number, label in enumerate(LABELS)}
    entries = {**settings, **MODELS[name], "id2label": named, "label2id": {two: int(one) for one, two in named.items()}}
    config = transformers.AutoConfig.for_model(kind, **json.loads(json.dumps(entries | {"pad_token_id": 0})))
    config._attn_implementation = config._experts_implementation = "eager"
    model = transformers.AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    model = model.to(torch.float32)
    noise = np.random.default_rng(1)
    weights = fill(model, noise, np.float16, offset=kind.startswith("gemma"))
    tokens = noise.integers(1, VOCABULARY, (len(LENGTHS), LENGTH))
    mask = np.arange(LENGTH) < np.array(LENGTHS)[:, None]
    labels = noise.integers(0, len(LABELS), len(LENGTHS))
    found = model(
        input_ids=torch.from_numpy(tokens * mask),
        attention_mask=torch.from_numpy(mask.astype(np.int64)),
        labels=torch.from_numpy(labels),
    )
    found.loss.backward()
    document = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    return {
        "config": np.frombuffer(json.dumps(document, default=str).encode(), np.uint8),
        "tokens": (tokens * mask).astype(np.int32),
        "lengths": np.array(LENGTHS, np.int32),
        "labels": labels.astype(np.int32),
        "logits": found.logits.detach().numpy(),
        "loss": found.loss.detach().numpy(),
        **{f"weight {one}": value for one, value in in_files(kind, weights).items()},
        **{f"gradient {one}": value for one, value in in_files(kind, gradients(weights_of(model))).items()},
    }


if __name__ == "__main__":
    for one in MODELS:
        np.savez_compressed(HERE / f"{one}.npz", **golden(one))
