"""The rows of the events, and all places of the package that write one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from pydantic.alias_generators import to_snake

import halcyon
from halcyon.telemetry.events import BY_NAME, EVENTS, Event
from halcyon.telemetry.metrics import METRICS
from tests.trainer.telemetry.fakes import Scene

PACKAGE = Path(halcyon.__path__[0])


def written() -> Iterator[tuple[str, ast.Call]]:
    """Each call of `RunReporter.event` with a constant name, and its place."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(attr="event"), args=[ast.Constant(), *_]):
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node


def test_every_event_is_written_with_fields_of_its_row() -> None:
    calls = list(written())
    assert len(calls) > 20
    for place, call in calls:
        row = BY_NAME[call.args[0].value]  # type: ignore[attr-defined]
        names = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
        assert row.open_fields or names <= {*map(to_snake, row.fields)}, place


def test_what_an_event_changes_is_in_the_state_and_has_a_field() -> None:
    state = Scene().reporter.observe()
    for row in EVENTS:
        assert all(hasattr(state, name) for name in row.shows), row.name
        assert set(row.shows.values()) <= {*map(to_snake, row.fields)}, row.name


def test_the_sentence_of_an_event_names_only_its_fields() -> None:
    for row in EVENTS:
        if isinstance(row.words, str) and row.words != Event.words and not row.open_fields:
            row.words.format_map(dict.fromkeys(map(to_snake, row.fields), 1))


def test_a_metric_that_names_a_field_of_the_state_names_one_that_exists() -> None:
    scene = Scene(steps=3)
    scene.start()
    scene.steps(1, 3)
    state = scene.reporter.observe()
    of_objectives = {"load_balance_loss", "z_loss", "router_z_loss", "preference_accuracy", "reward_margin", "reward"}
    of_objectives |= {"mismatch_max", "teacher_divergence"}
    for metric in METRICS:
        read = metric.read or metric.name.removeprefix("halcyon_trainer_").removesuffix("_total")
        if isinstance(read, str):
            assert hasattr(state, read.partition(".")[0]) or read in of_objectives, metric.name
            metric.samples(state)
