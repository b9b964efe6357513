"""Layers of published models that predict further tokens: a run that asks for them begins with their weights, whether an
import kept them or not, and exports them under their names; a run that asks for more than the files have is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import haliax as hax
import jax
import numpy as np
import pytest

from halcyon.checkpoint.opening import entry_of
from halcyon.host.errors import BadConfiguration
from halcyon.models import build_model
from halcyon.models.families.lookup import published_of_section
from halcyon.weights.further import still_kept
from halcyon.weights.kept import read_kept
from halcyon.weights.layout import FileTensor, WeightLayout, leaf_shapes
from halcyon.weights.reading import Weights, weights_of_checkpoint, weights_of_folder
from halcyon_api.ends import ExitCode
from halcyon_api.spec.origin import OriginSpec
from tests.trainer.models.cases import changed
from tests.trainer.models.parity import Golden
from tests.trainer.support.process_groups import run_document, start_processes
from tests.trainer.weights.folders import imported, store_of, tensors_of, write_folder

CASES = {
    "deepseek-v3": ("model.layers.3.eh_proj.weight", "model.layers.3.shared_head.norm.weight"),
    "qwen3-next": ("mtp.fc.weight", "mtp.layers.0.self_attn.q_norm.weight"),
    "llama": ("model.layers.3.eh_proj.weight", "model.layers.3.mlp.up_proj.weight"),
}


def folder_of(name: str, path: Path) -> tuple[Path, Any, dict[str, np.ndarray]]:
    """A published model with one such layer, the section of a run that asks for it, and the tensors of the layer."""
    golden = Golden.load(name)
    spec = changed(golden.spec, num_nextn_predict_layers=1)
    layout = WeightLayout(published_of_section(spec).tensors(spec), leaf_shapes(template_of(golden, spec)))
    random, weights = np.random.default_rng(3), golden.named("weight")
    further = {
        one.name: random.standard_normal(one.shape).astype(np.float32)
        for one in layout.tensors.values()
        if one.name not in weights
    }
    copies = (
        {"model.layers.3.embed_tokens.weight": weights["model.embed_tokens.weight"]} if name == "deepseek-v3" else {}
    )
    config = json.loads(golden.arrays["config"].tobytes()) | {"num_nextn_predict_layers": 1}
    return write_folder(path, weights | further | copies, config), spec, further


def template_of(golden: Golden, spec: Any) -> Any:
    vocab, length = golden.arrays["logits"].shape[-1], golden.arrays["tokens"].shape[1]
    axes = hax.Axis("vocab", vocab), hax.Axis("position", length)
    return jax.eval_shape(lambda: build_model(spec, *axes, key=jax.random.key(0)))


def in_files(spec: Any, model: Any) -> dict[str, np.ndarray]:
    """The tensors of a model by their names in files."""
    leaves = dict(zip((leaf.path for leaf in leaf_shapes(model)), jax.tree.leaves(model), strict=True))
    layout = WeightLayout(published_of_section(spec).tensors(spec), leaf_shapes(model))

    def values(one: FileTensor) -> np.ndarray:
        return one.values(lambda path, region: np.asarray(leaves[path])[region])

    return {one.name: values(one) for one in layout.tensors.values()}


@pytest.mark.parametrize("name", CASES)
def test_a_run_begins_with_the_layers_of_the_files_or_of_an_import(name: str, tmp_path: Path) -> None:
    folder, spec, further = folder_of(name, tmp_path / "model")
    assert set(CASES[name]) <= further.keys()
    golden = Golden.load(name)
    template = template_of(golden, spec)
    origin = OriginSpec.model_validate({"huggingFace": {"path": str(folder)}})
    imported(folder, tmp_path / "root")
    root = store_of(tmp_path / "root")
    of_folder = weights_of_folder(store_of(folder), origin, spec, template, None)
    found: list[Weights] = [of_folder]
    if (kept := read_kept(root)) is not None:
        of_root = OriginSpec(run="base", weights_only=True)
        found.append(weights_of_checkpoint(root, entry_of(root, None), of_root, spec, template))
        assert still_kept(kept, spec) is None
    assert len(found) == 2
    assert of_folder.kept is None, "an export would have them twice"
    for weights in found:
        assert not weights.is_part
        there = in_files(spec, weights.model)
        for key, array in (golden.named("weight") | further).items():
            np.testing.assert_array_equal(there[key], array.astype(np.float32), key)
    more = changed(spec, num_nextn_predict_layers=2) if name != "qwen3-next" else None
    if more is not None:
        with pytest.raises(
            BadConfiguration, match=r"spec.model.numNextnPredictLayers: \S+ has no tensor model.layers.4"
        ):
            weights_of_folder(store_of(folder), origin, more, template_of(golden, more), None)
    without = changed(golden.spec)
    plain = weights_of_folder(store_of(folder), origin, without, template_of(golden, without), None)
    assert plain.kept is not None
    assert further.keys() <= {one.name for one in plain.kept.listed.tensors}


@pytest.mark.slow
def test_a_run_trains_the_layers_and_exports_them(tmp_path: Path) -> None:
    folder, spec, further = folder_of("qwen3-next", tmp_path / "model")
    document = run_document(tmp_path / "run", slices=1, steps=2, batchSize=1, sequenceLength=16)
    document["spec"] |= {
        "model": spec.document(),
        "from": {"huggingFace": {"path": str(folder)}, "growVocabulary": True},
        "export": {"everySteps": 2},
        "checkpoint": {"root": f"file://{tmp_path}/run"},
    }
    group = start_processes(document, tmp_path / "log")
    assert group.wait() == [ExitCode.DONE], group.leader.noise[-20:]
    assert not [event for event in group.leader.events if event["event"] == "kept"]
    (*_, last) = (event for event in group.leader.events if event["event"] == "step")
    assert last["multiTokenLoss1"] > 0
    exported = tmp_path / "run" / "exports" / "step-2"
    there = tensors_of(exported)
    assert further.keys() <= there.keys()
    assert any((there[key] != array).any() for key, array in further.items()), "they are trained"
    assert json.loads((exported / "config.json").read_text())["num_nextn_predict_layers"] == 1
