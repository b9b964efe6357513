"""``spec.env`` on a machine without an operator."""

from __future__ import annotations

from halcyon.variables import set_variables
from halcyon_api.spec.variables import VariableSpec


def variable(name: str, value: str | None = None) -> VariableSpec:
    source = {"value": value} if value is not None else {"valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    return VariableSpec.model_validate({"name": name, **source})


def test_what_the_shell_sets_stands_above_the_document() -> None:
    environ = {"XLA_FLAGS": "mine"}
    assert set_variables([variable("XLA_FLAGS", "theirs"), variable("NCCL_DEBUG", "INFO")], environ) == []
    assert environ == {"XLA_FLAGS": "mine", "NCCL_DEBUG": "INFO"}


def test_a_secret_of_a_cluster_is_asked_of_the_user() -> None:
    environ: dict[str, str] = {}
    (sentence,) = set_variables([variable("HF_TOKEN")], environ)
    assert sentence == "spec.env[HF_TOKEN]: a Secret of a cluster has its value; set it in your shell if you need it"
    assert environ == {}
    assert set_variables([variable("HF_TOKEN")], {"HF_TOKEN": "mine"}) == []
