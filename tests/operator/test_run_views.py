"""A run's spec is parsed once for each of its states, and never taken from another run for which it means something
else.
"""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_operator.observe import runs
from halcyon_operator.observe.runs import parse_run_view
from tests.operator.builders import run


def test_a_spec_is_parsed_once_whatever_else_of_the_run_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    document = run(image="registry.example/once:1")
    first = parse_run_view(document)
    assert first.spec is not None
    monkeypatch.setattr(runs, "parse_run", lambda document: pytest.fail("the same spec is parsed again"))
    document["metadata"]["resourceVersion"] = "2"
    again = parse_run_view(document | {"status": {"phase": "Running"}})
    assert again.spec == first.spec
    assert (again.resource_version, again.status.phase, again.fields) == ("2", "Running", first.fields)


def test_every_field_of_a_spec_decides_whether_it_is_parsed() -> None:
    kept, edited = (parse_run_view(run(checkpoint__keep=keep)).spec for keep in (3, 4))
    assert kept is not None
    assert edited is not None
    assert (kept.checkpoint.keep, edited.checkpoint.keep) == (3, 4)


def test_a_spec_that_is_valid_for_one_run_is_rejected_for_the_run_that_it_names() -> None:
    def named(name: str) -> Any:
        return parse_run_view(run(name=name, **{"from": {"run": "base"}}))

    assert named("child").problems == ()
    assert "spec.from.run is the run itself; name another one" in named("base").problems[0]
    assert named("child").problems == ()


def test_the_fields_of_a_view_can_be_changed_without_a_change_of_the_next_view() -> None:
    parse_run_view(run(checkpoint__keep=5)).fields.clear()
    assert parse_run_view(run(checkpoint__keep=5)).fields["checkpoint.keep"] == "5"


def test_a_spec_deeper_than_any_valid_one_is_rejected_in_one_sentence() -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"deep": deep}
    view = parse_run_view(run(model=deep))
    assert view.spec is None
    assert len(view.problems) == 1


def test_a_number_longer_than_any_valid_one_is_rejected_in_one_sentence() -> None:
    view = parse_run_view(run(trainer__seed=10**5000))
    assert view.spec is None
    assert len(view.problems) == 1
