"""The rules of the chart's limits. tests/apiserver/test_limits.py tests them on an API server."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from halcyon_api.generate import limits

CHART = Path(__file__).parents[2] / "charts" / "halcyon"
RULES = yaml.safe_load(limits.render())


def test_each_limit_of_the_chart_has_rules() -> None:
    given = json.loads((CHART / "values.schema.json").read_text())["definitions"]["limits"]["properties"]
    counted = {"runs"}  # by a ResourceQuota
    assert {entry["limit"] for entry in RULES["trainingruns"]} == set(given) - counted
    assert {entry["limit"] for entry in RULES["trainingrundefaults"]} <= set(given)


def test_every_file_of_a_source_or_a_tokenizer_is_checked() -> None:
    (reads,) = [
        variable["expression"]
        for entry in RULES["trainingruns"]
        for variable in entry["variables"]
        if variable["name"] == "reads"
    ]
    for kind in ("text", "jsonl", "csv", "tsv", "parquet"):
        assert f"source.?{kind}.?paths" in reads
    for kind in ("tokenizerJson", "tiktoken", "sentencePiece"):
        assert f"object.spec.?tokenizer.?{kind}.?path" in reads
