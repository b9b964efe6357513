"""The task ``replay``: steps of another run are computed again from one of its checkpoints, and every bit is compared.

It is a training with a root of its own that begins with the state of the checkpoint (``spec.from``) and ends at the
last step of the replay. The root of the run is only read. At each of its own checkpoints it keeps what it has found, so
a restart repeats no comparison.

Where bits cannot be equal, because mesh, hardware or versions are others, the steps are computed once more from
parameters that differ in their last place. How much that changes the losses is the measure of what rounding explains.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from halcyon.checkpoint import Checkpointer
from halcyon.checkpoint.arrays import Checkpoint, LeafDifference, compare
from halcyon.checkpoint.commit import versions
from halcyon.checkpoint.evidence import StepNumbers, float32_bits
from halcyon.checkpoint.opening import committed_steps, entry_of
from halcyon.checkpoint.processes import decide
from halcyon.checkpoint.verify import find_damage, read_manifest
from halcyon.host.errors import BadConfiguration, ReplayDiffers
from halcyon.host.storage.failures import StoreFailure
from halcyon.host.storage.store import Store
from halcyon.parallel.devices import hardware_name
from halcyon.run.callback import Callback
from halcyon.run.place import Place
from halcyon.step.state import TrainState
from halcyon.telemetry.history.reading import read_history
from halcyon_api.checkpoint_documents import CommittedStep, Manifest
from halcyon_api.replays import REPLAY_KEY, ReplayRecord, Rounding

_TIMES = 4.0
"""A loss may differ from that of the run by this many times the measured rounding, which is only a sample."""
_NAMES = {"loss": "the loss", "gradientNorm": "the gradient norm"}


@dataclass(frozen=True)
class Original:
    """What a run has kept of the steps that are computed again.

    Attributes:
        run: NAMESPACE/NAME of the run.
        chain: SHA-256 of the newest link of its chain of evidence. None: it has no chain.
        first: Steps done at the checkpoint that the replay begins with.
        last: The last step.
        target: The checkpoint of the last step. None: there is none.
        rows: The steps of its history, by number.
        made: The manifest of the target, else of the first checkpoint.
    """

    run: str
    chain: str | None
    first: int
    last: int
    target: CommittedStep | None
    rows: Mapping[int, Mapping[str, Any]]
    made: Manifest


def read_original(store: Store, first: int, to: int | None, steps: int) -> Original:
    """Read what a run has kept.

    Args:
        store: Its root.
        first: Step of the checkpoint to begin with.
        to: The last step. None: that of the next checkpoint.
        steps: ``spec.trainer.steps``.

    Raises:
        BadConfiguration: There is no such checkpoint, or nothing to compare with.
        StoreFailure: The store did not answer.
    """
    entry, committed = entry_of(store, first), committed_steps(store)
    later = sorted((one for one in committed if one.step > first), key=lambda one: one.step)
    if to is None and not later:
        raise BadConfiguration(
            f"spec.from.step: {store.root} has no checkpoint after step {first}; name the last step in spec.from.toStep"
        )
    last = later[0].step if to is None else to
    if not first < last <= steps:
        raise BadConfiguration(f"spec.from.toStep: {last} must be a step from {first + 1} to {steps}")
    target = next((one for one in later if one.step == last), None)
    rows = {row["step"]: row for row in read_history(store).steps if first < row["step"] <= last}
    if target is None and not rows:
        raise BadConfiguration(
            f"spec.from.toStep: {store.root} has no checkpoint of step {last}, and no history of the steps before it"
        )
    made = read_manifest(store, target or entry)
    name = f"{made.owner.namespace}/{made.owner.name}"
    return Original(name, committed[0].link, first, last, target, rows, made)


def notes_of(made: Manifest, here: Mapping[str, str], hardware: str, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """What differs between the makers of a checkpoint and a replay, in a clause each. Pure.

    Args:
        made: The manifest of the checkpoint.
        here: Versions of the software of the replay.
        hardware: Its devices.
        mesh: Sizes of its mesh axes.
    """
    clauses = [
        f"the run had {name} {made.versions[name]}, and here is {here[name]}"
        for name in sorted(made.versions.keys() & here.keys())
        if made.versions[name] != here[name]
    ]
    then = "" if made.evidence is None else made.evidence.hardware
    if then and then != hardware:
        clauses.append(f"the run computed on {then}, and here is {hardware}")
    sizes = [
        f"{axis} {made.mesh.get(axis, 1)} instead of {size}"
        for axis, size in mesh.items()
        if made.mesh.get(axis, 1) != size
    ]
    if sizes:
        clauses.append(f"the mesh of the run had {', '.join(sizes)}")
    return tuple(clauses)


class ComparedNumbers(StepNumbers):
    """The numbers of the steps of a replay, each compared with that of the run.

    Args:
        rows: The steps of the run's history, by number.
        on_difference: Called with a sentence about the first step that differs.
    """

    def __init__(self, rows: Mapping[int, Mapping[str, Any]], on_difference: Callable[[str], object]) -> None:
        super().__init__()
        self.losses: dict[int, float] = {}
        """The losses of all steps of this process."""
        self.compared = 0
        self.different = None
        """The first step that differs."""
        self.sentence = ""
        self._rows, self._on_difference = rows, on_difference

    def add(self, step: int, loss: float, gradient_norm: float) -> None:
        """Record and compare the numbers of a step."""
        super().add(step, loss, gradient_norm)
        self.losses[step] = loss
        row = self._rows.get(step)
        if row is None:
            return
        here = {"loss": loss, "gradientNorm": gradient_norm}
        self.compared += here.keys() <= row.keys()
        name = next(
            (name for name in here if name in row and float32_bits(here[name]) != float32_bits(row[name])), None
        )
        if name is not None:
            self.differs(step, f"step {step}: {_NAMES[name]} is {here[name]!r} here, and was {row[name]!r}")

    def differs(self, step: int, sentence: str) -> None:
        """Record a difference, unless an earlier one is known."""
        if self.different is None:
            self.different, self.sentence = step, sentence
            self._on_difference(sentence)

    def goes_on(self, step: int, record: ReplayRecord) -> None:
        """Take over what an earlier process has found up to a step."""
        self.compared = min(record.compared_steps, sum(number <= step for number in self._rows))
        if record.first_different_step is not None and record.first_different_step <= step:
            self.different, self.sentence = record.first_different_step, "".join(record.differences[:1])


def _state_differences(
    own: Store, newest: CommittedStep, theirs: Store, target: CommittedStep
) -> tuple[LeafDifference, ...]:
    """The arrays that differ. A checkpoint whose bytes are not those of its manifest differs too: equal hashes in two
    manifests say nothing of the data, so every byte is read.
    """
    if damages := find_damage(theirs, target):
        return tuple(LeafDifference(target.path, damage) for damage in damages)
    return tuple(compare(Checkpoint(own, newest), Checkpoint(theirs, target)))


def rounded(state: TrainState, compute: Any) -> TrainState:
    """The state with each parameter changed by half a unit in the last place of the type of the products, up or down by
    a fixed pattern. So the steps after it show how much rounding changes them.

    Args:
        state: The state. Its parameters must not be used any more.
        compute: The type.
    """
    half = float(jnp.finfo(compute).eps) / 2

    def change(number: int, x: Any) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        up = jax.random.bernoulli(jax.random.key(number), 0.5, x.shape)
        return (x * jnp.where(up, 1 + half, 1 - half)).astype(x.dtype)

    leaves, tree = jax.tree.flatten(state.model)
    changed = jax.jit(
        lambda leaves: [change(number, x) for number, x in enumerate(leaves)],
        out_shardings=[x.sharding for x in leaves],
        donate_argnums=0,
    )
    return eqx.tree_at(lambda whole: whole.model, state, jax.tree.unflatten(tree, changed(leaves)))


def rounding_of(here: Mapping[int, float], there: Mapping[int, float], again: Mapping[int, float]) -> Rounding | None:
    """How close losses are to those of the run. None: rounding does not explain them. Pure.

    Args:
        here: The losses of the replay, by step.
        there: Those of the run.
        again: Those of the replay that was computed once more from rounded parameters.
    """
    if not there or not there.keys() <= here.keys() & again.keys():  # a restart has lost some
        return None
    measured = largest = 0.0
    for step in sorted(there):
        difference, change = abs(here[step] - there[step]), abs(here[step] - again[step])
        measured = max(measured, change, float(np.spacing(np.float32(there[step]))))
        if not (difference <= _TIMES * measured and math.isfinite(change)):  # also where a loss is not a number
            return None
        largest = max(largest, difference)
    return Rounding(largest=largest, measured=measured)


class Replay(Callback):
    """A replay, beside the steps of its training. Creating it is a collective.

    Args:
        place: The replay.
        checkpointer: Its checkpoints.
        step: Steps done when this process begins.

    Raises:
        BadConfiguration: The run has no such checkpoint, or nothing to compare with.
    """

    saves = False

    def __init__(self, place: Place, checkpointer: Checkpointer, step: int) -> None:
        origin = place.spec.origin
        if origin is None or origin.step is None:
            raise TypeError("a run of task replay needs spec.from.run and spec.from.step")
        self._place, self._checkpointer = place, checkpointer
        self._theirs, self._own = place.other_run(origin).store, place.root()
        read_on_process_0: list[Original] = []

        def read() -> dict[str, Any]:
            original = read_original(self._theirs, origin.step or 0, origin.to_step, place.spec.trainer.steps)
            read_on_process_0.append(original)
            notes = notes_of(original.made, versions(), hardware_name(), place.context.mesh.model_dump())
            return {"last": original.last, "notes": notes}

        decided = decide(place.processes, self._theirs.root, read)
        original = read_on_process_0[0] if read_on_process_0 else None
        self._original, self._notes = original, tuple(decided["notes"])
        self.once_more: Callable[[], Iterable[tuple[int, float]]] = tuple
        """Computes the steps once more, from rounded parameters."""
        self.first = origin.step
        """Steps done at the checkpoint."""
        self.last = decided["last"]
        """The last step."""
        for note in self._notes:
            place.reporter.warning(f"{note}, so bits may differ")
        self.numbers = ComparedNumbers({} if original is None else original.rows, place.reporter.warning)
        self.found = ""
        """What it has found, in one sentence, once it has ended."""
        before = original and ReplayRecord.parse(self._own.read(REPLAY_KEY).data)
        if before is not None:
            self.numbers.goes_on(step, before)

    def saving(self, step: int, state: TrainState) -> None:
        """Keep what has been found up to a step whose state is saved next. Process 0 does it."""
        if self._original is not None:
            with contextlib.suppress(StoreFailure):  # a restart from this checkpoint then knows less
                self._keep(self._original, None, self._original.made)

    def finish(self) -> bool:
        """Compare the state, and keep what was found. A collective.

        Raises:
            ReplayDiffers: Something differs.
        """

        original, newest = self._original, self._checkpointer.newest

        def work(rounding: Rounding | None = None) -> dict[str, Any]:
            if original is None or newest is None:
                raise TypeError("process 0 has what the run kept, and has saved the last step")
            arrays, made = None, read_manifest(self._own, newest)
            if original.target is not None:
                arrays = _state_differences(self._own, newest, self._theirs, original.target)
            return self._keep(original, arrays, made, rounding).document()

        def after_rounding() -> dict[str, Any]:
            there = (
                {} if original is None else {step: float(row.get("loss", "nan")) for step, row in original.rows.items()}
            )
            earlier = {row["step"]: float(row.get("loss", "nan")) for row in read_history(self._own).steps}
            return work(rounding_of(earlier | self.numbers.losses, there, again))

        record = _record(decide(self._place.processes, self._own.root, work))
        if not record.identical and self._notes and record.compared_steps:
            self._place.reporter.warning("the bits differ, so the steps are computed once more to measure rounding")
            again = dict(self.once_more())
            record = _record(decide(self._place.processes, self._own.root, after_rounding))
        self.found = "; ".join(sentence.strip() for sentence in record.sentences())
        if not record.confirms:
            raise ReplayDiffers(self.found)
        return True

    def _keep(
        self,
        original: Original,
        arrays: tuple[LeafDifference, ...] | None,
        made: Manifest,
        rounding: Rounding | None = None,
    ) -> ReplayRecord:
        """Write the record. Only for process 0.

        Args:
            original: What the run has kept.
            arrays: The arrays that differ. None: the states were not compared.
            rounding: What explains what differs.
            made: The manifest that says what computed it: of the replay's own last checkpoint.
        """
        numbers = self.numbers
        record = ReplayRecord(
            run=original.run,
            chain=original.chain,
            identical=numbers.different is None and not arrays,
            first=original.first,
            last=original.last,
            compared_steps=numbers.compared,
            first_different_step=numbers.different,
            rounding=rounding,
            state_compared=arrays is not None,
            different_arrays=tuple(array.path for array in arrays or ()),
            differences=(*([numbers.sentence] if numbers.sentence else []), *map(_sentence, arrays or ())),
            notes=self._notes,
            hardware="" if made.evidence is None else made.evidence.hardware,
            versions=dict(made.versions),
            time=made.time,
        )
        self._own.write(REPLAY_KEY, record.model_dump_json(by_alias=True).encode())
        return record


def _sentence(array: LeafDifference) -> str:
    values = f", {array.elements:,} of {array.of:,} values, by at most {array.largest:.6g}" if array.of else ""
    return f"{array.path}: {array.what}{values}"


def _record(document: dict[str, Any]) -> ReplayRecord:
    return ReplayRecord.model_validate(document, by_alias=True, by_name=False, strict=False)
