"""The first step of a run that begins with files is that of transformers: loss, gradient norm, losses of routers,
evaluation.

The vocabularies are odd, so rows pad them, and the documents leave padding in every batch (see runs/make.py for the
expected numbers).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic.alias_generators import to_camel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from halcyon.models.families.lookup import published_of_config
from halcyon.models.published.config import ConfigReader
from halcyon_api.ends import ExitCode
from tests.parity.weights import computed_weights, in_files
from tests.trainer.support.process_groups import run_document, start_processes
from tests.trainer.weights.folders import write_folder
from tests.trainer.weights.runs.cases import CASES, HELD_OUT, LENGTH, TRAINED, Case

pytestmark = pytest.mark.slow
EXPECTED = json.loads((Path(__file__).parent / "runs" / "goldens.json").read_text())
NO_UPDATE = 1e-30
"""A learning rate whose updates are below the last bit of every weight: the evaluation after the step is that of the
files.
"""
IN_MAKE_TEST = ("gpt2-50257", "llama-32001", "mixtral-259")


def model_section(case: Case) -> dict[str, Any]:
    """``spec.model`` of the run."""
    config = ConfigReader.parse(json.dumps(case.config).encode())
    section = published_of_config(config).read(config)
    document = section.document()
    if case.z:
        document["routerZLossCoef"] = case.z
    return document


def tokenizer_section(case: Case, folder: Path) -> dict[str, Any]:
    """``spec.tokenizer`` with as many tokens as the model.

    Those beyond the bytes stand for nothing; the last one begins documents.
    """
    if case.vocabulary == 259:
        return {"byte": {}}
    alphabet = [
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *(f"<{number}>" for number in range(case.vocabulary - 257)),
    ]
    tokenizer = Tokenizer(models.BPE(vocab={text: number for number, text in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return {
        "tokenizerJson": {"path": str(folder / "tokenizer.json"), "beginning": "<|endoftext|>", "end": "<|endoftext|>"}
    }


def source(folder: Path, name: str, documents: list[list[int]], *, validation: float) -> dict[str, Any]:
    """A source of token ids, each document in a row of its own."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"tokens": document}) + "\n" for document in documents))
    form = {"format": {"prebuilt": {}}, "layout": {"pack": {"maxSegments": 1}}, "validation": {"fraction": validation}}
    return {"name": name, "jsonl": {"paths": [str(path)]}, **form}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in IN_MAKE_TEST else pytest.mark.variant) for name in CASES]
)
def test_the_first_step_and_the_evaluation_are_those_of_transformers(
    name: str, tmp_path: Path, measured: Callable[..., None]
) -> None:
    case, expected = CASES[name], dict(EXPECTED[name])
    weights = computed_weights({key: tuple(shape) for key, shape in expected.pop("shapes").items()})
    write_folder(tmp_path / "base", in_files(case.kind, weights), case.config)
    sources = [
        source(tmp_path, "trained", case.documents("trained", TRAINED), validation=0),
        source(tmp_path, "held-out", case.documents("held out", HELD_OUT), validation=1),
    ]
    document = run_document(tmp_path / "root", slices=1, steps=1, batchSize=len(TRAINED), sequenceLength=LENGTH)
    document["spec"] |= {
        "model": model_section(case),
        "tokenizer": tokenizer_section(case, tmp_path),
        "data": {"sources": sources},
        "from": {"huggingFace": {"path": str(tmp_path / "base")}},
        "optimizer": {"learningRate": NO_UPDATE, "schedule": {"constant": {}}, "adamw": {}},
    }
    document["spec"]["trainer"] |= {"evaluation": {"everySteps": 1}, "logEverySteps": 1}
    group = start_processes(document, tmp_path / "log")
    assert group.wait() == [ExitCode.DONE], group.leader.output_tail()
    (step,) = (event for event in group.leader.events if event["event"] == "step")
    (evaluation,) = (event for event in group.leader.events if event["event"] == "evaluation")
    assert step["tokens"] == sum(TRAINED) - len(TRAINED)
    found = {key: step.get(to_camel(key)) for key in expected} | {"evaluation": evaluation["loss"]}
    assert found == pytest.approx(expected, rel=1e-5)
    measured("first steps", name, max(abs(found[key] / expected[key] - 1) for key in expected))
