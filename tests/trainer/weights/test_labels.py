"""Labels of texts from the files of a model of tokens to those of a classifier, and back; and vectors of texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from halcyon import load
from halcyon.checkpoint.opening import entry_of
from halcyon.commands.main import app
from halcyon.host.storage.store import Store
from halcyon.serving.embeddings import Embedder, EmbeddingRequest
from halcyon.serving.limits import Limits
from halcyon.serving.served import Served
from halcyon.tokenizer import BYTE
from halcyon.tokenizer import load as load_tokenizer
from halcyon.weights.folder import address
from halcyon.weights.root import stored_model
from halcyon.weights.vectors import pooling_of
from tests.trainer.support.labels import LABELS, labelled, paired
from tests.trainer.support.process_groups import TrainerProcesses, run_document, start_processes
from tests.trainer.weights.folders import llama_tensors, tensors_of, write_folder

pytestmark = pytest.mark.slow
WIDTH, TOKENS = 32, 259


def command(*arguments: str) -> str:
    found = CliRunner().invoke(app, list(arguments))
    assert found.exit_code == 0, found.output
    return found.output


def trained(
    folder: Path, name: str, base: Path, labels: list[str] | None = None, texts: dict[str, Any] | None = None
) -> TrainerProcesses:
    document = run_document(folder / name, name=name, steps=2, slices=1, topology="1x1", batchSize=4, sequenceLength=32)
    sections = (texts or labelled(folder)) | {"from": {"huggingFace": {"path": str(base)}}}
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


def vectors(place: str) -> list[np.ndarray]:
    """As the server of a place makes them, which needs no option to know how."""
    model, _ = load(place)
    assert model.pooling == "mean"
    served, embedder = Served("one", model, load_tokenizer(BYTE), None), Embedder(model.pooling, 64)
    request = EmbeddingRequest(input=["query: say fine", "passage: fine"])
    return [embedder.vector(served, ids) for ids in embedder.texts(request, served, Limits())]


def test_vectors_of_a_root_are_those_of_its_files(tmp_path: Path) -> None:
    tensors = {name: 0.1 * one for name, one in llama_tensors(width=WIDTH, tokens=TOKENS).items()}
    base = write_folder(tmp_path / "base", tensors, hidden_size=WIDTH, vocab_size=TOKENS)
    group = trained(tmp_path, "first", base, texts=paired(tmp_path))
    assert group.leader.report()["cause"] == "completed", group.leader.output_tail()
    command("export", "hf", str(tmp_path / "first"), str(tmp_path / "export"))
    files = {
        name: json.loads((tmp_path / "export" / name).read_text())
        for name in ("modules.json", "1_Pooling/config.json", "config_sentence_transformers.json", "config.json")
    }
    modules, pooling, prompts, config = files.values()
    assert [(one["path"], one["type"].rpartition(".")[2]) for one in modules] == [
        ("", "Transformer"),
        ("1_Pooling", "Pooling"),
        ("2_Normalize", "Normalize"),
    ]
    assert pooling == {
        "word_embedding_dimension": WIDTH,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_lasttoken": False,
        "pooling_mode_cls_token": False,
    }
    assert prompts["prompts"] == {"query": "query: ", "document": "passage: "}
    assert config["architectures"] == ["LlamaForCausalLM"]
    one, other = vectors(str(tmp_path / "first")), vectors(f"hf:{tmp_path / 'export'}")
    np.testing.assert_array_equal(one, other)
    assert np.linalg.norm(one[0]) == pytest.approx(1)
    last = trained(tmp_path, "third", tmp_path / "export", texts=paired(tmp_path, pooling="last")).leader
    assert "spec.objective.contrastive.pooling: the model in file://" in last.report()["message"]
    assert "makes its vectors by mean; set it to that" in last.report()["message"]
    for changed, of in (
        ("1_Pooling/config.json", '"pooling_mode_cls_token": true'),
        ("modules.json", '"type": "a.Dense"'),
    ):
        files = {name: (tmp_path / "export" / name).read_bytes() for name in ("modules.json", "1_Pooling/config.json")}
        assert pooling_of(files) == "mean"
        files[changed] = (
            files[changed]
            .replace(b'"pooling_mode_cls_token": false', of.encode())
            .replace(b'"type":', of.encode() + b', "type":', 1)
        )
        assert pooling_of(files) is None, "two vectors, or a module after them"
