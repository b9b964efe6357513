"""What is left out of a run's data is said by `halcyon data`, by the log and by the report."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.families import TINIEST
from tests.suite.limits import limit

SENTENCE = (
    "source pairs has the form pairs with a prompt: prompt, chosen, rejected; leaves out 1 row without text; in sequences: "
    "2 of 8 pairs left out (532 tokens, 84.7% of all), because none of the tokens of one of their answers in the row counts "
    "in the loss; raise spec.trainer.sequenceLength to keep more"
)
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
)


def halcyon(*words: str | Path) -> str:
    done = subprocess.run(
        [Path(sys.executable).with_name("halcyon"), *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        timeout=limit(120),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_pairs_that_are_left_out_are_counted_everywhere(tmp_path: Path) -> None:
    rows = [
        {"prompt": "x" * 130 if number % 4 == 1 else "Hello", "chosen": "yes", "rejected": "no."} for number in range(8)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")
    source = {"name": "pairs", "jsonl": {"paths": [f"{tmp_path}/pairs.jsonl"]}}
    spec: dict[str, Any] = {
        "accelerator": {"type": "cpu"},
        "model": TINIEST,
        "data": {
            "sources": [source | {"format": {"preference": {"template": TEMPLATE}}}],
            "validation": {"fraction": 0},
            "cache": {"workers": 1},
        },
        "objective": {"preference": {"orpo": {}}},
        "trainer": {"steps": 1, "batchSize": 2, "sequenceLength": 64, "evaluation": {"everySteps": 0}},
        "checkpoint": {"root": f"file://{tmp_path}/root"},
    }
    head = {"apiVersion": "halcyon.dev/v1alpha1", "kind": "TrainingRun", "metadata": {"name": "pairs"}}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**head, "spec": spec}))
    stats = halcyon("data", "stats", path)
    assert SENTENCE in stats
    assert re.search(r"source +sequences .* cropped +left out", stats)
    assert SENTENCE in halcyon("data", "show", path)
    events = [json.loads(line) for line in halcyon("train", path, "--json").splitlines() if line.startswith("{")]
    (found,) = (one for one in events if one["event"] == "source")
    assert found["message"] == SENTENCE
    assert (found["unitsLeftOut"], found["droppedTokens"], found["croppedTokens"]) == (2, 532, 0)
    assert SENTENCE in halcyon("report", tmp_path / "root")
    assert SENTENCE in halcyon("report", tmp_path / "root", "--json")
