"""A checkpoint does not depend on the machines: other devices, other meshes and other numbers of processes restore the
same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from halcyon.checkpoint.origin import OtherRun
from halcyon.host.errors import RunChanged
from halcyon.host.storage.store import Store
from halcyon_api.spec.origin import OriginSpec
from tests.faults import rows
from tests.faults.table import Trials
from tests.trainer.checkpoint.helpers import (
    OWNER,
    SAME,
    SHARDINGS,
    OneProcess,
    Root,
    fill,
    mesh,
    numbers,
    on,
    open_root,
    position,
    template,
)
from tests.trainer.checkpoint.test_process_groups import BY_COLUMNS, BY_ROWS, WriterGroup

pytestmark = rows.TOPOLOGY

SHAPES: tuple[tuple[str, int, int, dict[str, Any]], ...] = (
    ("8 devices, fsdp", 8, 1, SHARDINGS),
    ("4 devices, tensor", 1, 4, SHARDINGS),
    ("1 device", 1, 1, SHARDINGS),
    ("8 devices, fsdp and tensor", 4, 2, SHARDINGS),
    ("8 devices, tensor", 1, 8, SHARDINGS),
    ("8 devices, fsdp once more", 8, 1, SHARDINGS),
)
"""Axes of 8, 4 and 1. Each shape restores the checkpoint of the previous one, and saves for the next."""


def gathered_bits(state: dict[str, jax.Array]) -> dict[str, bytes]:
    """Every array gathered, as bytes."""
    return {name: np.asarray(array).tobytes() for name, array in state.items()}


def bits(arrays: dict[str, Any]) -> dict[str, bytes]:
    return {name: np.asarray(array).tobytes() for name, array in arrays.items()}


def test_from_mesh_to_mesh_all_bits_stay(root: Root, trials: Trials) -> None:
    carried: dict[str, Any] = numbers(1)
    for step, (name, columns, rows_, shardings) in enumerate(SHAPES, start=1):
        devices = mesh(columns, rows_)
        with open_root(root) as checkpointer:
            restored = checkpointer.restore(template(devices, shardings))
            if step == 1:
                assert restored is None
                state: Any = on(devices, carried, shardings)
            else:
                assert restored is not None
                state = restored.state
                assert restored.step == step - 1
                assert {array.sharding.mesh.shape["fsdp"] for array in state.values()} == {columns}
                trials.count("restores onto another mesh")
            assert gathered_bits(state) == bits(carried), name
            checkpointer.save(step, state, position(step))  # the restored state is saved, so an error would persist
            checkpointer.finish()


@pytest.mark.slow
def test_from_one_process_to_four_to_two_and_back(file_root: Root, trials: Trials) -> None:
    """Each process group compares the bits of all shards that its processes hold."""
    fill(file_root, 1)
    groups: Sequence[tuple[int, list[int], dict[str, Any]]] = (
        (4, [4, 1], BY_ROWS),
        (2, [1, 4], BY_COLUMNS),
        (4, [2, 2], {}),
    )
    for step, (count, shape, shardings) in enumerate(groups, start=1):
        with WriterGroup(file_root, count, mesh=shape, shardings=shardings, steps=1, join_seconds=240) as group:
            assert group.run() == [0] * count, [(child.events, child.noise()) for child in group.children]
            assert (
                group.events_of("restored")
                == [[{"event": "restored", "step": step, "right": True, "skipped": []}]] * count
            )
            trials.count("restores onto another number of processes")
    with open_root(file_root) as checkpointer:
        restored = checkpointer.restore(template(mesh(2, 4)))
    assert restored is not None
    assert gathered_bits(restored.state) == bits(numbers(len(groups) + 1))
    trials.count("restores onto another number of processes")


def test_another_floating_point_type_by_request_alone(file_root: Root, trials: Trials) -> None:
    arrays = {name: array for name, array in numbers(1).items() if name != "weight"}
    arrays["weight"] = np.random.default_rng(1).standard_normal((16, 8)).astype(np.float32)
    with open_root(file_root) as checkpointer:
        checkpointer.save(1, on(mesh(8, 1), arrays), position(1))
        checkpointer.finish()

    def wanted(types: dict[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
        plain = template(mesh(2, 2))
        return {
            name: jax.ShapeDtypeStruct(one.shape, types.get(name, one.dtype), sharding=one.sharding)
            for name, one in plain.items()
        }

    halved = wanted({"weight": jnp.bfloat16, "bias": jnp.bfloat16, "half": jnp.float32})
    with open_root(file_root) as checkpointer:
        with pytest.raises(
            RunChanged, match=r"the state's array bias is bfloat16\[8\], the checkpoint's is float32\[8\]"
        ):
            checkpointer.restore(halved)
        with pytest.raises(
            RunChanged, match=r"the state's array counts is float32\[8, 3\], the checkpoint's is int32\[8, 3\]"
        ):
            checkpointer.restore(wanted({"counts": jnp.float32}))
    # A run that begins from another one may have another precision.
    origin = OriginSpec(run=OWNER.name, root=file_root.spec.root)
    other = OtherRun(origin, Store(file_root.spec), OWNER, OneProcess())
    with pytest.raises(
        RunChanged, match=r"the state's array counts is float32\[8, 3\], the checkpoint's is int32\[8, 3\]"
    ):
        other.restore(wanted({"counts": jnp.float32}), SAME, steps=None)
    restored = other.restore(halved, SAME, steps=None)
    expected = dict(arrays)
    for name in ("weight", "bias"):
        expected[name] = np.asarray(jnp.asarray(arrays[name]).astype(jnp.bfloat16))
        assert expected[name].dtype == ml_dtypes.bfloat16
    expected["half"] = arrays["half"].astype(np.float32)
    assert {name: array.dtype for name, array in restored.state.items()} == {
        name: np.asarray(one).dtype for name, one in expected.items()
    }
    assert gathered_bits(restored.state) == bits(expected), "rounded as JAX rounds; all other arrays bitwise"
    trials.count("restores into another type by request")
