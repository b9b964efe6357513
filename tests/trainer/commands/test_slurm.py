"""The script that SLURM gets of a run. A real SLURM runs it in tests/trainer/run/test_slurm.py."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon.commands.slurm import job_script
from halcyon.host.errors import BadConfiguration
from halcyon_api.reading import parse_run
from tests.api.documents import document

GPUS = {"type": "nvidia", "topology": "1x8", "slices": 4}
QUEUE = {"queue": {"name": "long", "priorityClass": "high"}}


def script(*options: str, **sections: Any) -> str:
    changed = document()
    changed["spec"] |= {"accelerator": GPUS, **sections}
    return job_script(parse_run(changed), "/runs/my run.yaml", options, "/opt/halcyon")


def test_a_script_asks_for_what_the_document_says() -> None:
    lines = script("--time=10", "--nodes=5", scheduling=QUEUE).splitlines()
    given = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]
    assert {"nodes=4", "ntasks-per-node=1", "gpus-per-node=8", "partition=long", "qos=high", "requeue"} <= {*given}
    assert given[-2:] == ["time=10", "nodes=5"], "the last one wins"
    assert "srun --no-kill --kill-on-bad-exit=0 --wait=120 /opt/halcyon train '/runs/my run.yaml' &" in lines


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
