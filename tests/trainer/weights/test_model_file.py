"""``model: {family: huggingFace, configFile: PATH}`` becomes the plain section when a document is read; nothing else accepts
it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from halcyon.commands.main import app
from halcyon.host.errors import BadConfiguration
from halcyon.run.context import resolve_context
from halcyon.weights.folder import read_config
from halcyon.weights.model_file import read_model
from halcyon_api.base import InvalidRun
from halcyon_api.ends import ExitCode
from halcyon_api.reading import load_run, parse_run
from tests.trainer.support.process_groups import run_document
from tests.trainer.weights.folders import CASES, CONFIG, GOLDENS, imported, llama_tensors, store_of, write_folder


def written(tmp_path: Path, config: str, **model: Any) -> Path:
    document = run_document(tmp_path / "root", sequenceLength=16)
    document["spec"]["model"] = {"family": "huggingFace", "configFile": config, **model}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    return tmp_path / "run.yaml"


def halcyon(*words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "300"})


@pytest.mark.parametrize("case", CASES)
def test_the_document_gets_the_section_of_the_file(tmp_path: Path, case: str) -> None:
    path = written(tmp_path, f"{GOLDENS / case}/config.json")
    found = yaml.safe_load(halcyon("resolve", path).stdout)
    assert found["spec"]["model"] == read_config(store_of(GOLDENS / case)).spec.document()
    before = yaml.safe_load(path.read_text())
    assert {**found["spec"], "model": None} == {**before["spec"], "model": None}
    changed = yaml.safe_load(halcyon("resolve", path, "--set", "spec.trainer.seed=7").stdout)
    assert changed["spec"].pop("trainer") == found["spec"]["trainer"] | {"seed": 7}
    assert changed["spec"] == {name: value for name, value in found["spec"].items() if name != "trainer"}
    assert (
        parse_run(found).spec.model == resolve_context(path, {}).run.spec.model == load_run(path, read_model).spec.model
    )


def test_a_path_is_relative_to_the_document_and_may_be_the_folder(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "base" / "other.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": 3}))
    sections = [
        yaml.safe_load(halcyon("resolve", written(tmp_path, name)).stdout)
        for name in ("base", "./base/config.json", "base/other.json")
    ]
    assert [found["spec"]["model"]["numHiddenLayers"] for found in sections] == [2, 2, 3]
    assert halcyon("validate", written(tmp_path, "base")).exit_code == 0


def test_the_weights_beside_the_file_may_be_quantised(tmp_path: Path) -> None:
    """Only the shape of the model is read. An import of the weights names the entry of the file."""
    quantised = CONFIG | {"quantization_config": {"quant_method": "fp8"}}
    folder = write_folder(tmp_path / "base", llama_tensors(), quantised)
    found = yaml.safe_load(halcyon("resolve", written(tmp_path, "base")).stdout)
    assert found["spec"]["model"]["numHiddenLayers"] == 2
    with pytest.raises(
        BadConfiguration,
        match=r"config\.json: quantization_config: the format is fp8, .* convert the model to bfloat16 first",
    ):
        imported(folder, tmp_path / "imported")


def test_a_document_without_such_a_model_is_printed_as_it_is(tmp_path: Path) -> None:
    document = run_document(tmp_path / "root")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    assert yaml.safe_load(halcyon("resolve", tmp_path / "run.yaml").stdout) == document


@pytest.mark.parametrize("command", ["resolve", "validate"])
@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {**CONFIG, "architectures": ["LamaForCausalLM"]},
            "architectures names LamaForCausalLM, which Halcyon does not have; the nearest",
        ),
        ({**CONFIG, "hidden_act": "mish"}, "hidden_act is"),
        ({"architectures": ["LlamaForCausalLM"]}, "has no "),
        (None, "there is no folder"),
    ],
)
def test_a_file_that_is_no_model_is_one_sentence(
    tmp_path: Path, command: str, config: dict[str, Any] | None, sentence: str
) -> None:
    path = written(tmp_path, "base/config.json")
    if config is not None:
        (tmp_path / "base").mkdir()
        (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    found = halcyon(command, path)
    assert found.exit_code == ExitCode.BAD_CONFIGURATION, found.output
    assert found.stderr.startswith(f"{path}: spec.model.configFile: "), found.stderr
    assert sentence in found.stderr
    assert found.stderr.count("\n") == 1


def test_a_training_reports_such_a_file_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"^spec.model.configFile: there is no folder"):
        resolve_context(written(tmp_path, "base/config.json"), {})


def test_without_a_command_that_reads_it_the_document_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = written(tmp_path, "base/config.json")
    with pytest.raises(
        InvalidRun, match=r"huggingFace names a file, .*`halcyon resolve RUN.YAML`, and apply that$"
    ) as error:
        parse_run(yaml.safe_load(path.read_text()))
    assert "exactly one" not in str(error.value)


def test_a_field_beside_the_file_is_refused_by_every_command(tmp_path: Path) -> None:
    path = written(tmp_path, "base/config.json", hiddenSize=8)
    for command in ("resolve", "validate"):
        found = halcyon(command, path)
        assert found.exit_code == ExitCode.BAD_CONFIGURATION, found.output
        sentence = "spec.model.hiddenSize: the family huggingFace has only configFile; take hiddenSize out"
        assert found.stderr == f"{path}: {sentence}\n"
    with pytest.raises(InvalidRun, match="take hiddenSize out"):
        load_run(path)
