"""An audit names the device whose numbers are wrong, and is silent while all are right."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.step import audit as module
from halcyon.step.audit import Audit, Finding, digest, wrong_copies, wrong_parts
from halcyon.step.objectives.objective import Sums
from halcyon.step.program import Program, build_program
from halcyon.step.state import TrainState, initial_state
from halcyon_api.reading import parse_run
from tests.api.documents import document
from tests.trainer.parallel.mesh_cases import MODELS
from tests.trainer.support.batches import batch_of
from tests.trainer.support.meshes import mesh_from

ROWS, LENGTH = 48, 12


@dataclasses.dataclass(frozen=True)
class Faulty:
    """An objective whose sums are off by the smallest amount on one index of a mesh axis."""

    inner: Any
    axis: str
    index: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, *arguments: Any) -> Sums:
        sums: Sums = self.inner(*arguments)
        wrong = jax.lax.axis_index(self.axis) == self.index
        return sums._replace(loss=sums.loss * jnp.where(wrong, jnp.float32(1 + 2**-22), jnp.float32(1)))


def program_on(
    on: str, model: str = "llama", microbatches: int = 1, fault: tuple[str, int] | None = None, rule: str = "adamw"
) -> Program:
    run = document(
        spec__accelerator={"type": "cpu", "topology": "1x8", "slices": 1},
        spec__model=MODELS[model],
        spec__optimizer={"learningRate": 0.01, rule: {}},
        spec__trainer={"steps": 10, "batchSize": ROWS, "sequenceLength": LENGTH, "microbatches": microbatches},
    )
    program = build_program(parse_run(run).spec, 60, mesh_from(on))
    if fault is None:
        return program
    objective = Faulty(program.objective, *fault)
    return dataclasses.replace(program, gradients=dataclasses.replace(program.gradients, objective=objective))


def batch_for(program: Program, number: int = 0) -> Any:
    noise = np.random.default_rng(number)
    tokens = noise.integers(0, 60, (ROWS, LENGTH + 1)).astype(np.int32)
    arrays = (
        tokens[:, :-1],
        tokens[:, 1:],
        (noise.random((ROWS, LENGTH)) > 0.3).astype(np.float32),
        np.cumsum(noise.random((ROWS, LENGTH)) < 0.2, 1).astype(np.int32),
    )
    return batch_of(
        *(jax.device_put(each.reshape(program.microbatches, -1, LENGTH), program.batch_sharding) for each in arrays)
    )


def first_state(program: Program) -> TrainState:
    return initial_state(program.build_state, program.template)


HEALTHY = [
    ("replica 3", "llama", 1),
    ("replica 2 x fsdp 2 x tensor 2", "mixtral", 2),
    *(
        pytest.param(*case, marks=[pytest.mark.slow, pytest.mark.variant])
        for case in (
            ("fsdp 8", "llama", 3),
            ("data 4 x tensor 2", "gpt2", 1),
            ("replica 2 x data 2 x fsdp 2", "llama", 2),
            ("replica 2 x fsdp 2 x expert 2", "mixtral", 1),
            ("replica 2 x fsdp 2 x context 2", "llama", 1),
            ("replica 2 x fsdp 2 x tensor 2", "qwen3Next", 1),
            ("replica 4 x tensor 2", "deepseekV3", 2),
            ("replica 8", "nanochat", 3),
        )
    ),
]


@pytest.mark.parametrize(("on", "model", "microbatches"), HEALTHY)
def test_right_numbers_are_not_suspected(on: str, model: str, microbatches: int) -> None:
    program = program_on(on, model, microbatches)
    audit, state = Audit(program), first_state(program)
    for number in range(3):
        assert audit.gradient(state, batch_for(program, number)) is None
    assert audit.state(state) is None


def compilations(caplog: pytest.LogCaptureFixture, work: Callable[[], object]) -> list[str]:
    """The names of the programs that `work` compiles."""
    caplog.clear()
    with jax.log_compiles():
        work()
    return [found.group(1) for one in caplog.messages if (found := re.match(r"Compiling (\S+)", one))]


@pytest.mark.parametrize(
    "on", ["replica 3", pytest.param("replica 2 x fsdp 2", marks=[pytest.mark.slow, pytest.mark.variant])]
)
def test_the_first_audit_compiles_nothing_that_was_compiled_beside_the_steps(
    on: str, caplog: pytest.LogCaptureFixture
) -> None:
    program = program_on(on, microbatches=2)
    audit, batch = Audit(program), batch_for(program)
    control = jax.device_put(np.zeros(program.mesh.size, np.int32), program.control_sharding)
    state, _ = program.compile_step(ROWS, LENGTH)(first_state(program), batch, control)
    with ThreadPoolExecutor(1) as beside:  # what is logged is a setting of the thread
        made = beside.submit(compilations, caplog, lambda: audit.compiled(ROWS, LENGTH)).result()
    assert "jit(audit_gradient)" in made
    assert compilations(caplog, lambda: (audit.state(state), audit.gradient(state, batch))) == []


@pytest.mark.parametrize(
    ("on", "fault", "devices", "certain"),
    [
        ("replica 3", ("replica", 1), (1,), True),
        ("replica 4 x fsdp 2", ("replica", 2), (4, 5), True),
        ("data 4", ("data", 3), (3,), True),
        ("replica 2 x fsdp 2", ("replica", 1), (0, 1, 2, 3), False),
    ],
)
def test_a_device_with_wrong_products_is_named_before_the_sum(
    on: str, fault: tuple[str, int], devices: tuple[int, ...], certain: bool
) -> None:
    program = program_on(on, fault=fault)
    assert Audit(program).gradient(first_state(program), batch_for(program)) == Finding("gradient", devices, certain)


def flipped(
    state: TrainState, device: int, leaf: int, noise: np.random.Generator, *, bit: int | None = None
) -> TrainState:
    """The state with one bit of one array changed in the memory of one device: a random one, or this one of the first
    number.
    """
    leaves, tree = jax.tree.flatten(state)
    shards = {shard.device.id: np.array(shard.data) for shard in leaves[leaf].addressable_shards}
    which = sorted(shards)[device]
    raw = shards[which].reshape(-1).view(np.uint8)
    if bit is None:
        raw[noise.integers(raw.size)] ^= 1 << noise.integers(8)
    else:
        raw[bit // 8] ^= 1 << bit % 8
    by_id = {one.id: one for one in jax.devices()}
    leaves[leaf] = jax.make_array_from_single_device_arrays(
        leaves[leaf].shape,
        leaves[leaf].sharding,
        [jax.device_put(shards[shard.device.id], by_id[shard.device.id]) for shard in leaves[leaf].addressable_shards],
    )
    return jax.tree.unflatten(tree, leaves)


def test_one_changed_bit_in_a_copy_of_the_state_is_found_in_every_array() -> None:
    program = program_on("replica 3 x fsdp 2")
    audit, state, noise = Audit(program), first_state(program), np.random.default_rng(0)
    for leaf in range(len(jax.tree.leaves(state))):
        device = int(noise.integers(6))
        assert audit.state(flipped(state, device, leaf, noise)) == Finding("state", (device,), certain=True)


def test_one_changed_bit_in_one_of_two_copies_accuses_both() -> None:
    program = program_on("replica 2 x fsdp 2")
    audit, state = Audit(program), first_state(program)
    found = audit.state(flipped(state, 1, 3, np.random.default_rng(0)))
    assert found == Finding("state", (1, 3), certain=False)


def test_the_device_whose_products_differ_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    audit = Audit(program_on("replica 2 x fsdp 2"))
    assert audit.products() is None
    right = module.product_words

    def wrong(seeds: jax.Array, side: int) -> jax.Array:
        here = (jax.lax.axis_index("replica") == 1) & (jax.lax.axis_index("fsdp") == 0)
        return right(seeds, side) ^ here.astype(jnp.uint32)

    monkeypatch.setattr(module, "product_words", wrong)
    assert audit.products() == Finding("products", (2,), certain=True)


def parts_with(
    liars: dict[tuple[int, int], bool], parts: int, devices: int, noise: np.random.Generator
) -> Callable[[int], np.ndarray]:
    """Evaluations in which some devices are wrong: always in the same way, or once."""
    right = noise.integers(0, 2**32, (parts, devices, 2), dtype=np.uint32)
    left, word, bit = set(liars), int(noise.integers(2)), np.uint32(1 << int(noise.integers(32)))

    def evaluate(shift: int) -> np.ndarray:
        words = right.copy()
        for part, device in list(left):
            words[(part - shift) % parts, device, word] ^= bit
            if not liars[part, device]:
                left.remove((part, device))
        return words

    return evaluate


def test_the_wrong_part_is_named_whether_it_is_wrong_always_or_once() -> None:
    noise = np.random.default_rng(0)
    for case in range(300):
        parts, devices = int(noise.integers(2, 7)), int(noise.integers(1, 4))
        always = bool(case % 2)
        liar = (int(noise.integers(parts)), int(noise.integers(devices)))
        found = wrong_parts(parts_with({liar: always}, parts, devices, noise), parts)
        assert found is not None
        named = {(int(part), int(device)) for part, device in zip(*np.nonzero(found[0]), strict=True)}
        if parts == 2 and always:
            assert (named, found[1]) == ({(0, liar[1]), (1, liar[1])}, False)
        else:
            assert (named, found[1]) == ({liar}, True)
    assert wrong_parts(parts_with({}, 3, 2, noise), 3) is None


def test_a_part_alone_that_does_not_repeat_its_numbers_is_named() -> None:
    noise = np.random.default_rng(0)
    found = wrong_parts(parts_with({(0, 1): False}, 1, 2, noise), 1)
    assert found is not None
    assert found[0].tolist() == [[False, True]]


def test_copies_are_judged_by_majority() -> None:
    words = np.zeros((3, 2, 2), np.uint32)
    assert wrong_copies(words) is None
    words[1, 0, 1] = 7
    wrong, certain = wrong_copies(words) or (np.zeros(0), False)
    assert (wrong.tolist(), certain) == ([[False, False], [True, False], [False, False]], True)
    words[2, 0, 0] = 9
    assert (wrong_copies(words) or (None, True))[1] is False


def test_each_bit_of_each_type_decides_about_the_digest() -> None:
    for dtype in ("float32", "bfloat16", "int8", "int32", "bool"):
        zeros = jnp.zeros((3, 5), dtype)
        one = zeros.at[2, 3].set(zeros.dtype.type(1))
        other = zeros.at[2, 4].set(zeros.dtype.type(1))
        words = {tuple(np.asarray(digest([x])).tolist()) for x in (zeros, one, other)}
        assert len(words) == 3, dtype
    first, second = jnp.arange(4.0), jnp.arange(4.0) + 1
    assert (digest([first, second]) != digest([second, first])).all()
