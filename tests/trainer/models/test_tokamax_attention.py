"""The kernels of tokamax for GPUs: the Triton kernel's numbers in Pallas' interpreter, and what is in programs for each
generation.

The backward kernels of Mosaic GPU are in `test_gpu_gradients.py`; the forward kernel cannot be interpreted.
"""

from __future__ import annotations

import re
from collections import Counter

import haliax as hax
import jax
import jax.numpy as jnp
import pytest
from haliax import NamedArray

from halcyon.commands.programs.devices import described
from halcyon.commands.programs.gpus import GPUS
from halcyon.models.parts.attention import attention
from halcyon.models.parts.attention_choice import Target, attending
from halcyon.models.parts.masks import Causal, Segments, Window
from halcyon.models.remat import ATTENTION
from tests.trainer.models.gpus import interpreted_triton
from tests.trainer.models.test_attention_forms import Case, assert_equal_to_reference, computed

AMPERE = Target.of(GPUS["a100"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(24, 2, 2, 8, "segments", 9, None, True, "bfloat16", 8, 1), id="documents and sinks"),
        pytest.param(Case(130, 2, 1, 16, "window", 9, None, False, "bfloat16", 8, 2), id="window and wide values"),
        pytest.param(
            Case(40, 2, 3, 8, "causal", 9, None, True, "bfloat16", 8, 3), id="sinks", marks=pytest.mark.variant
        ),
        pytest.param(
            Case(200, 4, 1, 8, "segments", 9, None, False, "bfloat16", 8, 4), id="documents", marks=pytest.mark.variant
        ),
    ],
)
def test_the_triton_kernel_computes_what_the_reference_does(case: Case) -> None:
    with interpreted_triton():
        found = computed(case, "tokamax", attending("tokamax", AMPERE))
    assert_equal_to_reference(case, found)


def kernels(gpu: str) -> Counter[str]:
    """The custom calls of a gradient whose remat policy keeps attention, with documents apart and a window."""
    position, size = hax.Axis("position", 256), hax.Axis("head_size", 64)
    keys, batch = position.alias("key_position"), hax.Axis("batch", 2)
    heads, group = hax.Axis("kv_heads", 2), hax.Axis("q_heads_per_group", 2)
    query = hax.zeros((batch, position, heads, group, size), dtype=jnp.bfloat16)
    key, ids = hax.zeros((batch, keys, heads, size), dtype=jnp.bfloat16), hax.zeros((batch, position), dtype=jnp.int32)

    def loss(query: NamedArray, key: NamedArray, ids: NamedArray) -> jax.Array:
        def one(query: NamedArray, key: NamedArray) -> jax.Array:
            mask = Causal() & Window(100) & Segments(ids)
            out = attention(query, key, key, mask)
            return hax.sum(out.astype(jnp.float32)).scalar()

        return jax.checkpoint(one, policy=jax.checkpoint_policies.save_only_these_names(ATTENTION))(query, key)

    with attending("auto", Target.of(GPUS[gpu])), described(GPUS[gpu]):
        program = jax.jit(jax.grad(loss, (0, 1))).trace(query, key, ids).lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.while" not in program
    return Counter(re.findall(r'custom_call @"?([\w$.]+)', program))


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
@pytest.mark.parametrize(
    ("gpu", "call", "count"),
    [
        ("h100", "mosaic_gpu_v2", 3),
        ("b200", "mosaic_gpu_v2", 3),
        ("a100", "__gpu$xla.gpu.triton", 2),
        ("l4", "__gpu$xla.gpu.triton", 2),
    ],
)
def test_a_program_for_a_gpu_computes_the_forward_pass_once(gpu: str, call: str, count: int) -> None:
    """The backward pass is two kernels of Mosaic GPU, or one of Triton."""
    found = kernels(gpu)
    assert found[call] == count, found
