"""Writes the goldens: tiny random models of every family, computed by transformers in float32.

Each file NAME.npz has the config.json, the weights by their names in the files of Hugging Face, the shape of each
tensor that transformers saves, by the name that it gives the tensor, two rows of tokens, and what transformers computes
of them: logits, and the gradient of the summed cross entropy with respect to every weight. The first row is one
document, longer than every window. The second has two documents and padding; each document is computed alone, so the
golden depends on no mask of segments.

It needs an environment with transformers 5.23 and torch, which the project does not install:

    uv venv goldens && uv pip install --python goldens torch transformers==5.23.0
    goldens/bin/python -m tests.trainer.models.goldens.make [CASE...]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open

from tests.parity.rows import DOCUMENTS, LENGTH
from tests.parity.transformers_models import (
    computed,
    fill,
    gradients,
    greedy,
    images,
    large_images,
    new_model,
    sees,
    sounds,
    weights_of,
    with_images,
)
from tests.parity.weights import in_files
from tests.trainer.models.goldens.cases import CASES, FREQUENCIES, VOCABULARY

HERE = Path(__file__).parent

CONSTANTS = ("act_fn.beta", "act_fn.eps")
"""Ends of the names of buffers that files have with the value of the model."""


def saved(model: Any) -> dict[str, list[int]]:
    """The shapes of the tensors in the files that transformers writes, by name."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with safe_open(Path(folder) / "model.safetensors", "np") as file:
            return {name: file.get_slice(name).get_shape() for name in sorted(file.keys())}


def golden(kind: str, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of one file."""
    model = new_model(kind, settings)
    noise = np.random.default_rng(1)
    constants = {
        name: value.numpy().astype(np.float16) for name, value in model.named_buffers() if name.endswith(CONSTANTS)
    }
    weights = fill(model, noise, np.float16, offset=kind.startswith(("gemma", "qwen3_next", "qwen3_5")))
    tokens, targets = noise.integers(0, VOCABULARY, (2, len(DOCUMENTS), LENGTH))
    if sees(model.config):
        tokens = with_images(model.config, tokens)
    found = computed(model, tokens, targets)
    of_weights = gradients(weights_of(model))
    names = in_files(kind, saved(model)) if sees(model.config) else saved(model)
    document = {"architectures": [type(model).__name__], **model.config.to_dict()}
    return {
        "config": np.frombuffer(json.dumps(document, default=str).encode(), np.uint8),
        "saved": np.frombuffer(json.dumps(names).encode(), np.uint8),
        **found,
        **({"sound": sounds(model.config), "greedy": greedy(model, tokens)} if model.config.is_encoder_decoder else {}),
        **({"images": images(model.config), **large_images(model)} if sees(model.config) else {}),
        **{f"weight {name}": value for name, value in in_files(kind, weights | constants).items()},
        **{f"gradient {name}": value for name, value in in_files(kind, of_weights).items()},
    }


def frequencies() -> dict[str, np.ndarray]:
    """The rotary frequencies of `FREQUENCIES`, each with the factor of rotated queries and keys."""
    found: dict[str, np.ndarray] = {}
    for name, (head_size, rope) in FREQUENCIES.items():
        config = transformers.LlamaConfig(
            hidden_size=2 * head_size,
            num_attention_heads=2,
            head_dim=head_size,
            max_position_embeddings=131_072,
            rope_parameters=dict(rope),
        )
        turns, factor = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS[rope["rope_type"]](
            config, torch.device("cpu")
        )
        settings = {"head_size": head_size, **rope}
        found |= {
            f"settings {name}": np.frombuffer(json.dumps(settings).encode(), np.uint8),
            f"turns {name}": turns.numpy(),
            f"factor {name}": np.float32(factor),
        }
    return found


def norms() -> dict[str, np.ndarray]:
    """Inputs in bfloat16, weights, and the outputs of the norms of several families, as float32."""
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
    from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    noise = np.random.default_rng(2)
    x = torch.from_numpy(noise.standard_normal((64, 48))).to(torch.bfloat16)
    weight = torch.from_numpy(0.3 * noise.standard_normal(48)).to(torch.bfloat16)
    found = {"x": x.float().numpy(), "weight": weight.float().numpy()}
    for name, kind in (("rounded", Qwen3RMSNorm), ("wide", Olmo2RMSNorm), ("offset", Gemma2RMSNorm)):
        norm = kind(48, eps=1e-6).to(torch.bfloat16)
        with torch.no_grad():
            norm.weight.copy_(weight)
            found[name] = norm(x).float().numpy()
    return found


def main(names: list[str]) -> None:
    """Write the goldens of the named cases, or of all."""
    if not names:
        np.savez_compressed(HERE / "parts" / "frequencies.npz", **frequencies())
        np.savez_compressed(HERE / "parts" / "norms.npz", **norms())
    for name in names or CASES:
        arrays = golden(*CASES[name])
        np.savez_compressed(HERE / f"{name}.npz", **arrays)
        sys.stdout.write(f"{name}: loss {arrays['loss']:.4f}, transformers {transformers.__version__}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
