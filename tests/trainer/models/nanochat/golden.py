"""The tiny nanochat of `make.py`, with its weights in the form of the trainer."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np

from halcyon.models import CausalLM, build_model
from halcyon_api.spec.families.nanochat import NanochatSpec
from tests.arrays import load_arrays
from tests.trainer.models.nanochat.settings import GOLDEN, LENGTH, SIZES, VOCABULARY, WINDOW
from tests.trainer.models.reference import named_leaves

SPEC = NanochatSpec(
    depth=3, hidden_size=24, head_dim=4, num_key_value_heads=2, window_pattern="SL", sliding_window=WINDOW
)


@functools.cache
def arrays() -> dict[str, np.ndarray]:
    """The arrays of the file; see `make.py`."""
    return load_arrays(GOLDEN)


def model_of(kind: str) -> CausalLM:
    """The model with ``weight``, ``gradient`` or ``after`` in the places of its parameters."""
    build = functools.partial(
        build_model, SPEC, hax.Axis("vocab", VOCABULARY), hax.Axis("position", LENGTH), key=jax.random.key(0)
    )
    theirs = {name.removeprefix(f"{kind} "): array for name, array in arrays().items() if name.startswith(f"{kind} ")}
    return model_from(theirs, jax.eval_shape(build), SIZES["n_embd"] // SIZES["n_head"])


def model_from(theirs: Mapping[str, np.ndarray], shapes: CausalLM, head_size: int) -> CausalLM:
    """A model in float32 with arrays of the original.

    Args:
        theirs: An array for each parameter, by its name in the original.
        shapes: The shapes of the model.
        head_size: Features of a head.
    """
    found, wanted = _by_path(theirs, head_size), named_leaves(shapes)
    assert found.keys() == wanted.keys()
    leaves = [
        hax.named(jnp.asarray(found[path].reshape(leaf.array.shape), jnp.float32), leaf.axes)
        for path, leaf in wanted.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(shapes, is_leaf=lambda leaf: isinstance(leaf, hax.NamedArray)), leaves)


def _by_path(theirs: Mapping[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """The original's arrays by the paths of the trainer. A weight of the original has outputs before inputs."""
    depth = len(theirs["resid_lambdas"])
    found: dict[str, Any] = {
        "embedding/weight": theirs["transformer.wte.weight"],
        "smear/gate/weight": theirs["smear_gate.weight"].T,
        "smear/factor": theirs["smear_lambda"],
        "backout": theirs["backout_lambda"],
        "untied_head/weight": theirs["lm_head.weight"].T,
    }
    for form, parity in (("plain_blocks", depth % 2), ("valued_blocks", (depth - 1) % 2)):
        blocks = [block for block in range(depth) if block % 2 == parity]

        def stacked(name: str, blocks: list[int] = blocks) -> np.ndarray:
            return np.stack([theirs[f"transformer.h.{block}.{name}.weight"].T for block in blocks])

        found[f"{form}/residual_factor"] = theirs["resid_lambdas"][blocks]
        found[f"{form}/embedding_factor"] = theirs["x0_lambdas"][blocks]
        found[f"{form}/attention/query/weight"] = _turned(stacked("attn.c_q"), size)
        found[f"{form}/attention/key/weight"] = _turned(stacked("attn.c_k"), size)
        found[f"{form}/attention/value/weight"] = stacked("attn.c_v")
        found[f"{form}/attention/output/weight"] = stacked("attn.c_proj")
        found[f"{form}/mlp/up/weight"] = stacked("mlp.c_fc")
        found[f"{form}/mlp/down/weight"] = stacked("mlp.c_proj")
        if form == "valued_blocks":
            found[f"{form}/values/table/weight"] = np.stack(
                [theirs[f"value_embeds.{block}.weight"] for block in blocks]
            )
            found[f"{form}/values/gate/weight"] = stacked("attn.ve_gate")
    return found


def _turned(weight: np.ndarray, size: int) -> np.ndarray:
    """Exchange the two halves of each head: the original rotates by the negative angle."""
    heads = weight.reshape(*weight.shape[:-1], -1, 2, size // 2)
    return heads[..., ::-1, :].reshape(weight.shape)
