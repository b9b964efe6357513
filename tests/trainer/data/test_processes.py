"""Real process groups of one to four processes see bitwise the same batches; each process reads only its own rows.

They start without a token cache: in each process group one process builds it while the others wait.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.arrays import load_arrays
from tests.ports import free_port
from tests.suite.limits import limit
from tests.trainer.data.read_batches import BATCH_SIZE, LENGTH, STEPS
from tests.trainer.support.forked import Forked

pytestmark = pytest.mark.slow

TOKEN_BYTES = 2


def read_batches(corpus: Path, directory: Path, *, processes: int) -> list[dict[str, np.ndarray]]:
    """The rows that each process of a process group read. The group has four devices, or three with three processes."""
    directory.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_"))}
    environment |= {"JAX_PLATFORMS": "cpu"}
    coordinator = f"127.0.0.1:{free_port()}"
    outputs = [directory / f"{index}.npz" for index in range(processes)]
    started = [
        Forked(
            "tests.trainer.data.read_batches",
            [
                str(index),
                str(processes),
                str(4 // processes),
                coordinator,
                str(corpus),
                str(directory / "cache"),
                str(output),
            ],
            environment,
        )
        for index, output in enumerate(outputs)
    ]
    try:
        for process in started:
            errors = process.stderr.read()
            assert process.wait(limit(240)) == 0, errors
    finally:
        for process in started:
            process.close()
    return [load_arrays(output) for output in outputs]


def test_one_to_four_processes_see_the_same_batches(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    for number in range(30):
        folder = corpus / ("first" if number % 3 else "second")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02d}.txt").write_text(
            "".join(f"{number} times {factor} is {number * factor}.\n" for factor in range(30))
        )
    groups = {
        processes: read_batches(corpus, tmp_path / str(processes), processes=processes) for processes in (1, 2, 3, 4)
    }
    alone = groups[1][0]
    batches = {name for name in alone if "/" in name}
    assert len(batches) == len(STEPS) * 4 * BATCH_SIZE
    for processes in (2, 3, 4):
        seen: dict[str, np.ndarray] = {}
        for process in groups[processes]:
            rows = {name: value for name, value in process.items() if "/" in name}
            assert len(rows) == len(batches) // processes
            assert not seen.keys() & rows.keys()
            seen |= rows
            assert str(process["fingerprint"]) == str(alone["fingerprint"])
            assert process["evaluation"] == pytest.approx(alone["evaluation"], rel=1e-6)
        assert seen.keys() == batches
        mine = [int(process["bytes"]) for process in groups[processes]]
        assert sum(mine) == int(alone["bytes"]), "the processes share the reading, and nothing is read twice"
        assert max(mine) <= BATCH_SIZE // processes * (LENGTH + 1) * TOKEN_BYTES
        for name, value in seen.items():
            assert value.tobytes() == alone[name].tobytes(), name
