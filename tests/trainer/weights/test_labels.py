"""Labels of texts from the files of a model of tokens to those of a classifier, and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from halcyon.checkpoint.opening import entry_of
from halcyon.commands.main import app
from halcyon.host.storage.store import Store
from halcyon.weights.folder import address
from halcyon.weights.root import stored_model
from tests.trainer.support.labels import LABELS, labelled
from tests.trainer.support.process_groups import TrainerProcesses, run_document, start_processes
from tests.trainer.weights.folders import llama_tensors, tensors_of, write_folder

pytestmark = pytest.mark.slow
WIDTH, TOKENS = 32, 259


def command(*arguments: str) -> str:
    found = CliRunner().invoke(app, list(arguments))
    assert found.exit_code == 0, found.output
    return found.output


def trained(folder: Path, name: str, base: Path, labels: list[str] | None = None) -> TrainerProcesses:
    document = run_document(folder / name, name=name, steps=2, slices=1, topology="1x1", batchSize=4, sequenceLength=32)
    sections = labelled(folder) | {"from": {"huggingFace": {"path": str(base)}}}
    sections["model"] = {"family": "huggingFace", "configFile": str(base)}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(document | {"spec": document["spec"] | sections}))
    resolved = yaml.safe_load(command("resolve", str(folder / f"{name}.yaml")))
    if labels is not None:
        resolved["spec"]["model"]["labels"] = labels
    group = start_processes(resolved, folder / f"{name}-log")
    group.wait()
    return group


def test_a_classifier_begins_with_a_model_of_tokens_and_with_itself(tmp_path: Path) -> None:
    tensors = {name: 0.1 * one for name, one in llama_tensors(width=WIDTH, tokens=TOKENS).items()}
    base = write_folder(tmp_path / "base", tensors, hidden_size=WIDTH, vocab_size=TOKENS)
    group = trained(tmp_path, "first", base, LABELS)
    assert group.leader.report()["cause"] == "completed", group.leader.output_tail()
    assert any("begins with random numbers" in str(event.get("message")) for event in group.leader.events)
    command("export", "hf", str(tmp_path / "first"), str(tmp_path / "export"))
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert (config["id2label"], config["pad_token_id"]) == ({"0": "bad", "1": "good"}, 258)
    written, store = tensors_of(tmp_path / "export"), Store(address(str(tmp_path / "first")))
    head = stored_model(store, entry_of(store, None)).arrays.read("score.weight", (slice(0, WIDTH), slice(0, 2)))
    assert {*written} == {*tensors} - {"lm_head.weight"} | {"score.weight"}
    np.testing.assert_array_equal(written["score.weight"], head.T)
    again = trained(tmp_path, "second", tmp_path / "export").leader
    assert again.report()["cause"] == "completed", again.output_tail()
    assert not any("random numbers" in str(event.get("message")) for event in again.events)
    other = trained(tmp_path, "third", tmp_path / "export", ["good", "bad"]).leader
    assert "holds a model with the labels bad, good; set spec.model.labels to them" in other.report()["message"]
