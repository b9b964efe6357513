"""The memory of machines; a run that cannot fit is rejected, and an unknown amount of memory rejects no run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from halcyon.errors import BadConfiguration
from halcyon.machine.memory import check_memory, machine_memory
from halcyon_api.mesh import run_mesh
from halcyon_api.training_run import TrainingRunSpec, parse_run
from tests.api.documents import document

GIB = 2**30


def spec_of(**changes: Any) -> TrainingRunSpec:
    return parse_run(document(spec__accelerator={"type": "cpu", "topology": "1x1"}, **changes)).spec


def test_an_unknown_amount_of_memory_rejects_no_run() -> None:
    spec = spec_of(spec__trainer__batchSize=2**24)
    check_memory(spec, run_mesh(spec), None, devices=1, where="this machine")
    with pytest.raises(BadConfiguration):
        check_memory(spec, run_mesh(spec), GIB, devices=1, where="this machine")


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"proc/meminfo": "MemTotal:  1000 kB\nMemFree: 5 kB\n"}, 1_024_000),
        ({"proc/meminfo": "MemTotal:  1000 kB\n", "sys/fs/cgroup/memory.max": "4096\n"}, 4096),
        ({"proc/meminfo": "MemTotal:  1000 kB\n", "sys/fs/cgroup/memory.max": "max\n"}, 1_024_000),
        ({"proc/meminfo": "MemTotal:  1000 kB\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 1_024_000),
    ],
)
def test_the_memory_of_a_machine_and_of_a_container(tmp_path: Path, files: dict[str, str], limit: int) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert machine_memory(tmp_path) == limit
