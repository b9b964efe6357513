"""States that are a pure function of their step, and helpers to open and fill a root."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from halcyon.checkpoint import Checkpointer, Limits, Restored, RunRecord
from halcyon_api.checkpoint_documents import DataPosition, Epoch, Fingerprints, Owner
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_devcluster.machine import limit
from tests.trainer.support.shared_programs import QUICK_FLAGS

REPOSITORY = Path(__file__).parents[3]
OWNER = Owner(namespace="tests", name="run", uid="one")
SAME = Fingerprints(
    sections={"spec.model": "0" * 64}, documents={"spec.model": {"family": "llama", "numHiddenLayers": 4}}
)


@dataclass(frozen=True)
class OneProcess:
    """The process group of a run with one process."""

    process_index: int = 0
    process_count: int = 1

    def agree(self, document: dict[str, Any] | None) -> dict[str, Any]:
        """There is no other process that could disagree."""
        return json.loads(json.dumps(document))


@dataclass(frozen=True)
class Root:
    """A checkpoint root that a test may inspect and damage."""

    spec: CheckpointSpec
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    """Environment variables that a process needs to reach the root."""

    @property
    def head(self) -> dict[str, Any]:
        """HEAD as it is stored."""
        return json.loads((self.folder / "HEAD").read_bytes())

    def files(self) -> list[Path]:
        """All files, sorted."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file())


def with_keep(root: Root, keep: int) -> Root:
    """The same root with another number of checkpoints to keep."""
    return Root(root.spec.model_copy(update={"keep": keep}), root.folder, root.environment)


def open_root(root: Root, **changes: Any) -> Checkpointer:
    """Open a root as the run of these tests."""
    arguments: dict[str, Any] = {
        "owner": OWNER,
        "epoch": None,
        "processes": OneProcess(),
        "expected_step": 0,
        "limits": Limits(parts_seconds=limit(60), request_seconds=limit(30), shared_read_bytes=0),
    }
    recorded: dict[str, Any] = {"fingerprints": SAME, "seed": 1, "mesh": {"fsdp": 2}}
    recorded |= {one.name: changes.pop(one.name) for one in fields(RunRecord) if one.name in changes}
    return Checkpointer(root.spec, RunRecord(**recorded), **(arguments | changes))


def epoch(attempt: int, restart: int = 0) -> Epoch:
    """The epoch (attempt, restart)."""
    return Epoch(attempt=attempt, restart=restart)


def position(step: int) -> DataPosition:
    """The data position after a step."""
    return DataPosition(step=step, sequences=8 * step, tokens=512 * step)


def mesh(rows: int, columns: int) -> Mesh:
    """The first rows × columns devices, with the axes fsdp and tensor."""
    return Mesh(np.array(jax.devices()[: rows * columns]).reshape(rows, columns), ("fsdp", "tensor"))


SHARDINGS: dict[str, PartitionSpec] = {
    "bias": PartitionSpec("tensor"),
    "counts": PartitionSpec("fsdp", None),
    "empty": PartitionSpec(),
    "flags": PartitionSpec(None),
    "half": PartitionSpec("tensor", "fsdp"),
    "scale": PartitionSpec(),
    "step": PartitionSpec(),
    "weight": PartitionSpec("fsdp", "tensor"),
}


def numbers(step: int) -> dict[str, np.ndarray]:
    """The state at a step, as NumPy arrays: many types and unusual values, which depend only on the step."""
    random = np.random.default_rng(step)
    bits = random.integers(
        0, 2**32, (16, 8), np.uint32
    )  # every bit pattern: NaNs with payloads, infinities, denormals, -0
    return {
        "bias": random.standard_normal(8).astype(np.float32),
        "counts": random.integers(-(2**31), 2**31, (8, 3)).astype(np.int32),
        "empty": np.zeros((0, 4), np.float32),
        "flags": random.random(5) < 0.5,
        "half": random.standard_normal((8, 16)).astype(ml_dtypes.bfloat16),
        "scale": np.float32(random.standard_normal()),
        "step": np.int32(step),
        "weight": bits.view(np.float32),
    }


def on(
    device_mesh: Mesh, arrays: dict[str, Any], shardings: dict[str, PartitionSpec] = SHARDINGS
) -> dict[str, jax.Array]:
    """The arrays on a mesh of any number of processes."""
    return {
        name: jax.make_array_from_callback(
            np.shape(array), NamedSharding(device_mesh, shardings[name]), lambda index, array=array: array[index]
        )
        for name, array in arrays.items()
    }


def template(device_mesh: Mesh, shardings: dict[str, PartitionSpec] = SHARDINGS) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, types and shardings of the state of `numbers`."""
    return {
        name: jax.ShapeDtypeStruct(np.shape(array), array.dtype, sharding=NamedSharding(device_mesh, shardings[name]))
        for name, array in numbers(0).items()
    }


def same_bits(state: dict[str, Any], arrays: dict[str, Any]) -> bool:
    """Whether the shards that this process holds are bitwise equal to the given arrays."""

    def same(left: Any, right: Any) -> bool:
        if isinstance(left, jax.Array):
            return all(_bits(shard.data) == _bits(np.asarray(right)[shard.index]) for shard in left.addressable_shards)
        return _bits(left) == _bits(right)

    return state.keys() == arrays.keys() and all(
        np.shape(state[name]) == np.shape(arrays[name])
        and state[name].dtype == arrays[name].dtype
        and same(state[name], arrays[name])
        for name in arrays
    )


def _bits(array: Any) -> bytes:
    return np.ascontiguousarray(np.asarray(array)).tobytes()


def save_step(checkpointer: Checkpointer, step: int, *more: Any, devices: Mesh | None = None) -> None:
    """Begin to save the state of a step, on four devices unless others are given."""
    checkpointer.save(step, on(devices or mesh(2, 2), numbers(step)), position(step), *more)


def restore_newest(checkpointer: Checkpointer) -> Restored | None:
    """What is restored on four devices."""
    return checkpointer.restore(template(mesh(2, 2)))


def restore_right(checkpointer: Checkpointer) -> Restored:
    """What is restored on four devices. It must exist, and have the right bits of its step."""
    restored = restore_newest(checkpointer)
    assert restored is not None
    assert same_bits(restored.state, numbers(restored.step)), "silently wrong"
    return restored


def fill(root: Root, *steps: int, make: Callable[[int], dict[str, Any]] | None = None, **changes: Any) -> None:
    """Commit checkpoints of these steps."""
    device_mesh = mesh(2, 2)
    with open_root(root, **changes) as checkpointer:
        for step in steps:
            checkpointer.save(step, make(step) if make else on(device_mesh, numbers(step)), position(step))
            checkpointer.finish()
            assert checkpointer.last_error is None


def snapshot_of(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def child_environment(root: Root, **more: str) -> dict[str, str]:
    """The environment of a child process that uses a root."""
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_", "AWS_"))}
    return {**keep, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_FLAGS, **root.environment, **more}


class NeverAnswered:
    """A request that never gets an answer."""

    def done(self) -> bool:
        return False

    def result(self, timeout: float) -> None:
        threading.Event().wait(timeout)
        raise TimeoutError
