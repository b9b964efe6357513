"""The layout of weights: which bits of which tensor are which parameter, and which section a config.json says."""

from __future__ import annotations

import equinox as eqx
import haliax as hax
import jax
import numpy as np
import pytest

from halcyon.host.errors import BadConfiguration
from halcyon.models import build_model
from halcyon.models.axes import POSITION, VOCAB
from halcyon.models.families.lookup import published_of_config, published_of_section
from halcyon.models.published.config import ConfigReader
from halcyon.models.published.tensors import Join, Tensor, Tensors, piece, tensor
from halcyon.weights.layout import FileTensor, WeightLayout, leaf_shapes
from halcyon_api.spec.families.apertus import ApertusSpec
from halcyon_api.spec.families.backpack import BackpackSpec
from halcyon_api.spec.families.deepseek import Glm4MoeSpec
from halcyon_api.spec.families.gpt2 import Gpt2Spec
from halcyon_api.spec.families.llama import LlamaSpec
from halcyon_api.spec.families.rope import RopeScaling
from halcyon_api.spec.families.section import ModelSection
from tests.trainer.models.cases import FAMILIES, changed

LLAMA = LlamaSpec(num_hidden_layers=2, hidden_size=8, intermediate_size=6, num_attention_heads=4, num_key_value_heads=2)
TIED = LlamaSpec(
    num_hidden_layers=2,
    hidden_size=8,
    intermediate_size=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
GPT2 = Gpt2Spec(num_hidden_layers=2, hidden_size=8, intermediate_size=6, num_attention_heads=2)
BACKPACK = BackpackSpec(num_hidden_layers=2, hidden_size=8, intermediate_size=6, num_attention_heads=2, num_senses=2)
APERTUS = ApertusSpec(num_hidden_layers=2, hidden_size=8, intermediate_size=6, num_attention_heads=2)
GLM = Glm4MoeSpec(
    num_hidden_layers=2,
    hidden_size=8,
    intermediate_size=6,
    num_attention_heads=2,
    n_routed_experts=2,
    num_experts_per_tok=1,
    moe_intermediate_size=6,
)
TOKENS, PADDED, POSITIONS = 10, 12, 5


def layout_of(spec: ModelSection, sizes: dict[str, int]) -> WeightLayout:
    shapes = eqx.filter_eval_shape(
        build_model, spec, hax.Axis(VOCAB, PADDED), hax.Axis(POSITION, POSITIONS), key=jax.random.key(0)
    )
    return WeightLayout(published_of_section(spec).tensors(spec), leaf_shapes(shapes), sizes)


def numbered(layout: WeightLayout) -> dict[str, np.ndarray]:
    """Parameters whose elements are all different."""
    made, first = {}, 0
    for leaf in layout.leaves.values():
        size = int(np.prod(leaf.shape))
        made[leaf.path] = np.arange(first, first + size, dtype=np.float32).reshape(leaf.shape)
        first += size
    return made


def in_file(layout: WeightLayout, parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: one.values(lambda path, region: parameters[path][region]) for name, one in layout.tensors.items()}


def whole(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(0, size) for size in shape)


@pytest.mark.parametrize("spec", [LLAMA, TIED, GPT2, BACKPACK], ids=["llama", "tied", "gpt2", "backpack"])
def test_reading_is_the_inverse_of_writing_for_every_region(spec: ModelSection) -> None:
    layout = layout_of(spec, {VOCAB: TOKENS})
    parameters = numbered(layout)
    tensors = in_file(layout, parameters)
    layout.check({name: one.shape for name, one in tensors.items()})
    random = np.random.default_rng(1)
    for path, values in parameters.items():
        expected = values.copy()
        leaf = layout.leaves[path]
        expected[tuple(slice(TOKENS, None) if name == VOCAB else slice(None) for name in leaf.axes)] *= (
            VOCAB not in leaf.axes
        )
        for number in range(8):
            bounds = [sorted(random.choice(size + 1, 2, replace=False)) for size in values.shape]
            region = whole(values.shape) if number == 0 else tuple(slice(int(low), int(high)) for low, high in bounds)
            read = layout.read(path, region, lambda name, start, stop: tensors[name][start:stop])
            assert np.array_equal(read, expected[region]), path


def test_a_region_reads_only_the_rows_that_it_needs() -> None:
    layout = layout_of(LLAMA, {})
    tensors = in_file(layout, numbered(layout))
    asked: list[tuple[str, int, int]] = []

    def rows(name: str, start: int, stop: int) -> np.ndarray:
        asked.append((name, start, stop))
        return tensors[name][start:stop]

    layout.read(
        "blocks.stacked.attention.query.weight", (slice(1, 2), slice(0, 8), slice(1, 2), slice(0, 2), slice(0, 2)), rows
    )
    assert asked == [("model.layers.1.self_attn.q_proj.weight", 4, 8)]


def test_llama_has_the_tensors_of_its_published_files() -> None:
    layout = layout_of(LLAMA, {VOCAB: TOKENS})
    parameters = numbered(layout)
    tensors = in_file(layout, parameters)
    query = parameters["blocks.stacked.attention.query.weight"][1]  # embed, kv_heads, q_heads_per_group, head_size
    assert np.array_equal(tensors["model.layers.1.self_attn.q_proj.weight"], query.reshape(8, 8).T)
    output = parameters["blocks.stacked.attention.output.weight"][0]
    assert np.array_equal(tensors["model.layers.0.self_attn.o_proj.weight"], output.reshape(8, 8).T)
    assert np.array_equal(tensors["lm_head.weight"], parameters["untied_head.weight"].T[:TOKENS])
    assert tensors["model.layers.0.self_attn.k_proj.weight"].shape == (4, 8)
    assert [*layout.tensors][:2] == ["lm_head.weight", "model.embed_tokens.weight"]
    assert layout.canonical("model.layers.0.self_attn.rotary_emb.inv_freq") is None


def test_gpt2_joins_query_key_and_value() -> None:
    layout = layout_of(GPT2, {})
    parameters = numbered(layout)
    tensors = in_file(layout, parameters)
    fused = [
        parameters[f"blocks.stacked.attention.{name}.weight"][1].reshape(8, 8) for name in ("query", "key", "value")
    ]
    assert np.array_equal(tensors["transformer.h.1.attn.c_attn.weight"], np.concatenate(fused, 1))
    biases = [parameters[f"blocks.stacked.attention.{name}.bias"][0].reshape(8) for name in ("query", "key", "value")]
    assert np.array_equal(tensors["transformer.h.0.attn.c_attn.bias"], np.concatenate(biases))
    assert layout.canonical("h.1.mlp.c_fc.weight") == "transformer.h.1.mlp.c_fc.weight"
    assert layout.canonical("h.1.attn.bias") is None


@pytest.mark.parametrize("within", [0, 1, 2])
def test_pieces_are_joined_within_any_number_of_shared_axes(within: int) -> None:
    """Within 2 axes, the pieces alternate, as gate and up do in the fused experts of gpt-oss."""
    leaves = tuple(
        leaf
        for name in "ab"
        for leaf in leaf_shapes({name: hax.zeros((hax.Axis("in", 3), hax.Axis("heads", 2), hax.Axis("size", 4)))})
    )
    pieces = tuple(piece(name, ("heads", "size"), "in") for name in "ab")
    layout = WeightLayout(Tensors((Tensor("ab", pieces, Join(0, within)),)), leaves)
    parameters = numbered(layout)
    a, b = (parameters[name].transpose(1, 2, 0) for name in "ab")  # heads, size, in
    expected = [np.concatenate((a, b), 0), np.concatenate((a, b), 1), np.stack((a, b), 2)][within].reshape(16, 3)
    tensors = in_file(layout, parameters)
    assert np.array_equal(tensors["ab"], expected)
    for name in "ab":
        region = (slice(1, 3), slice(1, 2), slice(0, 4))
        read = layout.read(name, region, lambda tensor, start, stop: tensors[tensor][start:stop])
        assert np.array_equal(read, parameters[name][region])


def test_experts_patterns_and_another_order_of_features() -> None:
    """A kind of block in a pattern has every second layer; the file has another order of an axis."""
    axes = (hax.Axis("layers", 2), hax.Axis("experts", 3), hax.Axis("embed", 2), hax.Axis("head_size", 4))
    leaves = leaf_shapes({"w": hax.zeros(axes)})
    name = "layers.{layers}.experts.{experts}.w"
    halves = {
        "head_size": lambda size: np.arange(size).reshape(size // 2, 2).T.reshape(-1)
    }  # the file alternates the two halves
    declared = Tensor(name, (piece("w", "head_size", "embed", orders=halves),), numbers={"layers": range(1, 4, 2)})
    layout = WeightLayout(Tensors((declared,)), leaves)
    parameters = numbered(layout)
    tensors = in_file(layout, parameters)
    assert [*tensors] == [f"layers.{layer}.experts.{expert}.w" for layer in (1, 3) for expert in range(3)]
    ours = parameters["w"][1, 2].T
    assert np.array_equal(tensors["layers.3.experts.2.w"], ours[[0, 2, 1, 3]])
    region = (slice(1, 2), slice(1, 3), slice(0, 2), slice(1, 3))
    assert np.array_equal(
        layout.read("w", region, lambda one, start, stop: tensors[one][start:stop]), parameters["w"][region]
    )


def test_constants_are_written_and_another_value_is_rejected() -> None:
    layout = layout_of(APERTUS, {})
    names = [f"model.layers.{layer}.mlp.act_fn.{name}" for layer in (0, 1) for name in ("beta", "eps")]
    tensors = in_file(layout, numbered(layout))
    assert [tensors[name].tolist() for name in names] == [0.5, pytest.approx(-1e-6)] * 2
    shapes = {name: one.shape for name, one in tensors.items()}
    assert {shapes[name] for name in names} == {()}
    layout.check(
        {name: shape for name, shape in shapes.items() if name not in names}
    )  # as in exports of former versions

    def rows(name: str, start: int, stop: int) -> np.ndarray:
        return tensors[name].reshape(1)[start:stop].astype(np.float16)

    layout.check_constants(tensors, rows)
    tensors[names[2]] = np.float32(0.6)
    with pytest.raises(
        BadConfiguration, match=r"model\.layers\.1\.mlp\.act_fn\.beta is 0\.6\d* in the files, but .* only with 0\.5"
    ):
        layout.check_constants(tensors, rows)


def test_layers_that_predict_further_tokens_are_not_read_and_other_layers_are_refused() -> None:
    layout = layout_of(GLM, {})
    norm, projection = "model.layers.2.input_layernorm.weight", "model.layers.2.eh_proj.weight"
    assert [layout.canonical(name, {norm, projection}) for name in (norm, projection)] == [None, None]
    for name in (norm, "model.layers.1.eh_proj.weight"):
        with pytest.raises(
            BadConfiguration, match="is no part of this model"
        ):  # num_hidden_layers is less than the files have
            layout.canonical(name, {name})


def test_a_declaration_that_does_not_cover_the_model_is_a_mistake() -> None:
    leaves = leaf_shapes({"w": hax.zeros((hax.Axis("embed", 2),)), "v": hax.zeros((hax.Axis("embed", 2),))})
    with pytest.raises(TypeError, match="no tensor holds the parameter v"):
        WeightLayout(Tensors((tensor("w", "w", "embed"),)), leaves)
    with pytest.raises(TypeError, match="which the model does not have"):
        WeightLayout(Tensors((tensor("u", "u", "embed"),)), leaves)
    with pytest.raises(TypeError, match="has the axes"):
        WeightLayout(Tensors((tensor("w", "w", "mlp"), tensor("v", "v", "embed"))), leaves)


def test_a_tensor_of_another_shape_one_too_few_and_one_too_many_are_named() -> None:
    layout = layout_of(LLAMA, {VOCAB: TOKENS})
    shapes = {name: one.shape for name, one in layout.tensors.items()}
    with pytest.raises(
        BadConfiguration, match=r"model.norm.weight has the shape \[9\] in the files, and \[8\] by the configuration"
    ):
        layout.check({**shapes, "model.norm.weight": (9,)})
    del shapes["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(BadConfiguration, match=r"no tensor model.layers.1.mlp.up_proj.weight"):
        layout.check(shapes)
    with pytest.raises(BadConfiguration, match=r"model.layers.0.self_attn.q_proj.bias is no part of this model"):
        layout.canonical("model.layers.0.self_attn.q_proj.bias")


def test_backpack_has_the_tensors_of_levanter() -> None:
    layout = layout_of(BACKPACK, {})
    parameters = numbered(layout)
    tensors = in_file(layout, parameters)
    joined = [parameters[f"senses.attention.{name}.weight"].reshape(8, 8).T for name in ("query", "key")]
    assert np.array_equal(tensors["backpack.sense_weight_net.c_attn.weight"], np.concatenate(joined))
    down = parameters["senses.sense_mlp.down.weight"]
    assert np.array_equal(tensors["backpack.sense_network.final_mlp.c_proj.weight"], down.reshape(32, 16))
    assert {name.rpartition(".")[0] for name in tensors if ".h." not in name} == {
        *(f"backpack.gpt2_model.{name}" for name in ("wte", "wpe", "ln_f")),
        *(f"backpack.sense_network.{name}" for name in ("ln", "final_mlp.c_fc", "final_mlp.c_proj")),
        *(f"backpack.sense_network.block.{name}" for name in ("ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")),
        "backpack.sense_weight_net.c_attn",
    }
    assert layout.canonical("backpack.word_embeddings.weight") is None


@pytest.mark.parametrize("spec", [LLAMA, TIED, GPT2, BACKPACK], ids=["llama", "tied", "gpt2", "backpack"])
def test_a_config_says_the_same_section(spec: ModelSection) -> None:
    form = published_of_section(spec)
    written = {"architectures": list(form.architectures), **form.write(spec, POSITIONS)}
    config = ConfigReader(written)
    assert published_of_config(config) is form
    assert form.read(config).shape(64, 5) == spec.shape(64, 5)
    assert config.integer(form.positions) == POSITIONS


def test_both_forms_of_rope_are_read() -> None:
    form = published_of_section(LLAMA)
    written = form.write(LLAMA.model_copy(update={"rope_theta": 500_000.0}), POSITIONS)
    former = {name: value for name, value in written.items() if name != "rope_parameters"}
    new = {name: value for name, value in written.items() if name not in ("rope_theta", "rope_scaling")}
    assert form.read(ConfigReader(former)).rope_theta == form.read(ConfigReader(new)).rope_theta == 500_000.0
    with pytest.raises(BadConfiguration, match="rope_type is dynamic"):
        form.read(ConfigReader({**former, "rope_scaling": {"type": "dynamic", "factor": 2.0}}))


def test_scaled_rotary_positions_are_written_with_all_entries_that_transformers_requires() -> None:
    scaling = RopeScaling(rope_type="llama3", factor=8.0, original_max_position_embeddings=8192)
    form = published_of_section(LLAMA)
    written = form.write(LLAMA.model_copy(update={"rope_scaling": scaling}), POSITIONS)
    expected = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    assert written["rope_parameters"].items() >= expected.items()
    assert written["rope_scaling"].items() >= expected.items()


def test_an_unknown_architecture_names_the_nearest() -> None:
    with pytest.raises(
        BadConfiguration, match=r"architectures names LlamoForCausalLM.*nearest that it has is LlamaForCausalLM"
    ):
        published_of_config(ConfigReader({"architectures": ["LlamoForCausalLM"]}))


@pytest.mark.parametrize(
    ("config", "nearest"),
    [
        ({"architectures": ["PhiForCausalLM"], "partial_rotary_factor": 0.4}, "LlamaForCausalLM"),
        ({"architectures": ["Phi3ForCausalLM"], "sliding_window": 2047}, "MistralForCausalLM"),
        (
            {"architectures": ["PhiMoEForCausalLM"], "num_local_experts": 16, "sliding_window": 2047},
            "MixtralForCausalLM",
        ),
        (
            {"architectures": ["DeepseekV2ForCausalLM"], "kv_lora_rank": 512, "n_routed_experts": 64},
            "DeepseekV3ForCausalLM",
        ),
        ({"architectures": ["KimiForCausalLM"], "kv_lora_rank": 512, "n_routed_experts": 64}, "DeepseekV3ForCausalLM"),
        ({"architectures": ["GPTBigCodeForCausalLM"], "n_embd": 2048}, "GPT2LMHeadModel"),
        ({"architectures": ["XForConditionalGeneration"], "text_config": {"num_experts": 8}}, "Qwen3MoeForCausalLM"),
        ({"architectures": ["Qwen22ForCausalLM"], "sliding_window": 4096}, "Qwen2ForCausalLM"),
        ({"architectures": ["GptOsssForCausalLM"], "num_local_experts": 32}, "GptOssForCausalLM"),
        ({"model_type": "phi", "num_experts": None}, "llama"),
        ({"model_type": "olmoe", "num_experts": 64}, "qwen3_moe"),
        ({"model_type": "mixtrall"}, "mixtral"),
    ],
)
def test_the_nearest_architecture_has_the_same_parts(config: dict[str, object], nearest: str) -> None:
    """Not the one whose name has the most letters in common, unless a few letters make the difference."""
    with pytest.raises(BadConfiguration, match=f"the nearest that it has is {nearest}, and all are "):
        published_of_config(ConfigReader(config))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden_act": "tanh"}, 'hidden_act is "tanh", but Halcyon computes this model only with "silu" or "gelu"'),
        ({"hidden_size": "8"}, 'hidden_size is "8", not an integer'),
        ({"num_hidden_layers": None}, "config.json has no num_hidden_layers"),
    ],
)
def test_a_config_that_cannot_be_computed_is_rejected(changed: dict[str, object], message: str) -> None:
    form = published_of_section(LLAMA)
    with pytest.raises(BadConfiguration, match=message):
        form.read(ConfigReader({**form.write(LLAMA, POSITIONS), **changed}))


def test_an_export_keeps_the_factor_of_the_router_losses() -> None:
    section = changed(GLM, router_aux_loss_coef=0.0)
    form = published_of_section(section)
    assert form.read(ConfigReader(form.write(section, POSITIONS))).router_aux_loss_coef == 0.0


def test_the_bytes_of_a_tensor_are_known_before_it_is_read() -> None:
    one = layout_of(LLAMA, {VOCAB: TOKENS}).tensors["lm_head.weight"]
    assert isinstance(one, FileTensor)
    assert one.size_bytes == TOKENS * 8 * 4


@pytest.mark.parametrize("experts", [0, 6])
@pytest.mark.parametrize("fused", [False, True])
def test_a_gated_delta_net_is_exported_in_the_form_that_fused_projections_names(fused: bool, experts: int) -> None:
    """The files of Qwen3-Next have two projections fused by head, those of Qwen 3.5 have four; a reader finds the field
    again.
    """
    spec = changed(FAMILIES["qwen3.5"], fused_projections=fused, num_experts=experts, num_experts_per_tok=3)
    form = published_of_section(spec)
    expected = {
        (True, 0): "qwen3_next",
        (True, 6): "qwen3_next",
        (False, 0): "qwen3_5_text",
        (False, 6): "qwen3_5_moe_text",
    }
    assert form.model_type == expected[fused, experts]
    projections = {
        name.split(".linear_attn.")[1]
        for name in layout_of(spec, {VOCAB: TOKENS}).tensors
        if ".linear_attn.in_proj" in name
    }
    parts = ("qkvz", "ba") if fused else ("qkv", "z", "b", "a")
    assert projections == {f"in_proj_{part}.weight" for part in parts}
    read = form.read(ConfigReader(form.write(spec, POSITIONS) | {"intermediate_size": 40}))
    assert (read.fused_projections, read.num_experts) == (fused, experts)


def test_a_llama_with_further_norms_has_no_form() -> None:
    with pytest.raises(BadConfiguration, match="family llama with these fields"):
        published_of_section(LLAMA.model_copy(update={"hybrid_norm": True}))
