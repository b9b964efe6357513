"""The guides about optimizers, sweeps and Levanter: each setting that they name exists, and the translated example
trains.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon.models.axes import BATCH, EMBED, EXPERTS, HEADS, KV_HEADS, MLP, POSITION, VOCAB
from halcyon.parallel.axes import COMPUTE_AXES, PARAMETER_AXES
from halcyon_api.overrides import override
from halcyon_api.reading import parse_run
from halcyon_api.schedules import schedule_problems
from halcyon_api.spec.optimizer import OptimizerSpec
from halcyon_api.spec.trainer import TrainerSpec
from halcyon_cli.levanter.conversion import convert
from halcyon_cli.sweeps import parse_sweep, variants
from tests.api.documents import document
from tests.examples.documents import REPOSITORY, shown_documents, training_runs
from tests.suite.limits import limit

GUIDES = REPOSITORY / "docs" / "guides"
LEVANTER = "docs/guides/from-levanter.md"
LEVANTER_ROWS = "docs/reference/from-levanter.md"
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in (REPOSITORY / LEVANTER_ROWS).read_text(encoding="utf-8").splitlines()
    if line.startswith("| `")
]


def fragments(guide: str) -> list[dict[str, Any]]:
    return [
        found
        for where, found in shown_documents()
        if where.startswith(f"docs/guides/{guide}#") and "apiVersion" not in found
    ]


def test_each_place_of_a_levanter_setting_is_in_the_schema() -> None:
    paths = {path for _, here in ROWS for path in re.findall(r"`(spec\.[A-Za-z0-9.\[\]]+)`", here)}
    assert len(paths) > 60
    for path in paths:
        override(path, None)


def test_each_levanter_setting_has_a_place_or_a_reason() -> None:
    assert len(ROWS) > 80
    without = [name for name, here in ROWS if "`" not in here and not here.startswith(("not ", "no ", "["))]
    assert not without


def test_the_axes_of_levanter_are_those_of_our_table() -> None:
    ours = {
        "batch": COMPUTE_AXES[BATCH],
        "position: context": COMPUTE_AXES[POSITION],
        "embed: data": PARAMETER_AXES[EMBED],
    }
    ours |= dict.fromkeys(("mlp", "heads", "kv_head", "vocab"), "tensor") | {"experts": PARAMETER_AXES[EXPERTS]}
    assert {PARAMETER_AXES[axis] for axis in (MLP, HEADS, KV_HEADS, VOCAB)} == {"tensor"}
    for theirs, axes in ours.items():
        here = next(here for name, here in ROWS if re.search(rf"`{theirs}[:`]", name))
        assert re.findall(r"`spec\.mesh\.\w+\.(\w+)`", here) == ([axes] if isinstance(axes, str) else list(axes)), (
            theirs
        )


def test_the_schedules_of_the_guide_fit_a_long_run() -> None:
    entries = [{"fromStep": 5, "batchSize": 16}]
    trainer = TrainerSpec.model_validate({"steps": 100_000, "batchSize": 8, "batchSchedule": entries})
    shown = [fragment["optimizer"] for fragment in fragments("optimizers.md") if "optimizer" in fragment]
    assert len(shown) == 7
    for optimizer in map(OptimizerSpec.model_validate, shown):
        assert not list(schedule_problems(optimizer, trainer))


def test_the_sweeps_of_the_guide_make_valid_runs() -> None:
    found = [
        variants(document(spec__optimizer={"adamw": {}}), parse_sweep(fragment)) for fragment in fragments("sweeps.md")
    ]
    assert [len(sweep) for sweep in found] == [6, 20, 2]
    for variant in (variant for sweep in found for variant in sweep):
        parse_run(variant.document)


def test_the_example_of_levanter_is_what_the_command_prints() -> None:
    (theirs,) = (found for found in fragments("from-levanter.md") if "trainer" in found and "optimizer" in found)
    (example,) = (found for where, found in training_runs().items() if where.startswith(LEVANTER))
    found = convert(theirs, "gpt2_small", {"type": "v5e", "topology": "4x4"}, 16)
    assert found.document == example
    assert len(found.notes) == 1  # the tags


@pytest.mark.slow
def test_the_translated_example_of_levanter_trains(tmp_path: Path) -> None:
    """With its own schedule, mixture, precision and saves; smaller, with data of this machine, and with a tracker that
    needs no package.
    """
    names = ("openwebtext_train.1-of-128.jsonl.gz", "openwebtext_val.1-of-8.jsonl.gz")
    for name in names:
        (tmp_path / name).write_bytes(
            gzip.compress("".join(json.dumps({"text": f"{name} {n} " * 9}) + "\n" for n in range(40)).encode())
        )
    (example,) = (found for where, found in training_runs().items() if where.startswith(LEVANTER))
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(example))
    changes = {
        "spec.accelerator": "{type: cpu}",
        "spec.model.numHiddenLayers": 1,
        "spec.model.hiddenSize": 16,
        "spec.model.numAttentionHeads": 2,
        "spec.tokenizer": "{byte: {}}",
        "spec.data.cache": "null",
        "spec.data.sources[0].jsonl.paths": f"['{tmp_path}/openwebtext_train.*-of-128.jsonl.gz']",
        "spec.data.sources[1].jsonl.paths": f"['{tmp_path}/openwebtext_val.*-of-8.jsonl.gz']",
        "spec.trainer.steps": 3,
        "spec.trainer.batchSize": 8,
        "spec.trainer.sequenceLength": 16,
        "spec.trainer.evaluation.batches": 1,
        "spec.checkpoint.root": f"file://{tmp_path}/root",
        "spec.telemetry.trackers": f"{{jsonLines: {{path: {tmp_path}/log.jsonl}}}}",
        "spec.mesh": "null",
    }
    command = [sys.executable, "-m", "halcyon.commands.main", "train", str(path), "--json"]
    command += [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=limit(240), check=False)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    steps = [line for line in map(json.loads, ended.stdout.splitlines()) if line.get("event") == "step"]
    assert [line["step"] for line in steps] == [1, 2, 3]
    head, *tracked = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    shown, written = (document["spec"]["optimizer"]["schedule"]["phases"] for document in (head["document"], example))
    assert written.items() <= shown.items()
    assert [row["step"] for row in tracked if "train/loss" in row] == [1, 2, 3]
    assert any("evaluation/bits_per_byte" in row for row in tracked)
