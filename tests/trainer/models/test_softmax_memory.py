"""Blocks of logits follow the memory of the device, and the numbers stay those of any other number of blocks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.models.log_probs import cross_entropy
from halcyon.models.softmax import LEAST_LOGIT_BYTES, Softmax, block_count, logit_bytes, logits_for
from halcyon_api.hardware import TABLE, row_of_device
from tests.trainer.step.test_program import program_of
from tests.trainer.support.meshes import mesh_of

MIB = 1 << 20
BATCH, POSITION, EMBED, VOCAB = hax.make_axes(batch=4, position=8192, embed=4, vocab=128_256)


@pytest.mark.parametrize(
    ("kind", "mebibytes"),
    [
        ("cpu", 256),
        ("NVIDIA GeForce RTX 4090", 256),
        ("TPU v5 lite", 512),
        ("TPU v6 lite", 1024),
        ("NVIDIA H100 80GB HBM3", 2048),
        ("NVIDIA H200", 2048),
        ("NVIDIA B200", 2048),
    ],
)
def test_a_block_takes_a_share_of_the_memory_of_the_device(kind: str, mebibytes: int) -> None:
    row = row_of_device(kind)
    assert logit_bytes(None if row is None else row.memory_bytes) == mebibytes * MIB


def test_devices_with_little_memory_have_the_blocks_of_processors() -> None:
    assert logit_bytes(1 << 30) == LEAST_LOGIT_BYTES == logit_bytes(None)


def test_each_kind_of_device_is_in_one_row() -> None:
    # h100-mega is another machine with the same GPU: the device alone is that of h100.
    rows = [row for row in TABLE.values() if row.name != "h100-mega"]
    assert all(row_of_device(kind) is row for row in rows for kind in row.device_kinds)
    assert all(row.device_kinds for row in TABLE.values() if row.memory_bytes)


@pytest.mark.parametrize(
    ("positions", "bytes_of_all", "most", "blocks"),
    [(8192, 1, 8, 1), (8192, 4 * 8192 * 128_256 * 4, 2 << 30, 8), (12, 100, 20, 6), (7, 100, 20, 7), (8, 1000, 1, 8)],
)
def test_the_number_of_blocks_divides_the_positions(positions: int, bytes_of_all: int, most: int, blocks: int) -> None:
    assert block_count(positions, bytes_of_all, most) == blocks


def loops(function: Any, *arguments: Any) -> list[int]:
    """Lengths of the loops in a function's program."""
    found: list[int] = []

    def search(jaxpr: Any) -> None:
        for equation in jaxpr.eqns:
            if equation.primitive.name == "scan":
                found.append(equation.params["length"])
            for inner in jax.tree.leaves(
                equation.params, is_leaf=lambda each: hasattr(each, "eqns") or hasattr(each, "jaxpr")
            ):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    search(inner)

    search(jax.make_jaxpr(function)(*arguments).jaxpr)
    return found


@pytest.mark.parametrize(("kind", "turns"), [("cpu", 64), ("NVIDIA H200", 8), ("TPU v5 lite", 32)])
def test_the_loss_of_a_large_batch_takes_few_turns_on_a_device_with_much_memory(kind: str, turns: int) -> None:
    """The batch and the vocabulary of a Llama of 1 billion parameters."""
    shapes = [
        jax.ShapeDtypeStruct([axis.size for axis in axes], jnp.float32)
        for axes in ((BATCH, POSITION, EMBED), (VOCAB, EMBED))
    ]

    def loss(features: jax.Array, head: jax.Array) -> jax.Array:
        rows = (BATCH, POSITION)
        named = hax.named(features, (BATCH, POSITION, EMBED)), hax.named(head, (VOCAB, EMBED))
        return cross_entropy(*named, hax.zeros(rows, jnp.int32), hax.ones(rows), Softmax(EMBED, VOCAB)).total

    with logits_for(SimpleNamespace(device_kind=kind)):
        assert loops(jax.grad(loss, (0, 1)), *shapes) == [turns]


def test_the_step_of_a_run_has_the_blocks_of_its_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A described device decides, also where the program is traced on a processor."""
    program = program_of(spec__trainer__sequenceLength=16)
    found: list[str] = []
    monkeypatch.setattr(
        "halcyon.step.program.logits_for", lambda device: found.append(device.device_kind) or logits_for(device)
    )
    with program.tracing():
        pass
    assert found == [mesh_of().devices.flat[0].device_kind]


def test_the_number_of_blocks_changes_no_number_but_its_rounding() -> None:
    noise = np.random.default_rng(0)
    batch, position, embed, vocab = hax.make_axes(batch=2, position=64, embed=8, vocab=32)
    features = hax.named(jnp.asarray(noise.standard_normal((2, 64, 8)), jnp.float32), (batch, position, embed))
    head = hax.named(jnp.asarray(noise.standard_normal((32, 8)), jnp.float32), (vocab, embed))
    targets = hax.named(jnp.asarray(noise.integers(0, 32, (2, 64)), jnp.int32), (batch, position))

    def loss(features: Any, head: Any, most: int) -> jax.Array:
        return cross_entropy(
            features, head, targets, hax.ones((batch, position)), Softmax(embed, vocab), max_logit_bytes=most
        ).total

    few, many = (jax.value_and_grad(loss, (0, 1))(features, head, most) for most in (MIB, 1024))
    for left, right in zip(jax.tree.leaves(few), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)
