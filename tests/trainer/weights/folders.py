"""Folders with tiny models, written with the library ``safetensors``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from halcyon.checkpoint.opening import entry_of
from halcyon.host.storage.store import Store
from halcyon.weights.creating import import_model
from halcyon.weights.exporting import export_model
from halcyon.weights.root import stored_model
from halcyon.weights.safetensors import TensorFiles
from halcyon_api.checkpoint_documents import CommittedStep, Owner
from halcyon_api.spec.checkpoint import CheckpointSpec

OWNER = Owner(namespace="default", name="base")

GOLDENS = Path(__file__).parent / "goldens"
CASES = ("llama", "llama-tied", "qwen3", "gpt2")

WIDTH, MLP, HEADS, KV_HEADS, LAYERS, TOKENS, POSITIONS = 8, 12, 4, 2, 2, 70, 32
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": POSITIONS,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "vocab_size": TOKENS,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
}


def llama_tensors(
    dtype: Any = np.float32, seed: int = 0, *, width: int = WIDTH, mlp: int = MLP, tokens: int = TOKENS
) -> dict[str, np.ndarray]:
    """Random tensors of the model of `CONFIG`, with the names and shapes of published files."""
    keys = width // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (tokens, width),
        "model.norm.weight": (width,),
        "lm_head.weight": (tokens, width),
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.input_layernorm.weight": (width,),
            f"{at}.self_attn.q_proj.weight": (width, width),
            f"{at}.self_attn.k_proj.weight": (keys, width),
            f"{at}.self_attn.v_proj.weight": (keys, width),
            f"{at}.self_attn.o_proj.weight": (width, width),
            f"{at}.post_attention_layernorm.weight": (width,),
            f"{at}.mlp.gate_proj.weight": (mlp, width),
            f"{at}.mlp.up_proj.weight": (mlp, width),
            f"{at}.mlp.down_proj.weight": (width, mlp),
        }
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape).astype(jnp.dtype(dtype)) for name, shape in shapes.items()}


def write_folder(
    folder: Path, tensors: dict[str, np.ndarray], whole: dict[str, Any] | None = None, **config: Any
) -> Path:
    """A folder with one safetensors file and a config.json: `whole`, or that of the tiny Llama with changes."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config} if whole is None else whole))
    return folder


def imported(folder: Path, root: Path, **options: Any) -> CommittedStep:
    """Import a folder into a root."""
    return import_model(store_of(folder), store_of(root), owner=OWNER, clock=1e9, **options)


def exported(root: Path, folder: Path, **options: Any) -> dict[str, np.ndarray]:
    """Export the newest checkpoint of a root, and read the tensors of the folder."""
    store = store_of(root)
    export_model(stored_model(store, entry_of(store, None)), store_of(folder), **options)
    return tensors_of(folder)


def store_of(folder: Path) -> Store:
    return Store(CheckpointSpec(root=f"file://{folder}"))


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a folder, read with the library."""
    from safetensors import safe_open

    found: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "numpy") as opened:
            assert opened.metadata() == {"format": "pt"}
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
    return found


def same_bits(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].tobytes() == other[name].tobytes()
        for name in one
    )


def bytes_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the bytes of each read of rows of a tensor, from now on."""
    found: list[int] = []
    rows = TensorFiles.rows

    def counted(files: TensorFiles, name: str, start: int, stop: int) -> np.ndarray:
        values = rows(files, name, start, stop)
        found.append(values.nbytes)
        return values

    monkeypatch.setattr(TensorFiles, "rows", counted)
    return found
