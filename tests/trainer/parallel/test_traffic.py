"""The data that a step sends between devices, by collective and loop depth, read from XLA's program for 8 devices."""

from __future__ import annotations

import math

import jax
import pytest

from halcyon.models import log_probs
from halcyon.parallel.device_mesh import MESH_AXES
from halcyon.step.hlo.collectives import Collective, collectives
from halcyon.step.program import Program, build_program
from halcyon_api.reading import parse_run
from tests.api.documents import document
from tests.trainer.support.meshes import mesh_of

pytestmark = pytest.mark.slow

VOCAB, EMBED, MLP, LENGTH, BATCH = 2048, 64, 96, 64, 32
TABLE_BYTES = 4 * VOCAB * EMBED
"""Size of the embedding, and of the head, in float32. On CPU XLA sends bfloat16 as float32."""
MATRIX_BYTES = 4 * EMBED * MLP
"""Size of the largest matrix of a block."""
LEAST_BYTES = 4 * EMBED * 8
"""More than the size of any scalar, and of the vectors of all norms."""
LLAMA = {"numHiddenLayers": 3, "hiddenSize": EMBED, "intermediateSize": MLP, "numAttentionHeads": 4}


def program_on(
    sizes: tuple[int, ...], *, context: int = 1, kind: str = "cpu", microbatches: int = 1, tied: bool = False
) -> Program:
    """The program of a Llama on a mesh of these sizes (see `mesh_of`).

    On v5e the memory suffices to gather all parameters.
    """
    settings = {
        "batchSize": BATCH,
        "sequenceLength": LENGTH,
        "microbatches": microbatches,
        "precision": {"compute": "bfloat16"},
    }
    run = document(
        spec__accelerator={"type": kind, "topology": "2x4" if kind == "v5e" else "1x8", "slices": 1},
        spec__model={"family": "llama"} | LLAMA | {"tieWordEmbeddings": tied},
        spec__trainer={"steps": 10} | settings,
    )
    return build_program(parse_run(run).spec, VOCAB, mesh_of(*sizes, context=context))


def traffic(program: Program) -> list[Collective]:
    """The collectives of a step, except those of scalars and vectors."""
    return [
        one for one in collectives(program.compile_step(BATCH, LENGTH).as_text() or "") if one.size_bytes >= LEAST_BYTES
    ]


def of(found: list[Collective], kind: str, *, least: int = 0) -> list[int]:
    """Sizes, in bytes, of the collectives of a kind outside of loops, from `least` on."""
    return sorted(one.size_bytes for one in found if one.kind == kind and one.depth == 0 and one.size_bytes >= least)


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computes the logits of a few positions at a time."""
    monkeypatch.setattr(log_probs.cross_entropy, "__kwdefaults__", {"z_loss": 0.0, "max_logit_bytes": 4 * VOCAB * 16})


@pytest.mark.parametrize("tied", [False, pytest.param(True, marks=pytest.mark.variant)])
def test_embedding_and_head_are_gathered_once_and_their_gradients_scattered_once(tied: bool) -> None:
    found = traffic(program_on((1, 1, 8, 1), tied=tied))
    assert of(found, "all-gather") == [TABLE_BYTES] * 2
    assert of(found, "reduce-scatter") == [TABLE_BYTES] * 2
    assert of(found, "all-reduce", least=MATRIX_BYTES + 1) == []
    assert max(one.size_bytes for one in found if one.depth) == MATRIX_BYTES, (
        "loops send parts of a block, nothing of the head"
    )


def test_replicas_add_up_their_gradients_after_the_last_microbatch() -> None:
    alone = traffic(program_on((2, 4, 1, 1), microbatches=2))
    assert [one for one in alone if one.depth] == []
    divided = traffic(program_on((2, 1, 4, 1), microbatches=2))
    assert max(of(divided, "all-reduce")) == TABLE_BYTES // 4, "it must be the part of the table on one device"
    assert not [one for one in divided if one.depth and one.kind == "all-reduce" and one.size_bytes > MATRIX_BYTES]


@pytest.mark.parametrize("sizes", [(1, 1, 8, 1), pytest.param((2, 1, 4, 1), marks=pytest.mark.variant)])
def test_microbatches_send_as_much_as_one_batch_where_memory_allows(sizes: tuple[int, ...]) -> None:
    program = program_on(sizes, kind="v5e", microbatches=4)
    found = traffic(program)
    assert [one for one in found if one.depth] == []
    sent = [
        4 * math.prod(leaf.shape)
        for leaf in jax.tree.leaves(program.template.model)
        if 4 * math.prod(leaf.shape) >= LEAST_BYTES
    ]
    assert of(found, "all-gather") == of(found, "reduce-scatter") == sorted(sent)


@pytest.mark.variant
@pytest.mark.parametrize("kind", ["cpu", "v5e"])
def test_a_tensor_axis_divides_the_data_that_is_sent(kind: str) -> None:
    found = traffic(program_on((1, 1, 4, 2), kind=kind, microbatches=2))
    assert max(one.size_bytes for one in found) <= TABLE_BYTES // 2


def test_keys_travel_around_the_ring_and_are_never_gathered() -> None:
    """Each device has an eighth of the positions.

    It gathers the ids of segments, once, and no other array with a position axis.
    """
    program = program_on((), context=8).compile_step(BATCH, LENGTH).as_text() or ""
    found = [one for one in collectives(program) if one.size_bytes >= LEAST_BYTES]
    share = 4 * BATCH * (LENGTH // 8) * EMBED
    sent = [one.size_bytes for one in found if one.kind == "collective-permute"]
    assert sent
    assert max(sent) <= share, "keys, or values, of one device"
    gathered = [one for one in found if one.kind in ("all-gather", "all-to-all", "collective-broadcast")]
    assert [(one.dtype, math.prod(one.shape), one.depth) for one in gathered] == [("s32", BATCH * LENGTH, 0)]
    assert max(one.size_bytes for one in found if one.kind == "all-reduce") == TABLE_BYTES, (
        "only gradients of parameters are summed"
    )


def test_devices_of_a_tensor_axis_share_the_positions_between_attention_and_mlp() -> None:
    """Inside both they share heads and features, so positions are gathered before them, and no heads are exchanged."""
    text = program_on((1, 4, 1, 2)).compile_step(BATCH, LENGTH).as_text() or ""
    rows = BATCH // 4
    assert f"bf16[3,{rows},{LENGTH // 2},{EMBED}]" in text, "what the forward pass keeps of each block"
    assert f"bf16[3,{rows},{LENGTH},{EMBED}]" not in text
    found = [one for one in collectives(text) if one.depth and one.size_bytes >= LEAST_BYTES]
    activations = [one for one in found if one.axes(MESH_AXES, (1, 4, 1, 1, 1, 2)) == ("tensor",)]
    assert {one.kind for one in activations} == {"all-gather", "all-reduce"}, (
        "on CPU XLA scatters a sum by an all-reduce"
    )
    assert max(one.size_bytes for one in activations) == 4 * rows * LENGTH * EMBED, "positions of one device's rows"
    assert {one.kind for one in found if one not in activations} == {"all-reduce"}, "gradients of a block, over data"
