"""The parts of a published model that Halcyon does not train: every export of a run that began with it has their bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from halcyon.checkpoint.opening import entry_of
from halcyon.checkpoint.verify import Damaged
from halcyon.commands.copy_checkpoint import copy_checkpoint
from halcyon.commands.main import app
from halcyon.weights import kept
from halcyon.weights.kept import read_kept
from halcyon_api.ends import ExitCode
from tests.trainer.models.parity import Golden
from tests.trainer.support.process_groups import run_document, start_processes
from tests.trainer.weights.folders import exported, imported, same_bits, store_of, tensors_of, write_folder

RANDOM = np.random.default_rng(0)
BYTES = np.arange(7, dtype=np.uint8)
WIDE = RANDOM.standard_normal((3, 4)).astype(np.float64)
NARROW = RANDOM.standard_normal((5, 8)).astype(jnp.bfloat16)
CASES: dict[str, tuple[dict[str, np.ndarray], dict[str, Any]]] = {
    "qwen3-next": (
        {"mtp.fc.weight": NARROW, "mtp.layers.0.mlp.experts.gate_up_proj": WIDE, "mtp.norm.weight": NARROW[0]},
        {"num_nextn_predict_layers": 1},
    ),
    "deepseek-v3": (
        {"model.layers.3.eh_proj.weight": NARROW, "model.layers.3.input_layernorm.weight": WIDE},
        {"num_nextn_predict_layers": 1},
    ),
    "gemma3": (
        {"model.vision_tower.x": NARROW, "model.vision_tower.ids": BYTES, "model.multi_modal_projector.w": WIDE},
        {"image_token_index": 7, "vision_config": {"hidden_size": 3, "dtype": "bfloat16"}},
    ),
}


def folder_of(name: str, path: Path) -> tuple[Path, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A published model, the tensors of its text model, and those of its other parts."""
    golden, (parts, entries) = Golden.load(name), CASES[name]
    weights, config = golden.named("weight"), json.loads(golden.arrays["config"].tobytes())
    if "vision_config" in entries:
        weights = {key.replace("model.", "model.language_model.", 1): array for key, array in weights.items()}
        config = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": config}
    return write_folder(path, weights | parts, config | entries), weights, parts


@pytest.mark.parametrize("name", CASES)
def test_an_import_keeps_every_tensor_and_an_export_has_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, weights, parts = folder_of(name, tmp_path / "model")
    monkeypatch.setattr(kept, "_FILE_BYTES", 90)
    monkeypatch.setattr(kept, "_PIECE_BYTES", 5)
    imported(folder, tmp_path / "root")
    files = store_of(tmp_path / "root").list("huggingface/kept/")
    assert len(files) > 2
    assert same_bits(exported(tmp_path / "root", tmp_path / "out", dtype="float32", file_bytes=3000)
                     | weights, weights | parts)  # fmt: skip
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert CASES[name][1].items() <= config.items()
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == (weights | parts).keys()
    imported(tmp_path / "out", tmp_path / "again", dtype="float16")
    copy_checkpoint(
        store_of(tmp_path / "again"), entry_of(store_of(tmp_path / "again"), None), store_of(tmp_path / "c")
    )
    assert same_bits(exported(tmp_path / "c", tmp_path / "last"), weights | parts)


@pytest.mark.slow
def test_every_export_of_a_run_has_the_parts(tmp_path: Path) -> None:
    folder, weights, parts = folder_of("gemma3", tmp_path / "model")
    document = run_document(tmp_path / "first", slices=1, steps=1, batchSize=1, sequenceLength=16)
    document["spec"] |= {"model": Golden.load("gemma3").spec.document(), "export": {"everySteps": 1}}
    beginnings = {"first": {"huggingFace": {"path": str(folder)}}, "next": {"run": "first", "weightsOnly": True}}
    for name, origin in beginnings.items():
        document["metadata"]["name"] = name
        root = {} if name == "first" else {"root": f"file://{tmp_path}/first"}
        document["spec"] |= {
            "from": origin | root | {"growVocabulary": True},
            "checkpoint": {"root": f"file://{tmp_path}/{name}"},
        }
        group = start_processes(document, tmp_path / f"log-{name}")
        assert group.wait() == [ExitCode.DONE], group.leader.noise[-20:]
        (line,) = (event["message"] for event in group.leader.events if event["event"] == "kept")
        size = sum(one.nbytes for one in parts.values())
        assert line == (
            f"kept 3 tensors of model.multi_modal_projector, model.vision_tower ({size} bytes) as they are; their "
            "vocabulary has 29 tokens, and that of the model 259"
        )
        found = tensors_of(tmp_path / name / "exports" / "step-1")
        assert found.keys() == (weights | parts).keys()
        assert same_bits({key: found[key] for key in parts}, parts)
        assert (
            json.loads((tmp_path / name / "exports" / "step-1" / "config.json").read_text())["text_config"][
                "vocab_size"
            ]
            == 259
        )


def test_a_killed_import_is_made_again_and_a_changed_byte_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, weights, parts = folder_of("qwen3-next", tmp_path / "model")
    root = store_of(tmp_path / "root")
    with monkeypatch.context() as patch:
        patch.delattr(kept, "encode_report")
        with pytest.raises(NameError):
            imported(folder, tmp_path / "root")
    assert root.list("huggingface/kept/")
    assert read_kept(root) is None
    shown = CliRunner().invoke(app, ["import", "hf", str(folder), "--root", str(tmp_path / "root")])
    assert shown.stderr.startswith("kept 3 tensors of mtp (192 bytes) as they are\n")
    assert same_bits(exported(tmp_path / "root", tmp_path / "out"), weights | parts)
    (file,) = (tmp_path / "root" / "huggingface" / "kept").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    with pytest.raises(Damaged, match=r"huggingface/kept/00001.safetensors: the bytes of mtp\.\S+ are not those that"):
        exported(tmp_path / "root", tmp_path / "bad")
    assert not (tmp_path / "bad" / "config.json").exists()
