"""The steps of docs/guides/finetune.md for an adapter, on a tiny Qwen 3: training, a preemption, and the two kinds of
export.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import halcyon
from halcyon.commands.main import app
from halcyon.models.parts.coded import decoded, encoded
from halcyon_api.ends import ExitCode
from tests.arrays import load_arrays
from tests.document_changes import changed
from tests.trainer.support.process_groups import run_document, start_processes
from tests.trainer.weights.folders import GOLDENS, llama_tensors, tensors_of, write_folder

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parents[3] / "examples" / "lora-qwen3.yaml"
BASE = GOLDENS / "qwen3"
STEPS = 12


def document(root: Path) -> dict[str, Any]:
    """The example with the sizes of the tiny model."""
    found = yaml.safe_load(EXAMPLE.read_text())
    small = run_document(root, slices=1, steps=STEPS, batchSize=4, sequenceLength=32)["spec"]
    spec = found["spec"]
    spec |= {name: small[name] for name in ("accelerator", "data", "telemetry", "checkpoint")}
    spec["trainer"] = small["trainer"] | {"logEverySteps": 1}
    spec["optimizer"] |= {"learningRate": 0.01, "schedule": {"constant": {}}}
    config = json.loads((BASE / "config.json").read_text())
    spec["model"] = {
        "family": "qwen3",
        "numHiddenLayers": config["num_hidden_layers"],
        "hiddenSize": config["hidden_size"],
        "intermediateSize": config["intermediate_size"],
        "numAttentionHeads": config["num_attention_heads"],
        "numKeyValueHeads": config["num_key_value_heads"],
        "headDim": config["head_dim"],
        "ropeTheta": float(config.get("rope_theta") or config["rope_parameters"]["rope_theta"]),
        "tieWordEmbeddings": True,
    }
    spec["from"]["huggingFace"]["path"] = str(BASE)
    spec["tokenizer"]["tokenizerJson"]["path"] = str(BASE / "tokenizer.json")
    return found


def test_an_adapter_resumes_bitwise_and_is_exported_merged_and_alone(tmp_path: Path) -> None:
    whole = start_processes(document(tmp_path / "whole"), tmp_path / "whole-log").ended()
    expected = whole.leader.losses()
    assert sorted(expected) == list(range(1, STEPS + 1)), whole.leader.noise[-20:]
    assert expected[STEPS] < expected[1]

    run = document(tmp_path / "root")
    stopped = start_processes(run, tmp_path / "first")
    stopped.leader.wait_for(lambda events: any(event["event"] == "step" and event["step"] >= 3 for event in events))
    stopped.signal(signal.SIGTERM, 0)
    first = stopped.ended().leader
    second = start_processes(run, tmp_path / "second", attempt=2).ended().leader
    assert second.report()["cause"] == "completed", second.noise[-20:]
    assert first.losses() | second.losses() == expected

    def export(*options: str) -> Path:
        folder = tmp_path / "-".join(("out", *options))
        result = CliRunner().invoke(app, ["export", "hf", str(tmp_path / "root"), str(folder), *options])
        assert result.exit_code == ExitCode.DONE, result.stderr
        return folder

    merged, alone = export(), export("--adapter")
    base, tuned = tensors_of(BASE), tensors_of(merged)
    assert np.array_equal(tuned["model.norm.weight"], base["model.norm.weight"])
    assert not np.array_equal(tuned["model.layers.0.mlp.up_proj.weight"], base["model.layers.0.mlp.up_proj.weight"])
    again = tmp_path / "again"
    result = CliRunner().invoke(app, ["import", "hf", str(BASE), "--adapter", str(alone), "--root", str(again)])
    assert result.exit_code == ExitCode.DONE, result.stderr
    tokens = load_arrays(BASE / "logits.npz")["tokens"]
    models = [halcyon.load(place)[0] for place in (f"hf:{merged}", str(again))]
    found, other = (np.asarray(halcyon.logits(model, tokens))[:, :, :259] for model in models)
    assert np.abs(found - other).max() <= 1e-5 * np.abs(found).max()


def test_a_run_on_codes_resumes_bitwise_and_is_exported(tmp_path: Path) -> None:
    """QLoRA. The exported weights are the decoded ones with the adapter added, as peft has it."""
    sizes: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 128}
    base = {name: tensor * np.float32(0.05) for name, tensor in llama_tensors(width=256, mlp=128, tokens=259).items()}
    write_folder(tmp_path / "base", base, vocab_size=259, **sizes)

    def run(root: Path) -> dict[str, Any]:
        found = run_document(root, slices=1, steps=STEPS, batchSize=4, sequenceLength=32)
        section = found["spec"]["model"] | {"hiddenSize": 256, "intermediateSize": 128}
        return changed(found, {
            "spec.model": section, "spec.from": {"huggingFace": {"path": str(tmp_path / "base")}},
            "spec.adapter": {"lora": {"rank": 2, "base": "nf4"}}, "spec.optimizer.learningRate": 0.01,
            "spec.trainer.logEverySteps": 1, "spec.checkpoint.keep": 10,
        })  # fmt: skip

    whole = start_processes(run(tmp_path / "whole"), tmp_path / "whole-log").ended()
    expected = whole.leader.losses()
    assert sorted(expected) == list(range(1, STEPS + 1)), whole.leader.noise[-20:]
    assert expected[STEPS] < expected[1]
    killed = start_processes(run(tmp_path / "root"), tmp_path / "first")
    killed.leader.wait_for(lambda events: any(event["event"] == "checkpoint" for event in events))
    killed.signal(signal.SIGKILL, 0)
    first = killed.ended().leader
    second = start_processes(run(tmp_path / "root"), tmp_path / "second", attempt=2).ended().leader
    assert second.report()["cause"] == "completed", second.noise[-20:]
    assert first.losses() | second.losses() == expected

    for options in ((), ("--adapter",)):
        folder = tmp_path / "-".join(("out", *options))
        result = CliRunner().invoke(app, ["export", "hf", str(tmp_path / "root"), str(folder), *options])
        assert result.exit_code == ExitCode.DONE, result.stderr
    tuned, adapter = tensors_of(tmp_path / "out"), tensors_of(tmp_path / "out---adapter")
    config = json.loads((tmp_path / "out---adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    for name in ("layers.1.mlp.down_proj", "layers.0.self_attn.o_proj", "layers.1.self_attn.k_proj"):
        values = decoded("nf4", *encoded("nf4", base[f"model.{name}.weight"], 1), 1)
        down, up = (adapter[f"base_model.model.model.{name}.lora_{one}.weight"] for one in "AB")
        assert np.abs(tuned[f"model.{name}.weight"] - (values + 8 * up @ down)).max() <= 1e-6
    for name in ("lm_head", "model.embed_tokens"):
        assert np.array_equal(tuned[f"{name}.weight"], base[f"{name}.weight"])
