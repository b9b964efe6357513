"""A run that cannot fit is rejected before any allocation, with the memory it needs and the memory there is; any other run is accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from halcyon.errors import BadConfiguration
from halcyon.machine.memory import check_memory, least_need, machine_memory, memory_problem
from halcyon_api.mesh import run_mesh
from halcyon_api.training_run import TrainingRunSpec, parse_run
from tests.api.documents import document

GIB = 2**30


def spec_of(**changes: Any) -> TrainingRunSpec:
    return parse_run(document(spec__accelerator={"type": "cpu", "topology": "1x1"}, **changes)).spec


def problem(spec: TrainingRunSpec, available_bytes: int) -> str:
    found = memory_problem(spec, run_mesh(spec), available_bytes, devices=1, where="this machine")
    return str(found) if found is not None else ""


def test_a_model_of_seven_billion_needs_sixteen_bytes_a_parameter() -> None:
    seven = spec_of(spec__model={"llama": {"layers": 32, "hiddenSize": 4096, "intermediateSize": 11008, "heads": 32}})
    assert least_need(seven, run_mesh(seven)).state_bytes == pytest.approx(16 * 6.5e9, rel=0.02)
    words = "spec.model.llama: parameters, gradients and optimizer state take 103.8 GB at least, and this machine has 17.2 GB; "
    assert problem(seven, 16 * GIB) == f"{words}choose a smaller model, or a topology with more memory"
    assert not problem(seven, 1024 * GIB)


def test_a_batch_counts_by_its_part_on_one_device_at_a_time() -> None:
    huge: dict[str, Any] = {"spec__trainer__batchSize": 2**24}
    assert problem(spec_of(**huge), GIB).startswith("spec.trainer.batchSize: a batch takes ")
    assert problem(spec_of(**huge), GIB).endswith("give a smaller batchSize, or more microbatches")
    assert not problem(spec_of(**huge, spec__trainer__microbatches=2**16), GIB)
    assert not problem(spec_of(), GIB)
    later = spec_of(spec__trainer__batchSchedule=[{"fromStep": 5, "batchSize": 2**24}])
    assert problem(later, GIB).startswith("spec.trainer.batchSize")


def test_devices_of_a_processor_share_its_memory() -> None:
    spec = parse_run(document(spec__accelerator={"type": "cpu", "topology": "1x4"})).spec
    need = least_need(spec, run_mesh(spec)).total_bytes
    assert memory_problem(spec, run_mesh(spec), 3 * need, devices=4, where="this machine") is not None
    assert memory_problem(spec, run_mesh(spec), 4 * need, devices=4, where="this machine") is None


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
