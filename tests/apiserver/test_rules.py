"""The API server and the parser of documents apply the same rules: CEL is compared with Python, rule by rule and over
tables of values.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from halcyon_api.base import InvalidRun
from halcyon_api.hardware import TABLE
from halcyon_api.reading import parse_run
from halcyon_api.spec.attention import ATTENTION
from halcyon_api.spec.model import FAMILIES
from halcyon_api.validation import find_problems
from tests.api.documents import document
from tests.api.rules import BROKEN, all_rules
from tests.apiserver.api import Api, Refused
from tests.families import SMALL_FAMILIES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_each_broken_rule_is_refused_with_its_sentence(api: Api, shared_namespace: str) -> None:
    sentences = {
        beginning: rule.message for beginning, _ in BROKEN for rule in all_rules() if rule.message.startswith(beginning)
    }
    taken: list[str] = []
    for beginning, run in BROKEN:
        try:
            api.create(run, shared_namespace, dry_run=True)
        except Refused as refused:
            if " ".join(sentences[beginning].split()) in str(refused):
                continue
        taken.append(beginning)
    # A root's pattern is stricter than the rule, and the API server checks the pattern first.
    assert [beginning for beginning in taken if not beginning.startswith("root must be")] == []


BOUNDS: tuple[dict[str, Any], ...] = (
    {},
    {"hiddenSize": 20, "headDim": 10},
    {"hiddenSize": 1000},
    {"hiddenAct": "xielu"},
    {"hiddenAct": "gelu"},
    {"layerTypes": ["linear_attention"] * 12},
    {"layerTypes": ["full_attention"] * 12},
    {"numExperts": 0},
    {"numExpertsPerTok": 100},
    {"numKeyValueHeads": 4},
    {"partialRotaryFactor": 0.3},
    {"class": "own.models:Model"},
    {"configFile": "config.json"},
)
"""Fields that only some families have, whose bounds or defaults depend on the family."""


def grids() -> Iterator[dict[str, Any]]:
    topologies = (
        "1x1",
        "2x2",
        "4x4",
        "2x2x1",
        "2x2x2",
        "4x4x4",
        "4x4x8",
        "8x4x4",
        "1x8",
        "2x8",
        "1x4",
        "1x3",
        "18x4",
        "16x16x20",
    )
    for kind, topology in itertools.product(TABLE, topologies):
        yield {"spec__accelerator": {"type": kind, "topology": topology}}
    for hidden, heads, shared in itertools.product((60, 64, 66), (3, 4, 33), (None, 1, 2, 3)):
        yield {
            "spec__model": {
                "family": "llama",
                "hiddenSize": hidden,
                "numAttentionHeads": heads,
                **({"numKeyValueHeads": shared} if shared else {}),
            }
        }
    for size, heads, shared in itertools.product((None, 7, 8), (3, 4), (None, 2, 3)):
        fields = {"headDim": size, "numKeyValueHeads": shared}
        yield {
            "spec__model": {
                "family": "qwen3",
                "numAttentionHeads": heads,
                **{name: value for name, value in fields.items() if value},
            }
        }
    for types, windowed in itertools.product((None, ["sliding_attention"], ["full_attention"] * 2), (False, True)):
        layers = {"layerTypes": types} if types else {}
        yield {"spec__model": {"family": "qwen2", "numHiddenLayers": 1, "useSlidingWindow": windowed, **layers}}
    yield from ({"spec__model": {"family": family, **fields}} for family in FAMILIES for fields in BOUNDS)
    for kind, factor, original in itertools.product(("default", "linear", "llama3", "yarn"), (None, 2.0), (None, 64)):
        scaling = {"factor": factor, "originalMaxPositionEmbeddings": original}
        given = {name: value for name, value in scaling.items() if value}
        yield {"spec__model": {"family": "llama", "ropeScaling": {"ropeType": kind, **given}}}
    for data, fsdp, tensor in itertools.product((-1, 0, 1, 2), repeat=3):
        yield {
            "spec__mesh": {"ici": {"data": data, "fsdp": fsdp, "tensor": tensor}},
            "spec__accelerator": {"type": "cpu", "topology": "1x4"},
        }
    for name, kind, compute, context in itertools.product(
        ATTENTION, ("cpu", "v5e", "h100"), ("float32", "bfloat16"), (None, -1, 1, 2)
    ):
        yield {
            "spec__accelerator": {"type": kind, "topology": "2x4" if kind == "v5e" else "1x8"},
            "spec__trainer__attention": name,
            "spec__trainer__precision": {"compute": compute},
            "spec__data__attendAcrossDocuments": context is None,
            **({"spec__mesh": {"ici": {"context": context, "fsdp": 1 if context == -1 else -1}}} if context else {}),
        }
    for least, most, slices in itertools.product((1, 2, 3), (None, 1, 2, 3), (1, 2, 3)):
        elastic = {"minSlices": least, **({"maxSlices": most} if most else {})}
        yield {"spec__recovery": {"elastic": elastic}, "spec__accelerator__slices": slices}
    for task, step in itertools.product(("train", "data", "evaluate"), (None, 9, 10)):
        yield {"spec__task": task, "spec__from": {"run": "base", **({"step": step} if step else {})}}
    for first, second in itertools.product((None, 0, 1), repeat=2):
        weights = [{"weight": weight} if weight is not None else {} for weight in (first, second)]
        yield {"spec__data__sources": [{"name": f"s{n}", "stdlib": {}, **weight} for n, weight in enumerate(weights)]}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_field_of_another_family_is_refused_in_the_words_of_the_parser(
    api: Api, shared_namespace: str, family: str
) -> None:
    """All fields of `spec.model` are in one schema, so a rule keeps each family from those of the others."""
    values = {name: value for other in SMALL_FAMILIES.values() for name, value in other.items()}
    every = {
        info.alias or name: section.model_construct().document().get(info.alias or name, values.get(info.alias or name))
        for section in FAMILIES.values()
        for name, info in section.model_fields.items()
    } | values
    own = {info.alias or name for name, info in FAMILIES[family].model_fields.items()}
    needed = {"class": "own.models:Model"} if family == "custom" else {}
    others = {name: value for name, value in every.items() if value is not None and name not in own}
    assert len(others) > 20
    for name, value in others.items():
        run = document(spec__model={"family": family, name: value, **needed})
        with pytest.raises(InvalidRun) as parser:
            parse_run(run)
        with pytest.raises(Refused) as server:
            api.create(run, shared_namespace, dry_run=True)
        sentence = str(parser.value)
        assert sentence.startswith(f"spec.model.{name}: no field of {family}; "), sentence
        assert f"{name} is {sentence.removeprefix(f'spec.model.{name}: ')}" in str(server.value)


def test_the_api_server_and_the_parser_agree_on_tables_of_values(api: Api, shared_namespace: str) -> None:
    """Only the operator checks, later, whether the batch size fits."""
    differing: list[str] = []
    for changes in grids():
        run = document(**{"spec__trainer__batchSize": 46080, **changes})
        answer = ""
        try:
            parsed = parse_run(run)
            answer = "; ".join(
                str(problem) for problem in find_problems(parsed.spec) if problem.field.startswith("spec.mesh")
            )
        except InvalidRun as error:
            answer = str(error)
        try:
            api.create(run, shared_namespace, dry_run=True)
            refused = ""
        except Refused as error:
            refused = str(error)
        if bool(answer) != bool(refused):
            differing.append(f"{changes}: {answer or 'taken'} / {refused or 'taken'}")
    assert differing == []
