"""The steps of docs/guides/finetune.md on a tiny Qwen 3: config.json → document → training from the files → exports →
logits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import halcyon
from halcyon.commands.main import app
from halcyon_api.ends import ExitCode
from tests.arrays import load_arrays
from tests.trainer.support.process_groups import run_document, start_processes
from tests.trainer.weights.folders import GOLDENS, same_bits, tensors_of

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parents[3] / "examples" / "finetune-qwen3.yaml"
BASE = GOLDENS / "qwen3"
NO_UPDATE = 1e-30
"""A learning rate whose updates are below the last bit of every weight: the exported model is the one of the golden
logits.
"""


def finetuned(tmp_path: Path, learning_rate: float) -> tuple[Path, dict[str, Any]]:
    """Train the example with the sizes of the tiny model. Returns the root of the exports, and the document."""
    document = yaml.safe_load(EXAMPLE.read_text())
    small = run_document(tmp_path / "root", slices=1, topology="1x2", steps=6, batchSize=4, sequenceLength=32)["spec"]
    spec = document["spec"]
    spec |= {name: small[name] for name in ("accelerator", "data", "telemetry", "checkpoint")}
    spec["trainer"] = (
        spec["trainer"]
        | small["trainer"]
        | {"precision": {}, "evaluation": {"everySteps": 3, "batches": 1}, "logEverySteps": 1}
    )
    spec["optimizer"] |= {"learningRate": learning_rate, "schedule": {"constant": {}}}
    spec["model"] = {"family": "huggingFace", "configFile": "base/config.json"}
    spec["from"]["huggingFace"]["path"] = spec["tokenizer"]["tokenizerJson"]["path"] = str(BASE)
    spec["tokenizer"]["tokenizerJson"]["path"] = str(BASE / "tokenizer.json")
    spec["export"] = {"everySteps": 4}
    (tmp_path / "base").symlink_to(BASE)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    resolved = CliRunner().invoke(app, ["resolve", str(tmp_path / "run.yaml")])
    assert resolved.exit_code == 0, resolved.stderr
    found = yaml.safe_load(resolved.stdout)
    group = start_processes(found, tmp_path / "log")
    assert group.wait() == [ExitCode.DONE], group.leader.noise[-20:]
    assert [event["step"] for event in group.leader.events if event["event"] == "exported"] == [4, 6]
    return tmp_path / "root" / "exports", found


def test_the_logits_of_the_export_are_those_that_transformers_computes_of_the_base(tmp_path: Path) -> None:
    exports, document = finetuned(tmp_path, NO_UPDATE)
    section = document["spec"]["model"]
    assert (section["hiddenSize"], section["headDim"], section["tieWordEmbeddings"]) == (16, 8, True)
    golden = load_arrays(BASE / "logits.npz")
    positions = json.loads((BASE / "config.json").read_text())["max_position_embeddings"]
    for step in (4, 6):
        model, tokenizer = halcyon.load(f"hf:{exports}/step-{step}")
        assert tokenizer is not None
        assert tokenizer.vocab_size == 259
        found = np.asarray(halcyon.logits(model, golden["tokens"]))
        expected = golden["logits"][:, :, :259]  # the run keeps the rows of its tokenizer's tokens
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
        tensors = {name: one[:259] if "embed_tokens" in name else one for name, one in tensors_of(BASE).items()}
        assert same_bits(
            tensors_of(exports / f"step-{step}"), {name: np.ascontiguousarray(one) for name, one in tensors.items()}
        )
        assert (
            json.loads((exports / f"step-{step}" / "config.json").read_text())["max_position_embeddings"] == positions
        )
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            assert (exports / f"step-{step}" / name).read_bytes() == (BASE / name).read_bytes()


@pytest.mark.variant
def test_the_export_of_a_trained_model_computes_what_its_checkpoint_computes(tmp_path: Path) -> None:
    exports, _ = finetuned(tmp_path, 0.01)
    golden = load_arrays(BASE / "logits.npz")
    trained, _ = halcyon.load(f"{tmp_path}/root@6")
    exported, _ = halcyon.load(f"hf:{exports}/step-6")
    found = np.asarray(halcyon.logits(exported, golden["tokens"]))
    assert np.array_equal(found, np.asarray(halcyon.logits(trained, golden["tokens"])))
    assert np.abs(found - golden["logits"][:, :, :259]).max() > 1e-2
    config = json.loads((exports / "step-6" / "config.json").read_text())
    assert (config["architectures"], config["vocab_size"]) == (["Qwen3ForCausalLM"], 259)
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    other = transformers.AutoModelForCausalLM.from_pretrained(
        exports / "step-6", attn_implementation="eager", dtype=torch.float32
    ).eval()
    with torch.no_grad():
        theirs = other(torch.tensor(golden["tokens"])).logits.numpy()
    assert np.abs(found - theirs).max() <= 1e-5 * np.abs(theirs).max()
