"""Finds devices that compute or hold wrong numbers: the same rows on two parts of the mesh, and copies of the state.

The gradient of a part of the batch is a function of rows and parameters alone, to the last bit. So two parts of the
mesh that compute it for the same rows must have the same bits. The comparison is made before the sum over the parts,
whose order no device decides alone. With three parts or more, a majority names the one that differs.

An evaluation is the same compiled program each time; only the rows differ. It changes nothing: the step that is audited
has been computed without it.
"""

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from halcyon.models.parameters import split
from halcyon.step.objectives.objective import Batch
from halcyon.step.offload import is_on_host
from halcyon.step.program import Program
from halcyon.step.state import TrainState

REPLICAS = ("replica", "data")
"""The mesh axes along which each device has a copy of the state."""

_PRODUCTS, _SIDE, _SIDE_ON_CPU = 8, 1024, 256
"""Number of the products of `Audit.products`, and the rows and columns of their matrices: enough for all cores of an
accelerator. A processor would take a second."""

Compile = Callable[[jax.stages.Lowered, str], jax.stages.Compiled]
"""Compiles a traced program, and gets the name of its module."""
Digests = np.ndarray
"""uint32 [part, device of the part, words]."""


@dataclass(frozen=True)
class Finding:
    """Devices whose numbers are wrong.

    Attributes:
        what: `gradient`: two computations of one gradient differ. `state`: copies of the state differ. `products`: the
            products of the same matrices differ.
        devices: Their positions in the flat mesh.
        certain: Whether each of them is wrong; False: at least one of them is.
    """

    what: Literal["gradient", "state", "products"]
    devices: tuple[int, ...]
    certain: bool

    def processes(self, mesh: Mesh) -> tuple[int, ...]:
        """The processes that have the devices."""
        devices = mesh.devices.flat
        return tuple(sorted({devices[position].process_index for position in self.devices}))


class Audit:
    """The audit of a program.

    Args:
        program: The program of the run.
        compiled: Compiles a lowered program. It gets the name of its module. None: the program of the run does.
    """

    def __init__(self, program: Program, compiled: Compile | None = None) -> None:
        self._program, self._mesh = program, program.mesh
        self._compile = compiled or (lambda lowered, _: program.compile(lowered))
        sizes = self._mesh.shape
        self._along = next((name for name in REPLICAS if sizes[name] > 1), REPLICAS[0])
        self._parts = sizes[self._along]
        self._state_digests = self._compile_state_digests()
        self._compiled: dict[tuple[int, int], Callable[..., jax.Array]] = {}
        self._compiling = threading.Lock()

    def gradient(self, state: TrainState, batch: Batch) -> Finding | None:
        """Compute the gradient of a microbatch on several parts of the mesh. A collective.

        Args:
            state: The state of the model to differentiate. It stays as it is.
            batch: Any batch of the run.
        """
        found = wrong_parts(lambda shift: self._digests(state, batch, shift), self._parts)
        return None if found is None else Finding("gradient", self._flat(found[0], self._along), found[1])

    def products(self) -> Finding | None:
        """See `compare_products`."""
        return compare_products(self._mesh, self._compile)

    def state(self, state: TrainState) -> Finding | None:
        """Compare the copies of a state. A collective."""
        words = np.asarray(jax.device_get(self._state_digests(state)))
        found = wrong_copies(_parted(words, [self._mesh.axis_names.index(name) for name in REPLICAS]))
        return None if found is None else Finding("state", self._flat(found[0], *REPLICAS), found[1])

    def _digests(self, state: TrainState, batch: Batch, shift: int) -> Digests:
        """The digests of each part's rows, computed by the part `shift` parts later: [part of the rows, …]."""
        program, model = self._program, _evaluated(state)
        rolled = self._rolled(batch, state.step, shift=shift)
        words = np.asarray(jax.device_get(self.compiled(*program.size_of(batch))(model, rolled, state.step)))
        by_part = _parted(words, [self._mesh.axis_names.index(self._along)])
        return np.roll(by_part, -shift, axis=0)

    def compiled(self, batch_size: int, sequence_length: int) -> Callable[..., jax.Array]:
        """The program of an evaluation for batches of this size. It is compiled once: an earlier call may do it in
        another thread, and a later one then waits for it.
        """
        size = (batch_size, sequence_length)
        with self._compiling:
            if size not in self._compiled:
                shapes = self._program.batch_shapes(*size)
                for shift in {0, 1 % self._parts}:  # jax.jit keeps what is compiled for these shapes
                    self._rolled.lower(shapes, self._program.template.step, shift=shift).compile()
                self._compiled[size] = self._compile(self.lower(*size), "jit_audit_gradient")
            return self._compiled[size]

    def lower(self, batch_size: int, sequence_length: int) -> jax.stages.Lowered:
        """Trace an evaluation for batches of this size: the gradient of the first microbatch, as digests."""
        program = self._program
        shapes = program.batch_shapes(batch_size, sequence_length)
        rolled = jax.eval_shape(functools.partial(self._rolled, shift=0), shapes, program.template.step)
        batch = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._of_rows(leaf.ndim))
            for name, leaf in rolled.items()
        }
        with program.tracing():
            traced = jax.jit(self.audit_gradient).trace(_evaluated(program.template), batch, program.template.step)
        return traced.lower()

    def audit_gradient(self, state: TrainState, batch: Batch, step: jax.Array) -> jax.Array:
        """The digests of the gradient of a microbatch, to be compiled."""
        part, fixed = split(state.model, self._program.trained)
        words = self._program.gradients.digests(digest, (part, {}), (fixed, state.reference), batch, step)
        return jax.lax.with_sharding_constraint(words, NamedSharding(self._mesh, PartitionSpec()))

    @functools.cached_property
    def _rolled(self) -> Any:
        """The first microbatch of a batch, its rows moved to the part of the mesh that comes `shift` parts later. All
        microbatches would find no more of a device that is wrong, and cost more.
        """
        program, parts = self._program, self._parts

        @functools.partial(jax.jit, static_argnames="shift")
        def rolled(batch: Batch, step: jax.Array, *, shift: int) -> Batch:
            def moved(rows: jax.Array) -> jax.Array:
                parted = rows.reshape(rows.shape[0], parts, -1, *rows.shape[2:])
                there = jnp.roll(parted, shift, axis=1).reshape(rows.shape)
                return jax.lax.with_sharding_constraint(there, self._of_rows(rows.ndim))

            return {name: moved(rows[:1]) for name, rows in program.gradients.seeded(batch, step).items()}

        return rolled

    def _of_rows(self, dimensions: int) -> NamedSharding:
        """The sharding of an array [microbatches, row, …] with this number of dimensions."""
        return NamedSharding(self._mesh, PartitionSpec(*self._program.batch_sharding.spec[:dimensions]))

    def _compile_state_digests(self) -> Callable[[TrainState], jax.Array]:
        """The program that compares the copies of the arrays in the devices' memory. Compiled early: a save before the
        end of a grace period has no time for it.
        """
        template = jax.tree.leaves(self._program.template)
        kept = [number for number, leaf in enumerate(template) if not is_on_host(leaf)]
        shapes, ones = [template[number] for number in kept], (1,) * len(self._mesh.axis_names)

        def audit_state(leaves: list[jax.Array]) -> jax.Array:
            return digest(leaves).reshape(*ones, -1)

        each = jax.shard_map(
            audit_state,
            mesh=self._mesh,
            in_specs=([leaf.sharding.spec for leaf in shapes],),
            out_specs=PartitionSpec(*self._mesh.axis_names),
            check_vma=False,
        )
        whole = NamedSharding(self._mesh, PartitionSpec())
        compiled = self._compile(jax.jit(each, out_shardings=whole).lower(shapes), "jit_audit_state")

        def of(state: TrainState) -> jax.Array:
            leaves = jax.tree.leaves(state)
            return compiled([leaves[number] for number in kept])

        return of

    def _flat(self, wrong: np.ndarray, *along: str) -> tuple[int, ...]:
        """The positions in the flat mesh of what is true in an array [part, device of the part]."""
        axes = [self._mesh.axis_names.index(name) for name in along]
        positions = _parted(np.arange(self._mesh.size).reshape(*self._mesh.devices.shape, 1), axes)[..., 0]
        return tuple(sorted(positions[wrong].tolist()))


def compare_products(mesh: Mesh, compiled: Compile) -> Finding | None:
    """Multiply the same matrices on each device. A collective, which needs no state.

    Args:
        mesh: The mesh of the run.
        compiled: See `Audit`.
    """
    names = mesh.axis_names
    side = _SIDE_ON_CPU if mesh.devices.flat[0].platform == "cpu" else _SIDE

    def audit_products(seeds: jax.Array) -> jax.Array:
        return product_words(seeds, side).reshape(*(1,) * len(names), -1)

    sharded = jax.shard_map(
        audit_products, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(*names), check_vma=False
    )
    whole = NamedSharding(mesh, PartitionSpec())
    # The seeds are an argument: the compiler would compute the products of constants itself, on one machine.
    seeds = jax.device_put(np.arange(1, 1 + _PRODUCTS, dtype=np.uint32), whole)
    # On GPUs each process compiles for itself, and could choose another kernel without the options of a step.
    words = compiled(jax.jit(sharded, out_shardings=whole).lower(seeds), "jit_audit_products")(seeds)
    words = np.asarray(jax.device_get(words))
    found = wrong_copies(words.reshape(-1, 1, words.shape[-1]))
    return None if found is None else Finding("products", tuple(np.flatnonzero(found[0]).tolist()), found[1])


def digest(tree: Any) -> jax.Array:
    """Two words of the bits of a tree of arrays, of which each bit decides about half: uint32 [2].

    The sum of a mix of each element and its place is exact, so its order does not matter.
    """
    words = jnp.zeros(2, jnp.uint32)
    for number, leaf in enumerate(leaf for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf)):
        bits = _bits(leaf)
        places = jax.lax.iota(jnp.uint32, bits.size).reshape(bits.shape) * jnp.uint32(0x9E3779B9)
        seeds = jnp.array([2 * number + 1, 2 * number + 2], jnp.uint32) * jnp.uint32(0x85EBCA77)
        words += jnp.stack([jnp.sum(_mixed((bits ^ seed) + places), dtype=jnp.uint32) for seed in seeds])
    return words


def wrong_parts(evaluate: Callable[[int], Digests], parts: int) -> tuple[np.ndarray, bool] | None:
    """The parts of the mesh that computed wrong gradients.

    Args:
        evaluate: Computes the digests of each part's rows, on the part that comes this many parts later.
        parts: Number of parts.

    Returns:
        bool [part, device of the part], and whether each of them is wrong; None: all are right.
    """
    first, second = evaluate(0), evaluate(1 % parts)
    unequal = (first != second).any(-1)
    if not unequal.any():
        return None
    wrong, unsure = np.zeros_like(unequal), np.zeros_like(unequal)
    third, fourth = (evaluate(2), second) if parts > 2 else (evaluate(0), evaluate(1 % parts))
    for part, device in zip(*np.nonzero(unequal), strict=True):
        here, other = (part, device), ((part + 1) % parts, device)
        right = [(one[here] == third[here]).all() for one in (first, second)]
        if parts > 2 and any(right):
            wrong[other if right[0] else here] = True  # the third part agrees with one of the two
        elif parts <= 2 and not right[0]:
            wrong[here] = True  # it does not repeat its own numbers
        elif parts <= 2 and (second[here] != fourth[here]).any():
            wrong[other] = True
        else:
            unsure[here] = unsure[other] = True
    return (wrong, True) if wrong.any() else (unsure, False)


def wrong_copies(digests: Digests) -> tuple[np.ndarray, bool] | None:
    """The copies of the state that differ from the others.

    Args:
        digests: uint32 [copy, device of the copy, words].

    Returns:
        See `wrong_parts`.
    """
    copies = len(digests)
    agreeing = (digests[:, None] == digests[None]).all(-1).sum(1)  # [copy, device]: copies with the same words
    if (agreeing == copies).all():
        return None
    minority = 2 * agreeing < copies
    if minority.any() and ((2 * agreeing > copies).sum(0)[minority.any(0)] > 0).all():
        return minority, True
    return agreeing < copies, False


def _parted(words: np.ndarray, axes: list[int]) -> np.ndarray:
    """An array [*sizes of the mesh axes, words] as [part, device of the part, words], parts along some axes."""
    parts = int(np.prod([words.shape[axis] for axis in axes]))
    return np.moveaxis(words, axes, range(len(axes))).reshape(parts, -1, words.shape[-1])


def product_words(seeds: jax.Array, side: int) -> jax.Array:
    """The digest of products and sums of matrices [side, side] that depend on the seeds alone: uint32 [2]."""
    places = jax.lax.iota(jnp.uint32, side * side).reshape(side, side)

    def one(words: jax.Array, seed: jax.Array) -> tuple[jax.Array, None]:
        bits = _mixed(places + seed * jnp.uint32(0x9E3779B9))
        x = bits.astype(jnp.float32) / 2.0**31 - 1
        narrow = x.astype(jnp.bfloat16)
        product = jnp.matmul(narrow, narrow.T, preferred_element_type=jnp.float32)
        return words ^ digest([product, jnp.tanh(x).sum(0), x @ x]), None

    return jax.lax.scan(one, jnp.zeros(2, jnp.uint32), seeds)[0]


def _evaluated(state: TrainState) -> TrainState:
    """The part of a state that a gradient needs."""
    return TrainState(state.step, state.model, (), reference=state.reference)


def _bits(x: jax.Array) -> jax.Array:
    """The bits of an array as uint32, of the same shape or with a further axis."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def _mixed(x: jax.Array) -> jax.Array:
    """Each word, with all its bits mixed (the finalizer of MurmurHash3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
