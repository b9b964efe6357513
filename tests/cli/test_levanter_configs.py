"""Each configuration that Levanter has converts to a valid run and trains, with small sizes and a small corpus: what is
tested is the combination of its settings."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_api.ends import ExitCode
from halcyon_api.reading import parse_run
from halcyon_api.validation import find_problems
from halcyon_cli.levanter.conversion import convert
from tests.families import SMALL
from tests.trainer.support.process_groups import start_processes

CONFIGS: dict[str, Any] = yaml.load(
    (Path(__file__).parent / "levanter_configs.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader
)
SIZES = {
    "numHiddenLayers": 2,
    "hiddenSize": 32,
    "intermediateSize": 48,
    "numAttentionHeads": 4,
    "numKeyValueHeads": 2,
    "headDim": 8,
    "encoderLayers": 1,
}
STEPS = 3


def shrunk(name: str, folder: Path) -> dict[str, Any]:
    """The run of a configuration, with small sizes, a corpus below `folder`, and 3 steps."""
    document = convert(CONFIGS[name], "small", {"type": "cpu", "topology": "1x1"}, 1).document
    spec = document["spec"]
    model = spec.get("model", {"family": "huggingFace"})
    spec["model"] = (
        SMALL if model["family"] == "huggingFace" else model | {n: v for n, v in SIZES.items() if n in model}
    )
    spec["tokenizer"] = {"byte": {}}
    sources = spec["data"].get("sources") or [{"name": "train"}]
    for source in sources:
        for place in ("jsonl", "parquet", "text", "huggingFace"):
            source.pop(place, None)
        if "chat" in source.get("format", {}):  # the template has special tokens
            spec["tokenizer"] = {"bpe": {"vocabSize": 512}}
        source["jsonl"] = {"paths": [str(written(folder, source))]}
    spec["data"] = {name: value for name, value in spec["data"].items() if name != "cache"} | {"sources": sources}
    for unneeded in ("from", "adapter", "mesh"):  # weights that are published, and more devices
        spec.pop(unneeded, None)
    trainer = spec["trainer"]
    trainer |= {"steps": STEPS, "batchSize": 4, "sequenceLength": 32}
    trainer.get("precision", {}).pop("products", None)  # a CPU is not faster in 8 bits
    if "batchSchedule" in trainer:
        trainer["batchSchedule"] = [{"fromStep": 2, "batchSize": 8}]
    if "microbatches" in trainer:
        trainer["microbatches"] = 2
    if "evaluation" in trainer:
        trainer["evaluation"] |= {"everySteps": 2, "batches": 1}
    phases = spec["optimizer"]["schedule"]["phases"]
    for part in ("warmup", "decay"):
        if phases.get(part, 0) > 1:
            phases[part] = 1
    spec["checkpoint"] |= {"root": f"file://{folder}/root"}
    if "export" in spec:
        spec["export"] |= {"root": f"file://{folder}/export", "everySteps": STEPS}
    spec.get("telemetry", {}).pop("trackers", None)
    return document


def written(folder: Path, source: dict[str, Any]) -> Path:
    """The corpus of a source, in the form of its rows."""
    form = source.get("format", {})
    path = folder / f"{source['name']}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    sums = [f"{one} and {one + 1} are {2 * one + 1}. " * 3 for one in range(400)]
    if "chat" in form:
        field = form["chat"].get("messagesField", "messages")
        rows = [{field: [{"role": "user", "content": one}, {"role": "assistant", "content": one}]} for one in sums]
    else:
        rows = [{form.get("text", {}).get("field", "text"): one} for one in sums]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_of_levanter_is_a_valid_run(name: str, tmp_path: Path) -> None:
    assert find_problems(parse_run(shrunk(name, tmp_path)).spec) == ()


@functools.cache
def _trained(like: str, name: str, folder: Path) -> list[int]:
    """The exit codes of a run; configurations that differ only in numbers are one run."""
    del like
    return start_processes(shrunk(name, folder / name), folder / name / "run").wait()


@pytest.mark.slow
@pytest.mark.variant
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "whisper_tiny_librispeech"])  # it needs sounds
def test_a_configuration_of_levanter_trains(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "levanter"
    like = re.sub(r"\d", "", json.dumps(shrunk(name, folder / name)).replace(str(folder / name), ""))
    assert _trained(like, name, folder) == [ExitCode.DONE]
