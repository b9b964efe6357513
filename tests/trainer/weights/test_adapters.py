"""Adapters in checkpoints and in the files of peft, and what a run takes from weights: all of them, a part, and rows of
new tokens.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import halcyon
from halcyon.checkpoint.arrays import COUNT_PATH, EMA_PREFIX
from halcyon.checkpoint.creating import create_checkpoint
from halcyon.checkpoint.layout import Leaf, flatten
from halcyon.checkpoint.opening import entry_of
from halcyon.host.errors import BadConfiguration
from halcyon.models import CausalLM
from halcyon.models.adapters import merged, trained_with_adapter, with_adapter
from halcyon.step.state import initial_state
from halcyon.weights.creating import import_model
from halcyon.weights.exporting import export_model, template_note
from halcyon.weights.peft import adapter_config, export_adapter
from halcyon.weights.reading import weights_of_checkpoint
from halcyon.weights.root import stored_model
from halcyon_api.checkpoint_documents import ManifestLeaf
from halcyon_api.spec.adapter import AdapterSpec, LoraSpec
from tests.trainer.run.test_beginning import begun, origin_of, spec_of
from tests.trainer.weights.folders import GOLDENS, OWNER, TOKENS, llama_tensors, store_of, tensors_of, write_folder


def checkpoint(
    base: Path, root: Path, *, whole: bool = False, averaged: bool = False, **lora: Any
) -> tuple[Any, CausalLM]:
    """A checkpoint of a run that trained an adapter of a folder's model, and that model. Every factor has random
    numbers.

    Args:
        base: The folder.
        root: The root of the run.
        whole: Whether it has a whole state, not only a model.
        averaged: Whether it has a moving average of all parameters, which is then returned in the place of the model.
        lora: Fields of ``spec.adapter.lora``.
    """
    model, _ = halcyon.load(f"hf:{base}")
    noise = np.random.default_rng(5)
    spec = LoraSpec(rank=2, **lora)
    model = with_adapter(model, spec, jax.random.key(0))
    model = jax.tree.map(
        lambda leaf, flag: (
            jax.tree.map(lambda x: x + 0.1 * noise.standard_normal(x.shape).astype(np.float32), leaf) if flag else leaf
        ),
        model,
        trained_with_adapter(model),
        is_leaf=lambda node: hasattr(node, "axis_names"),
    )
    import_model(store_of(base), store_of(root.with_name("plain")), owner=OWNER, clock=1e9)
    plain = store_of(root.with_name("plain"))
    known = stored_model(plain, entry_of(plain, None))
    leaves = {f"model.{leaf.path}": leaf for leaf in flatten(model)}
    if whole:
        leaves["step"] = Leaf("step", np.int32(7), None)
    if averaged:
        model = jax.tree.map(lambda x: x + 0.1 * noise.standard_normal(x.shape).astype(np.float32), model)
        leaves |= {f"{EMA_PREFIX}{leaf.path}": leaf for leaf in flatten(model)}
        leaves[COUNT_PATH] = Leaf(COUNT_PATH, np.int32(3), None)
    described = [
        ManifestLeaf(path=path, shape=one.shape, dtype=one.dtype.name, axes=one.axes, chunk_shape=one.shape)
        for path, one in leaves.items()
    ]
    entry = create_checkpoint(
        store_of(root),
        described,
        lambda leaf, region: np.asarray(leaves[leaf.path].value)[region],
        owner=OWNER,
        documents={"spec.model": known.spec.document(), "spec.adapter": AdapterSpec(lora=spec).document(), "data": {}},
        vocabulary=known.tokens,
        positions=known.positions,
        time="2001-09-09T01:46:40Z",
    )
    return stored_model(store_of(root), entry, weights="average" if averaged else "model"), model


def difference(one: CausalLM, other: CausalLM) -> float:
    here, there = ({leaf.path: np.asarray(leaf.value) for leaf in flatten(model)} for model in (one, other))
    assert here.keys() == there.keys()
    return max(float(np.abs(here[path] - there[path]).max()) for path in here)


@pytest.mark.parametrize(
    ("name", "lora"),
    [("llama", {}), ("qwen3", {"dora": True, "rs_lora": True}), ("gpt2", {"targets": ["*.query.*", "*.value.*",
    "*.output.*"]}),
     pytest.param("gpt2", {"dora": True, "targets": ["*.key.*", "*.output.*"]}, marks=pytest.mark.variant)],
)  # fmt: skip
def test_merged_exports_and_files_of_peft_hold_the_same_model(tmp_path: Path, name: str, lora: dict[str, Any]) -> None:
    """Three ways to the same weights: merged in memory, merged on export, and the adapter's files added to the base."""
    base = GOLDENS / name
    stored, model = checkpoint(base, tmp_path / "root", **lora)
    wanted = merged(model)
    export_model(stored, store_of(tmp_path / "model"))
    whole, _ = halcyon.load(f"hf:{tmp_path / 'model'}")
    assert difference(whole, wanted) <= 1e-6
    assert difference(halcyon.load(f"{tmp_path / 'root'}")[0], wanted) <= 1e-6
    export_adapter(stored, store_of(tmp_path / "adapter"))
    import_model(
        store_of(base), store_of(tmp_path / "again"), owner=OWNER, adapter=store_of(tmp_path / "adapter"), clock=1e9
    )
    assert difference(halcyon.load(f"{tmp_path / 'again'}")[0], wanted) <= 1e-6


@pytest.mark.parametrize("lora", [{}, pytest.param({"dora": True}, marks=pytest.mark.variant)], ids=["plain", "dora"])
def test_an_average_of_a_run_with_an_adapter_is_exported_merged_and_alone(tmp_path: Path, lora: dict[str, Any]) -> None:
    base = write_folder(tmp_path / "base", llama_tensors())
    stored, average = checkpoint(base, tmp_path / "root", averaged=True, **lora)
    export_model(stored, store_of(tmp_path / "model"))
    wanted = merged(average)
    assert difference(halcyon.load(f"hf:{tmp_path / 'model'}")[0], wanted) <= 1e-6
    assert difference(halcyon.load(f"{tmp_path / 'root'}", weights="average")[0], wanted) <= 1e-6
    assert difference(halcyon.load(f"{tmp_path / 'root'}")[0], wanted) > 1e-3, "the parameters are others"
    export_adapter(stored, store_of(tmp_path / "adapter"))
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    (down,) = (value for name, value in tensors.items() if "layers.0.mlp.up_proj.lora_A" in name)
    (expected,) = (
        np.asarray(leaf.value)[0] for leaf in flatten(average) if leaf.path == "blocks.stacked.mlp.up.adapter.down"
    )
    np.testing.assert_allclose(down.reshape(-1), np.moveaxis(expected, -1, 0).reshape(-1), atol=1e-6)


def test_the_files_of_peft_have_its_names_and_shapes(tmp_path: Path) -> None:
    base = write_folder(tmp_path / "base", llama_tensors())
    stored, model = checkpoint(base, tmp_path / "root", alpha=6.0, targets=["*.attention.*", "*.mlp.up.*"])
    export_adapter(stored, store_of(tmp_path / "adapter"))
    found = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    at = "base_model.model.model.layers.1"
    assert {name: one.shape for name, one in found.items() if name.startswith(at)} == {
        f"{at}.self_attn.q_proj.lora_A.weight": (2, 8),
        f"{at}.self_attn.q_proj.lora_B.weight": (8, 2),
        f"{at}.self_attn.k_proj.lora_A.weight": (2, 8),
        f"{at}.self_attn.k_proj.lora_B.weight": (4, 2),
        f"{at}.self_attn.v_proj.lora_A.weight": (2, 8),
        f"{at}.self_attn.v_proj.lora_B.weight": (4, 2),
        f"{at}.self_attn.o_proj.lora_A.weight": (2, 8),
        f"{at}.self_attn.o_proj.lora_B.weight": (8, 2),
        f"{at}.mlp.up_proj.lora_A.weight": (2, 8),
        f"{at}.mlp.up_proj.lora_B.weight": (12, 2),
    }
    assert all(one.dtype == np.float32 for one in found.values())
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["rank_pattern"]) == ("LORA", 2, 6.0, {})
    query: Any = model.blocks.stacked.attention.query.adapter  # type: ignore[attr-defined]
    np.testing.assert_array_equal(found[f"{at}.self_attn.q_proj.lora_A.weight"], np.asarray(query.down.array[1]).T)
    with pytest.raises(BadConfiguration, match="holds an adapter already"):
        export_adapter(stored, store_of(tmp_path / "adapter"))


def test_queries_keys_and_values_in_one_tensor_get_one_adapter(tmp_path: Path) -> None:
    stored, _ = checkpoint(
        GOLDENS / "gpt2", tmp_path / "root", targets=["*.query.*", "*.value.*"], rs_lora=True, alpha=3.0
    )
    export_adapter(stored, store_of(tmp_path / "adapter"))
    found = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    up = found["base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"]
    width = up.shape[0] // 3
    assert up.shape == (3 * width, 4)
    assert np.all(up[:width, 2:] == 0)
    assert np.all(up[width : 2 * width] == 0)
    assert np.all(up[2 * width :, :2] == 0)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["fan_in_fan_out"] is True
    assert set(config["rank_pattern"].values()) == {4}
    assert set(config["alpha_pattern"].values()) == {3.0 * 2**0.5}


def test_files_that_are_no_adapter_of_the_model_are_refused(tmp_path: Path) -> None:
    base = write_folder(tmp_path / "base", llama_tensors())
    stored, _ = checkpoint(base, tmp_path / "root")
    export_adapter(stored, store_of(tmp_path / "adapter"))
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())

    def refused(sentence: str, changed: dict[str, np.ndarray] | None = None, **settings: Any) -> None:
        folder = tmp_path / f"case-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        save_file(tensors if changed is None else changed, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(config | settings))
        with pytest.raises(BadConfiguration, match=sentence):
            import_model(store_of(base), store_of(folder / "root"), owner=OWNER, adapter=store_of(folder), clock=1e9)

    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    refused("peft_type is IA3", peft_type="IA3")
    refused("does not compute what it changes", modules_to_save=["lm_head"])
    refused("is not complete", {key: one for key, one in tensors.items() if key != name})
    refused(r"the model's weight is \[8, 8\]", tensors | {name: np.zeros((2, 9), np.float32)})
    refused(
        "is no part of a low-rank adapter",
        tensors | {"base_model.model.x.lora_embedding_A": np.zeros((2, 9), np.float32)},
    )
    with pytest.raises(BadConfiguration, match=r"has no adapter_config\.json"):
        import_model(store_of(base), store_of(tmp_path / "new"), owner=OWNER, adapter=store_of(base), clock=1e9)
    with pytest.raises(BadConfiguration, match=r"--adapter: the run of this checkpoint has no spec\.adapter"):
        export_adapter(
            stored_model(store_of(tmp_path / "plain"), entry_of(store_of(tmp_path / "plain"), None)),
            store_of(tmp_path / "out"),
        )


def test_the_folder_of_an_adapter_has_the_tokenizer_and_the_template(tmp_path: Path) -> None:
    """Also if the run trained with another template than that of its base, and the command says so."""
    base = GOLDENS / "qwen3"
    checkpoint(base, tmp_path / "root")
    plain = store_of(tmp_path / "plain")
    for name in plain.list("huggingface/"):
        store_of(tmp_path / "root").write(name, plain.read(name).data or b"")
    stored = stored_model(store_of(tmp_path / "root"), entry_of(store_of(tmp_path / "root"), None))
    export_adapter(stored, store_of(tmp_path / "adapter"))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "adapter" / name).read_bytes() == (base / name).read_bytes()
    assert not (tmp_path / "adapter" / "config.json").exists()
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base), "peft loads its base by this name"
    assert template_note(stored) is None
    own = "{{ messages[0].content }}{% if add_generation_prompt %}: {% endif %}"
    other = dataclasses.replace(stored, data={"sources": [{"format": {"chat": {"template": own}}}]})
    export_adapter(other, store_of(tmp_path / "other"))
    assert (tmp_path / "other" / "chat_template.jinja").read_text() == own
    assert "chat_template.jinja differs from that of the base model" in (template_note(other) or "")
    bare = dataclasses.replace(other, files={})
    assert "the base model has none" in (template_note(bare) or "")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "tokenizer.json").write_text("{}")
    with pytest.raises(BadConfiguration, match=r"holds tokenizer\.json already; give a folder that is empty"):
        export_adapter(stored, store_of(tmp_path / "taken"))


def test_an_adapter_with_numbers_that_are_not_finite_is_not_exported(tmp_path: Path) -> None:
    base = write_folder(tmp_path / "base", llama_tensors())
    stored, _ = checkpoint(base, tmp_path / "root")
    arrays = stored.merged
    assert arrays is not None
    read = arrays.read_stored
    arrays.read_stored = lambda path, region: (
        read(path, region) * np.float32(np.nan if path.endswith("mlp.up.adapter.down") else 1)
    )  # type: ignore[method-assign]
    with pytest.raises(
        BadConfiguration,
        match=r"model.layers.0.mlp.up_proj.lora_A.weight has NaN or infinite numbers in the checkpoint",
    ):
        export_adapter(stored, store_of(tmp_path / "adapter"))
    with pytest.raises(
        BadConfiguration, match=r"model.layers.0.mlp.up_proj.weight has NaN or infinite numbers in the checkpoint"
    ):
        export_model(stored, store_of(tmp_path / "model"))


@pytest.mark.parametrize(
    ("base", "named"),
    [
        ("hf://owner/tiny", ("owner/tiny", None)),
        ("hf://owner/tiny@v2", ("owner/tiny", "v2")),
        ("/models/me@home", ("/models/me@home", None)),
        ("", (None, None)),
    ],
)
def test_an_adapter_names_its_base_and_a_revision_of_the_hub(base: str, named: tuple[str | None, str | None]) -> None:
    config = adapter_config(LoraSpec(rank=2), [], set(), base)
    assert (config["base_model_name_or_path"], config["revision"]) == named


@pytest.mark.parametrize(
    ("kind", "changes", "is_base"),
    [("folder", {}, True), ("root", {}, True), ("folder", {"only": ["blocks.*"]}, False), ("root", {"step": 3}, False)],
)
def test_a_run_keeps_the_name_of_its_base_only_if_it_has_all_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, changes: dict[str, Any], is_base: bool
) -> None:
    origin = origin_of(tmp_path, kind)
    if "step" in changes:  # a later checkpoint has trained weights
        root = store_of(tmp_path / "root")
        entry = entry_of(root, None)
        monkeypatch.setattr("halcyon.weights.reading.stored_model", lambda *_: stored_model(root, entry))
        spec = spec_of(tmp_path, origin)
        assert spec.origin is not None
        later, model = entry.model_copy(update=changes), begun(spec)[1].template.model
        files = weights_of_checkpoint(root, later, spec.origin, spec.model, model).files
    else:
        files = begun(spec_of(tmp_path, {**origin, **changes}))[0].files
    assert json.loads(files["config.json"])["_name_or_path"] == (str(tmp_path / "model") if is_base else None)


@pytest.mark.parametrize("kind", ["folder", "root"])
def test_rows_of_new_tokens_are_the_mean_of_all_rows(tmp_path: Path, kind: str) -> None:
    found, _ = begun(spec_of(tmp_path, {**origin_of(tmp_path, kind), "growVocabulary": True}), tokens=TOKENS + 2)
    for name, path in (("model.embed_tokens.weight", "embedding"), ("lm_head.weight", "untied_head")):
        old, new = llama_tensors()[name], np.asarray(getattr(found.weights.model, path).weight.array)
        new = new if path == "embedding" else new.T
        np.testing.assert_array_equal(new[:TOKENS], old)
        np.testing.assert_allclose(new[TOKENS : TOKENS + 2], np.stack([old.mean(0)] * 2), atol=1e-6)
        assert not np.any(new[TOKENS + 2 :])


@pytest.mark.parametrize("kind", ["folder", "root"])
def test_a_part_of_the_weights_can_be_taken(tmp_path: Path, kind: str) -> None:
    """The other parameters, here of another size, are not in the model that is read."""
    origin = {**origin_of(tmp_path, kind), "only": ["blocks.*.attention.*"]}
    found, program = begun(spec_of(tmp_path, origin, intermediateSize=16))
    assert found.weights.is_part
    paths = {leaf.path for leaf in flatten(found.weights.model)}
    assert paths == {leaf.path for leaf in flatten(program.template.model) if ".attention." in leaf.path}
    for wrong, sentence in (
        ("blocks.*.mlp.*", "the same sizes, or leave the parameter out"),
        ("heads.*", "matches no parameter"),
    ):
        with pytest.raises(BadConfiguration, match=sentence):
            begun(spec_of(tmp_path, {**origin, "only": [wrong]}, intermediateSize=16))


def test_an_adapter_can_be_added_to_the_weights_that_a_run_begins_with(tmp_path: Path) -> None:
    base = write_folder(tmp_path / "base", llama_tensors())
    stored, model = checkpoint(base, tmp_path / "root")
    export_adapter(stored, store_of(tmp_path / "adapter"))
    origin = {"huggingFace": {"path": str(base), "adapter": str(tmp_path / "adapter")}}
    found, _ = begun(spec_of(tmp_path, origin))
    assert json.loads(found.files["config.json"])["_name_or_path"] is None, "no files hold the sum"
    wanted: Any = merged(model).blocks.stacked.mlp.up.weight.array  # type: ignore[attr-defined]
    np.testing.assert_allclose(
        np.asarray(found.weights.model.blocks.stacked.mlp.up.weight.array), np.asarray(wanted), atol=1e-6
    )
    assert jnp.dtype(found.weights.model.embedding.weight.dtype) == jnp.float32
    assert tensors_of(base).keys() == llama_tensors().keys()


def test_a_run_takes_only_the_weights_of_a_whole_training_with_its_adapter_added(tmp_path: Path) -> None:
    base = write_folder(tmp_path / "base", llama_tensors())
    _, model = checkpoint(base, tmp_path / "root", whole=True, dora=True)
    origin = {"run": OWNER.name, "root": f"file://{tmp_path / 'root'}", "weightsOnly": True}
    found, program = begun(spec_of(tmp_path, origin), owner=OWNER)
    assert (found.kind, found.step, found.weights.is_part) == ("weights", 0, False)
    wanted = {leaf.path: np.asarray(leaf.value) for leaf in flatten(merged(model))}
    for leaf in flatten(found.weights.model):
        cut = tuple(slice(0, size) for size in leaf.shape)
        np.testing.assert_allclose(np.asarray(leaf.value), wanted[leaf.path][cut], atol=1e-6, err_msg=leaf.path)
    assert {leaf.path for leaf in flatten(found.weights.model)} == {
        leaf.path for leaf in flatten(program.template.model)
    }
    for field, value in (("only", ["blocks.*"]), ("growVocabulary", True)):
        with pytest.raises(
            BadConfiguration, match=f"spec.from.{field}: the checkpoint of run base is a whole training"
        ):
            begun(spec_of(tmp_path, {name: origin[name] for name in ("run", "root")} | {field: value}), owner=OWNER)


def test_a_region_of_a_merged_weight_is_that_part_of_it(tmp_path: Path) -> None:
    """Devices and files read parts. The length of a column goes over all of it, also if a part is read."""
    base = write_folder(tmp_path / "base", llama_tensors())
    for name, lora in (("plain", {}), ("dora", {"dora": True})):
        stored, _ = checkpoint(base, tmp_path / name / "root", **lora)
        path = "blocks.stacked.mlp.up.weight"
        everything = stored.arrays.read(path, (slice(0, 2), slice(0, 8), slice(0, 12)))
        part = stored.arrays.read(path, (slice(1, 2), slice(2, 5), slice(3, 11)))
        np.testing.assert_allclose(part, everything[1:2, 2:5, 3:11], atol=1e-6)


@pytest.mark.slow
def test_parameters_that_are_not_taken_begin_random(tmp_path: Path) -> None:
    found, program = begun(
        spec_of(tmp_path, {**origin_of(tmp_path, "folder"), "only": ["blocks.*.attention.*"]}, intermediateSize=16)
    )
    state = found.state(program)
    fresh = {
        leaf.path: np.asarray(leaf.value)
        for leaf in flatten(initial_state(program.build_state, program.template).model)
    }
    base, _ = halcyon.load(f"hf:{tmp_path / 'model'}")
    taken = {leaf.path: np.asarray(leaf.value) for leaf in flatten(base)}
    for leaf in flatten(state.model):
        np.testing.assert_array_equal(
            np.asarray(leaf.value), (taken if ".attention." in leaf.path else fresh)[leaf.path], err_msg=leaf.path
        )
    assert int(state.step) == 0
