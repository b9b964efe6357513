"""The script that SLURM gets of a run. A real SLURM runs it in test_slurm.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from halcyon.host.errors import BadConfiguration
from halcyon_api.ends import ExitCode
from halcyon_api.reading import parse_run
from halcyon_cli.commands.hosts import job_script
from halcyon_cli.main import app
from tests.api.documents import document

GPUS = {"type": "nvidia", "topology": "1x8", "slices": 4}
QUEUE = {"queue": {"name": "long", "priorityClass": "high"}}


def script(*options: str, **sections: Any) -> str:
    changed = document()
    changed["spec"] |= {"accelerator": GPUS, **sections}
    return job_script(parse_run(changed), ["/opt/halcyon", "slurm", "/runs/my run.yaml", "--in-job"], options, 1)


def test_a_script_asks_for_what_the_document_says() -> None:
    lines = script("--time=10", "--nodes=6", scheduling=QUEUE).splitlines()
    given = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]
    assert {"nodes=5", "ntasks-per-node=1", "gpus-per-node=8", "partition=long", "qos=high", "requeue", "no-kill"} <= {
        *given
    }
    assert given[-2:] == ["time=10", "nodes=6"], "the last one wins"
    assert lines[-1] == "exec /opt/halcyon slurm '/runs/my run.yaml' --in-job"


def test_a_script_without_gpus_or_a_queue_names_none() -> None:
    text = script(accelerator={"type": "cpu", "topology": "1x1", "slices": 2})
    assert not any(word in text for word in ("gpus", "partition", "qos", "None"))


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"accelerator": {"type": "v5e", "topology": "4x4"}}, "spec.accelerator.type: v5e is a TPU"),
        ({"after": {"run": "first"}}, "spec.after: SLURM knows a job by its number; add --dependency=afterok:JOB"),
    ],
)
def test_what_slurm_cannot_do_is_one_sentence(sections: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadConfiguration) as error:
        script(**sections)
    assert sentence in str(error.value)
    assert "afterok:7" in script("--dependency=afterok:7", after={"run": "first"})


def test_hosts_that_are_too_few_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document()))
    result = CliRunner().invoke(app, ["launch", str(path), "--hosts", "a,a"])
    assert result.exit_code == ExitCode.BAD_CONFIGURATION
    assert "--hosts: 1 host cannot run the document, whose accelerator has 2 hosts" in result.stderr


def test_the_manager_gets_the_changes_of_the_document(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document()))
    result = CliRunner().invoke(app, ["slurm", str(path), "--set", "spec.trainer.steps=9", "--spares=2"])
    assert result.stdout.endswith("--in-job --set spec.trainer.steps=9\n")
    assert "#SBATCH --nodes=4\n" in result.stdout
