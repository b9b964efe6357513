"""``spec.env`` on a machine without an operator."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from halcyon.host.documents import set_variables
from halcyon_api.spec.variables import VariableSpec
from tests.suite.limits import limit
from tests.trainer.support.process_groups import run_document


def variable(name: str, value: str | None = None) -> VariableSpec:
    source = {"value": value} if value is not None else {"valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    return VariableSpec.model_validate({"name": name, **source})


def test_variables_of_the_shell_override_the_document() -> None:
    environ = {"XLA_FLAGS": "mine"}
    assert set_variables([variable("XLA_FLAGS", "theirs"), variable("NCCL_DEBUG", "INFO")], environ) == []
    assert environ == {"XLA_FLAGS": "mine", "NCCL_DEBUG": "INFO"}


def test_a_variable_from_a_secret_must_be_set_by_the_user() -> None:
    environ: dict[str, str] = {}
    (sentence,) = set_variables([variable("HF_TOKEN")], environ)
    assert sentence == "spec.env[HF_TOKEN]: a Secret of a cluster has its value; set it in your shell if you need it"
    assert environ == {}
    assert set_variables([variable("HF_TOKEN")], {"HF_TOKEN": "mine"}) == []


@pytest.mark.slow
def test_a_local_run_has_its_variables_before_jax_reads_them(tmp_path: Path) -> None:
    document = run_document(tmp_path / "root", slices=1, steps=1)
    flags = {"name": "XLA_FLAGS", "value": f"--xla_dump_to={tmp_path / 'programs'}"}
    document["spec"]["env"] = [
        flags,
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
    ]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    environ = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "HF_TOKEN")}
    script = (
        "import sys; sys.argv = ['halcyon', 'train', 'run.yaml', '--json']; from halcyon.commands.main import app; "
        "app()"
    )
    command = [sys.executable, "-c", script]
    output = subprocess.run(
        command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True, timeout=limit(120)
    ).stdout
    assert list((tmp_path / "programs").iterdir()), "the compiler used the flag"
    assert "spec.env[HF_TOKEN]: a Secret of a cluster has its value" in output
