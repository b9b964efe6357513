"""Small models and batches."""

from __future__ import annotations

import functools
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from haliax import NamedArray

from halcyon.models import CausalLM, Inputs, build_model
from halcyon.models.parameters import Role, parameters
from halcyon.step.objectives.next_token import next_token_sums
from halcyon_api.spec.families.apertus import ApertusSpec
from halcyon_api.spec.families.backpack import BackpackSpec
from halcyon_api.spec.families.deepseek import DeepseekV3Spec, Glm4MoeSpec
from halcyon_api.spec.families.gemma import Gemma2Spec, Gemma3Spec, GemmaSpec
from halcyon_api.spec.families.gpt2 import Gpt2Spec
from halcyon_api.spec.families.gpt_oss import GptOssSpec
from halcyon_api.spec.families.hyena import HyenaSpec
from halcyon_api.spec.families.llama import LlamaSpec
from halcyon_api.spec.families.mistral import MistralSpec, MixtralSpec
from halcyon_api.spec.families.modernbert import ModernBertSpec
from halcyon_api.spec.families.nanochat import NanochatSpec
from halcyon_api.spec.families.olmo import Olmo2Spec, Olmo3Spec
from halcyon_api.spec.families.qwen import Qwen2Spec, Qwen3MoeSpec, Qwen3Spec
from halcyon_api.spec.families.qwen_next import Qwen3NextSpec
from halcyon_api.spec.families.section import ModelSection

VOCAB = hax.Axis("vocab", 24)
LENGTH = 12

LLAMA = LlamaSpec(
    num_hidden_layers=3, hidden_size=24, intermediate_size=40, num_attention_heads=6, num_key_value_heads=2
)
TIED_LLAMA = LlamaSpec(
    num_hidden_layers=2,
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=4,
    tie_word_embeddings=True,
    rope_theta=100.0,
)
GPT2 = Gpt2Spec(num_hidden_layers=3, hidden_size=24, num_attention_heads=4)
BACKPACK = BackpackSpec(
    num_hidden_layers=2, hidden_size=24, num_attention_heads=4, num_senses=3, sense_intermediate_scale=2
)
HYENA = HyenaSpec(num_hidden_layers=2, hidden_size=10, hyena_order=3, filter_order=6)
NORMS: Any = {"hybrid_norm": True, "input_embedding_norm": True}


def changed(spec: ModelSection, **fields: Any) -> ModelSection:
    """`spec` with some fields of its architecture replaced."""
    return type(spec).model_validate(spec.model_dump() | fields)


_SIZES: Any = {
    "num_hidden_layers": 3,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
_ROUTED: Any = {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 10, "n_shared_experts": 2}
_EXPERTS: Any = {
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 10,
    "decoder_sparse_step": 2,
    "mlp_only_layers": [3],
}
_LATENT: Any = {
    "num_key_value_heads": None,
    "kv_lora_rank": 13,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 6,
    "v_head_dim": 8,
}
_DELTA: Any = {
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 5,
    "linear_value_head_dim": 9,
}
_DELTA |= {"linear_conv_kernel_dim": 3}
FAMILIES = {
    "llama": LLAMA,
    "gpt2": GPT2,
    "llama-options": changed(LLAMA, head_dim=10, attention_bias=True, mlp_bias=True, hidden_act="relu2", **NORMS),
    "gpt2-options": changed(GPT2, tie_word_embeddings=False, scale_attn_by_inverse_layer_idx=True),
    "backpack": BACKPACK,
    "hyena": HYENA,
    "qwen2": Qwen2Spec(**_SIZES, use_sliding_window=True, max_window_layers=1, sliding_window=5),
    "qwen3": Qwen3Spec(**_SIZES, head_dim=6, attention_bias=True),
    "mistral": MistralSpec(**_SIZES, sliding_window=5),
    "gemma": GemmaSpec(**_SIZES, attention_bias=True),
    "gemma2": Gemma2Spec(**_SIZES, sliding_window=5, tie_word_embeddings=False),
    "gemma3": Gemma3Spec(**_SIZES | {"num_hidden_layers": 8}, sliding_window=5),
    "olmo2": Olmo2Spec(**_SIZES, attention_bias=True),
    "olmo3": Olmo3Spec(**_SIZES | {"num_hidden_layers": 6}, sliding_window=5),
    "mixtral": MixtralSpec(**_SIZES, num_local_experts=4, sliding_window=5),
    "qwen3-moe": Qwen3MoeSpec(**_SIZES | {"num_hidden_layers": 5}, **_EXPERTS, attention_bias=True),
    "gpt-oss": GptOssSpec(**_SIZES, num_local_experts=4, num_experts_per_tok=2, sliding_window=5),
    "deepseek-v3": DeepseekV3Spec(**_SIZES | _LATENT, **_ROUTED, q_lora_rank=9, n_group=4, topk_group=2),
    "deepseek-v3-no-rank": DeepseekV3Spec(**_SIZES | _LATENT | {"v_head_dim": 4}, **_ROUTED),
    "deepseek-v3-biases": DeepseekV3Spec(**_SIZES | _LATENT, **_ROUTED, q_lora_rank=9, attention_bias=True),
    "glm4-moe": Glm4MoeSpec(**_SIZES, **_ROUTED, head_dim=8, attention_bias=True, use_qk_norm=True),
    "apertus": ApertusSpec(**_SIZES, attention_bias=True),
    "apertus-relu2": ApertusSpec(**_SIZES, hidden_act="relu2"),
    "qwen3-next": Qwen3NextSpec(
        **_SIZES | {"num_hidden_layers": 6},
        **_DELTA,
        **_EXPERTS,
        shared_expert_intermediate_size=14,
        attention_bias=True,
    ),
    "nanochat": NanochatSpec(
        depth=5, hidden_size=24, head_dim=4, num_key_value_heads=2, window_pattern="SL", sliding_window=5
    ),
    "qwen3.5": Qwen3NextSpec(**_SIZES | {"num_hidden_layers": 5}, **_DELTA, num_experts=0),
}
"""A small model of every family, some with options; between them, each number that a shape depends on."""
MODERNBERT = ModernBertSpec(
    num_hidden_layers=5, hidden_size=24, intermediate_size=40, num_attention_heads=6, local_attention=5
)
"""An encoder: it neither generates text nor predicts the next token."""
WITH_CACHE = {name: spec for name, spec in FAMILIES.items() if name != "hyena"}
EVERY_FAMILY = pytest.mark.parametrize("spec", [*FAMILIES.values(), MODERNBERT], ids=[*FAMILIES, "modernbert"])
_WITH_OTHER_PARTS = (
    "llama-options",
    "gpt2-options",
    "gemma2",
    "olmo3",
    "qwen3-moe",
    "gpt-oss",
    "deepseek-v3",
    "nanochat",
)
EVERY_PART = pytest.mark.parametrize(
    "spec",
    [
        pytest.param(spec, id=name, marks=() if name in _WITH_OTHER_PARTS else pytest.mark.variant)
        for name, spec in FAMILIES.items()
    ],
)
"""Every family. Those whose parts others have too are further cases."""

ARCHITECTURES = pytest.mark.parametrize("spec", [LLAMA, TIED_LLAMA, GPT2], ids=["llama", "tied-llama", "gpt2"])
_REFERENCES = {
    "llama": LLAMA,
    "tied-llama": TIED_LLAMA,
    "llama-norms": changed(TIED_LLAMA, **NORMS),
    "gpt2": GPT2,
    "backpack": BACKPACK,
    "hyena": HYENA,
}
WITH_REFERENCE = pytest.mark.parametrize("spec", _REFERENCES.values(), ids=_REFERENCES)
"""The models that `tests.trainer.models.reference` computes too."""


def roles(model: Any) -> Any:
    """`model` with a `Role` in the place of each array."""
    return jax.tree.map(lambda one: one.role, parameters(model))


def shapes(spec: ModelSection, vocab: hax.Axis = VOCAB, length: int = LENGTH, dtype: str = "float32") -> CausalLM:
    """The shapes and types of the model."""
    build = functools.partial(
        build_model, spec, vocab, hax.Axis("position", length), dtype=dtype, key=jax.random.key(0)
    )
    return jax.eval_shape(build)


@functools.cache
def make(spec: ModelSection, length: int = LENGTH, dtype: str = "float32") -> CausalLM:
    """A model with random parameters, also in norms and biases, so that each affects the result.

    It needs no compilation.
    """
    noise = np.random.default_rng(1)
    with_numbers = {
        Role.MATRIX: lambda shape: 0.3 * noise.standard_normal(shape),
        Role.HEAD: lambda shape: 0.3 * noise.standard_normal(shape),
        Role.EMBEDDING: lambda shape: 0.3 * noise.standard_normal(shape),
        Role.NORM: lambda shape: 1.0 + 0.1 * noise.standard_normal(shape),
        Role.BIAS: lambda shape: 0.1 * noise.standard_normal(shape),
        Role.ROUTER: lambda shape: 0.3 * noise.standard_normal(shape),
        Role.CONVOLUTION: lambda shape: 0.3 * noise.standard_normal(shape),
        Role.EXPERT: lambda shape: 0.3 * noise.standard_normal(shape),
    }
    model = shapes(spec, length=length, dtype=dtype)
    return jax.tree.map(
        lambda role, leaf: hax.named(jnp.asarray(with_numbers[role](leaf.array.shape), leaf.dtype), leaf.axis_names),
        roles(model),
        model,
    )


def batch(rows: int = 4, length: int = LENGTH) -> tuple[NamedArray, NamedArray, NamedArray, NamedArray]:
    """Random tokens, targets, weights (some are 0) and two segments a row; each is [batch, position]."""
    noise = np.random.default_rng(2)
    tokens, targets = noise.integers(0, VOCAB.size, (2, rows, length), np.int32)
    weights = (noise.random((rows, length)) * (noise.random((rows, length)) > 0.2)).astype(np.float32)
    segments = (np.arange(length) >= noise.integers(1, length, (rows, 1))).astype(np.int32)
    return named(tokens), named(targets), named(weights), named(segments)


def named(array: np.ndarray) -> NamedArray:
    """The array with the axis names batch and position."""
    return hax.named(array, ("batch", "position"))


@jax.jit
def logits(model: CausalLM, tokens: NamedArray, segments: NamedArray | None = None) -> jax.Array:
    """Logits, [batch, position, vocab]."""
    return model.logits(model(Inputs(tokens, segments=segments)).features).array


@functools.partial(jax.value_and_grad, has_aux=True)
def loss_and_gradient(
    model: CausalLM,
    tokens: NamedArray,
    targets: NamedArray,
    weights: NamedArray,
    segments: NamedArray,
    *,
    dtype: str = "float32",
) -> tuple[jax.Array, jax.Array]:
    """((sum of weighted losses, sum of weights), gradient)."""
    total, weight, *_ = next_token_sums(model, Inputs(tokens, segments=segments), targets, weights, compute_dtype=dtype)
    return total, weight


losses = jax.jit(loss_and_gradient, static_argnames="dtype", compiler_options={"xla_backend_optimization_level": "0"})
"""Compiled without optimisation, which halves the time."""
