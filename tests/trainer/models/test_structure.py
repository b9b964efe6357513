"""The parameters of a model: their roles, their number, and their FLOPs."""

from typing import Any

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.models import build_model, flops_per_token, parameter_count
from halcyon.models.parameters import PRODUCTS, Parameter, Role, parameters
from halcyon_api.spec.families.deepseek import DeepseekV3Spec
from halcyon_api.spec.families.gemma import Gemma2Spec, Gemma3Spec, GemmaSpec
from halcyon_api.spec.families.gpt2 import Gpt2Spec
from halcyon_api.spec.families.gpt_oss import GptOssSpec
from halcyon_api.spec.families.llama import LlamaSpec
from halcyon_api.spec.families.mistral import MistralSpec, MixtralSpec
from halcyon_api.spec.families.modernbert import ModernBertSpec
from halcyon_api.spec.families.olmo import Olmo2Spec
from halcyon_api.spec.families.qwen import Qwen2Spec, Qwen3MoeSpec, Qwen3Spec
from tests.trainer.models.cases import (
    ARCHITECTURES,
    EVERY_FAMILY,
    FAMILIES,
    GPT2,
    LENGTH,
    LLAMA,
    MODERNBERT,
    VOCAB,
    batch,
    changed,
    losses,
    make,
    roles,
    shapes,
)
from tests.trainer.models.reference import named_leaves


def sizes_of(layers: int, width: int, mlp: int, heads: int, kv_heads: int) -> Any:
    """The sizes by their names in config.json."""
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    return dict(zip(names, (layers, width, mlp, heads, kv_heads), strict=True))


def test_parameter_count_is_the_closed_form():
    h, m, layers, kv = 24, 40, 3, 8
    block = 2 * h * h + 2 * h * kv + 3 * h * m + 2 * h
    assert parameter_count(make(LLAMA)) == layers * block + 2 * VOCAB.size * h + h
    assert parameter_count(make(changed(LLAMA, tie_word_embeddings=True))) == layers * block + VOCAB.size * h + h
    block = 4 * (h * h + h) + 2 * 4 * h * h + 4 * h + h + 4 * h
    assert parameter_count(make(GPT2)) == layers * block + VOCAB.size * h + LENGTH * h + 2 * h


def idle_parameters(model, experts=None):
    """Parameters of experts that a token does not go to: of these `experts` parameters.

    Default: those of all experts.
    """
    by_path = named_leaves(model)
    if experts is None:
        experts = sum(leaf.array.size for path, leaf in by_path.items() if "mlp/experts/" in path)
    if not experts:
        return 0
    count = next(leaf for path, leaf in by_path.items() if "mlp/experts/" in path).resolve_axis("experts").size
    return experts * (count - model.design.mixture.routing.experts_per_token) // count


ODD_SIZES = [
    changed(spec, num_hidden_layers=1, hidden_size=96, num_attention_heads=12, intermediate_size=7)
    for spec in (LLAMA, GPT2)
]


@pytest.mark.parametrize(
    "spec",
    [*FAMILIES.values(), MODERNBERT, *ODD_SIZES],
    ids=[*FAMILIES, "modernbert", "llama-odd", "gpt2-odd"],
)
def test_the_shape_of_a_section_is_that_of_the_built_model(spec):
    model = shapes(spec, hax.Axis("vocab", 37), 11)
    shape = spec.shape(37, 11)
    assert parameter_count(model) == shape.parameters
    assert shape.active_parameters == shape.parameters - idle_parameters(model)
    if getattr(model, "blocks", None) is not None and getattr(model, "dense_blocks", None) is None:
        assert parameter_count(model.blocks) == shape.blocks * shape.block_parameters
    assert model.embed.size == shape.width


PUBLISHED = {
    "llama-2-7b": (
        LlamaSpec(num_hidden_layers=32, hidden_size=4096, intermediate_size=11008, num_attention_heads=32),
        32_000,
        6_738_415_616,
    ),
    "gpt2": (Gpt2Spec(), 50_257, 124_439_808),
    "qwen2.5-0.5b": (
        Qwen2Spec(**sizes_of(24, 896, 4864, 14, 2), tie_word_embeddings=True),
        151_936,
        494_032_768,
    ),
    "qwen3-0.6b": (
        Qwen3Spec(**sizes_of(28, 1024, 3072, 16, 8), head_dim=128, tie_word_embeddings=True),
        151_936,
        596_049_920,
    ),
    "mistral-7b": (MistralSpec(**sizes_of(32, 4096, 14336, 32, 8)), 32_000, 7_241_732_096),
    "gemma-2b": (GemmaSpec(**sizes_of(18, 2048, 16384, 8, 1), head_dim=256), 256_000, 2_506_172_416),
    "gemma-2-2b": (
        Gemma2Spec(**sizes_of(26, 2304, 9216, 8, 4), head_dim=256),
        256_000,
        2_614_341_888,
    ),
    "gemma-3-1b": (Gemma3Spec(**sizes_of(26, 1152, 6912, 4, 1), head_dim=256), 262_144, 999_885_952),
    "mixtral-8x7b": (MixtralSpec(**sizes_of(32, 4096, 14336, 32, 8)), 32_000, 46_702_792_704),
    "qwen3-30b-a3b": (
        Qwen3MoeSpec(**sizes_of(48, 2048, 6144, 32, 4), head_dim=128),
        151_936,
        30_532_122_624,
    ),
    "gpt-oss-20b": (
        GptOssSpec(**sizes_of(24, 2880, 2880, 64, 8), head_dim=64, num_local_experts=32),
        201_088,
        20_914_757_184,
    ),
    "deepseek-v3": (
        DeepseekV3Spec(
            **sizes_of(61, 7168, 18432, 128, 128),
            q_lora_rank=1536,
            n_routed_experts=256,
            moe_intermediate_size=2048,
            first_k_dense_replace=3,
            n_group=8,
            topk_group=4,
        ),
        129_280,
        671_026_419_200,
    ),
    "modernbert-base": (ModernBertSpec(), 50_368, 149_655_232),
    "olmo-2-7b": (Olmo2Spec(**sizes_of(32, 4096, 11008, 32, 32)), 100_352, 7_298_617_344),
}
"""The vocabulary and the number of parameters of published models."""


@pytest.mark.parametrize(("spec", "vocab", "expected"), PUBLISHED.values(), ids=PUBLISHED)
def test_parameter_count_of_published_models(spec, vocab, expected):
    assert spec.shape(vocab, 1024).parameters == expected
    if spec.family in ("llama", "gpt2"):  # the other counts equal that of the built model, see above
        assert parameter_count(shapes(spec, hax.Axis("vocab", vocab), 1024)) == expected


@ARCHITECTURES
def test_flops_per_token_agree_with_the_compiler(spec):
    """XLA counts slightly more FLOPs for one block's gradient and never fewer, because it also counts softmax, norms
    and masks.
    """
    wide = changed(spec, num_hidden_layers=1, hidden_size=96, num_attention_heads=6, intermediate_size=256)
    rows, length = 4, 64
    model = shapes(wide, length=length)
    compiled = losses.lower(model, *batch(rows, length)).cost_analysis()["flops"]
    counted = flops_per_token(wide, length, VOCAB.size) * rows * length
    assert 1.0 <= compiled / counted < 1.15


def test_flops_per_token_match_a_calculation_by_hand():
    """GPT-2 small at length 1024: 6 × 123.5 M weights of matrix products + 12 × 12 × 768 × 1024 for attention (PaLM,
    appendix B).
    """
    weights = 12 * 12 * 768**2 + 768 * 50_257
    assert flops_per_token(Gpt2Spec(), 1024, 50_257) == 6 * weights + 12 * 12 * 768 * 1024


@EVERY_FAMILY
def test_the_counted_products_are_those_that_a_token_passes_through(spec):
    model = shapes(spec)
    leaves = zip(named_leaves(model).items(), jax.tree.leaves(roles(model)), strict=True)
    sizes = {path: (leaf.array.size, role) for (path, leaf), role in leaves}
    weights = sum(size for size, role in sizes.values() if role in PRODUCTS)
    experts = sum(size for size, role in sizes.values() if role is Role.EXPERT)
    tied = "untied_head/weight" not in sizes
    expected = weights - idle_parameters(model, experts) + tied * model.embed.size * VOCAB.size
    assert spec.shape(VOCAB.size, LENGTH).product_weights == expected


ATTENTION = {
    "llama": (3 * 6 * (4 + 4), 0, 0),
    "gpt2": (3 * 4 * (6 + 6), 0, 0),
    "llama-options": (3 * 6 * (10 + 10), 0, 0),
    "qwen2": (1 * 6 * (4 + 4), 2 * 6 * (4 + 4), 0),
    "mistral": (0, 3 * 6 * (4 + 4), 0),
    "gemma2": (1 * 6 * (4 + 4), 2 * 6 * (4 + 4), 0),
    "gemma3": (1 * 6 * (4 + 4), 7 * 6 * (4 + 4), 0),
    "olmo3": (1 * 6 * (4 + 4), 5 * 6 * (4 + 4), 0),
    "mixtral": (0, 3 * 6 * (4 + 4), 0),
    "qwen3-moe": (5 * 6 * (4 + 4), 0, 0),
    "gpt-oss": (1 * 6 * (4 + 4), 2 * 6 * (4 + 4), 0),
    "deepseek-v3": (3 * 6 * (10 + 8), 0, 0),
    "deepseek-v3-no-rank": (3 * 6 * (10 + 4), 0, 0),
    "glm4-moe": (3 * 6 * (8 + 8), 0, 0),
    "nanochat": (3 * 6 * (4 + 4), 2 * 6 * (4 + 4), 0),
    "qwen3-next": (1 * 6 * (8 + 8), 0, 5 * 3 * 6 * 5 * 9),
    "qwen3.5": (1 * 6 * (8 + 8), 0, 4 * 3 * 6 * 5 * 9),
}
"""Multiplications of a query with one position in layers that see the whole sequence, and in those that see 5
positions: layers, times heads, times the features of a head's queries and of its values. Then those of a position with
states: layers, times 3, times heads, times the features of a head's keys, times those of its values."""


@pytest.mark.parametrize("name", ATTENTION)
def test_flops_of_attention_match_a_calculation_by_hand(name):
    spec, (everywhere, in_window, states) = FAMILIES[name], ATTENTION[name]
    products = spec.shape(VOCAB.size, LENGTH).product_weights
    for length in (3, LENGTH):
        by_hand = products + everywhere * length + in_window * min(5, length) + states
        assert flops_per_token(spec, length, VOCAB.size) == 6 * by_hand


def test_an_odd_number_of_multiplications_is_counted():
    """Latent attention with one layer and one head: 3 + 2 features of queries and 4 of values."""
    sizes = {"hidden_size": 8, "qk_nope_head_dim": 3, "qk_rope_head_dim": 2, "v_head_dim": 4}
    spec = DeepseekV3Spec(num_hidden_layers=1, num_attention_heads=1, **sizes)
    assert flops_per_token(spec, 16, 32) - flops_per_token(spec, 8, 32) == 6 * (5 + 4) * 8


@ARCHITECTURES
def test_every_leaf_is_an_array(spec):
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(make(spec)))


@EVERY_FAMILY
def test_roles_say_what_a_parameter_is_for(spec):
    model = shapes(spec)
    by_path = dict(zip(named_leaves(model), jax.tree.leaves(roles(model)), strict=True))
    expected = {
        path: Role.EMBEDDING
        if path in ("embedding/weight", "positions/weight") or "values/table/" in path
        else Role.NORM
        if "norm" in path
        else Role.BIAS
        if path.endswith(
            ("bias", "sinks", "correction", "positive", "negative", "log_decay", "decay_shift", "factor", "backout")
        )
        else Role.CONVOLUTION
        if "_convolution/" in path and not path.endswith("bias")
        else Role.HEAD
        if path.startswith("untied_head")
        else Role.ROUTER
        if path.endswith("router/weight")
        else Role.EXPERT
        if "/experts/" in path
        else Role.MATRIX
        for path in by_path
    }
    assert by_path == expected
    assert {Role.MATRIX, Role.EMBEDDING} <= set(by_path.values())
    assert Role.NORM in by_path.values() or spec.family == "nanochat", "its norms have no weights"


@EVERY_FAMILY
def test_two_loads_of_a_model_have_equal_trees(spec):
    """JAX compiles a program once for equal trees."""
    assert jax.tree.structure(shapes(spec)) == jax.tree.structure(shapes(spec))


def test_inputs_and_outputs_of_parameters_are_those_of_their_maps():
    model = make(LLAMA)
    axes = {axis.name: axis for leaf in named_leaves(model).values() for axis in leaf.axes}
    embed, heads = axes["embed"], (axes["kv_heads"], axes["q_heads_per_group"], axes["head_size"])
    found = parameters(model)
    assert found.blocks.stacked.attention.query.weight == Parameter(Role.MATRIX, (embed,), heads, (axes["layers"],))
    assert found.blocks.stacked.attention.output.weight == Parameter(Role.MATRIX, heads, (embed,), (axes["layers"],))
    assert found.blocks.stacked.mlp_norm.weight == Parameter(Role.NORM, (), (embed,), (axes["layers"],))
    assert found.embedding.weight == Parameter(Role.EMBEDDING, (axes["vocab"],), (embed,), ())
    assert found.untied_head.weight == Parameter(Role.HEAD, (embed,), (axes["vocab"],), ())


def test_a_parameter_without_a_role_is_refused():
    class Bare(eqx.Module):
        weight: hax.NamedArray

    with pytest.raises(TypeError, match=r"the parameter Bare\.weight has no role"):
        roles(Bare(hax.zeros(VOCAB)))


@ARCHITECTURES
def test_the_initial_distribution_is_that_of_the_spec(spec):
    wide = changed(spec, hidden_size=96, num_attention_heads=6, intermediate_size=512, initializer_range=0.05)
    leaves = named_leaves(
        jax.jit(lambda: build_model(wide, hax.Axis("vocab", 512), hax.Axis("position", 256), key=jax.random.key(0)))()
    )
    for path, leaf in leaves.items():
        values = np.asarray(leaf.array)
        if "norm" in path and path.endswith("weight"):
            assert (values == 1).all(), path
        elif path.endswith("bias"):
            assert (values == 0).all(), path
        else:
            into_stream = spec.family == "gpt2" and ("output" in path or "mlp/down" in path)
            std = 0.05 / np.sqrt(2 * wide.num_hidden_layers) if into_stream else 0.05
            assert values.std() == pytest.approx(std, rel=0.03), path
            assert abs(values.mean()) < 0.03 * std + 3 * std / np.sqrt(values.size), path
    drawn = [
        np.asarray(leaf.array).ravel()[:50]
        for path, leaf in leaves.items()
        if "norm" not in path and not path.endswith("bias")
    ]
    assert len({array.tobytes() for array in drawn}) == len(drawn)
    for path, leaf in leaves.items():
        if path.startswith("blocks/mlp") and "norm" not in path and path.endswith("weight"):
            assert len({layer.tobytes() for layer in np.asarray(leaf.array)}) == wide.num_hidden_layers, path


@ARCHITECTURES
def test_parameters_have_the_wanted_type(spec):
    assert {leaf.dtype for leaf in jax.tree.leaves(make(spec, dtype="bfloat16"))} == {jnp.dtype("bfloat16")}


@ARCHITECTURES
def test_compilation_does_not_grow_with_depth(spec):
    def operations(layers: int) -> int:
        return losses.lower(shapes(changed(spec, num_hidden_layers=layers)), *batch()).as_text().count("stablehlo.")

    assert operations(2) == operations(9)
